"""BESIDE THE REQUEST. What people look at and run: the route table, the demo.

Nothing here is needed to serve a request.
"""

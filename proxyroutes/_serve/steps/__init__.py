"""Steps that a route may add to the way of a request: limits, edits, filters, copies, retries that keep content.

A plain route runs none of them and pays for none of them; what every request passes lives one folder up. Each step is
one module. A step gets the exchange's own objects and never FastAPI's.
"""

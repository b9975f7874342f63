"""LIVES WITH THE APP. Pools, destinations, the monitor, leases and clocks: the only mutable objects.

State belongs to one running event loop. Nothing here reads a request.
"""

"""Benchmarks: ``python -m benchmarks`` measures this gateway beside its peers in interleaved rounds of one run.

Nothing here is installed or asserted; what is not on the machine is a row that says so.
"""

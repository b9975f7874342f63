"""RUNS PER REQUEST. Plan, match, guard, head, attempt loop, relay, failures.

No FastAPI, no Starlette, no declarations. Everything that could be known before was known at build.
"""

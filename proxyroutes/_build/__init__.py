"""RUNS AT START-UP. Specs are checked and compiled into plans, an ``APIRouter`` and its lifespan.

Nothing here runs per request but the thin wrappers that FastAPI calls.
"""

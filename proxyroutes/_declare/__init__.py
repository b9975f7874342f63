"""RUNS AT IMPORT. Routes, groups and paths as they are written down.

No I/O, no event loop, no FastAPI. What is wrong is recorded and reported by the build.
"""

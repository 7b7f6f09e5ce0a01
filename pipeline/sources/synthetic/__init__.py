"""Generated process storms as frames, only for benches and tests.

The daemon never uses it.
"""

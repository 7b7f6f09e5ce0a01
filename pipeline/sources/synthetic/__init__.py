"""Generated process storms as frames, for benches and tests.

The daemon never uses it.
"""

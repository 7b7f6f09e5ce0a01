"""Generated process storms as frames, for benches and tests only.

The daemon never uses it.
"""

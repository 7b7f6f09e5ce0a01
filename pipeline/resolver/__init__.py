"""The resolver process: it receives frames, orders their events, applies them to the tables and publishes them.

It does not capture events. Reading order: `merge`, `apply`, `stream`, `daemon`.
"""

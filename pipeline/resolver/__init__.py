"""The resolver process: it receives frames, orders their events, applies them to the tables and publishes them.

It does not capture events, does not import the sources that do, and does not start or restart processes; that is the
supervisor's task. Reading order: `merge`, `apply`, `stream`, `daemon`.
"""

"""The single writer of the tables: rows, arenas, the control segment, and taking over after a kill.

It does not decide what an event changes: `pipeline.resolver.apply` does.
"""

"""The modules that a reader process imports: the table, entries and their lineage.

It does not write to the segments, and it imports nothing of the daemon.
"""

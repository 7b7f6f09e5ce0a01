"""What other programs use beside the tables: ask about a process, and subscribe to events.

It does not contain the tables: `pipeline.shm.reader` does.
"""

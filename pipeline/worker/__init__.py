"""Worker processes: the description that the supervisor writes for each, and how a worker reads it and starts.

It does not start, monitor or restart workers: `pipeline.supervisor` does.
"""

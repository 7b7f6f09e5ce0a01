"""Worker processes: how the supervisor describes one, and how a worker reads that description and starts.

It does not start, watch or restart workers: `pipeline.supervisor` does.
"""

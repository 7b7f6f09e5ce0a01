"""Ring buffers in shared memory: mapping and draining them, and reading how far the resolver has applied their records.

This package does not wait and does not send: `pipeline.sources.shard` does both.
"""

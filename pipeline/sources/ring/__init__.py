"""Ring buffers in shared memory: mapping and draining them, and how far the resolver has applied their records.

It does not wait or send: `pipeline.sources.shard` does.
"""

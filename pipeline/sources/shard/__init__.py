"""The shard: a worker process that drains the rings of some CPUs and sends their records as frames.

It does not load eBPF programs; the supervisor loads them, and the shard inherits the rings.
"""

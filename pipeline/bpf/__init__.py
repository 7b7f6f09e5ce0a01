"""The eBPF side in user space: load and probe the programs, read their maps, run the task iterator.

It does not read the ring buffers: `pipeline.sources.ring` does. The programs are in `programs/`.
"""

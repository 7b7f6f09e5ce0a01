"""The numbers of limits.py for Cython; a test compares them. The reasons are there."""

cdef enum:
    MERGE_SLACK_NS = 100_000
    CHAIN_MAX = 512
    LINEAGE_CHECKED = 256
    CHAIN_LIMIT = 1024

"""Single steps of the resolver's compiled classes, which only tests and benches call, from Python.

setup.py compiles this module in place, as the core, but no package contains it.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

import numpy as np

from pipeline.records._records cimport PL_KIND_COUNT
from pipeline.resolver.apply._rows cimport pid_state
from pipeline.resolver.merge._queues cimport Batch
from pipeline.resolver.stream._encoder cimport Encoder
from pipeline.resolver.stream._name_cache cimport NameCache
from pipeline.resolver.stream._row_filters cimport RowFilters
from pipeline.shm.layout._layout cimport PL_TOPIC_COUNT
from pipeline.shm.writer._writer cimport TableWriter


#: Bytes that the applier keeps for each pid.
PID_STATE_BYTES = sizeof(pid_state)


def times(Batch batch not None):
    """Return the time of each event of a batch. Shape (count,), uint64, boot clock."""
    return np.array([batch.items[i].time for i in range(batch.count)], np.uint64)


def places(Batch batch not None) -> list:
    """Return the place of each event of a batch: its frame's position in `frames`, and its own in the frame."""
    return [(batch.items[i].frame, batch.items[i].event) for i in range(batch.count)]


def matching(
    RowFilters filters not None, TableWriter tables not None, NameCache names, uint32_t topic, uint32_t row
) -> int:
    """Return which filters want the event of a row, as `RowFilters.matching`: bit i is filter i."""
    return filters.matching(tables, names, topic, row)


def add_many(
    Encoder encoder not None, TableWriter tables not None, const uint8_t[::1] topics, const uint8_t[::1] kinds,
    const uint32_t[::1] rows, const uint64_t[::1] times_boot_ns,
) -> None:
    """Call `Encoder.add` for each position of the arrays (all of the same length), in order and without the GIL."""
    cdef Py_ssize_t i, n = topics.shape[0]
    if kinds.shape[0] != n or rows.shape[0] != n or times_boot_ns.shape[0] != n:
        raise ValueError("add_many: the arrays differ in length")
    for i in range(n):
        if topics[i] >= PL_TOPIC_COUNT or kinds[i] >= PL_KIND_COUNT or rows[i] == 0:
            raise ValueError(f"no event at {i}: topic {topics[i]}, kind {kinds[i]}, row {rows[i]}")
    with nogil:
        for i in range(n):
            encoder.event(tables, topics[i], kinds[i], rows[i], times_boot_ns[i], 0)

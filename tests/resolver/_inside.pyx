"""What only tests do with the resolver's compiled classes: single steps, called from Python.

setup.py compiles this module in place, as the core, but no package contains it.
"""

from libc.stdint cimport uint32_t

import numpy as np

from pipeline.resolver.merge._queues cimport Batch
from pipeline.resolver.stream._name_cache cimport NameCache
from pipeline.resolver.stream._row_filters cimport RowFilters
from pipeline.shm.writer._writer cimport TableWriter


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

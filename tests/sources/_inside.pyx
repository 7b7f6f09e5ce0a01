"""Facts about the draining of rings that only tests ask for: why it stopped, and the sizes of its structs.

setup.py compiles this module in place, as the core, but no package contains it.
"""

from pipeline.records._records cimport pl_header_any, pl_task_any
from pipeline.sources.ring._drain cimport STOP_BUSY, STOP_CORRUPT, STOP_FULL

BUSY, FULL, CORRUPT = STOP_BUSY, STOP_FULL, STOP_CORRUPT

HEAD_BYTES, TASK_BYTES = sizeof(pl_header_any), sizeof(pl_task_any)

"""Single words of `pl_settings` and `pl_shared`, read and written without numpy.

The loader runs in the supervisor, which does not load numpy (7 MB). `pipeline.bpf.maps` maps the same values for numpy.
"""

from __future__ import annotations

import mmap

from pipeline.bpf.declared import CAPTURE_ON as CAPTURE_ON
from pipeline.bpf.declared import CPU_STATE_LAYOUT, MAX_CPUS, SETTINGS_LAYOUT

#: Element of `pl_shared` that belongs to no CPU: events that the kernel did not report to the programs (misses.py).
MISSED = MAX_CPUS - 1

# Words of SETTINGS, counted in u4.
ARGS_BYTES = SETTINGS_LAYOUT.word("args_bytes")
ENVS_BYTES = SETTINGS_LAYOUT.word("envs_bytes")
WAKEUP_FILL_BYTES = SETTINGS_LAYOUT.word("wakeup_fill_bytes")
FLAGS = SETTINGS_LAYOUT.word("flags")
PAGE_BYTES = SETTINGS_LAYOUT.word("page_bytes")
#: Word of SETTINGS, counted in u8.
BEGAN_BOOT_NS = SETTINGS_LAYOUT.word("began_boot_ns")
#: Word of each CPU_STATE, counted in u4.
RING = CPU_STATE_LAYOUT.word("ring")


def settings_words(fd: int) -> memoryview:
    """Map `pl_settings` for writing; format ``I``."""
    return _mapped(fd, SETTINGS_LAYOUT.size)


def settings_longs(fd: int) -> memoryview:
    """Map `pl_settings` for writing; format ``Q``."""
    return settings_words(fd).cast("B").cast("Q")


def cpu_words(fd: int, word: int) -> memoryview:
    """Map one word of every CPU's state in `pl_shared` for writing; format ``I``, indexed by CPU."""
    return _mapped(fd, CPU_STATE_LAYOUT.size * MAX_CPUS)[word :: CPU_STATE_LAYOUT.size // 4]


def missed_words(fd: int) -> tuple[memoryview, memoryview]:
    """Map two fields of the element MISSED of `pl_shared` for writing: lost_samples, indexed by kind, and runs_skipped.

    The format is ``Q``.
    """
    begin = MISSED * CPU_STATE_LAYOUT.size
    element = _mapped(fd, CPU_STATE_LAYOUT.size * MAX_CPUS).cast("B")[begin : begin + CPU_STATE_LAYOUT.size]
    lost, skipped = (element[CPU_STATE_LAYOUT.span(name)].cast("Q") for name in ("lost_samples", "runs_skipped"))
    return lost, skipped


def _mapped(fd: int, length: int) -> memoryview:
    # The kernel maps an array map in whole pages. The mapping lives as long as the view.
    length = -(-length // mmap.PAGESIZE) * mmap.PAGESIZE
    return memoryview(mmap.mmap(fd, length, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)).cast("I")

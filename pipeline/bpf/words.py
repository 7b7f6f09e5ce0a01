"""The words of `pl_settings` and `pl_shared` that the loader stores. The whole layouts are in maps.py, with numpy.

The loader's process is the supervisor, which does without numpy: 7 MB. maps.py checks these numbers against its dtypes.
"""

from __future__ import annotations

import mmap

#: Length of `pl_shared` and `pl_rings`.
MAX_CPUS = 1024
#: Element of `pl_shared` that is no CPU's: what the kernel did not give to the programs (misses.py).
MISSED = MAX_CPUS - 1

#: SETTINGS.flags: the programs record.
CAPTURE_ON = 1

SETTINGS_BYTES = 64
CPU_STATE_BYTES = 256

#: Words of SETTINGS, counted in u4.
ARGS_BYTES, ENVS_BYTES, WAKEUP_FILL_BYTES, FLAGS = range(4)
#: Word of each CPU_STATE, counted in u4.
RING = 1
#: Words of lost_samples in each CPU_STATE, counted in u8.
LOST_SAMPLES = slice(2, 11)


def settings_words(fd: int) -> memoryview:
    """Map `pl_settings` to write; format ``I``."""
    return _mapped(fd, SETTINGS_BYTES)


def cpu_words(fd: int, word: int) -> memoryview:
    """Map `pl_shared` to write; format ``I``, item CPU is the given word of each CPU's state."""
    return _mapped(fd, CPU_STATE_BYTES * MAX_CPUS)[word :: CPU_STATE_BYTES // 4]


def missed_words(fd: int) -> memoryview:
    """Map `pl_shared` to write; format ``Q``, items are lost_samples, by kind, of the element MISSED."""
    words = _mapped(fd, CPU_STATE_BYTES * MAX_CPUS).cast("B").cast("Q")
    begin = MISSED * CPU_STATE_BYTES // 8
    return words[begin + LOST_SAMPLES.start : begin + LOST_SAMPLES.stop]


def _mapped(fd: int, length: int) -> memoryview:
    # The kernel maps an array map in whole pages. The mapping lives as long as the view.
    length = -(-length // mmap.PAGESIZE) * mmap.PAGESIZE
    return memoryview(mmap.mmap(fd, length, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)).cast("I")

"""The kernel's measurement of the run time of BPF programs, for tests and benches."""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager

from pipeline.bpf import syscall

_ENABLE_STATS = 32  # BPF_ENABLE_STATS in linux/bpf.h
_RUN_TIME = 0  # BPF_STATS_RUN_TIME


@contextmanager
def run_time_measured() -> Iterator[None]:
    """Make the kernel measure the run time of all BPF programs during the block.

    Raises:
        OSError: CAP_SYS_ADMIN is missing.
    """
    fd = syscall.bpf(_ENABLE_STATS, ctypes.create_string_buffer(struct.pack("=I", _RUN_TIME)))
    try:
        yield
    finally:
        os.close(fd)

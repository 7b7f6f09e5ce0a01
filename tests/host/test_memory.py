"""Freed memory is returned to the kernel."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest

from pipeline.host import memory

PROGRAM = """
import ctypes
from pipeline.host import memory

def anonymous_kb():
    rollup = open("/proc/self/smaps_rollup").read()
    return next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Anonymous:"))

libc = ctypes.CDLL(None)
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
pieces = [libc.malloc(60_000) for _ in range(200)]
for piece in pieces:
    ctypes.memset(piece, 1, 60_000)
kept = pieces.pop()
for piece in pieces:
    libc.free(piece)
before = anonymous_kb()
memory.give_back()
print(before - anonymous_kb())
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="this C library has no malloc_trim")
def test_freed_memory_below_live_memory_returns_to_the_kernel() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True, timeout=60)
    assert int(done.stdout) > 8_000


def test_a_c_library_without_it_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    memory.give_back()

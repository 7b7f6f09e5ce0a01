"""Fill an arena of a writer's tables until a test is done, so that no new string fits into it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from pipeline.shm.writer._arena import Arena
from tests.shm import _inside


@contextmanager
def full(*arenas: Arena) -> Iterator[None]:
    """Strings that are freed meanwhile make room again, as in any arena."""
    held: list[tuple[Arena, int]] = []
    for arena in arenas:
        size = 1 << 16
        while size:
            ref = arena.py_intern(os.urandom(size))
            if ref:
                held.append((arena, ref))
            else:
                size >>= 1
    try:
        yield
    finally:
        for arena, ref in held:
            _inside.release(arena, ref)

"""The resolver's lock: reentrant, and its holder can release it while ``/proc`` is read.

The lock does not decide what must be checked afterwards: see `ResolverState.link` and `ResolverState.tree_position`.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class ResolverLock:
    """A reentrant lock for ``with``.

    A thread that holds it once can release it for a while. A thread that holds it more than once keeps it, because the
    outer holder, such as the caller of a `..._locked` method, relies on an unchanged state.
    """

    __slots__ = ("_depth", "_lock")

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._depth = 0  # of the holder; no other thread reads it

    def __enter__(self) -> None:
        self._lock.acquire()
        self._depth += 1

    def __exit__(self, *_: object) -> None:
        self._depth -= 1
        self._lock.release()

    @contextmanager
    def put_down(self) -> Iterator[None]:
        """Release the lock for the block, unless the calling thread holds it more than once."""
        if self._depth > 1:
            yield
            return
        self.__exit__()
        try:
            yield
        finally:
            self.__enter__()

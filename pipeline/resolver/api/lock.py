"""The resolver's lock: reentrant, and its holder can put it down while ``/proc`` is asked.

Covers holding and putting down. Leaves out what must be looked at again afterwards: everything that was read under the
lock before, see `Insertion._place` and `Insertion._link`.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class ResolverLock:
    """A reentrant lock for ``with``.

    A thread that holds it once can put it down in the middle. One that holds it more than once keeps it: the outer
    holder, such as the caller of a `..._locked` method, relies on nothing changing.
    """

    __slots__ = ("_depth", "_lock")

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._depth = 0  # of the holder, who alone looks at it

    def __enter__(self) -> None:
        self._lock.acquire()
        self._depth += 1

    def __exit__(self, *_: object) -> None:
        self._depth -= 1
        self._lock.release()

    @contextmanager
    def put_down(self) -> Iterator[None]:
        """For a holder: let others go on meanwhile, unless the lock is held more than once."""
        if self._depth > 1:
            yield
            return
        self.__exit__()
        try:
            yield
        finally:
            self.__enter__()

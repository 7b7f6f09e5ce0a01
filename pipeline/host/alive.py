"""Heartbeats within long work of the resolver, so that the supervisor can distinguish slow from hung.

Compiled code calls `ControlWriter.show_life` itself. The supervisor's rule is in pipeline/supervisor/watchdog.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

_T = TypeVar("_T")


def watched(items: Iterable[_T], show_life: Callable[[], object]) -> Iterator[_T]:
    """Yield `items` and call `show_life` before each. Used by every long loop over rows or processes.

    Args:
        items: what to iterate over.
        show_life: `ControlWriter.py_show_life`, which is cheap if the last heartbeat is recent.
    """
    for item in items:
        show_life()
        yield item

"""Signs of life inside long work of the resolver, so that the supervisor can tell slow from hung.

Compiled work calls `ControlWriter.show_life` itself. The rule that the supervisor applies is in
pipeline/supervisor/watchdog.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator


def watched[T](items: Iterable[T], show_life: Callable[[], object]) -> Iterator[T]:
    """Yield `items` and call `show_life` before each: for every loop over rows or processes.

    Args:
        show_life: `ControlWriter.py_show_life`, which is cheap where the last sign is recent.
    """
    for item in items:
        show_life()
        yield item

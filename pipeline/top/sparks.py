"""Numbers as small bars in one line of text."""

from __future__ import annotations

from collections.abc import Sequence

#: Readings that a sparkline shows.
HISTORY = 60
_BARS = " ▁▂▃▄▅▆▇█"


def sparkline(numbers: Sequence[float], width: int) -> str:
    """Return the last numbers as bars, the newest one at the right.

    Args:
        numbers: not negative; a number above 0 always has a bar.
        width: of the text; filled with spaces at the left.

    Example:
        >>> sparkline([0, 1, 4], 4)
        '  ▂█'
    """
    shown = list(numbers[-width:]) if width > 0 else []
    top = max(shown, default=0)
    bars = "".join(_bar(number / top if top else 0.0) for number in shown)
    return bars.rjust(max(0, width))


def _bar(part: float) -> str:
    if part <= 0:
        return _BARS[0]
    return _BARS[min(len(_BARS) - 1, max(1, round(part * (len(_BARS) - 1))))]


def rate(number: float) -> str:
    """Return a number of events a second in at most five characters."""
    if number >= 99_500:
        return f"{number / 1000:.0f}k"
    if number >= 9950:
        return f"{number / 1000:.1f}k"
    if number >= 9.95:
        return f"{number:.0f}"
    return f"{number:.1f}" if number >= 0.05 else "-" if number <= 0 else "0.1"

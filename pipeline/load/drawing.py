"""Plots as SVG elements for a page: lines over time, dots on a logarithmic scale, bars.

The elements refer to nothing outside of them; colours are classes and variables of `page`. All text is escaped here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape

from pipeline.export.text import printable

_WIDTH, _LEFT, _RIGHT, _TOP, _BOTTOM = 680, 150, 24, 10, 26
_ROW = 24
#: Width of a character of the labels, in pixels; they are set in 12 pixels.
_CHARACTER = 6.6

Show = Callable[[float], str]


def _svg(height: float, parts: Sequence[str], label: str) -> str:
    return f'<svg viewBox="0 0 {_WIDTH} {height:g}" role="img" aria-label="{_safe(label)}">' + "".join(parts) + "</svg>"


def _text(x: float, y: float, text: str, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" class="label">{_safe(text)}</text>'


def _safe(text: str) -> str:
    return escape(printable(text))


def _short(text: str, width: float) -> str:
    """Return a label that fits into a width."""
    most = max(4, int(width / _CHARACTER))
    return text if len(text) <= most else text[: most - 1] + "…"


def ticks(high: float, count: int = 4) -> list[float]:
    """Return round numbers from 0 to at least `high`."""
    if high <= 0:
        return [0.0, 1.0]
    raw = high / count
    size = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * size for factor in (1, 2, 2.5, 5, 10) if factor * size >= raw)
    return [step * number for number in range(math.ceil(high / step - 1e-9) + 1)]


def lines(points: Sequence[tuple[float, float]], show: Show, label: str) -> str:
    """Draw a line over time.

    Args:
        points: (s, value), at least one.
        show: writes a value.
        label: what the values are.
    """
    height = 150.0
    marks = ticks(max(value for _, value in points))
    end = max(points[-1][0], 1e-9)

    def at(second: float, value: float) -> tuple[float, float]:
        x = _LEFT + (_WIDTH - _LEFT - _RIGHT) * second / end
        return x, height - _BOTTOM - (height - _TOP - _BOTTOM) * value / marks[-1]

    parts = []
    for mark in marks:
        _, y = at(0, mark)
        parts.append(f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}" class="grid"/>')
        parts.append(_text(_LEFT - 8, y + 4, show(mark), "end"))
    for mark in ticks(end, 6):
        if mark <= end * 1.001:
            parts.append(_text(at(mark, 0)[0], height - 8, f"{mark:g} s", "middle"))
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (at(*point) for point in points))
    parts.append(f'<polyline points="{path}" class="line"/>')
    return _svg(height, parts, label)


def dots(rows: Sequence[tuple[str, Sequence[tuple[str, float]]]], show: Show, label: str) -> str:
    """Draw rows of dots on a common logarithmic scale, with a line from the first to the last.

    Args:
        rows: name and (name of the dot, value above 0).
        show: writes a value.
        label: what the values are.
    """
    values = [value for _, found in rows for _, value in found if value > 0]
    low = math.floor(math.log10(min(values)))
    high = max(math.ceil(math.log10(max(values)) - 1e-9), low + 1)
    height = _TOP + _ROW * len(rows) + _BOTTOM

    def at(value: float) -> float:
        part = (math.log10(max(value, 10.0**low)) - low) / (high - low)
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * part

    parts = []
    for power in range(low, high + 1):
        x = at(10.0**power)
        parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{height - _BOTTOM}" class="grid"/>')
        parts.append(_text(x, height - 8, show(10.0**power), "middle"))
    for number, (name, found) in enumerate(rows):
        y = _TOP + _ROW * (number + 0.5)
        parts.append(_text(_LEFT - 8, y + 4, _short(name, _LEFT - 8), "end"))
        if not found:
            continue
        first, last = at(found[0][1]), at(found[-1][1])
        parts.append(f'<line x1="{first:.1f}" x2="{last:.1f}" y1="{y:g}" y2="{y:g}" class="span"/>')
        for index, (part, value) in enumerate(found):
            parts.append(
                f'<circle cx="{at(value):.1f}" cy="{y:g}" r="5" class="dot dot{index % 4}">'
                f"<title>{_safe(f'{name}, {part}: {show(value)}')}</title></circle>"
            )
    return _svg(height, parts, label)


def bars(rows: Sequence[tuple[str, float | None, str]], label: str) -> str:
    """Draw a bar for each row, from 0.

    Args:
        rows: name, value (None: unknown; below 0 is drawn as 0), and what is written beside the bar.
        label: what the values are.
    """
    high = max((value for _, value, _ in rows if value is not None), default=0.0)
    height = _TOP + _ROW * len(rows) + 4
    room = _WIDTH - _LEFT - _RIGHT - 90
    parts = []
    for number, (name, value, shown) in enumerate(rows):
        y = _TOP + _ROW * number
        length = room * max(value or 0.0, 0.0) / high if high > 0 else 0.0
        parts.append(_text(_LEFT - 8, y + 16, _short(name, _LEFT - 8), "end"))
        parts.append(
            f'<rect x="{_LEFT}" y="{y + 4}" width="{max(length, 1):.1f}" height="{_ROW - 8}" class="bar">'
            f"<title>{_safe(f'{name}: {shown}')}</title></rect>"
        )
        parts.append(_text(_LEFT + length + 8, y + 16, shown))
    return _svg(height, parts, label)


def pairs(rounds: Sequence[tuple[bool, float]], show: Show, label: str) -> str:
    """Draw the rounds with and without the instance as dots of two colours, in their order.

    Args:
        rounds: (with the instance, value).
        show: writes a value.
        label: what the values are.
    """
    height = 170.0
    marks = ticks(max(value for _, value in rounds))
    step = (_WIDTH - _LEFT - _RIGHT) / len(rounds)
    parts = []
    for mark in marks:
        y = height - _BOTTOM - (height - _TOP - _BOTTOM) * mark / marks[-1]
        parts.append(f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}" class="grid"/>')
        parts.append(_text(_LEFT - 8, y + 4, show(mark), "end"))
    for number, (is_with, value) in enumerate(rounds):
        x = _LEFT + step * (number + 0.5)
        y = height - _BOTTOM - (height - _TOP - _BOTTOM) * value / marks[-1]
        what = "with" if is_with else "without"
        parts.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" class="dot {what}">'
            f"<title>{_safe(f'{what}: {show(value)}')}</title></circle>"
        )
    return _svg(height, parts, label)

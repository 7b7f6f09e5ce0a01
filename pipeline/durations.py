"""Durations as text. Readers import this module, so it uses the standard library only."""

from __future__ import annotations


def duration(ns: int) -> str:
    """Return a duration as text: below a minute three digits and a unit, otherwise two units, as in ``1 h 5 min``."""
    seconds = ns // 1_000_000_000
    for unit, size, smaller, part in (("d", 86_400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1)):
        if seconds >= size:
            return f"{seconds // size} {unit} {seconds % size // part} {smaller}"
    for unit, size_ns in (("s", 1e9), ("ms", 1e6), ("µs", 1e3)):
        if ns >= size_ns:
            return f"{ns / size_ns:.3g} {unit}" if ns < 999.5 * size_ns else f"{ns / size_ns:.0f} {unit}"
    return f"{ns} ns"

"""Durations, ages and points in time, as text."""

from __future__ import annotations

import functools
from collections.abc import Callable
from datetime import UTC, datetime

from pipeline.durations import duration


def moment(time_ns: int | None) -> str:
    """Return a point in time as text, in UTC with microseconds; `time_ns` counts from the Unix epoch."""
    if time_ns is None:
        return "-"
    return datetime.fromtimestamp(time_ns // 1_000_000_000, UTC).strftime("%Y-%m-%d %H:%M:%S") + (
        f".{time_ns // 1000 % 1_000_000:06d}Z"
    )


def between(after_ns: int | None, before_ns: int, text: Callable[[int], str] = moment) -> str:
    """Return when something happened that was between two points in time; `after_ns` None: the first is unknown."""
    return f"before {text(before_ns)}" if after_ns is None else f"between {text(after_ns)} and {text(before_ns)}"


def age(ns: int) -> str:
    """Return a duration in at most four characters, for columns: ``3s``, ``12m``, ``5h``, ``9d``, ``120d``, ``3y``."""
    seconds = max(0, ns) // 1_000_000_000
    if seconds < 100:
        return f"{seconds}s"
    for unit, size, most in (("m", 60, 100), ("h", 3600, 48), ("d", 86_400, 1000)):
        if seconds < size * most:
            return f"{seconds // size}{unit}"
    return f"{seconds // (365 * 86_400)}y"


def brief(ns: int) -> str:
    """Return a duration in at most five characters, for columns; from a second on as `age`."""
    if ns >= 1_000_000_000:
        return age(ns)
    for unit, size in (("ms", 1_000_000), ("µs", 1000)):
        if ns >= size:
            return f"{ns / size:.1f}{unit}" if ns < 9.95 * size else f"{ns // size}{unit}"
    return f"{ns}ns"


def since(time_ns: int | None, now_ns: int) -> str:
    """Return how long ago something was, as in ``12 s ago``; ``?`` if that is unknown."""
    if time_ns is None:
        return "?"
    return f"{duration(max(0, now_ns - time_ns))} ago"


def clock(time_ns: int | None) -> str:
    """Return the local time of day with milliseconds; ``-`` if it is unknown."""
    if time_ns is None:
        return "-"
    return f"{_time_of_day(time_ns // 1_000_000_000)}.{time_ns // 1_000_000 % 1000:03d}"


def when(time_ns: int, now_ns: int) -> str:
    """Return a point in time as local time of day, with the date if that is not today's."""
    moment, now = (datetime.fromtimestamp(each // 1_000_000_000) for each in (time_ns, now_ns))
    return f"{moment:%H:%M:%S}" if moment.date() == now.date() else f"{moment:%Y-%m-%d %H:%M:%S}"


def period(seconds: float) -> str:
    """Return a period of a setting as text, without a smaller unit that is 0: ``5 min``, ``1 h 30 min``, ``0.5 s``."""
    return duration(int(seconds * 1e9)).removesuffix(" 0 s").removesuffix(" 0 min").removesuffix(" 0 h")


@functools.lru_cache(maxsize=16)
def _time_of_day(seconds: int) -> str:
    return f"{datetime.fromtimestamp(seconds):%H:%M:%S}"

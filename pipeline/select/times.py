"""Read a point in time or a period that somebody typed."""

from __future__ import annotations

import re
from datetime import date, datetime, timedelta
from datetime import time as time_of_day

NS = 1_000_000_000
_UNITS_NS = {
    "ns": 1, "us": 1000, "µs": 1000, "ms": 1_000_000, "s": NS, "sec": NS, "m": 60 * NS, "min": 60 * NS,
    "h": 3600 * NS, "d": 86_400 * NS, "w": 7 * 86_400 * NS,
}  # fmt: skip
_PART = re.compile(r"(\d+(?:\.\d+)?)\s*([a-zµ]+)\s*")
_TIME_OF_DAY = re.compile(r"(\d{1,2}):(\d{2})(?::(\d{2})(?:\.(\d{1,9})\d*)?)?\Z")
#: A longer number is no period.
_DIGITS_MAX = 30
TIME_FORMS = "now, -5m, 13:05, 2026-11-28T13:05:00Z, or ns since the Unix epoch"
SINCE_FORMS = "5m (five minutes ago), 13:05, 2026-11-28T13:05:00Z, or ns since the Unix epoch"
PERIOD_FORMS = "a number with a unit such as 30s, 10m, 2h or 1h30m"


def period_ns(text: str) -> int:
    """Return a period in ns, of text such as ``10m``, ``1h30m`` or ``0.5s``; a bare number counts seconds.

    Raises:
        ValueError: the text is not a period; the error says which forms are.

    Example:
        >>> period_ns("1h30m") == 5400 * NS
        True
    """
    stripped = text.strip()
    if re.fullmatch(r"\d+(?:\.\d+)?", stripped) and len(stripped) <= _DIGITS_MAX:
        return int(float(stripped) * NS)
    total, end = 0, 0
    while end < len(stripped):
        part = _PART.match(stripped, end)
        if part is None or part[2] not in _UNITS_NS or len(part[1]) > _DIGITS_MAX:
            break
        total, end = total + int(float(part[1]) * _UNITS_NS[part[2]]), part.end()
    if not stripped or end < len(stripped):
        raise ValueError(f"{text!r} is not a period: use {PERIOD_FORMS}")
    return total


def time_ns(text: str, now_ns: int) -> int:
    """Return a point in time in ns since the Unix epoch.

    Args:
        text: one of `TIME_FORMS`. A time of day is the last one that has passed, and like an ISO time without a zone
            it is local. ``-5m`` is five minutes before `now_ns`.
        now_ns: the present time, in ns since the Unix epoch.

    Raises:
        ValueError: the text is not a time; the error says which forms are.

    Example:
        >>> time_ns("-5m", 400 * NS) == 100 * NS
        True
    """
    stripped = text.strip()
    if stripped == "now":
        return now_ns
    try:
        if stripped.startswith("-"):
            return max(0, now_ns - period_ns(stripped[1:]))
        if stripped.isascii() and stripped.isdigit():
            return _checked(int(stripped))
        if found := _TIME_OF_DAY.match(stripped):
            clock = time_of_day(int(found[1]), int(found[2]), int(found[3] or 0))
            return _last(clock, int((found[4] or "").ljust(9, "0")), now_ns)
        moment = datetime.fromisoformat(stripped)
        return _checked(int(moment.timestamp()) * NS + moment.microsecond * 1000)
    except (ValueError, OverflowError, OSError):
        raise ValueError(f"{text!r} is not a time: use {TIME_FORMS}") from None


def since_ns(text: str, now_ns: int) -> int:
    """Return the beginning of a period that ends now, in ns since the Unix epoch.

    Args:
        text: how long ago it began (``10m`` or ``-10m``), or one of `TIME_FORMS`.
        now_ns: the present time, in ns since the Unix epoch.

    Raises:
        ValueError: the text is neither; the error says which forms are.

    Example:
        >>> since_ns("5m", 400 * NS) == since_ns("-5m", 400 * NS) == 100 * NS
        True
    """
    stripped = text.strip()
    is_period = (
        stripped[:1].isdigit() and stripped[-1:].isalpha() and "t" not in stripped.lower() and ":" not in stripped
    )
    try:
        return max(0, now_ns - period_ns(stripped)) if is_period else time_ns(stripped, now_ns)
    except ValueError:
        raise ValueError(f"{text!r} is not a time: use {SINCE_FORMS}") from None


def _last(clock: time_of_day, part_ns: int, now_ns: int) -> int:
    """Return when it was last this time of day, in ns since the Unix epoch; `part_ns` is the part of a second.

    When clocks are put back, a time of day occurs twice in a day, and when they are put forward, one does not occur.
    """
    today = datetime.fromtimestamp(now_ns // NS).date()
    for days in range(3):  # the day before yesterday, if it did not occur yesterday
        for fold in (1, 0):
            found_ns = _at(today - timedelta(days), clock, fold)
            if found_ns is not None and found_ns + part_ns <= now_ns:
                return found_ns + part_ns
    raise ValueError(clock)


def _at(day: date, clock: time_of_day, fold: int) -> int | None:
    """Return the first (fold 0) or second time (fold 1) that it was this time on a day; None: it never was."""
    seconds = round(datetime.combine(day, clock.replace(fold=fold)).timestamp())
    return seconds * NS if datetime.fromtimestamp(seconds) == datetime.combine(day, clock) else None


def _checked(number: int) -> int:
    if not 0 <= number < 1 << 63:
        raise ValueError(number)
    return number

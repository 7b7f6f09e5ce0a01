"""Check what a caller passes to a table: a wrong type is a TypeError, a wrong value a ValueError, and both say why.

C would take True for pid 1, cut 1.5 to 1, and wrap -1 to the largest number. The answer would then be about another
process. So only real integers are numbers here, and nothing is rounded or wrapped.
"""

from __future__ import annotations

import math
import operator

TYPE_CHECKING = False  # see paths.py
if TYPE_CHECKING:
    from collections.abc import Iterable

    from typing_extensions import Buffer

#: Limits of numbers in the tables.
UINT32_MAX = (1 << 32) - 1
INT64_MAX = (1 << 63) - 1
UINT64_MAX = (1 << 64) - 1

#: Letters of `memoryview.format` for unsigned integers and for bytes.
_UNSIGNED = frozenset("BHILQ")


def number_of(name: str, value: object, high: int = UINT32_MAX, *, low: int = 0) -> int:
    """Return an argument that must be an integer from `low` to `high`.

    Integers of numpy are accepted, bool is not.

    Raises:
        TypeError: it is not an integer.
        ValueError: it is out of range.
    """
    try:
        if isinstance(value, bool):
            raise TypeError
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(f"{name} must be an int, not {kind_of(value)}{_its_pid(name, value)}") from None
    if not low <= number <= high:
        shown = str(number) if number.bit_length() <= 128 else f"a number of {number.bit_length()} bits"
        raise ValueError(f"{name} is {shown}, not {low} to {high}")
    return number


def _its_pid(name: str, value: object) -> str:
    """Return the end of a message: for a process in place of a pid, such as a Popen, what to write."""
    if "pid" in name.split() and hasattr(value, "pid"):
        return f": write {type(value).__name__.lower()}.pid"
    return ""


def unix_ns_of(name: str, value: object) -> int:
    """Return a point in time in ns since the Unix epoch, of a datetime with a time zone or of the number itself.

    Raises:
        TypeError: it is neither.
        ValueError: the datetime has no time zone, or the number is out of range.
    """
    if type(value) is int:
        return number_of(name, value, INT64_MAX)
    from datetime import UTC, datetime, timedelta  # a reader without such times does not load it

    if isinstance(value, datetime):
        if value.utcoffset() is None:
            raise ValueError(
                f"{name} has no time zone: write .astimezone() behind a local time, or .replace(tzinfo=UTC) behind one "
                "in UTC"
            )
        since = value - datetime(1970, 1, 1, tzinfo=UTC)
        # A Timestamp of pandas is a datetime that has ns too.
        ns = (since // timedelta(microseconds=1)) * 1000 + int(getattr(value, "nanosecond", 0))
        return number_of(name, ns, INT64_MAX)
    if isinstance(value, bool) or not hasattr(type(value), "__index__"):
        raise TypeError(
            f"{name} must be a datetime with a time zone, or ns since the Unix epoch as an int (time.time_ns()), not "
            f"{kind_of(value)}"
        )
    return number_of(name, value, INT64_MAX)


def seconds_of(name: str, value: object) -> float | None:
    """Return a period in seconds; None or infinity: None, which is no limit.

    Raises:
        TypeError: it is not a number.
        ValueError: it is negative or not a number.
    """
    if value is None:
        return None
    if isinstance(value, bool | str | bytes) or not hasattr(type(value), "__float__"):
        raise TypeError(f"{name} must be a number of seconds or None, not {kind_of(value)}")
    try:
        seconds = float(value)  # type: ignore[arg-type]
    except OverflowError:  # an int that no float can be
        seconds = math.inf if value > 0 else -math.inf  # type: ignore[operator]
    if math.isnan(seconds) or seconds < 0:
        raise ValueError(f"{name} is {seconds:g}: use 0 or more seconds, or None to wait without a limit")
    return None if math.isinf(seconds) else seconds


def texts_of(name: str, value: object, *, with_numbers: bool = False) -> tuple[str, ...]:
    """Return one or several texts of an argument; none if it is None.

    Args:
        name: of the argument.
        value: a text, or several in a list, tuple or set.
        with_numbers: also accept numbers from 0, as for the id of a user.

    Raises:
        TypeError: it is something else.
        ValueError: a text is empty, there are no texts, or a number is out of range.
    """
    if value is None:
        return ()
    several: Iterable[object] = value if isinstance(value, list | tuple | set | frozenset) else (value,)
    texts = []
    for each in several:
        if isinstance(each, str):
            if not each.strip():
                raise ValueError(f"{name} is empty")
            texts.append(each)
        elif with_numbers and not isinstance(each, bool) and hasattr(type(each), "__index__"):
            texts.append(str(number_of(name, each)))
        else:
            kinds = "a str, an int" if with_numbers else "a str"
            raise TypeError(f"{name} must be {kinds} or a list of them, not {kind_of(each)}")
    if not texts:
        raise ValueError(f"{name} is an empty list: leave it out to accept all")
    return tuple(texts)


def numbers_in(name: str, buffer: Buffer, size: int) -> memoryview:
    """Return a buffer of unsigned integers of `size` bytes each, or of their bytes.

    Raises:
        TypeError: it is no buffer, or has other elements.
        ValueError: it is not contiguous, or ends inside a number.
    """
    view = memoryview(buffer)
    if view.format not in _UNSIGNED or view.itemsize not in {1, size} or (view.itemsize == 1 and view.format != "B"):
        raise TypeError(f"{name} must be a buffer of uint{size * 8}, not of elements {view.format!r}")
    if not view.c_contiguous:
        raise ValueError(f"{name} must be contiguous")
    if view.nbytes % size:
        raise ValueError(f"{name} has {view.nbytes} bytes, which is no whole number of uint{size * 8}")
    return view


def kind_of(value: object) -> str:
    """Return the name of a value's type for a message."""
    kind = type(value)
    return kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"

"""Numbers of bytes and of other things, as text."""

from __future__ import annotations

_UNITS = (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10))


def size(count: float) -> str:
    """Return a number of bytes with three digits and a unit, as in ``20.1 MiB``."""
    for unit, unit_bytes in _UNITS:
        if count >= unit_bytes:
            number = count / unit_bytes
            return f"{number:.3g} {unit}" if number < 999.5 else f"{number:,.0f} {unit}"
    return f"{count:.0f} bytes"


def counted(number: int, one: str, several: str = "") -> str:
    """Return a number with its noun, as in ``1 process`` and ``1,200 processes``.

    Args:
        number: how many there are.
        one: the noun for one.
        several: the noun for all other numbers; empty: `one` with an s, or es behind a hissing sound.
    """
    return f"{number:,} {one if number == 1 else several or one + ('es' if one.endswith(('s', 'sh', 'ch')) else 's')}"

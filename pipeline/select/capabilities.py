"""Masks of capabilities as text."""

from __future__ import annotations

from pipeline.records.capabilities import NAMES


def described(mask: int) -> str:
    """Return the capabilities in a mask as text; of a mask that has most of them, those that it lacks.

    Example:
        >>> described(0b100001), described((1 << len(NAMES)) - 2)
        ('CAP_CHOWN CAP_KILL', 'all capabilities except CAP_CHOWN')
    """
    lacking = names_of(~mask & (1 << len(NAMES)) - 1)
    if not lacking:
        return "all capabilities"
    if len(lacking) * 2 < len(NAMES):
        return f"all capabilities except {' '.join(lacking)}"
    return " ".join(names_of(mask))


def names_of(mask: int) -> list[str]:
    """Return the capabilities in a mask, as in ``CAP_KILL``; one that is not known here by its number.

    Example:
        >>> names_of(0b100001)
        ['CAP_CHOWN', 'CAP_KILL']
    """
    return [
        f"CAP_{NAMES[number].upper()}" if number < len(NAMES) else f"capability {number}"
        for number in range(mask.bit_length())
        if mask >> number & 1
    ]

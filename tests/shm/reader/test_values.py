"""The words that a field's value consists of, by which rows are grouped."""

from __future__ import annotations

import pytest

from pipeline.shm.layout import declared
from pipeline.shm.reader import _row_copies, values

LAYOUTS = {"hot": (_row_copies.HOT, declared.HOT_LAYOUT), "cold": (_row_copies.COLD, declared.COLD_LAYOUT)}
PLACES = sorted({each for text in values.GROUPED.values() for each in text.split() if "." in each} | {"known"})


def bits(words: list[tuple[int, int, int]]) -> set[tuple[int, int]]:
    """Return (part, number of the bit) of everything that a key contains."""
    assert all(offset % 4 == 0 for _, offset, _ in words)
    return {(part, 8 * offset + bit) for part, offset, mask in words for bit in range(32) if mask >> bit & 1}


@pytest.mark.parametrize("place", PLACES)
def test_a_key_has_the_bits_of_its_fields_and_no_others(place: str) -> None:
    """With a bit less, different values would be one; with one more, equal rows would be read twice."""
    part, _, name = ("hot.known" if place == "known" else place).partition(".")
    number, layout = LAYOUTS[part]
    field = layout.fields[name]
    begin, end = 8 * field.offset, 8 * (field.offset + field.size)
    assert bits(values.words_of(place)) == {(number, bit) for bit in range(begin, end)}


def test_a_key_has_the_flags_that_it_names() -> None:
    begin = 8 * declared.HOT_LAYOUT.offset("flags")
    for names in (("SCRIPT",), ("SCRIPT", "FOREIGN"), [name.upper() for name in declared.MARKS]):
        flags = sum({int(getattr(declared, f"ROW_{name}")) for name in names})
        wanted = {(_row_copies.HOT, begin + bit) for bit in range(32) if flags >> bit & 1}
        assert bits(values.words_of("flags:" + "+".join(names))) == wanted

"""One object for equal strings, up to a limit."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.secrets.interner import CAPACITY, Interner


def test_equal_values_become_one_object() -> None:
    interner: Interner[str] = Interner()
    first, second = "".join(["a", "b"]), "".join(["a", "b"])
    assert first is not second
    assert interner.intern(first) is interner.intern(second) is first
    assert interner.intern_all(["ab", "c"])[0] is first


def test_least_recently_used_leaves() -> None:
    interner: Interner[bytes] = Interner(2)
    kept, other = bytes([65]) * 3, bytes([66]) * 3
    interner.intern(kept)
    interner.intern(other)
    interner.intern(b"AAA")
    interner.intern(b"third")
    assert len(interner) == 2
    assert interner.intern(b"A" * 3) is kept
    replacement = b"B" * 3
    assert interner.intern(replacement) is replacement


def test_default_capacity_is_the_specifications() -> None:
    interner: Interner[str] = Interner()
    for number in range(CAPACITY + 100):
        interner.intern(str(number))
    assert len(interner) == CAPACITY == 8192


@given(st.lists(st.text(max_size=2)), st.integers(1, 4))
def test_interned_strings_are_returned_unchanged(values: list[str], capacity: int) -> None:
    interner: Interner[str] = Interner(capacity)
    assert interner.intern_all(values) == values
    assert len(interner) <= capacity


def test_capacity_must_be_positive() -> None:
    with pytest.raises(ValueError, match="positive"):
        Interner(0)

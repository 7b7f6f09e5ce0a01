"""Entries, their views, chunks and the cache that collects them."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.secrets.argsenvs import (
    CACHE_IDS,
    CHUNK_BYTES,
    ArgsEntry,
    ArgsEnvsCache,
    EnvsEntry,
    PayloadOverflowError,
    cut_environ,
    decode_payload,
    encode_payload,
    equal_entries,
    equal_envs,
    filter_area,
)
from pipeline.secrets.interner import Interner
from pipeline.secrets.scrub import Scrubber


class Stars:
    """A scrubber that hides everything and counts its calls."""

    def __init__(self) -> None:
        self.calls = 0

    def scrub(self, args: Sequence[str], argv0: str = "") -> tuple[list[str], bool]:
        self.calls += 1
        return ["*"] * len(args), True


def test_arguments_after_the_first() -> None:
    entry = ArgsEntry(["prog", "a", "b"], True)
    assert (entry.argv0, entry.argv, entry.is_truncated) == ("prog", ["a", "b"], True)
    assert (ArgsEntry().argv0, ArgsEntry().argv) == ("", [])


def test_scrubbing_makes_one_list_and_leaves_the_values() -> None:
    entry, scrubber = ArgsEntry(["prog", "--password=x"]), Stars()
    first = entry.scrubbed(scrubber)
    assert first == ["*"] and entry.scrubbed(scrubber) is first and scrubber.calls == 1
    assert entry.argv == ["--password=x"]


def test_sharer_sees_the_same_scrubbed_list() -> None:
    """A parent and its fork share one object. Both get the list that the first call computed, never an empty one."""
    shared = ArgsEntry(["prog", "--password=x", "y"])
    scrubber = Scrubber()
    assert shared.scrubbed(scrubber) == ["--password=********", "y"]
    assert shared.scrubbed(None) == ["--password=********", "y"]


def test_without_scrubber_or_arguments_nothing_is_hidden() -> None:
    assert ArgsEntry(["prog", "x"]).scrubbed(None) == ["x"]
    scrubber = Stars()
    assert ArgsEntry(["prog"]).scrubbed(scrubber) == [] and scrubber.calls == 0


def test_equality_ignores_truncation_and_distinguishes_absent_from_empty() -> None:
    assert equal_entries(None, None) and equal_envs(None, None)
    assert not equal_entries(None, ArgsEntry()) and not equal_entries(ArgsEntry(), None)
    assert not equal_envs(None, EnvsEntry()) and not equal_envs(EnvsEntry(), None)
    assert equal_entries(ArgsEntry(["a"]), ArgsEntry(["a"], True))
    assert not equal_entries(ArgsEntry(["a"]), ArgsEntry(["a", "b"]))
    assert equal_envs(EnvsEntry(["A=1"], True), EnvsEntry(["A=1"]))


def test_representation_holds_no_secret() -> None:
    assert "hunter2" not in repr(ArgsEntry(["p", "hunter2"])) + repr(EnvsEntry(["P=hunter2"]))


def test_environment_shows_values_of_allowed_names_only() -> None:
    envs = EnvsEntry(["A=1", "B=2", "C", "A=3=4"], True)
    assert envs.filter({"A"}) == (["A=1", "B", "C", "A=3=4"], True)
    assert envs.filter({"B"})[0] == ["A=1", "B", "C", "A=3=4"], "the first call decides"
    assert EnvsEntry([], True).filter({"A"}) == (None, True)


def test_variable_look_up() -> None:
    envs = EnvsEntry(["A=1", "B", "A=2=3", "=x"])
    assert (envs.get("A"), envs.get("B"), envs.get("Z"), envs.get("")) == ("2=3", "", "", "x")


def test_raw_area_is_filtered_in_its_form() -> None:
    assert filter_area(b"A=1\0B=\xff\0C\0", frozenset({b"A"})) == b"A=1\0B\0C\0"
    assert filter_area(b"", frozenset()) == b""
    assert filter_area(b"B=cut off", frozenset()) == b"B\0"
    assert filter_area(b"A=1\0\0B=2\0", frozenset()) == b"A\0\0B\0"


@given(st.lists(st.text(st.characters(exclude_characters="\0", codec="utf-8"), min_size=1)), st.sets(st.text()))
def test_raw_filter_is_the_filter(values: list[str], allow: set[str]) -> None:
    area = b"".join(value.encode() + b"\0" for value in values)
    expected = EnvsEntry(values).filter(allow)[0] or []
    filtered = filter_area(area, frozenset(name.encode() for name in allow))
    assert filtered == b"".join(value.encode() + b"\0" for value in expected)


def test_an_environment_is_cut_after_the_important_part() -> None:
    area = b"A=1\0DD_SERVICE=web\0B=2\0PATH=/bin\0"
    assert cut_environ(area, limit=2) == (["DD_SERVICE=web", "A=1"], True)
    assert cut_environ(area, ("DD_SERVICE", "PATH"), 2) == (["DD_SERVICE=web", "PATH=/bin"], True)
    assert cut_environ(area) == (["DD_SERVICE=web", "A=1", "B=2", "PATH=/bin"], False)
    assert cut_environ(b"") == ([], False)


@given(st.lists(st.binary(max_size=8).filter(lambda b: b"\0" not in b)))
def test_chunk_with_a_count_comes_back(strings: list[bytes]) -> None:
    assert decode_payload(encode_payload(strings), len(strings)) == strings


@given(st.lists(st.binary(min_size=0, max_size=8).filter(lambda b: b"\0" not in b)).filter(lambda s: not s or s[-1]))
def test_chunk_without_a_count_keeps_empty_strings_inside(strings: list[bytes]) -> None:
    assert decode_payload(encode_payload(strings)) == strings
    assert decode_payload(encode_payload(strings) + b"\0" * 20) == strings


def test_string_ends_at_its_first_nul() -> None:
    assert decode_payload(encode_payload([b"a\0b", b"c\0"])) == [b"a", b"c"]


@pytest.mark.parametrize(
    ("payload", "strings"),
    [
        (encode_payload([b"ab"]) + b"\1\2", [b"ab"]),
        (encode_payload([b"ab"]) + struct.pack("=I", 5), [b"ab"]),
        (encode_payload([b"ab"]) + struct.pack("=I", 5) + b"xy", [b"ab", b"xy"]),
        (b"\1", []),
    ],
)
def test_a_broken_chunk_returns_the_readable_part(payload: bytes, strings: list[bytes]) -> None:
    with pytest.raises(PayloadOverflowError) as caught:
        decode_payload(payload)
    assert caught.value.strings == strings


@given(st.binary(max_size=64), st.none() | st.integers(0, 20))
def test_any_bytes_decode_or_overflow(payload: bytes, count: int | None) -> None:
    try:
        strings = decode_payload(payload, count)
    except PayloadOverflowError as overflow:
        strings = overflow.strings
    assert sum(map(len, strings)) <= len(payload)


def test_full_chunk_marks_its_last_string() -> None:
    """Specification D6: two strings, then a full chunk with a truncated string."""
    cache = ArgsEnvsCache()
    cache.update(5, encode_payload([b"a", b"b"]))
    cut = encode_payload([b"c" * (CHUNK_BYTES - 4)])
    assert len(cut) == CHUNK_BYTES
    cache.update(5, cut)
    assert cache.take(5) == (["a", "b", "c" * 252 + "..."], True)
    assert cache.take(5) is None and len(cache) == 0


def test_undecodable_chunk_sets_the_flag_even_without_strings() -> None:
    cache = ArgsEnvsCache()
    cache.update(1, b"\1")
    assert cache.take(1) == ([], True)


def test_flag_stays_set() -> None:
    cache = ArgsEnvsCache()
    cache.add(1, ["a..."], True)
    cache.add(1, ["b"])
    assert cache.take(1) == (["a...", "b"], True)


def test_oldest_id_leaves() -> None:
    """Specification D7: with 513 ids the first is evicted."""
    cache = ArgsEnvsCache()
    for entry_id in range(CACHE_IDS + 1):
        cache.update(entry_id, encode_payload([b"x"]))
    assert cache.take(0) is None and cache.take(1) == (["x"], False)


def test_adding_to_an_id_keeps_it() -> None:
    cache = ArgsEnvsCache(capacity=2)
    cache.add(1, ["a"])
    cache.add(2, ["b"])
    cache.add(1, ["c"])
    cache.add(3, ["d"])
    assert cache.take(2) is None and cache.take(1) == (["a", "c"], False)


def test_strings_are_interned() -> None:
    cache = ArgsEnvsCache(interner=Interner())
    cache.update(1, encode_payload([b"same-string"]))
    cache.update(2, encode_payload([b"same-string"]))
    first, second = cache.take(1), cache.take(2)
    assert first is not None and second is not None and first[0][0] is second[0][0]


def test_bytes_that_are_no_utf8_survive() -> None:
    cache = ArgsEnvsCache()
    cache.update(1, encode_payload([b"\xff"]))
    assert cache.take(1) == (["\udcff"], False)

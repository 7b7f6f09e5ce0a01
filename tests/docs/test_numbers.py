"""Numbers that the code defines are the same in the sentences of the pages."""

from __future__ import annotations

import re
from typing import NamedTuple

import pytest

from tests.docs.citations import ROOT


class Number(NamedTuple):
    """A number in a sentence: `{}` in `sentence` stands for what the constant `name` of `file` is."""

    page: str
    sentence: str
    file: str
    name: str


PROTOCOL, WIRE = "docs/row-protocol.md", "docs/wire-schema.md"
NUMBERS = [
    Number(PROTOCOL, "is entry n modulo {} |", "pipeline/shm/layout/declared.py", "CHANGES_KEPT"),
    Number(PROTOCOL, "If {} or more changes were noted", "pipeline/shm/layout/declared.py", "CHANGES_KEPT"),
    Number(PROTOCOL, "with more than {} entries for each row", "pipeline/shm/reader/_processes.pyx", "_ENTRIES_A_ROW"),
    Number(PROTOCOL, "For at most {} pids", "pipeline/shm/reader/bulk.h", "PL_KEPT_PIDS"),
    Number(PROTOCOL, "pids, or {} chains", "pipeline/shm/reader/bulk.h", "PL_KEPT_CHAINS"),
    Number(PROTOCOL, "tables of less than {} rows", "pipeline/shm/reader/_reader.pyx", "_SMALL_ROWS"),
    Number(PROTOCOL, "or of {} or more, are walked", "pipeline/shm/reader/bulk.h", "PL_LANES_ROWS"),
    Number(PROTOCOL, "remembers {} of the chains", "pipeline/shm/reader/bulk.h", "PL_MEMO"),
    Number(PROTOCOL, "*Busy* is retried: {} times with a pause", "pipeline/shm/reader/_view.pyx", "SPINS"),
    Number(WIRE, "At most {} different filters are in use", "pipeline/bus/stream/declared.py", "FILTERS_MAX"),
    Number(WIRE, "at most {} subscriptions with a filter", "pipeline/bus/_relay.pyx", "FILTERS_OF_CLIENT"),
    Number(WIRE, "and {} from all connections", "pipeline/bus/_relay.pyx", "FILTERS_OF_USER"),
    Number(WIRE, "A subscription has at most {} bytes", "pipeline/bus/stream/declared.py", "SUBSCRIPTION_MAX_BYTES"),
]


def constant(file: str, name: str) -> int:
    """The value of a constant of a Python, Cython or C file: a number, or one shifted by another."""
    text = (ROOT / file).read_text(encoding="utf-8")
    found = re.search(rf"^(?:#define | *){name}(?: = | )\(?(\d[\d_]*)u?(?: << (\d+))?", text, re.MULTILINE)
    assert found is not None, f"{file} has no {name}"
    return int(found[1]) << int(found[2] or 0)


def plain(page: str) -> str:
    return " ".join((ROOT / page).read_text(encoding="utf-8").split())


@pytest.mark.parametrize("number", NUMBERS, ids=lambda number: f"{number.name}: {number.sentence}")
def test_a_number_in_a_sentence_is_that_of_the_code(number: Number) -> None:
    assert number.sentence.format(f"{constant(number.file, number.name):,}") in plain(number.page)


def test_the_retries_of_a_busy_row_add_up() -> None:
    spins, yields = (constant("pipeline/shm/reader/_view.pyx", name) for name in ("SPINS", "YIELDS"))
    patience_ms = constant("pipeline/shm/reader/_view.pyx", "PATIENCE_NS") // 10**6
    assert f"{yields - spins} times yielding the processor, then every 0.1 ms for {patience_ms} ms" in plain(PROTOCOL)

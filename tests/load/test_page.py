"""Pages are well-formed, need nothing from elsewhere, and show hostile text as text."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Any
from xml.etree import ElementTree

import pytest

from pipeline.load import drawing, page
from tests.load.reports import limit, paired, report

HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=y>\x1b[31m\x00\ud800&amp;"


def full(host: str = "alpha") -> dict[str, Any]:
    return report(host, paired=paired(), limit=limit(), examples=["fork of pid 7: made 1, seen 0"])


def hostile() -> dict[str, Any]:
    found = full(HOSTILE)
    found["host"] |= {"kernel": HOSTILE, "machine": HOSTILE, "processor": HOSTILE}
    found["settings"] |= {"scenario": HOSTILE, "cpus": HOSTILE}
    found["instance"]["name"] = found["time"] = found["procline_version"] = HOSTILE
    found["examples"] = [HOSTILE]
    found["memory_bytes"] = {HOSTILE: 1}
    found["cpu_us_per_event"] = {HOSTILE: 1.0}
    found["made"] = found["seen"] = {**report()["seen"], HOSTILE: 5}
    found["host_events"]["lost"] = {HOSTILE: 1}
    found["latency_us"]["subscriber"] = {HOSTILE: report()["latency_us"]["table"]["fork"]}
    found["limit"] = {**limit(), "reason": HOSTILE}
    found["limit"]["steps"][1]["reason"] = HOSTILE
    return found


def tree(text: str) -> ElementTree.Element:
    return ElementTree.fromstring(text.partition("\n")[2])


PAGES = {
    "one": lambda: page.of_report(full()),
    "plain": lambda: page.of_report(report()),
    "hostile": lambda: page.of_report(hostile()),
    "two": lambda: page.of_reports([full(), full("beta")], ["a.json", "b.json"]),
    "many": lambda: page.of_reports([full(f"host{number}") for number in range(9)], [""] * 9),
    "hostile many": lambda: page.of_reports([hostile()] * 4, [HOSTILE] * 4),
}


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_well_formed_and_refers_to_nothing(name: str) -> None:
    text = PAGES[name]()
    assert text.startswith("<!DOCTYPE html>\n")
    root = tree(text)
    tags = {element.tag for element in root.iter()}
    assert not tags & {"script", "link", "img", "iframe", "object", "embed", "use", "image", "a", "form", "base"}
    for element in root.iter():
        assert not [key for key in element.attrib if key.startswith("on") or key in {"src", "href", "style"}]
    styles = "".join(element.text or "" for element in root.iter("style"))
    assert "url(" not in styles and "@import" not in styles
    assert "://" not in text
    HTMLParser().feed(text)
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f]", text)
    text.encode("utf-8")


def test_hostile_text_is_shown_as_text() -> None:
    shown = "".join(tree(page.of_report(hostile())).itertext())
    assert "<script>alert(1)</script>" in shown and "\\x1b[31m\\x00\\ud800&amp;" in shown


def test_a_page_has_the_plots_of_what_was_measured() -> None:
    assert len(list(tree(page.of_report(report())).iter("svg"))) == 4
    assert len(list(tree(page.of_report(full())).iter("svg"))) == 6
    assert not list(
        tree(page.of_report(report(samples=[], latency_us={"table": {"not_shown": 3}, "subscriber": {}}))).iter("svg")
    )


def test_many_hosts_are_rows_of_one_page() -> None:
    root = tree(PAGES["many"]())
    first = next(root.iter("table"))
    cells = [[cell.text for cell in row] for row in first]
    assert [row[0] for row in cells] == [None, *(f"host{number}" for number in range(9))]
    assert "to subscriber, p99" in cells[0]


def test_a_fault_changes_the_verdict() -> None:
    assert 'class="verdict good"' in page.of_report(report())
    assert 'class="verdict bad"' in page.of_report(report(alive_in_table=1))
    assert "1 of 2 tests" in page.of_reports([report(), report(alive_in_table=1)], ["a", "b"])


@pytest.mark.parametrize(
    ("high", "last"), [(0, 1), (1, 1), (7, 8), (99, 100), (1234, 1500), (0.03, 0.03), (8_000_000, 8_000_000)]
)
def test_an_axis_has_few_round_marks_and_holds_all(high: float, last: float) -> None:
    marks = drawing.ticks(high)
    assert marks[-1] == pytest.approx(last) and 2 <= len(marks) <= 6


def test_values_of_0_can_be_drawn() -> None:
    assert "<svg" in drawing.lines([(0.0, 0.0)], str, "x")
    assert "<svg" in drawing.bars([("a", 0.0, "0"), ("b", None, "-"), ("c", -3.0, "-3")], "x")

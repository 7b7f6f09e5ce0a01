"""The filter that is typed as one line."""

from __future__ import annotations

import pytest

from pipeline.top.filters import Filter, parse
from tests.top.host import Host, texts


@pytest.mark.parametrize(
    "line", ["", "user=root", "user=a user=b", "unit='nginx*' serve", "path=/usr/bin/python3* under=7", "failed 'a b'"]
)
def test_a_filter_is_shown_as_the_line_that_makes_it(line: str) -> None:
    assert parse(str(parse(line))) == parse(line)
    assert str(parse(line)) == line.replace("path=/usr/bin/python3*", "path='/usr/bin/python3*'")
    assert bool(parse(line)) == bool(line)


@pytest.mark.parametrize(
    ("line", "why"), [("under=x", "pid"), ("'open", "quotation"), ("container=ab", "4 characters")]
)
def test_a_line_that_cannot_be_understood_is_refused(line: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        parse(line)


def test_everything_that_is_given_must_hold(host: Host) -> None:
    host.start(42, "sleep 5", parent=40, ago=10, uid=7)
    assert texts(host.model(is_tree=False, filter=parse("user=7 path=sleep"))) == ["42 sleep"]
    assert texts(host.model(is_tree=False, filter=parse("user=0 sleep"))) == []
    assert texts(host.model(is_tree=False, filter=parse("SLEEP 100"))) == ["41 sleep"]


def test_a_subtree_contains_what_its_processes_created(host: Host) -> None:
    host.tables.change(host._rows[41], ppid=1, parent=host.link(1))
    assert texts(host.model(is_tree=False, filter=parse("under=40"))) == ["40 bash", "41 sleep"]


def test_failed_processes(host: Host) -> None:
    host.start(42, "false", parent=40, ago=2)
    host.end(42, code=256, ago=1)
    host.start(43, "true", parent=40, ago=2)
    host.end(43, ago=1)
    assert texts(host.model(is_tree=False, filter=parse("failed"))) == ["42 false"]


def test_an_empty_filter_selects_everything() -> None:
    assert not Filter() and str(Filter()) == ""

"""Which lines there are, and in which order."""

from __future__ import annotations

import numpy as np

from pipeline.top.columns import COLUMNS
from pipeline.top.filters import parse
from pipeline.top.order import ENDED_SHOWN
from tests.top.host import Host, texts


def test_a_tree_shows_children_below_their_parents(host: Host) -> None:
    host.start(42, "date", parent=1, ago=300)
    assert texts(host.model()) == ["1 init", "-40 bash", "--41 sleep", "-42 date"]


def test_a_list_is_in_order_of_start(host: Host) -> None:
    host.start(42, "date", parent=40, ago=450)
    assert texts(host.model(is_tree=False)) == ["1 init", "40 bash", "42 date", "41 sleep"]


def test_families_are_sorted_by_a_column(host: Host) -> None:
    host.start(42, "cat", parent=40, ago=300)
    host.start(43, "apt", parent=40, ago=200)
    model = host.model(sort="program")
    assert texts(model)[2:] == ["--43 apt", "--42 cat", "--41 sleep"]
    model.sort_by(COLUMNS["program"])
    assert texts(model)[2:] == ["--41 sleep", "--42 cat", "--43 apt"]


def test_equal_keys_stay_in_order_of_start(host: Host) -> None:
    for pid in (42, 43, 44):
        host.start(pid, "date", parent=1, ago=100 - pid, uid=7)
    model = host.model(is_tree=False, sort="user")
    assert [text.split()[0] for text in texts(model)] == ["1", "40", "41", "42", "43", "44"]


def test_the_longest_lifetime_comes_first(host: Host) -> None:
    model = host.model(is_tree=False, sort="age")
    assert texts(model) == ["1 init", "40 bash", "41 sleep"]
    model.sort_by(COLUMNS["age"])
    assert texts(model) == ["41 sleep", "40 bash", "1 init"]


def test_every_column_sorts(host: Host) -> None:
    for name in COLUMNS:
        for is_reversed in (False, True):
            assert len(texts(host.model(is_tree=False, sort=name, is_reversed=is_reversed))) == 3, name


def test_a_filter_keeps_the_ancestors_of_what_it_selects(host: Host) -> None:
    host.start(42, "date", parent=1, ago=300)
    model = host.model(filter=parse("path=sleep"))
    assert texts(model) == ["1 init", "-40 bash", "--41 sleep"]
    assert model.lines is not None and model.lines.is_match is not None
    assert model.lines.is_match.tolist() == [False, False, True]
    assert texts(host.model(filter=parse("path=sleep"), is_tree=False)) == ["41 sleep"]


def test_folded_processes_hide_their_descendants(host: Host) -> None:
    model = host.model()
    assert model.fold(1, is_folded=True) and not model.fold(1, is_folded=True)
    assert texts(model) == ["1 init", "-40 bash"]
    assert model.lines is not None and model.lines.hidden_below(1) == 1
    assert model.fold(1, is_folded=False)
    assert len(texts(model)) == 3
    assert not model.fold(2, is_folded=True), "it has no children"


def test_the_branches_of_a_line_say_where_they_continue(host: Host) -> None:
    host.start(42, "date", parent=40, ago=300)
    host.start(43, "date", parent=1, ago=200)
    lines = host.model().lines
    assert lines is not None
    assert [lines.branches(number) for number in range(5)] == [
        [], [True], [True, True], [True, False], [False],
    ]  # fmt: skip
    assert lines.branches(3, 1) == [False] and lines.branches(1, 5) == [True]


def test_of_many_ended_children_the_last_ones_are_shown(host: Host) -> None:
    for pid in range(100, 130):
        host.start(pid, "true", parent=40, ago=2)
        host.end(pid, ago=2 - (pid - 99) / 100)
    host.start(60, "cat", parent=40, ago=2)
    model = host.model()
    ended = [text for text in texts(model) if "true" in text]
    assert ended == [f"--{pid} true" for pid in range(130 - ENDED_SHOWN, 130)]
    assert model.lines is not None and model.processes is not None
    parent = model.processes.pids.tolist().index(40)
    assert model.lines.ended_hidden == {parent: 30 - ENDED_SHOWN}
    assert "--60 cat" in texts(model)


def test_ended_processes_with_children_stay(host: Host) -> None:
    for pid in range(100, 120):
        host.start(pid, "sh", parent=40, ago=2)
        host.end(pid, ago=1)
    host.start(200, "cat", parent=100, ago=2)
    assert any(text.endswith("-100 sh") for text in texts(host.model()))


def test_processes_that_name_each_other_as_parents_are_all_shown(host: Host) -> None:
    host.start(50, "a", parent=51, ago=10)
    host.start(51, "b", parent=50, ago=10)
    found = texts(host.model())
    assert sorted(text.strip("-") for text in found) == sorted(["1 init", "40 bash", "41 sleep", "50 a", "51 b"])


def test_a_deep_chain_is_a_tree(host: Host) -> None:
    for pid in range(100, 300):
        host.start(pid, "sh", parent=pid - 1 if pid > 100 else 1, ago=500 - pid)
    lines = host.model().lines
    assert lines is not None
    assert lines.depths.max() == 200 and len(lines) == 203
    assert not any(lines.branches(len(lines) - 1)[1:])
    assert len(lines.branches(len(lines) - 1, 12)) == 12, "the levels that a line has no room for are not followed"
    assert np.array_equal(np.sort(lines.positions), np.arange(203))

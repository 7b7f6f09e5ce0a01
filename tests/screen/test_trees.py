"""Trees as lines."""

from __future__ import annotations

import pytest

from pipeline.export.forest import Node
from pipeline.screen import trees
from pipeline.screen.lines import Line


def chain(length: int) -> Node:
    """Return a process with this many generations below it."""
    node = Node({"pid": length})
    for pid in range(length - 1, -1, -1):
        node = Node({"pid": pid}, [node])
    return node


def test_guides_lead_from_parents_to_children() -> None:
    root = Node({"pid": 1}, [Node({"pid": 2}, [Node({"pid": 3})]), Node({"pid": 4}, [Node({"pid": 5})])])
    assert [row.guide + str(row.nodes[0].entry["pid"]) for row in trees.rows([root, Node({"pid": 6})])] == [
        "1", "├─ 2", "│  └─ 3", "└─ 4", "   └─ 5", "6"
    ]  # fmt: skip


def test_hidden_generations_are_counted() -> None:
    shown = list(trees.rows([chain(9)], depth=2))
    assert [row.hidden for row in shown] == [0, 0, 7]


@pytest.mark.parametrize("width", [40, 60, 80])
def test_a_line_fits_and_keeps_room_for_the_command(width: int) -> None:
    facts = [Line("exited, signal 9 (SIGKILL)"), Line("user www-data"), Line("5h")]
    for row in trees.rows([chain(200)]):
        line = trees.line(row, "4194304", Line("command " * 9), facts, width)
        assert line.width <= width
        assert "command" in line.plain and "4194304" in line.plain


def test_the_least_important_facts_go_first() -> None:
    row = trees.Row([chain(0)], None, "")
    facts = [Line("a" * 10), Line("b" * 10), Line("c" * 10)]
    shown = {width: trees.line(row, "1", Line("x" * 30), list(facts), width).plain for width in (26, 48, 90)}
    assert "a" not in shown[26]
    assert "a" in shown[48] and "c" not in shown[48]
    assert shown[90].endswith(f"  {'a' * 10} · {'b' * 10} · {'c' * 10}")

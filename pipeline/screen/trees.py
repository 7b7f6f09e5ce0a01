"""Trees as lines: guides, repeated children on one line, and a limit of the depth."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass

from pipeline.export.forest import Node, nodes_of
from pipeline.screen.lines import ELLIPSIS, Line
from pipeline.screen.styles import Style

#: Fewer equal children have a line each.
FOLDED_MIN = 3
#: Wider facts leave too little room for the command that they belong to.
_COMMAND_MIN = 16
#: Longer guides lose their beginning.
_GUIDE_MAX = 600
_BRANCH, _LAST, _PASSING, _EMPTY = "├─ ", "└─ ", "│  ", "   "


@dataclass(slots=True, eq=False)
class Row:
    """One line of a tree.

    Attributes:
        nodes: the process of the line; several if they are folded.
        parent: what is above; None for a root.
        guide: the characters that lead from the parent to the line.
        hidden: how many processes below are not shown, because the depth is limited.
    """

    nodes: list[Node]
    parent: Node | None
    guide: str
    hidden: int = 0


def rows(
    roots: Iterable[Node], *, depth: int | None = None, shape: Callable[[Node], Hashable] | None = None
) -> Iterator[Row]:
    """Yield the lines of trees, each parent before its children.

    Args:
        roots: the trees.
        depth: how many generations below the roots are shown; None: all.
        shape: returns what children without children of their own must have in common to be folded; None: nothing is
            folded.
    """
    waiting: list[tuple[Row, str, int]] = [(Row([root], None, ""), "", 0) for root in roots][::-1]
    while waiting:
        row, below, level = waiting.pop()
        node = row.nodes[0]
        if depth is not None and level >= depth and node.children:
            row.hidden = len(nodes_of(node.children))
            yield row
            continue
        yield row
        groups = _grouped(node.children, shape) if shape is not None else [[child] for child in node.children]
        for number, group in enumerate(reversed(groups)):
            is_last = number == 0
            guide = below + (_LAST if is_last else _BRANCH)
            further = below + (_EMPTY if is_last else _PASSING)
            if len(further) > _GUIDE_MAX:  # otherwise the guides of a chain would grow with the square of its length
                further = ELLIPSIS + further[-_GUIDE_MAX + 1 :]
            waiting.append((Row(group, node, guide), further, level + 1))


def _grouped(children: list[Node], shape: Callable[[Node], Hashable]) -> list[list[Node]]:
    """Return the children in their order; a group is at the place of its first member."""
    by_shape: dict[Hashable, list[Node]] = {}
    leaves = [child for child in children if not child.children]
    if len(leaves) < FOLDED_MIN:
        return [[child] for child in children]
    for child in leaves:
        by_shape.setdefault((child.is_wanted, shape(child)), []).append(child)
    groups = {id(group[0]): group for group in by_shape.values() if len(group) >= FOLDED_MIN}
    folded = {id(node) for group in groups.values() for node in group}
    return [groups.get(id(child), [child]) for child in children if id(child) in groups or id(child) not in folded]


def line(row: Row, label: str, command: Line, facts: Iterable[Line], width: int | None) -> Line:
    """Return a line of a tree that fits into a width.

    Args:
        row: what is shown.
        label: the pid, or how many processes are folded.
        command: what runs; it is cut if necessary.
        facts: more about the process, the most important first; the last ones are omitted if there is no room.
        width: in cells; None: no limit.
    """
    guide = row.guide
    if width is not None and len(guide) > width // 2:  # a deep chain must not push everything off the screen
        guide = ELLIPSIS + guide[len(guide) - width // 2 + 1 :]
    first = Line((guide, Style.FAINT)).add(label, Style.PID).add(" ")
    tails = list(facts)
    if width is None:
        return first.join(command).join(_joined(tails))
    least = min(command.width, max(_COMMAND_MIN, (width - first.width) // 2))
    tail = _joined(tails)
    while tails and width - first.width - tail.width < least:
        tails.pop()
        tail = _joined(tails)
    return first.join(command.cut(max(1, width - first.width - tail.width))).join(tail)


def _joined(facts: list[Line]) -> Line:
    tail = Line()
    for number, fact in enumerate(facts):
        tail.add(" · " if number else "  ", Style.FAINT).join(fact)
    return tail

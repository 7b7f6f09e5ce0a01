"""Arrange entries as trees of parents and children. Entries are dicts of the JSON form, one for each process."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pipeline.export.json import dumps

if TYPE_CHECKING:
    from pipeline.shm.layout.entry_types import EntryFields


@dataclass(slots=True, eq=False)
class Node:
    """A process and its children, in order of pid.

    Attributes:
        entry: the process.
        children: its children.
        is_wanted: false if the process is here only because it leads to others that are wanted.
    """

    entry: EntryFields
    children: list[Node] = field(default_factory=list)
    is_wanted: bool = True


def forest(entries: Iterable[EntryFields], *, by_creator: bool = False) -> list[Node]:
    """Return the roots: the processes whose parent is not in `entries`.

    Args:
        entries: one for each process.
        by_creator: put a process below the process that forked it, even if another one has adopted it since. A process
            with an unknown creator is below its parent.

    A parent is found by its identity, not by `ppid`. If its identity is unknown, the parent is not in the table, and
    another process may have its pid. Entries that were read at different moments can name each other as parents; such
    a cycle is cut at its lowest pid, so that no process is missing.
    """
    nodes = [Node(entry) for entry in sorted(entries, key=lambda entry: entry["pid"])]
    by_identity = {node.entry["entity_id"]: node for node in nodes if node.entry.get("entity_id")}
    roots = []
    for node in nodes:
        above = node.entry.get("creator_entity_id") if by_creator else None
        parent = by_identity.get(above or node.entry.get("parent_entity_id"))
        if parent is None and above:
            parent = by_identity.get(node.entry.get("parent_entity_id"))
        if parent is None or parent is node:
            roots.append(node)
        else:
            parent.children.append(node)
    reached: set[int] = set()
    _reach(roots, reached)
    for node in nodes:
        if id(node) not in reached:
            _reach([node], reached)
            for other in nodes:
                if node in other.children:
                    other.children.remove(node)
            roots.append(node)
    return roots


def _space(entry: EntryFields) -> int | None:
    """Return the pid namespace to which `pid` and `ppid` of an entry belong; None: the daemon's."""
    return entry.get("pid_ns") if "foreign" in entry.get("marks", ()) else None


def is_called(entry: EntryFields, pid: int | None, pid_ns: int | None = None) -> bool:
    """Whether an entry has this pid in the daemon's pid namespace, or in the one with the inode `pid_ns`."""
    if pid_ns is None:
        return bool(entry["pid"] == pid) and _space(entry) is None
    return entry.get("pid_ns") == pid_ns and entry.get("ns_pid") == pid


def find(roots: Iterable[Node], pid: int, pid_ns: int | None = None) -> Node | None:
    """Return the node of the live process with this pid, otherwise of the latest exited one; None: not found."""
    waiting, found = list(roots), None
    while waiting:
        node = waiting.pop()
        if is_called(node.entry, pid, pid_ns):
            if not node.entry.get("exit_time_ns"):
                return node
            if found is None or (node.entry.get("start_time_ns") or 0) > (found.entry.get("start_time_ns") or 0):
                found = node
        waiting += node.children
    return found


def pruned(roots: Iterable[Node], is_wanted: Callable[[EntryFields], bool]) -> list[Node]:
    """Return the trees of the processes that are wanted and of their ancestors, which are marked as not wanted.

    The nodes are changed.
    """
    top = Node({"pid": 0}, list(roots))
    order, waiting = [], [top]
    while waiting:
        node = waiting.pop()
        order.append(node)
        waiting += node.children
    for node in reversed(order):  # children before their parent
        node.children = [child for child in node.children if child.is_wanted or child.children]
        node.is_wanted = node is not top and is_wanted(node.entry)
    return top.children


def nodes_of(roots: Iterable[Node]) -> list[Node]:
    """Return all nodes, each before its children and in their order."""
    waiting, found = list(roots)[::-1], []
    while waiting:
        node = waiting.pop()
        found.append(node)
        waiting += node.children[::-1]
    return found


def nested(node: Node) -> Iterator[str]:
    """Yield a tree as one JSON object in pieces: the entry with `children`.

    Nothing recurses, because a chain can be longer than the stack of Python and of its JSON encoder.
    """
    waiting: list[Node | str] = [node]
    while waiting:
        at = waiting.pop()
        if isinstance(at, str):
            yield at
            continue
        yield dumps(at.entry)[:-1] + ', "children": ['
        waiting.append("]}")
        for number in range(len(at.children) - 1, -1, -1):
            waiting.append(at.children[number])
            if number:
                waiting.append(", ")


def _reach(roots: Iterable[Node], reached: set[int]) -> None:
    waiting = list(roots)
    while waiting:
        node = waiting.pop()
        if id(node) not in reached:
            reached.add(id(node))
            waiting += node.children

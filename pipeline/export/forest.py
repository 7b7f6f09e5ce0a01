"""Arrange entries as trees of parents and children. Entries are dicts of the JSON form, one for each process."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from pipeline.export.entry_fields import EntryFields


@dataclass
class Node:
    """A process and its children, in order of pid."""

    entry: EntryFields
    children: list[Node] = field(default_factory=list)


def forest(entries: Iterable[EntryFields]) -> list[Node]:
    """Return the roots: the processes whose parent is not in `entries`.

    A parent is found by its identity, not by `ppid`. If its identity is unknown, the parent is not in the table, and
    another process may have its pid. Entries that were read at different moments can name each other as parents; such
    a cycle is cut at its lowest pid, so that no process is missing.
    """
    nodes = [Node(entry) for entry in sorted(entries, key=lambda entry: entry["pid"])]
    by_identity = {node.entry["entity_id"]: node for node in nodes if node.entry.get("entity_id")}
    roots = []
    for node in nodes:
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


def nested(node: Node) -> dict[str, object]:
    """Return a node as a JSON object: the entry with `children`.

    The object is built without recursion, because a chain can be longer than Python's stack.
    """
    children: list[dict[str, object]] = []
    top = {**node.entry, "children": children}
    waiting = [(node, children)]
    while waiting:
        parent, made = waiting.pop()
        for child in parent.children:
            children = []
            made.append({**child.entry, "children": children})
            waiting.append((child, children))
    return top


def _reach(roots: Iterable[Node], reached: set[int]) -> None:
    waiting = list(roots)
    while waiting:
        node = waiting.pop()
        if id(node) not in reached:
            reached.add(id(node))
            waiting += node.children

"""Entries as trees, by parent. Entries are the dicts of the JSON form, one for each process; drawing is elsewhere."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

Entry = Mapping[str, Any]


@dataclass
class Node:
    """A process and those that it is the parent of, in order of pid."""

    entry: Entry
    children: list[Node] = field(default_factory=list)


def forest(entries: Iterable[Entry]) -> list[Node]:
    """Return the roots: the processes whose parent is not among `entries`.

    A parent is found by its identity. Where that is unknown the parent is not in the table, and who has the pid `ppid`
    there is somebody else. Entries read at different moments can name each other as parents; such a ring is cut at its
    lowest pid, so that nobody is missing.
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


def _space(entry: Entry) -> int | None:
    """The pid namespace that `pid` and `ppid` are numbers of; None: the daemon's."""
    return entry.get("pid_ns") if "foreign" in entry.get("marks", ()) else None


def is_called(entry: Entry, pid: int | None, pid_ns: int | None = None) -> bool:
    """Whether an entry has this pid, in the daemon's namespace or in the one that `pid_ns` names."""
    if pid_ns is None:
        return bool(entry["pid"] == pid) and _space(entry) is None
    return entry.get("pid_ns") == pid_ns and entry.get("ns_pid") == pid


def find(roots: Iterable[Node], pid: int, pid_ns: int | None = None) -> Node | None:
    """Return the node of a live process, or else the latest that had this pid."""
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


def nested(node: Node) -> dict[str, Any]:
    """Return a node as a JSON object: the entry, with `children`.

    Built without recursion, because a chain can be longer than Python's stack.
    """
    top: dict[str, Any] = dict(node.entry) | {"children": []}
    waiting = [(node, top)]
    while waiting:
        parent, made = waiting.pop()
        for child in parent.children:
            below: dict[str, Any] = dict(child.entry) | {"children": []}
            made["children"].append(below)
            waiting.append((child, below))
    return top


def _reach(roots: Iterable[Node], reached: set[int]) -> None:
    waiting = list(roots)
    while waiting:
        node = waiting.pop()
        if id(node) not in reached:
            reached.add(id(node))
            waiting += node.children

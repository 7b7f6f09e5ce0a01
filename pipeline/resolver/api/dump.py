"""Dumps of the cache: JSON in two forms, and a graph for Graphviz (specification 3.4, ToJSON and ToDot).

Differs from the reference as specification 9.3.15 asks: labels are escaped, and an exited entry is one node. A node is
a process with one name: two images with the same name are the same node. Brackets mark an ended process.

Fields, nodes and labels belong to the resolver's interface; `procline dump` prints others. How they are written down
comes from `pipeline.export.json` and `pipeline.export.dot`, as there.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import asdict, is_dataclass
from enum import Enum
from pathlib import Path

from pipeline.export import dot
from pipeline.export.json import dumps
from pipeline.resolver.entries.cache_entry import DEFAULTS, ProcessCacheEntry
from pipeline.secrets.argsenvs import ArgsEntry, EnvsEntry

DOT_DIRECTORY = "/tmp"
DOT_PREFIX = "process-cache-dump-"
DOT_MODE = 0o400


def to_json(entries: Iterable[ProcessCacheEntry], raw: bool) -> bytes:
    """Return all entries under the key `Entries`, `null` for none. An entry that cannot be serialised is left out."""
    shown = []
    for entry in entries:
        with suppress(TypeError, ValueError, RecursionError):
            shown.append(dumps(raw_entry(entry) if raw else brief_entry(entry)))
    text = f"[{','.join(shown)}]" if shown else "null"
    return f'{{"Entries":{text}}}'.encode("utf-8", "surrogateescape")


def brief_entry(entry: ProcessCacheEntry) -> dict[str, object]:
    """Return the fields of an entry that a person needs."""
    file = entry.file_event
    return {
        "PID": entry.pid,
        "PPID": entry.ppid,
        "Path": file.pathname,
        "Inode": file.inode,
        "MountID": file.mount_id,
        "Source": entry.source.text,
        "ExecInode": entry.exec_inode,
        "IsExec": entry.is_exec,
        "IsParentMissing": entry.is_parent_missing,
        "CGroup": entry.cgroup.cgroup_id,
        "ContainerID": entry.container.container_id,
    }


def raw_entry(entry: ProcessCacheEntry) -> dict[str, object]:
    """Return every field under its own name; the ancestor as pid and exec time."""
    shown = {name: _plain(getattr(entry, name)) for name in DEFAULTS if name != "ancestor"}
    before = entry.ancestor
    shown["ancestor"] = None if before is None else {"pid": before.pid, "exec_time": before.exec_time}
    return shown


def _plain(value: object) -> object:
    if isinstance(value, Enum):
        return value.name.lower()
    if isinstance(value, ArgsEntry | EnvsEntry):
        return {"values": value.values, "is_truncated": value.is_truncated}
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, tuple) and value and is_dataclass(value[0]):
        return [_plain(one) for one in value]
    return value


def write_dot(
    entries: Iterable[ProcessCacheEntry],
    argv: Callable[[ProcessCacheEntry], list[str] | None] | None = None,
    directory: str = DOT_DIRECTORY,
) -> str:
    """Write the tree to a new file and return its name.

    Args:
        entries: the newest images of all processes.
        argv: returns the scrubbed arguments of an entry for its node's comment; None: nodes have no comments.
        directory: of the file.

    Raises:
        OSError: the file cannot be created or written.
    """
    descriptor, path = tempfile.mkstemp(prefix=DOT_PREFIX, dir=directory)
    try:
        os.fchmod(descriptor, DOT_MODE)
        with os.fdopen(descriptor, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(dot_of(entries, argv))
    except BaseException:
        Path(path).unlink()
        raise
    return path


def dot_of(
    entries: Iterable[ProcessCacheEntry], argv: Callable[[ProcessCacheEntry], list[str] | None] | None = None
) -> str:
    """Return the directed graph: a node for each process and name that it had, an edge from each ancestor."""
    names: dict[tuple[int, int, str], str] = {}
    taken: set[str] = set()
    nodes: list[str] = []
    edges: dict[tuple[str, str], None] = {}
    drawn: dict[ProcessCacheEntry, str] = {}
    for entry in entries:
        below: str | None = None
        for one in entry.chain():
            known = drawn.get(one)
            if known is not None:
                # Its ancestors are drawn already.
                if below is not None and below != known:
                    edges[known, below] = None
                break
            identity = (one.pid, one.start_boot_ns, one.comm)
            name = names.get(identity)
            if name is None:
                name = f"{one.pid}:{one.comm}"
                if name in taken:  # an earlier owner of the pid had this name too
                    name += f":{one.start_boot_ns}"
                names[identity] = name
                taken.add(name)
                nodes.append(_node(name, one, argv))
            if below is not None and below != name:
                edges[name, below] = None
            below = drawn[one] = name
    arrows = (dot.arrow(quote(tail), quote(head)) for tail, head in edges)
    return "\n".join([*dot.digraph("ProcessTree", [*nodes, *arrows]), ""])


def _node(name: str, entry: ProcessCacheEntry, argv: Callable[[ProcessCacheEntry], list[str] | None] | None) -> str:
    label = f"{entry.comm}:{entry.pid}"
    if entry.has_ended:
        label = f"[{label}]"
    comment = {"comment": quote(" ".join(argv(entry) or []))} if argv is not None else {}
    return dot.node(quote(name), label=quote(label), **comment)


def quote(text: str) -> str:
    """Return a quoted string of the DOT language. Unlike in `dot.quote`, every unprintable character is its code."""
    return dot.quote(text, lambda character: f"\\x{ord(character):02x}")

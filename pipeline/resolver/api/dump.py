"""Dumps of the cache: JSON in two forms, and a graph for Graphviz (specification 3.4, ToJSON and ToDot).

Differs from the reference as specification 9.3.15 asks: labels are escaped, and an exited entry is one node. Brackets
are of processes: the image before an exec of the same name is the same node. The layout of `procline dump` is another
one (`export/`); this is the interface of the resolver.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import asdict, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from pipeline.resolver.entries.cache_entry import DEFAULTS, ProcessCacheEntry
from pipeline.secrets.argsenvs import ArgsEntry, EnvsEntry

DOT_DIRECTORY = "/tmp"
DOT_PREFIX = "process-cache-dump-"
DOT_MODE = 0o400


def to_json(entries: Iterable[ProcessCacheEntry], raw: bool) -> bytes:
    """All entries under the key `Entries`, `null` for none; one that cannot be serialised is left out."""
    shown = []
    for entry in entries:
        try:
            shown.append(json.dumps(raw_entry(entry) if raw else brief_entry(entry)))
        except (TypeError, ValueError):
            continue
    text = f"[{','.join(shown)}]" if shown else "null"
    return f'{{"Entries":{text}}}'.encode("utf-8", "surrogateescape")


def brief_entry(entry: ProcessCacheEntry) -> dict[str, Any]:
    """What a person needs to see of an entry."""
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


def raw_entry(entry: ProcessCacheEntry) -> dict[str, Any]:
    """Every field under its own name; the ancestor as pid and exec time."""
    shown = {name: _plain(getattr(entry, name)) for name in DEFAULTS if name != "ancestor"}
    before = entry.ancestor
    shown["ancestor"] = None if before is None else {"pid": before.pid, "exec_time": before.exec_time}
    return shown


def _plain(value: Any) -> Any:
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
        argv: gives the scrubbed arguments of an entry for its node's comment; None: no comments.
        directory: where to make the file.

    Raises:
        OSError: the file cannot be made or written.
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
    """The directed graph: a node for each process and name that it had, an edge from each ancestor."""
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
                # What it descends from is there already.
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
    lines = [*nodes, *(f"  {quote(a)} -> {quote(b)};" for a, b in edges)]
    return "digraph ProcessTree {\n" + "\n".join(lines) + "\n}\n"


def _node(name: str, entry: ProcessCacheEntry, argv: Callable[[ProcessCacheEntry], list[str] | None] | None) -> str:
    label = f"{entry.comm}:{entry.pid}"
    if entry.has_ended:
        label = f"[{label}]"
    comment = f", comment={quote(' '.join(argv(entry) or []))}" if argv is not None else ""
    return f"  {quote(name)} [label={quote(label)}{comment}];"


def quote(text: str) -> str:
    """A quoted string of the DOT language: only the quote and the backslash mean anything in one."""
    text = "".join(char if char.isprintable() else f"\\x{ord(char):02x}" for char in text)
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'

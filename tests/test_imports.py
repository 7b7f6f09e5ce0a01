"""Imports run downwards only, and a reader loads nothing of the daemon."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "pipeline"

#: What each layer may import, beside itself and LEAVES. A layer is a package or a module below `pipeline`.
BELOW = {
    "_epoll": set(),
    "_records": set(),
    "events": set(),
    "digest": set(),
    "boot": set(),
    "errors": set(),
    "config": set(),
    "paths": set(),
    "pid_namespace": set(),
    "trust": set(),
    "files": set(),
    "privileges": set(),
    "notify": set(),
    "processes": set(),
    "memory": set(),
    "log": set(),
    "specification": set(),
    "worker": set(),
    "bpf": set(),
    "shm": set(),
    "bus": set(),
    "export": {"shm"},
    "subscriber": {"bus", "shm"},
    "ask": {"bus", "shm"},
    "resolver": {"bus", "shm", "bpf"},
    "sources": {"bus", "shm", "bpf"},
    "supervisor": {"resolver", "sources", "bus", "shm", "bpf", "export"},
    "cli": {"supervisor", "resolver", "sources", "bus", "shm", "bpf", "export", "subscriber", "ask"},
}
#: Reading /proc knows nothing of the tables: a source without eBPF completes its records with it.
BESIDE = {("sources", "pipeline.procfs.reader"), ("sources", "pipeline.procfs.info")}
#: Modules that all layers may import; among themselves they follow LEAF_ORDER.
LEAVES = (
    "_epoll",
    "_records",
    "errors",
    "events",
    "digest",
    "boot",
    "paths",
    "pid_namespace",
    "trust",
    "files",
    "privileges",
    "notify",
    "processes",
    "memory",
    "config",
    "log",
    "specification",
    "worker",
)
#: The package itself names public things lazily; those that come from above the layers may go through it.
THROUGH_PACKAGE = {"cli"}


def modules() -> Iterator[Path]:
    yield from sorted(path for path in PACKAGE.rglob("*") if path.suffix in {".py", ".pyx", ".pxd", ".pyi"})


def layer(path: Path) -> str:
    first = path.relative_to(PACKAGE).parts[0]
    return first.partition(".")[0]


def imported(path: Path) -> Iterator[str]:
    """Yield the dotted names below `pipeline` that a module imports, those for type checking too."""
    text = path.read_text()
    if path.suffix in {".py", ".pyi"}:
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module:
                assert node.level == 0, f"{path}: relative imports hide where an arrow points"
                if node.module == "pipeline":
                    yield from (f"pipeline.{alias.name}" for alias in node.names)
                else:
                    yield node.module
        return
    for line in text.splitlines():  # Cython: one import a line, as PEP 8 has it
        words = line.split()
        if len(words) > 1 and words[0] in {"import", "cimport", "from"} and words[1].startswith("pipeline"):
            yield f"pipeline.{words[3].rstrip(',')}" if words[1] == "pipeline" and len(words) > 3 else words[1]


@pytest.mark.parametrize("path", list(modules()), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_arrow_points_back_up(path: Path) -> None:
    own = layer(path)
    if own == "__init__":
        return
    assert own in BELOW, f"{own} is a new layer: give it its place in BELOW"
    for name in imported(path):
        if not name.startswith("pipeline."):
            continue
        target = name.split(".")[1]
        if target == own or (own, name) in BESIDE:
            continue
        if target not in BELOW:  # a public name, such as ProcessTable
            assert own in THROUGH_PACKAGE, f"{own} must import {name} from where it is defined"
        elif own in LEAVES:
            assert target in LEAVES, f"{own} is imported by all layers, so it may not import {name}"
            assert LEAVES.index(target) < LEAVES.index(own), f"{name} comes after {own} among the leaves"
        else:
            assert target in LEAVES or target in BELOW[own], f"{own} may not import {name}"


def loaded_by(code: str) -> set[str]:
    program = f"import sys; {code}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    return set(done.stdout.split())


DAEMON_ONLY = {"pylibbpf", "llvmlite", "msgspec", "pythonjsonlogger", "re2", "prometheus_client", "pipeline.config.settings"}
#: Some MB a process each, and nothing that the daemon uses: the TLS library comes with asyncio, with ssl and hashlib.
NOT_IN_DAEMON = {"asyncio", "ssl", "_ssl", "_hashlib", "rich", "concurrent.futures", "prometheus_client"}


@pytest.mark.parametrize(
    ("code", "not_needed"),
    [
        ("import pipeline", DAEMON_ONLY | {"numpy", "zmq", "msgpack", "click", "rich"}),
        ("from pipeline import ProcessTable", DAEMON_ONLY | {"numpy", "zmq", "msgpack", "click", "rich"}),
        ("import pipeline.client.ask", DAEMON_ONLY | {"numpy", "zmq", "click", "rich"}),
        ("from pipeline import Subscriber", DAEMON_ONLY | {"numpy", "click", "rich"}),
        ("import pipeline.cli.main", DAEMON_ONLY | {"numpy", "zmq", "msgpack", "rich"}),
        (
            "import pipeline.sources.shard.main",
            NOT_IN_DAEMON | {"pylibbpf", "llvmlite", "re2", "click", "numpy", "msgspec"},
        ),
        ("import pipeline.resolver.daemon.main", NOT_IN_DAEMON | {"pylibbpf", "llvmlite", "click"}),
        ("import pipeline.supervisor", NOT_IN_DAEMON | {"pylibbpf", "llvmlite", "re2", "zmq", "click", "numpy"}),
        ("import pipeline.bpf.loader, pipeline.supervisor", NOT_IN_DAEMON | {"zmq", "numpy"}),
    ],
)
def test_little_is_imported(code: str, not_needed: set[str]) -> None:
    assert not loaded_by(code) & not_needed

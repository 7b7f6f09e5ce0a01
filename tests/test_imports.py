"""Imports run downwards only, and a reader loads nothing of the daemon."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "pipeline"

#: Packages, and the modules directly below `pipeline`, lowest first. Each may import only from itself and from rows
#: above it. INTERFACE is the package `pipeline` itself: it defines nothing but imports the public names, and is
#: therefore above all packages that it imports from, and below the command, its only user in this tree.
INTERFACE = "pipeline"
LEVELS = (
    ("durations", "errors", "files", "journald", "log_json", "proc_text", "records", "spelling", "version"),
    ("log", "shm.layout"),
    ("bus.frames", "config", "paths", "trust"),
    ("bus.stream", "host", "shm.writer", "software"),
    ("bpf", "bus", "procfs", "resolver.merge", "select", "shm.check", "shm.names", "worker"),
    ("resolver.stream", "secrets", "shm.reader", "sources.ring"),
    ("export", "resolver.apply", "sources.shard"),
    ("resolver.entries", "sources.proc_connector"),
    ("account", "client", "formats", "resolver.api", "screen", "sources.recording", "sources.tracer"),
    (
        "forward",
        "load",
        "resolver.agents",
        "resolver.upkeep",
        "supervisor",
        "timeline",
        "top",
        "why",
    ),
    ("fleet", INTERFACE, "resolver.daemon"),
    ("cli",),
    ("cli.operate",),
    ("cli.ask",),
)
LEVEL_OF = {package: level for level, packages in enumerate(LEVELS) for package in packages}
#: An importing package, and a family of packages that it must not import in any case.
APART = (("resolver", "sources"), ("sources", "resolver"), ("client", "resolver"), ("shm.reader", "shm.writer"))
#: Modules above a package that it knows by name: programs that it starts with a process of their own, of which it loads
#: nothing, and the packages of which the command loads a module when somebody calls it.
NAMED = {
    "cli": {"cli.ask", "cli.operate"},
    "load": {"cli.main"},
    "shm.reader": {"cli.ask.replayed"},
    "supervisor": {"resolver.daemon.main"},
}
#: An import of Cython, with its names, which may stand in parentheses on several lines.
_FROM = re.compile(r"^[ \t]*from[ ]+(pipeline[\w.]*)[ ]+c?import[ ]+(\([^)]*\)|[^(\n]+)", re.MULTILINE)
_IMPORT = re.compile(r"^[ \t]*c?import[ ]+([^(\n]+)", re.MULTILINE)
_COMMENT = re.compile(r"#.*")
#: A text that is only the name of a module.
_NAME = re.compile(r"[\"']pipeline\.([\w.]+)[\"']")
#: A file that C or Cython code includes by its name: a header, or a part of a module.
_INCLUDE = re.compile(r"""(?:\bextern from|#[ \t]*include|^[ \t]*include)[ \t]+["']([^"']+)["']""", re.MULTILINE)
#: C code, and parts of Cython modules.
_C = {".h", ".c", ".pxi"}
#: Maximum number of modules in a package, so that a reader can guess the module from the question. C headers and what
#: only Cython imports count too.
MODULES_MAX = 23


@cache
def modules() -> list[Path]:
    """Return the files of Python, Cython and C that a person or `script/generate` wrote, without Cython's C code."""

    def is_written(path: Path) -> bool:
        is_cythons = path.suffix == ".c" and (path.with_suffix(".pyx").exists() or path.stem == "_cython")
        return path.suffix in {".py", ".pyx", ".pxd", ".pyi", *_C} and not is_cythons

    return sorted(path for path in PACKAGE.rglob("*") if is_written(path))


def module_of(path: Path) -> str:
    """Return the dotted name of a module below `pipeline`; a package is named by its directory.

    C code and what Cython includes are modules here too: `shm/reader/reader.h` is `shm.reader.reader_h`.
    """
    relative = path.relative_to(PACKAGE)
    if path.suffix in _C:
        return ".".join((*relative.parts[:-1], relative.name.replace(".", "_")))
    parts = relative.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path) for path in modules()}
#: By file name, because an include has nothing else.
HEADERS: dict[str, list[Path]] = {}
for each in modules():
    if each.suffix in _C:
        HEADERS.setdefault(each.name, []).append(each)


@cache
def package_of(module: str) -> str:
    """Return the package of a module, or the module itself if it is directly below `pipeline`."""
    parts = module.split(".")
    while len(parts) > 1 and not PACKAGE.joinpath(*parts, "__init__.py").exists():
        parts.pop()
    return ".".join(parts) or INTERFACE


def included(path: Path) -> Iterator[str]:
    """Yield the files below `pipeline` that C or Cython code includes, as `module_of` names them.

    A name without a directory leads to the file beside the including one, or to one in a directory that setup.py names.
    """
    for name in _INCLUDE.findall(path.read_text()):
        beside = path.parent / name
        found = [beside] if beside.exists() else HEADERS.get(name, [])  # empty: a header of the system
        assert len(found) < 2, f"{path} includes {name}, and there are several: {found}"
        yield from map(module_of, found)


def statements(module: ast.Module) -> Iterator[ast.AST]:
    """Yield all statements of a module, also those within others. `ast.walk` would visit each expression too."""
    waiting: list[ast.AST] = [module]
    while waiting:
        node = waiting.pop()
        yield node
        for part in ("body", "orelse", "finalbody", "handlers", "cases"):
            waiting += getattr(node, part, ())


def imported(path: Path) -> Iterator[str]:
    """Yield the dotted names below `pipeline` that a module imports, including those for type checking."""
    text = path.read_text()
    if path.suffix in {".py", ".pyi"}:
        for node in statements(ast.parse(text)):
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module:
                assert node.level == 0, f"{path}: use an absolute import, which shows its direction"
                yield from (f"{node.module}.{alias.name}" for alias in node.names)
        return
    if path.suffix in {".h", ".c"}:
        return
    text = _COMMENT.sub("", text)
    for module, names in _FROM.findall(text):
        yield from (f"{module}.{name.split()[0]}" for name in names.strip("() \t").split(",") if name.strip())
    for names in _IMPORT.findall(text):
        yield from (name.split()[0] for name in names.split(",") if name.strip())


@cache
def imported_modules(path: Path) -> list[str]:
    """Return the modules below `pipeline`, without that prefix, that a module imports or includes.

    The package `pipeline` itself has an empty name, as in MODULES.
    """
    found = [] if path.suffix in {".py", ".pyi"} else [*included(path)]
    for name in imported(path):
        root, _, module = name.partition(".")
        if root == INTERFACE:
            found.append(module if module in MODULES else module.rpartition(".")[0])
    return found


def faults_of(path: Path) -> Iterator[str]:
    """Yield what is wrong with the imports of a module."""
    own = package_of(module_of(path))
    for module in imported_modules(path):
        target = package_of(module)
        if target == own:
            continue
        if own not in LEVEL_OF:
            yield f"{own} is a new package: add it to LEVELS"
            return
        name = module or "a public name from here; import it from the module that defines it"
        if LEVEL_OF[target] >= LEVEL_OF[own]:
            yield f"{path}: {own} is not above {target}, so it may not import {name}"
        for user, family in APART:
            if f"{own}.".startswith(f"{user}.") and f"{target}.".startswith(f"{family}."):
                yield f"{path}: {own} may not import {module}: {user} and {family} are apart"


@pytest.mark.parametrize(
    "directory", sorted({path.parent for path in modules()}), ids=lambda path: str(path.relative_to(PACKAGE))
)
def test_no_arrow_points_back_up(directory: Path) -> None:
    assert not [fault for path in modules() if path.parent == directory for fault in faults_of(path)]


def named(path: Path) -> set[str]:
    """Return the modules and packages below `pipeline` that a text in a module names."""
    return {*_NAME.findall(path.read_text())} & MODULES


def test_no_other_module_above_is_known_by_name() -> None:
    found: dict[str, set[str]] = {}
    for path in modules():
        own = package_of(module_of(path))
        if path.suffix == ".py":
            above = {name for name in named(path) if LEVEL_OF[package_of(name)] > LEVEL_OF[own]}
            found.setdefault(own, set()).update(above)
    assert {package: names for package, names in found.items() if names} == NAMED


def arrows_between(name_of: Callable[[str], str]) -> dict[str, set[str]]:
    """Return what each module, or what `name_of` says of it, imports, apart from itself."""
    arrows: dict[str, set[str]] = {}
    for path in modules():
        own = name_of(module_of(path))
        arrows.setdefault(own, set()).update(
            target for module in imported_modules(path) if (target := name_of(module)) != own
        )
    return arrows


@pytest.mark.slow
@pytest.mark.parametrize("name_of", [str, package_of], ids=["module", "package"])
def test_nothing_imports_itself_by_a_detour(name_of: Callable[[str], str]) -> None:
    TopologicalSorter(arrows_between(name_of)).prepare()  # CycleError names the cycle


def test_the_levels_name_packages_and_nothing_inside_them() -> None:
    # shm and sources, for example, have no modules of their own, only packages.
    assert set(LEVEL_OF) <= {package_of(module) for module in MODULES}


def test_all_names_of_an_import_are_read(tmp_path: Path) -> None:
    text = (
        "from pipeline import paths, trust  # where it is\n"
        "    from pipeline.bus import requests\n"
        "from pipeline.bus.frames cimport (\n    _frame, _msgpack as packed,  # both\n)\n"
        "cimport pipeline.host._cpid, pipeline.host._epoll as epoll\n"
        "import os\n"
        "import pipeline\n"
    )
    expected = ["paths", "trust", "bus.requests", "bus.frames._frame", "bus.frames._msgpack"]
    expected += ["host._cpid", "host._epoll", ""]
    (tmp_path / "one.pyx").write_text(text)
    assert imported_modules(tmp_path / "one.pyx") == expected


def test_importing_the_package_itself_is_an_arrow(tmp_path: Path) -> None:
    (tmp_path / "one.py").write_text("import pipeline\nimport pipelines\nfrom pipeline import __version__, paths\n")
    assert sorted(imported_modules(tmp_path / "one.py")) == ["", "", "paths"]


def test_included_files_are_followed(tmp_path: Path) -> None:
    text = (
        'include "segments.pxi"\n'
        'cdef extern from "reader.h" nogil:\n    int one()\n'
        'cdef extern from "Python.h":\n    int two()\n'
        'cdef extern from *:\n    """\n    #include <time.h>\n    # include "program.bpf.h"\n    """\n'
    )
    (tmp_path / "one.pyx").write_text(text)
    expected = ["shm.layout.segments_pxi", "shm.reader.reader_h", "bpf.programs.program_bpf_h"]
    assert imported_modules(tmp_path / "one.pyx") == expected
    assert [package_of(module) for module in expected] == ["shm.layout", "shm.reader", "bpf"]


PACKAGES = sorted(module for module in MODULES if (PACKAGE / module.replace(".", "/")).is_dir())


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_has_a_docstring_and_is_small(package: str) -> None:
    directory = PACKAGE / package.replace(".", "/")
    docstring = ast.get_docstring(ast.parse((directory / "__init__.py").read_text())) or ""
    assert len(docstring.split("\n\n")) > 1, "it must say what the package does, and what it does not do"
    names = {module_of(path) for path in modules() if path.parent == directory} - {package}
    assert len(names) <= MODULES_MAX, f"{package or 'pipeline'} has {len(names)} modules"


def loaded_by(code: str) -> set[str]:
    program = f"import sys; {code}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    return set(done.stdout.split())


DAEMON_ONLY = {
    "pylibbpf",
    "llvmlite",
    "msgspec",
    "pythonjsonlogger",
    "re2",
    "prometheus_client",
    "pipeline.config.schema",
}
#: Each adds some MB to a process, and the daemon uses none: asyncio, ssl and hashlib import the TLS library.
NOT_IN_DAEMON = {"asyncio", "ssl", "_ssl", "_hashlib", "rich", "concurrent.futures", "prometheus_client"}


@pytest.mark.parametrize(
    ("code", "not_needed"),
    [
        ("import pipeline", DAEMON_ONLY | {"numpy", "zmq", "msgpack", "click", "rich"}),
        ("from pipeline import ProcessTable", DAEMON_ONLY | {"numpy", "zmq", "msgpack", "click", "rich"}),
        ("import pipeline.client.ask", DAEMON_ONLY | {"numpy", "zmq", "click", "rich"}),
        ("from pipeline import Subscriber", DAEMON_ONLY | {"numpy", "click", "rich"}),
        # The tables are opened with what this imports; everything else follows.
        ("import pipeline.cli.main", DAEMON_ONLY | {"numpy", "zmq", "msgpack", "click", "rich", "typing", "pathlib"}),
        ("import pipeline.cli.commands", DAEMON_ONLY | {"numpy", "zmq", "msgpack", "rich"}),
        (
            "import pipeline.sources.shard.main",
            NOT_IN_DAEMON | {"pylibbpf", "llvmlite", "re2", "click", "numpy", "msgspec", "zmq", "pythonjsonlogger"},
        ),
        ("import pipeline.resolver.daemon.main", NOT_IN_DAEMON | {"pylibbpf", "llvmlite", "click"}),
        (
            "from pipeline.secrets.scrub import Scrubber; Scrubber()",
            NOT_IN_DAEMON | {"importlib.resources", "zipfile", "zmq", "numpy", "click"},
        ),
        (
            "from pipeline.cli.operate.settings import load; load(None, ())",
            NOT_IN_DAEMON | {"pylibbpf", "llvmlite", "re2", "zmq", "click", "numpy"},
        ),
        ("import pipeline.supervisor", NOT_IN_DAEMON | {"pylibbpf", "llvmlite", "re2", "zmq", "click", "numpy"}),
        ("import pipeline.bpf.loader, pipeline.supervisor", NOT_IN_DAEMON | {"zmq", "numpy"}),
        # What the supervisor does with its settings before it starts anything.
        (
            "from pipeline.cli.operate import settings; from pipeline.config.schema import Config; "
            "settings.check(Config())",
            NOT_IN_DAEMON | {"zmq", "numpy", "importlib.resources"},
        ),
        # The rest belongs to commands that run often, or that others wait for.
        (
            "from pipeline.cli.operate import wait; from pathlib import Path; wait.is_ready(Path('/nowhere'))",
            DAEMON_ONLY | {"numpy", "zmq", "msgpack", "logging", "pipeline.supervisor"},
        ),
        ("import pipeline.cli.operate.stat, pipeline.shm.reader.statistics", DAEMON_ONLY | {"numpy", "zmq", "logging"}),
        (
            "import pipeline.load.listening, pipeline.client.subscriber",
            DAEMON_ONLY | {"numpy", "click", "rich", "argparse", "logging"},
        ),
        ("import pipeline.cli.ask.tree", DAEMON_ONLY | {"numpy", "zmq", "logging", "subprocess", "shutil"}),
        ("import pipeline.forward.forwarder", {"nats", "numpy", "prometheus_client", "pipeline.formats.convert"}),
        # This is for type checkers, and costs as much as a package of its own.
        ("import pipeline.top.model, pipeline.load.run, pipeline.procfs.proc_reader", {"numpy.typing"}),
    ],
)
def test_little_is_imported(code: str, not_needed: set[str]) -> None:
    assert not loaded_by(code) & not_needed

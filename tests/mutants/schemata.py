"""A copy of the checkout that contains all mutants of bodies, compiled once.

The environment names a file with the number of the mutant that is tried (`switch.py`).
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.checkout_copy import ROOT, compile_module, copy_checkout
from tests.mutants.bodies import Function, functions, instrumented
from tests.mutants.mutants import Mutant
from tests.mutants.place import PACKAGES, Place

_SUFFIXES = {".py", ".pyx", ".pxd", ".pxi", ".h"}
_DIRECTORY = Path(__file__).parent
_DECLARATIONS = """from libc.string cimport memset

cdef extern from "switch.h" nogil:
    bint pl_mutant(unsigned int number)

cdef inline void pl_mutant_clear(void *made, size_t n) noexcept nogil:
    memset(made, 0, n)
"""
#: Modules of the copy that are no modules of the checkout.
_ADDED = {
    "pipeline/_mutant.py": (_DIRECTORY / "switch.py").read_text("utf-8"),
    "pipeline/shm/layout/switch.h": (_DIRECTORY / "switch.h").read_text("utf-8"),
    "pipeline/_mutant.pxd": _DECLARATIONS,
}


def all_functions() -> Iterator[tuple[str, Function]]:
    """Yield the modules, relative to ROOT, and their functions, always in the same order."""
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*")):
            if path.suffix in _SUFFIXES:
                for function in functions(path.read_text("utf-8"), path.suffix, _stub(path)):
                    yield str(path.relative_to(ROOT)), function


def body_places() -> list[Place]:
    """Return all mutants of bodies. The number of a mutant in the copy is its index plus one."""
    found: list[Place] = []
    seen: Counter[tuple[str, str, str]] = Counter()
    for module, function in all_functions():
        for value in () if function.skipped else function.values:
            before, after = f"{function.name}: {function.head}", f"return {value}".strip()
            equal = (module, before, after)
            found.append(Place(module, Mutant(function.line, before, after), seen[equal]))
            seen[equal] += 1
    return found


def skipped() -> Counter[str]:
    """Return how many functions have no mutants, by the reason."""
    return Counter(function.skipped for _, function in all_functions() if function.skipped)


def make_copy(directory: Path) -> None:
    """Make the copy, or continue with one that was begun.

    Raises:
        ValueError: the directory has a copy of other sources, or a module does not compile.
    """
    sources = {str(path.relative_to(ROOT)): path.read_text("utf-8") for path in _sources()}
    digest = hashlib.sha256(json.dumps(sources).encode()).hexdigest()
    stamp = directory / "mutants.json"
    if not stamp.exists():
        copy_checkout(directory)
        directory.chmod(0o755)  # some tests read it as another user
        _instrument(directory)
        stamp.write_text(json.dumps({"sources": digest, "compile": _dependent(sources)}))
    state = json.loads(stamp.read_text())
    if state["sources"] != digest:
        raise ValueError(f"{directory} has mutants of other sources; name another directory, or remove it")
    left = [module for module in state["compile"] if not (directory / f"{module}.done").exists()]
    with ThreadPoolExecutor(2) as pool:
        failed = [line for line in pool.map(lambda module: _compile(directory, module), left) if line]
    if failed:
        raise ValueError("".join(failed))
    copy_tests(directory)


def copy_tests(directory: Path) -> None:
    """Bring the tests of a copy up to date."""
    listed = subprocess.run(["git", "ls-files", "-z", "tests"], cwd=ROOT, capture_output=True, check=True, text=True)
    for name in filter(None, listed.stdout.split("\0")):
        new, old = ROOT / name, directory / name
        if new.is_file() and not name.endswith(".pyx") and (not old.exists() or old.read_bytes() != new.read_bytes()):
            old.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(new, old)


def _sources() -> list[Path]:
    return sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*") if path.suffix in _SUFFIXES)


def _stub(path: Path) -> str:
    stub = path.with_suffix(".pyi")
    return stub.read_text("utf-8") if path.suffix == ".pyx" and stub.exists() else ""


def _instrument(directory: Path) -> None:
    for name, text in _ADDED.items():
        (directory / name).write_text(text, "utf-8")
    first = 1
    for path in _sources():
        text, stub = path.read_text("utf-8"), _stub(path)
        (directory / path.relative_to(ROOT)).write_text(instrumented(text, path.suffix, stub, first), "utf-8")
        found = functions(text, path.suffix, stub)
        first += sum(len(function.values) for function in found if not function.skipped)


def _dependent(sources: dict[str, str]) -> list[str]:
    """Return the Cython modules that contain one of these sources, the largest first."""
    changed = re.compile(
        r"cimport|extern from"
        if not sources
        else r"(?:pipeline\.(?:shm|resolver)\S* cimport|\"(?:"
        + "|".join(re.escape(Path(name).name) for name in sources if name.endswith(".h"))
        + r")\")"
    )
    found: list[Path] = []
    for top in ("pipeline", "tests"):
        for path in (ROOT / top).rglob("*.pyx"):
            declared = path.with_suffix(".pxd")
            text = path.read_text("utf-8") + (declared.read_text("utf-8") if declared.exists() else "")
            if str(path.relative_to(ROOT)) in sources or changed.search(text):
                found.append(path)
    found.sort(key=lambda path: path.stat().st_size, reverse=True)
    return [str(path.relative_to(ROOT)) for path in found]


def _compile(directory: Path, module: str) -> str:
    error = compile_module(directory, module)
    if not error:
        (directory / f"{module}.done").touch()
        return ""
    return f"{module}:\n{error}\n"

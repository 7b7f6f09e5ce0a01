"""A copy of the checkout with its compiled modules, in which modules can be changed and compiled in other ways."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
_CYTHON = ("boundscheck=False", "wraparound=False", "cdivision=True", "initializedcheck=False")
_INCLUDED = ("pipeline/shm/layout", "pipeline/shm/reader", "pipeline/bpf/programs", "pipeline/records")
_PROGRAM = Path("pipeline/load/procline-load")
_SUFFIX = str(sysconfig.get_config_var("EXT_SUFFIX"))


def copy_checkout(directory: Path, *, with_compiled: bool = True) -> None:
    """Copy the files that git knows, the compiled modules, and the compiled program."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    names = [Path(os.fsdecode(name)) for name in listed.split(b"\0") if name]
    if with_compiled:
        names += [path.relative_to(ROOT) for top in ("pipeline", "tests") for path in (ROOT / top).rglob("*.so")]
        names.append(_PROGRAM)
    for name in names:
        if (ROOT / name).is_file():
            (directory / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, directory / name)


def library_of(module: str) -> str:
    """Return the path of the compiled module of a `.pyx` file; both relative to the checkout."""
    return str(Path(module).with_suffix(_SUFFIX))


def compile_module(root: Path, module: str, compiler: Sequence[str] = ("gcc", "-O0", "-w")) -> str:
    """Compile a Cython module of a copy, as setup.py does, except for the options of the C compiler.

    Returns:
        What the compilers print if they fail; empty: the module was compiled.
    """
    directives = [word for each in _CYTHON for word in ("-X", each)]
    name = ".".join(Path(module).with_suffix("").parts)
    cython = [
        sys.executable, "-m", "cython", "-3", *directives, "--shared", "pipeline._cython", "--module-name", name,
        module, "-o", f"{module}.c",
    ]  # fmt: skip
    includes = [f"-I{directory}" for directory in (*_INCLUDED, sysconfig.get_path("include"))]
    made = f"{library_of(module)}.new"
    link = [*compiler, "-shared", "-fPIC", "-include", "pipeline/cold.h", *includes, f"{module}.c", "-o", made]
    for command in (cython, link):
        done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
        if done.returncode:
            return done.stdout + done.stderr
    (root / made).rename(root / library_of(module))
    return ""

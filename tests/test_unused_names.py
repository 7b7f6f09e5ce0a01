"""The check for names that a Cython file imports and does not use, which `script/lint` runs."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[1] / "script" / "unused_names.py"


@pytest.fixture(scope="module")
def check() -> ModuleType:
    spec = importlib.util.spec_from_file_location("unused_names", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def found(check: ModuleType, root: Path, files: dict[str, str]) -> list[tuple[str, str]]:
    """Return the unused names of files, each with the name of its file."""
    paths = []
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        if path.suffix in {".pyx", ".pxd"}:
            paths.append(path)
    return [(str(path.relative_to(root)), name) for path, name in check.unused(root, paths)]


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("from libc.stdint cimport uint8_t, uint32_t\ncdef uint32_t x\n", ["uint8_t"]),
        ("from a cimport (\n    B, C,\n    D as E,\n)\nC(D)\n", ["B", "E"]),
        ("from a cimport B, \\\n    C\nB\n", ["C"]),
        ("import os\nimport numpy as np\nimport a.b\na.b.c()\n", ["os", "np"]),
        ("cimport cython\n@cython.final\ncdef class A:\n    pass\n", []),
        ("from a cimport B  # B is for later\n", ["B"]),
        ('from a cimport B, C\nx = "B", f"{C}"\n', ["B"]),
        ('from a cimport B\ncdef extern from *:\n    """\n    typedef B D;\n    """\n    pass\n', ["B"]),
        ("from a cimport B\nself.B = other.B\n", ["B"]),
        ('from a cimport B\nf("#" if B else "it\'s")\n', []),
        ("from __future__ import annotations\nfrom a cimport *\nfrom a cimport B as B\n", []),
        ("def f():\n    from a import b, c\n    return c\n", ["b"]),
    ],
)
def test_a_name_is_used_or_reported(check: ModuleType, tmp_path: Path, text: str, names: list[str]) -> None:
    assert found(check, tmp_path, {"m.pyx": text}) == [("m.pyx", name) for name in names]


def test_a_declaration_file_shares_its_names_with_its_module_and_may_pass_them_on(
    check: ModuleType, tmp_path: Path
) -> None:
    files = {
        "p/a.pxd": "from x cimport A, B, C, D\ncdef A a\n",
        "p/a.pyx": "from x cimport C\nB(C)\n",
        "p/b.pyx": "from p.a cimport D\nD()\n",
    }
    assert found(check, tmp_path, files) == [("p/a.pxd", "C")]
    assert found(check, tmp_path, files | {"p/b.pyx": "D()\n"}) == [("p/a.pxd", "C"), ("p/a.pxd", "D")]


def test_an_included_file_uses_names(check: ModuleType, tmp_path: Path) -> None:
    files = {"m.pyx": 'from a cimport B, C\ninclude "rest.pxi"\n', "rest.pxi": "B()\n"}
    assert found(check, tmp_path, files) == [("m.pyx", "C")]


def test_the_code_has_none() -> None:
    done = subprocess.run([sys.executable, SCRIPT], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")

"""The check for long lines of Cython and C code, which `script/lint` runs."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[1] / "script" / "long_lines.py"


def test_long_lines_are_found_and_made_files_are_left_out(tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("long_lines", SCRIPT)
    assert spec is not None and spec.loader is not None
    check = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(check)
    files = {
        "one.pyx": "x" * 120 + "\n" + "x" * 121 + "\n",
        "one.c": "x" * 200,  # made from one.pyx
        "two.h": "\t" + "x" * 112 + "\n\t" + "x" * 113 + "\n",
        "three.c": "é" * 120 + "\n\n" + "é" * 121,
        "four.py": "x" * 200,
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    found = [(path.name, number, columns) for path, number, columns in check.long_lines(check.sources(tmp_path))]
    assert found == [("one.pyx", 2, 121), ("three.c", 3, 121), ("two.h", 2, 121)]


def test_this_tree_has_none() -> None:
    done = subprocess.run([sys.executable, SCRIPT], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")

"""Nothing assumes pages of 4 KiB: what maps files and rings is tested as under a kernel with larger ones."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest

from tests.sampling import chosen

ROOT = Path(__file__).parents[1]
#: Tests of what is mapped: rings, tables that grow or are cut short, and the journal.
TESTS = (
    "tests/sources/ring", "tests/shm/writer/test_writer.py", "tests/shm/reader/test_shrinking_files.py",
    "tests/bus/stream/test_journal.py",
)  # fmt: skip
SELECTION = "not expensive and not slow and not live and not alone and not vm"


@pytest.mark.expensive
@pytest.mark.slow
def test_pages_of_64_kib(tmp_path: Path, missing: Callable[[str], NoReturn]) -> None:
    """In a quick run, one of TESTS."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        missing("no C compiler (gcc)")
    library = tmp_path / "pages.so"
    command = [compiler, "-O1", "-Wall", "-Wno-attributes", "-shared", "-fPIC", "-o", library, ROOT / "tests/pages.c"]
    subprocess.run([*command, "-ldl"], check=True, timeout=60)
    environment = {**os.environ, "LD_PRELOAD": str(library), "PROCLINE_TEST_LEVEL": "quick"}
    shown = [sys.executable, "-c", "import mmap; print(mmap.PAGESIZE)"]
    assert subprocess.run(shown, env=environment, capture_output=True, text=True, check=True).stdout == "65536\n"
    tests = chosen(TESTS)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:xdist", "-q", "-m", SELECTION, *tests],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout

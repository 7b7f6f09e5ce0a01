"""Find lines of Cython and C code that have more than 120 columns. ruff reads neither."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

DIRECTORIES = ("pipeline", "tests", "bench")
SUFFIXES = {".pyx", ".pxd", ".pxi", ".c", ".h"}
COLUMNS = 120
#: A tab leads to the next multiple of this column.
TAB = 8


def sources(directory: Path) -> Iterator[Path]:
    """Yield the files below a directory, without the C code that Cython makes."""
    for path in sorted(directory.rglob("*")):
        is_made = path.suffix == ".c" and (path.with_suffix(".pyx").exists() or path.name == "_cython.c")
        if path.suffix in SUFFIXES and not is_made:
            yield path


def long_lines(paths: Iterable[Path]) -> Iterator[tuple[Path, int, int]]:
    """Yield each line that is too long: its file, its number and its columns."""
    for path in paths:
        for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), 1):
            columns = len(line.expandtabs(TAB))
            if columns > COLUMNS:
                yield path, number, columns


def main() -> int:
    root = Path(__file__).resolve().parent.parent
    status = 0
    for path, number, columns in long_lines(path for name in DIRECTORIES for path in sources(root / name)):
        print(f"{path.relative_to(root)}:{number}: {columns} columns: break it at {COLUMNS}", file=sys.stderr)
        status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())

"""docs/why.md lists every kind of finding and of unknown fact that the code makes, and no others."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCE = [ast.parse(path.read_text()) for path in sorted((ROOT / "pipeline/why").glob("*.py"))]
PAGE = (ROOT / "docs/why.md").read_text()


def strings(node: ast.AST) -> Iterator[str]:
    yield from (each.value for each in ast.walk(node) if isinstance(each, ast.Constant) and isinstance(each.value, str))


def calls(name: str, position: int) -> set[str]:
    """Return the constants among an argument of all calls of a function."""
    found = set()
    for module in SOURCE:
        for node in ast.walk(module):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == name and len(node.args) > position:
                found |= set(strings(node.args[position]))
    return found


def documented(heading: str) -> set[str]:
    table = PAGE.partition(heading)[2].partition("\n\n")[2].partition("\n\n")[0]
    return {kind for line in table.splitlines() for kind in re.findall(r"`(\w+)`", line.split("|")[1])} - {"kind"}


def test_every_kind_of_finding_is_documented() -> None:
    kinds = documented("A finding has `kind`")
    assert len(kinds) > 25 and calls("Finding.of", 1) <= kinds
    everywhere = {text for module in SOURCE for text in strings(module)}
    assert kinds <= everywhere


def test_every_kind_of_unknown_fact_is_documented() -> None:
    kinds = set(re.findall(r"`(\w+)`", PAGE.partition("The kinds in `unknown` are")[2]))
    everywhere = {text for module in SOURCE for text in strings(module)}
    assert calls("Unknown", 0) <= kinds <= everywhere

"""Constants of the product as its code writes them: also those of C and Cython, which Python cannot read.

A test or bench that needs one reads it here, so that the product defines no name that only tests and benches use.
"""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent


def constant(file: str, name: str) -> int:
    """The value of a constant of a Python, Cython or C file: a number, or one shifted by another."""
    found = re.search(rf"{_begin(name)}\(?(\d[\d_]*)u?(?: << (\d+))?(?![\w.])", _text(file), re.MULTILINE)
    assert found is not None, f"{file} has no {name}"
    return int(found[1]) << int(found[2] or 0)


def fraction(file: str, name: str) -> float:
    """The value of a constant that is no integer."""
    found = re.search(rf"{_begin(name)}(\d+\.\d+)\b", _text(file), re.MULTILINE)
    assert found is not None, f"{file} has no {name}"
    return float(found[1])


def _text(file: str) -> str:
    return (ROOT / file).read_text(encoding="utf-8")


def _begin(name: str) -> str:
    return rf"^(?:#define | *(?:cdef \w+ )?){name}(?: = | )"

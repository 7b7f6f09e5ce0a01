"""Limits have the same values in Python and in Cython."""

from __future__ import annotations

import re
from pathlib import Path

from pipeline.records import limits

PXD = Path(limits.__file__).with_name("_limits.pxd")


def test_cython_has_the_values_of_python() -> None:
    values = dict(re.findall(r"^    ([A-Z_]+) = ([0-9_]+)$", PXD.read_text(), re.MULTILINE))
    assert values
    assert {name: int(value) for name, value in values.items()} == {name: getattr(limits, name) for name in values}

"""The table of packages in docs/architecture.md is that of the tree and of its levels."""

from __future__ import annotations

import re

from tests.docs.citations import LAWS
from tests.test_imports import LEVELS


def test_packages_have_the_levels_that_the_imports_are_checked_by() -> None:
    text = LAWS.read_text(encoding="utf-8")
    found = [
        (int(level), name)
        for level, names in re.findall(r"^\| (\d+) \| ([^|]*) \|", text, re.MULTILINE)
        for name in re.findall(r"`([\w.]+)`", names)
    ]
    assert sorted(found) == sorted((level, name) for level, names in enumerate(LEVELS, 1) for name in names)

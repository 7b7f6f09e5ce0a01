"""The table of packages in docs/architecture.md and the list in CONTRIBUTING.md are those of the tree."""

from __future__ import annotations

import re

from tests.docs.citations import LAWS, ROOT
from tests.test_imports import LEVELS


def test_packages_have_the_levels_that_the_imports_are_checked_by() -> None:
    text = LAWS.read_text(encoding="utf-8")
    found = [
        (int(level), name)
        for level, names in re.findall(r"^\| (\d+) \| ([^|]*) \|", text, re.MULTILINE)
        for name in re.findall(r"`([\w.]+)`", names)
    ]
    assert sorted(found) == sorted((level, name) for level, names in enumerate(LEVELS, 1) for name in names)


def test_contributors_find_every_package() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    listed = re.findall(r"^    pipeline/(\w+) ", text, re.MULTILINE)
    assert sorted(listed) == sorted(each.parent.name for each in ROOT.glob("pipeline/*/__init__.py"))

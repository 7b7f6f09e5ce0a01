"""The paths of fixtures/cgroup_paths.toml, and real cgroups with these paths."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.hierarchy import remove_cgroups

FIXTURES: dict[str, Any] = tomllib.loads((Path(__file__).parent / "fixtures/cgroup_paths.toml").read_text())


@contextmanager
def cgroups_of_the_fixture(top: Path) -> Iterator[dict[Path, str | None]]:
    """Create a cgroup for each path that is possible, below a new one; yield the expected container of each.

    At the end the processes in them are moved to the root of the hierarchy, and the cgroups are removed.

    Args:
        top: the new cgroup, directly below the root.
    """
    top.mkdir()
    try:
        groups = {
            top / case["path"].lstrip("/"): case.get("id")
            for case in FIXTURES["path"]
            if ".." not in case["path"] and not case["path"].endswith(" (deleted)")
        }
        for group in groups:
            group.mkdir(parents=True, exist_ok=True)
        yield groups
    finally:
        remove_cgroups(top, top.parent)

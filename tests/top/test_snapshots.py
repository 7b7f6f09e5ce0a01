"""Whole screens, as they were looked at and kept in tests/top/snapshots.

After a change that is meant, write them again and look at the difference:
PROCLINE_WRITE_SNAPSHOTS=1 .venv/bin/python -m pytest tests/top/test_snapshots.py
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("textual")

from textual.pilot import Pilot

from pipeline.shm.layout import layout
from pipeline.top.app import Top
from tests.top.host import Host
from tests.top.screens import show, shown

SNAPSHOTS = Path(__file__).parent / "snapshots"
#: What differs from run to run: times of day, durations with fractions, and what the daemon costs.
_varying = (
    (re.compile(r"\d\d:\d\d:\d\d\.\d{3}"), "hh:mm:ss.mmm"),
    (re.compile(r"\d+(?:\.\d+)? (?:ns|µs|ms|s)\b"), "N s"),
    (re.compile(r"\b\d+m\d\ds\b"), "NmNNs"),
)

#: Name of the snapshot, keys that lead to it, size of the screen, and settings.
VIEWS: dict[str, tuple[tuple[str, ...], tuple[int, int], dict[str, Any]]] = {
    "tree": ((), (80, 24), {}),
    "narrow": ((), (40, 12), {}),
    "wide": ((), (150, 24), {}),
    "list": (("t",), (80, 24), {"sort": "user"}),
    "columns": ((), (100, 24), {"columns": ("pid", "ppid", "user", "images", "children", "program", "command")}),
    "filter": (("f", *"user=1000", "enter"), (80, 24), {}),
    "folded": (("down", "left"), (80, 24), {}),
    "details": (("end", "enter"), (100, 40), {}),
    "rates": (("v",), (80, 24), {}),
    "menu": (("c",), (80, 30), {}),
    "help": (("?",), (100, 44), {}),
}


@pytest.fixture
def busy(shm_dir: Path) -> Host:
    """A host with a build, a failure, a script, and a name that would clear the screen. Ages are far from a step."""
    host = Host(shm_dir)
    host.start(1, "/sbin/init", ago=930)
    host.start(40, "bash", parent=1, ago=510)
    host.start(41, "sleep 100", parent=40, ago=390, uid=1000)
    host.start(50, "make -j2", parent=40, ago=330)
    host.start(51, "cc1 -quiet a.c", parent=50, ago=210)
    host.start(52, "cc1 -quiet b.c", parent=50, ago=210)
    host.end(52, 1 << 8)
    host.start(60, "/usr/bin/python3 '\x1b[2Jevil' 'two words'", parent=1, ago=390, uid=1000)
    host.start(61, "/opt/backup", parent=1, ago=390, flags=layout.ROW_HEAD | layout.ROW_IS_EXEC | layout.ROW_GAP)
    return host


@pytest.mark.parametrize("name", VIEWS)
def test_a_screen_equals_its_reviewed_image(busy: Host, name: str) -> None:
    keys, size, settings = VIEWS[name]
    found: list[str] = []

    async def steps(app: Top, pilot: Pilot[None]) -> None:
        await pilot.press(*keys)
        await pilot.pause()
        found.extend(shown(app))

    show(busy, steps, size, **{"keep_s": 300.0} | settings)
    text = "\n".join(found)
    for pattern, constant in _varying:
        text = pattern.sub(constant, text)
    path = SNAPSHOTS / f"{name}.txt"
    if os.environ.get("PROCLINE_WRITE_SNAPSHOTS"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"{text}\n", encoding="utf-8")
    assert text + "\n" == path.read_text(encoding="utf-8")


def test_every_snapshot_is_of_a_view() -> None:
    assert {path.stem for path in SNAPSHOTS.iterdir()} == set(VIEWS)

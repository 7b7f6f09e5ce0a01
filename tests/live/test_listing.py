"""Lists of processes in a storm of execs: each process that lives for the whole time is listed, exactly once."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest

from pipeline.errors import BusyError, StaleError
from tests.live.harness import Daemon
from tests.waiting import eventually

pytestmark = [pytest.mark.live, pytest.mark.alone]

#: Rows are freed as soon as they are replaced, so that a process moves from row to row.
CONFIG = "[tables]\nretention_s = 0\n"
PROCESSES = 6
SECONDS = 3.0
LISTS = 20  #: at least, on a busy machine too


def test_each_process_is_listed_once_while_it_calls_exec(live_kernel: None, tmp_path: Path) -> None:
    # Two programs that execute each other: an exec of the same program is no new image.
    one, other, end = tmp_path / "one", tmp_path / "other", tmp_path / "end"
    for program, follower in ((one, other), (other, one)):
        program.write_text(f'#!/bin/sh\n[ -e "$1" ] || exec {follower} "$1"\n')
        program.chmod(0o755)
    with Daemon(CONFIG) as daemon, daemon.attach() as table:
        children = [subprocess.Popen([one, end]) for _ in range(PROCESSES)]
        try:
            pids = {child.pid for child in children}
            eventually(lambda: all(table.resolve(pid) is not None for pid in pids))
            own = table.resolve(os.getpid())
            assert own is not None
            lists = 0
            images: dict[int, int] = {}
            until = time.monotonic() + SECONDS
            while time.monotonic() < until or (lists < LISTS and time.monotonic() < until + 60):
                try:
                    found = {
                        "walk": [entry.pid for entry in table.walk()],
                        "running": [entry.pid for entry in table],
                        "descendants": [entry.pid for entry in own.descendants()],
                        "creator": [entry.pid for entry in own.descendants(by="creator", exited=True)],
                        "batch": table.batch(["pid", "argv"]).column("pid"),
                        "batches": [pid for part in table.batches(["pid"], size=5) for pid in part.column("pid")],
                        "columns": table.columns(["pid", "comm"])["pid"].tolist(),
                    }
                    images |= {entry.pid: entry.image_number for entry in own.children()}
                except (BusyError, StaleError):  # on a busy machine the daemon falls behind
                    continue
                lists += 1
                for name, numbers in found.items():
                    listed = [pid for pid in numbers if pid in pids]
                    assert sorted(listed) == sorted(pids), name
        finally:
            end.touch()
            for child in children:
                child.wait()
    assert lists >= LISTS and all(images[pid] > 10 for pid in pids)

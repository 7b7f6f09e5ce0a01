"""An instance on a full tmpfs continues, reports it in its log and in `stat`, and grows again when there is room."""

from __future__ import annotations

import subprocess
from contextlib import suppress
from pathlib import Path

import pytest

from tests.live.harness import Daemon, run_workload
from tests.waiting import eventually

pytestmark = [pytest.mark.live]

CONFIG = "[tables]\nchunk_rows = 64\npid_capacity = 65536\nnames_bytes = 1048576\n"


def test_tables_that_cannot_grow_are_counted_and_logged(live_kernel: None, workload: Path, tmp_path: Path) -> None:
    daemon = Daemon(CONFIG, name="full")
    daemon.log = tmp_path / "log"
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m,mode=0755", "none", daemon.root], check=True)
    try:
        daemon.config.write_text(CONFIG)
        daemon.start()
        assert daemon.stat()["counters"].get("growth_refused", 0) == 0
        filler = daemon.root / "filler"
        with suppress(OSError), filler.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        run_workload(workload, "storm", 1000, 1000)
        refused = eventually(lambda: daemon.stat()["counters"].get("growth_refused", 0))
        assert refused > 0
        eventually(lambda: "the tables cannot grow (" in daemon.log.read_text())
        assert daemon.log.read_text().count("the tables cannot grow (") == 1
        capacity = (daemon.directory / "hot").stat().st_size
        filler.unlink()
        run_workload(workload, "storm", 1000, 1000)
        eventually(lambda: (daemon.directory / "hot").stat().st_size > capacity)
        assert "killed" not in daemon.log.read_text()
    finally:
        if daemon.process is not None and daemon.process.poll() is None:
            daemon.stop()
        subprocess.run(["umount", "-l", daemon.root], check=True)
        daemon.close()

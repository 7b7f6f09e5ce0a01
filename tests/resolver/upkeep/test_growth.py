"""On a full file system, tables that cannot grow are counted and logged; they grow again when there is room."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.resolver.upkeep.growth import LOG_AGAIN_NS, GrowthWatch

SCRIPT = """
import os
from pathlib import Path
from pipeline.resolver.upkeep.growth import LOG_AGAIN_NS, GrowthWatch
from pipeline.shm.writer._opening import open_tables
from pipeline.shm.layout.layout import KNOWN_COST
from tests.shm import _inside

tables = open_tables(
    Path("/mnt/instance"), boot_id=bytes(16), capture_id=1, ring_count=1, row_capacity=65536, chunk_rows=64,
    pid_capacity=65536, key_capacity=1024, names_bytes=1 << 24, args_bytes=1 << 24, envs_bytes=1 << 20,
    boot_unix_ns=0, retention_ns=0,
)
said = []
watch = GrowthWatch(tables, Path("/mnt/instance"), said.append)

def rows(count):
    return sum(_inside.new_row(tables) != 0 for _ in range(count))

def ends(row):
    _inside.set_costs(tables, row, bytes(64))
    return tables.hot_view()[row]["known"] & KNOWN_COST != 0

assert rows(100) == 100 and ends(1)
watch(1)
assert said == [] and tables.counter("growth_refused") == 0
room = os.statvfs("/mnt")
Path("/mnt/filler").write_bytes(bytes(room.f_bavail * room.f_frsize))
before = len(tables.hot_view())
assert rows(5000) < 64, "there is no room for more"
assert any(not tables.py_intern_args(bytes([65 + n]) * 30000) for n in range(20))
assert ends(2) and not ends(99), "there is a page for the first rows, and none for the others"
watch(2)
watch(3)
assert len(tables.hot_view()) == before and tables.counter("table_full") > 4000
print(tables.counter("growth_refused"), len(said))
print(said[0])
Path("/mnt/filler").unlink()
assert rows(5000) > 3000 and any(ends(99) for _ in range(2000)), "it continues to grow by itself"
"""


def test_a_full_tmpfs_is_counted_and_logged_and_growth_resumes() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root to mount a file system")
    mount = 'mount -t tmpfs -o size=8m none /mnt && exec "$@"'
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", mount, "sh", sys.executable, "-c", SCRIPT],
        capture_output=True, text=True, timeout=60, env=dict(os.environ, PYTHONPATH=str(Path(__file__).parents[3])),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    counts, line = done.stdout.splitlines()
    refused, said = map(int, counts.split())
    assert refused >= 5 and said == 1, "some requests in a thousand ask the kernel again"
    assert line.startswith("/mnt/instance: the tables cannot grow (")
    assert "cold" in line and "costs" in line and "args" in line and "(0 KiB of 8192 KiB are free)" in line


class Tables:
    def __init__(self) -> None:
        self.refused, self.counters = (0, [""]), {"growth_refused": 5}

    def growth_refused(self) -> tuple[int, list[str]]:
        return self.refused

    def counter(self, name: str) -> int:
        return self.counters[name]

    def set_counter(self, name: str, value: int) -> None:
        self.counters[name] = value


def test_refusals_are_counted_and_logged_once_a_minute(tmp_path: Path) -> None:
    tables, said = Tables(), list[str]()
    watch = GrowthWatch(tables, tmp_path, said.append)
    watch(1)
    assert said == [] and tables.counters == {"growth_refused": 5}
    for number in range(1, 100):
        tables.refused = (number, ["hot"])
        watch(number)
    assert len(said) == 1 and "(hot)" in said[0] and str(tmp_path) in said[0] and "larger size" in said[0]
    assert tables.counters == {"growth_refused": 104}, "a predecessor's are among them"
    watch(LOG_AGAIN_NS + 10)
    assert len(said) == 1, "nothing new"
    tables.refused = (100, ["hot"])
    watch(LOG_AGAIN_NS + 11)
    assert len(said) == 2

"""Reads that cannot go right end with an error, never with a crash of the reader."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.errors import ProclineError
from pipeline.shm.reader.table import ProcessTable
from tests.sampling import chosen, times
from tests.shm.handmade import Tables

ROOT = Path(__file__).parents[3]

DAMAGED = """
import sys
from pipeline.errors import BusyError
from pipeline.shm.reader.table import ProcessTable
reads = {
    "resolve": lambda table: table.resolve(10),
    "resolve_many": lambda table: table.resolve_many([10]),
    "fields": lambda table: table.resolve_many([10], fields=("ppid",)),
    "ancestor_pids_many": lambda table: table.ancestor_pids_many([10]),
    "images": lambda table: table.images(),
    "children": lambda table: table.children(10),
}
with ProcessTable.attach(path=sys.argv[1]) as table:
    print("attached", flush=True)
    sys.stdin.read()  # until the test has damaged the tables
    try:
        reads[sys.argv[2]](table)
    except BusyError:
        pass
print("done")
"""

STRINGS = """
import sys
from pipeline.errors import BusyError
from pipeline.shm.reader.table import ProcessTable
with ProcessTable.attach(path=sys.argv[1]) as table:
    entry = table.resolve(10)
    print("attached", flush=True)
    sys.stdin.read()
    for read in (lambda: entry.path, lambda: entry.argv, lambda: entry.envs, lambda: table.batch(["path", "argv"])):
        try:
            read()
        except BusyError:
            pass
print("done")
"""

CHANGING = """
import sys, threading, time
import numpy as np
from pipeline.shm.reader.table import ProcessTable
good = np.tile(np.arange(1, 200, dtype=np.uint32), 200)
bad = np.full_like(good, 0xFFFFFFF0)
pids = good.copy()
over = threading.Event()

def change():
    while not over.is_set():
        pids[:] = bad
        pids[:] = good

with ProcessTable.attach(path=sys.argv[1]) as table:
    thread = threading.Thread(target=change)
    thread.start()
    end = time.monotonic() + float(sys.argv[2])
    while time.monotonic() < end:
        table.resolve_many(pids, fields=("ppid", "start_time_ns"))
        table.ancestor_pids_many(pids, 2)
    over.set()
    thread.join()
print("done")
"""


@pytest.mark.parametrize(
    "read", chosen(["resolve", "resolve_many", "fields", "ancestor_pids_many", "images", "children"], 2)
)
def test_a_wrong_number_of_rows_leads_to_none_that_is_not_mapped(shm_dir: Path, read: str) -> None:
    tables = Tables(shm_dir)
    tables.row(10)
    reader = subprocess.Popen(
        [sys.executable, "-c", DAMAGED, shm_dir, read],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert reader.stdout is not None
    assert reader.stdout.readline() == "attached\n"
    tables.control["rows_allocated"] = 0xFFFF_FFF0
    tables.index[10] = 0x1000_0000
    assert reader.communicate(timeout=60)[0] == "done\n"
    assert reader.returncode == 0


def test_a_wrong_number_of_bytes_leads_to_no_string_that_is_not_mapped(shm_dir: Path) -> None:
    tables = Tables(shm_dir)
    far = (8 << 30) // 16  # behind everything that is mapped
    tables.row(10, known=0x7FFFF, file_ref=far, args_ref=far, envs_ref=far)
    reader = subprocess.Popen(
        [sys.executable, "-c", STRINGS, shm_dir], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert reader.stdout is not None
    assert reader.stdout.readline() == "attached\n"
    for name in ("names", "args", "envs"):
        tables.control[f"{name}_allocated_bytes"] = 1 << 40
    assert reader.communicate(timeout=60)[0] == "done\n"
    assert reader.returncode == 0


@pytest.mark.slow
def test_another_thread_may_write_to_the_pids(shm_dir: Path) -> None:
    tables = Tables(shm_dir)
    for pid in range(1, 200):
        tables.row(pid)
    done = subprocess.run(
        [sys.executable, "-c", CHANGING, shm_dir, str(times(100, 10) / 100)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr


@pytest.mark.parametrize("boot_unix_ns", [-(1 << 63), (1 << 63) - 1])
def test_a_wrong_time_of_boot_gives_no_overflow(shm_dir: Path, boot_unix_ns: int) -> None:
    tables = Tables(shm_dir)
    tables.row(10)
    with ProcessTable.attach(path=shm_dir) as table:
        tables.control["boot_unix_ns"] = boot_unix_ns
        with contextlib.suppress(ProclineError):
            table.resolve(10, at=1 << 62)

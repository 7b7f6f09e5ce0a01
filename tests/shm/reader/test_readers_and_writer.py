"""Readers in processes of their own, while the writer changes, frees and reuses rows and strings at full speed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

WRITER = """
import random, sys, time
from pathlib import Path
sys.path[:0] = [sys.argv[2], sys.argv[3]]
from pipeline.shm.layout import layout
from tests.shm.table_host import Host, make_writer

def arguments(name, length):
    text = name + b"\\0" + name * length + b"\\0"
    return len(text).to_bytes(4, "little") + text

writer = make_writer(Path(sys.argv[1]), row_capacity=200, args_bytes=64 << 10, retention_ns=30)
host = Host(writer)
choice = random.Random(23)
for pid in range(1, 9):  # these stay, and change their image and name all the time
    host.fork(0, pid)
    host.exec(pid, b"c0", arguments(b"c0", 1))
now = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
writer.heartbeat(now)
writer.set_state(layout.STATE_READY)
print("ready", flush=True)
end = time.monotonic() + float(sys.argv[4])
while time.monotonic() < end:
    for _ in range(50):
        pid = choice.randrange(1, 40)
        name = b"c%d" % choice.randrange(1000)
        if pid > 8 and pid in host.processes and choice.random() < 0.5:
            host.exit(pid)
        elif pid not in host.processes:
            host.fork(choice.randrange(1, 9), pid)
        elif choice.random() < 0.8:
            host.exec(pid, name, arguments(name, choice.randrange(1, 200)))
        else:
            row = writer.py_head(pid)  # a change in place that touches two places of the row
            writer.py_begin(row)
            host.hot["uid"][row] = host.now
            host.cold["euid"][row] = host.now
            writer.py_end(row)
        writer.evict_exited(host.now, 10)
    writer.heartbeat(time.clock_gettime_ns(time.CLOCK_BOOTTIME))
print(writer.evicted_total, writer.args.full, flush=True)
"""

READER = """
import sys
sys.path.insert(0, sys.argv[2])
from pipeline.shm.reader.table import ProcessTable
from pipeline.errors import BusyError, TooOldError
reads = bad = absent = strings = 0
with ProcessTable.attach(path=sys.argv[1]) as table:
    import time
    end = time.monotonic() + float(sys.argv[3])
    while time.monotonic() < end:
        for pid in range(1, 40):
            try:
                entry = table.resolve(pid)
                if entry is None:
                    absent += pid <= 8
                    continue
                entry.load()
                reads += 1
                bad += not entry.verify() or entry.pid != pid
                argv = entry.argv
            except (BusyError, TooOldError):
                continue
            if argv:
                strings += 1
                name = argv[0]
                bad += len(argv) != 2 or argv[1].replace(name, "") != "" or name != entry.comm
print(reads, bad, absent, strings)
"""


@pytest.mark.slow
def test_no_reader_sees_a_torn_row_or_the_string_of_another_process(shm_dir: Path) -> None:
    """Each read is checked: the row against its checksum, and its arguments against its name."""
    root, here, seconds = str(Path(__file__).parents[3]), str(Path(__file__).parent), "3"
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(shm_dir), root, here, "4"], stdout=subprocess.PIPE, text=True
    )
    assert writer.stdout is not None
    assert writer.stdout.readline() == "ready\n"
    readers = [
        subprocess.Popen([sys.executable, "-c", READER, str(shm_dir), root, seconds], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    results = []
    for reader in readers:
        output, _ = reader.communicate(timeout=60)
        assert reader.returncode == 0
        results.append([int(word) for word in output.split()])
    output, _ = writer.communicate(timeout=60)
    evicted, _ = map(int, output.split())
    assert evicted > 1000
    for reads, bad, absent, strings in results:
        assert reads > 1000
        assert strings > 100
        assert (bad, absent) == (0, 0)

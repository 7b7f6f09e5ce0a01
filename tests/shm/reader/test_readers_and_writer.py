"""Readers in processes of their own, while the writer changes, frees and reuses rows and strings at full speed."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.errors import BusyError, StaleError
from pipeline.shm.reader.table import ProcessTable
from tests.sampling import chosen, times

#: How long readers read.
SECONDS = str(times(30, 3) / 10)

WRITER = """
import random, select, sys, time
from pathlib import Path
sys.path[:0] = [sys.argv[2], sys.argv[3]]
from pipeline.shm.layout import layout
from tests.shm.table_host import Host, make_writer

def arguments(name, length):
    text = name + b"\\0" + name * length + b"\\0"
    return len(text).to_bytes(4, "little") + text

rows, pids = int(sys.argv[5]), int(sys.argv[4])
sizes = {"row_capacity": rows, "chunk_rows": min(rows, 8192), "args_bytes": 64 << 10, "pid_capacity": pids}
writer = make_writer(Path(sys.argv[1]), retention_ns=30, **sizes)
host = Host(writer)
choice = random.Random(23)
for pid in range(1, 9):  # these stay, and change their image and name all the time
    host.fork(0, pid)
    host.exec(pid, b"c0", arguments(b"c0", 1))
now = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
writer.heartbeat(now)
writer.set_state(layout.STATE_READY)
print("ready", flush=True)
end = time.monotonic() + 60
while time.monotonic() < end and not (writer.evicted_total > 1000 and select.select([sys.stdin], [], [], 0)[0]):
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
    begin = time.monotonic()
    # A busy host can keep a reader from its processor for the whole time.
    while time.monotonic() < begin + float(sys.argv[3]) or (
        (reads < 2000 or strings < 200) and time.monotonic() < begin + 40
    ):
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

BATCHES = """
import sys
sys.path.insert(0, sys.argv[2])
from pipeline.shm.reader.table import ProcessTable
from pipeline.errors import BusyError, StaleError
reads = bad = absent = strings = 0
with ProcessTable.attach(path=sys.argv[1]) as table:
    import time
    import numpy
    begin = time.monotonic()
    # A busy host can keep a reader from its processor for the whole time.
    while time.monotonic() < begin + float(sys.argv[3]) or (
        (reads < 2000 or strings < 200) and time.monotonic() < begin + 40
    ):
        try:
            batch = table.batch(["pid", "comm", "argv", "euid"])
            columns = table.columns(["pid", "comm", "argv"], pids=numpy.arange(1, 40))
        except BusyError:
            continue
        except StaleError:  # the writer has ended
            break
        absent += not columns.found[:8].all() or columns["pid"].tolist() != list(range(1, 40))
        absent += not set(range(1, 9)) <= set(batch.column("pid"))
        for place, (pid, comm, argv) in enumerate(zip(*map(batch.column, ["pid", "comm", "argv"]))):
            reads += 1
            entry = batch.entry(place)
            bad += not entry.verify() or (entry.pid, entry.comm, entry.argv) != (pid, comm, argv)
        for comm, argv in zip(batch.column("comm") + columns["comm"].tolist(),
                              batch.column("argv") + columns["argv"].tolist()):
            if argv:
                strings += 1
                bad += len(argv) != 2 or argv[1].replace(argv[0], "") != "" or argv[0] != comm
print(reads, bad, absent, strings)
"""

LISTS = """
import sys
sys.path.insert(0, sys.argv[2])
from pipeline.shm.reader.table import ProcessTable
from pipeline.errors import BusyError, StaleError
reads = bad = absent = exited = 0
with ProcessTable.attach(path=sys.argv[1]) as table:
    import time
    begin = time.monotonic()
    # A busy host can keep a reader from its processor for the whole time.
    while time.monotonic() < begin + float(sys.argv[3]) or (
        (reads < 2000 or exited < 200) and time.monotonic() < begin + 40
    ):
        try:
            lists = [
                [(entry.pid, entry.start_time_ns, entry.exit_time_ns) for entry in table.walk()],
                [(entry.pid, entry.start_time_ns, entry.exit_time_ns) for entry in table.walk(exited=False)],
                [
                    each for part in table.batches(["pid", "start_time_ns", "exit_time_ns"], size=7)
                    for each in zip(*map(part.column, ["pid", "start_time_ns", "exit_time_ns"]))
                ],
                [(row["tgid"], row["start_boot_ns"], row["exit_boot_ns"] or None) for row in table.rows()],
            ]
        except BusyError:
            continue
        except StaleError:  # the writer has ended
            break
        for found in lists:
            reads += len(found)
            exited += sum(end is not None for _, _, end in found)
            pids = [pid for pid, _, _ in found]
            absent += any(pids.count(pid) != 1 for pid in range(1, 9))
            bad += len({each[:2] for each in found}) != len(found)
print(reads, bad, absent, exited)
"""

WORDS = """
import sys
sys.path.insert(0, sys.argv[2])
from pipeline.shm.reader.table import ProcessTable
from pipeline.errors import BusyError, StaleError
reads = bad = absent = chains = 0
parents = {}  # by start, which no two processes have in common
with ProcessTable.attach(path=sys.argv[1]) as table:
    import time
    import numpy
    pids = numpy.tile(numpy.arange(1, 40, dtype=numpy.uint32), 8)
    begin = time.monotonic()
    # A busy host can keep a reader from its processor for the whole time.
    while time.monotonic() < begin + float(sys.argv[3]) or (
        (reads < 2000 or chains < 200) and time.monotonic() < begin + 40
    ):
        try:
            found = table.resolve_many(pids, fields=("ppid", "start_boot_ns", "exec_time_ns"))
            few = table.resolve_many(pids, fields=("ppid", "start_boot_ns"))  # which the reader keeps
            walked = table.ancestor_pids_many(pids, 3)
        except BusyError:
            continue
        except StaleError:  # the writer has ended
            break
        absent += not found["found"][pids <= 8].all() or not walked.found[pids <= 8].all()
        absent += not few["found"][pids <= 8].all()
        for pid, is_found, ppid, start, *_ in found.tolist() + few.tolist():
            if is_found:
                reads += 1
                bad += parents.setdefault(start, (pid, ppid)) != (pid, ppid)
                bad += ppid not in range(1, 9) if pid > 8 else ppid != 0
            else:
                bad += ppid != 0 or start != 0
        chains += int(numpy.count_nonzero(walked.ancestors))
        bad += int((walked.ancestors[:, 0] > 8).sum()) + int(walked.ancestors[:, 1:].any())
        bad += int(walked.ancestors[pids <= 8].any())
print(reads, bad, absent, chains)
"""

PROGRAMS = (READER, BATCHES, LISTS, WORDS)

CHILDREN = """
import sys, time
sys.path[:0] = [sys.argv[2], sys.argv[3]]
from pathlib import Path
from pipeline.shm.layout import layout
from tests.shm.table_host import Host, make_writer

writer = make_writer(Path(sys.argv[1]), retention_ns=0, row_capacity=20000, chunk_rows=4096)
host = Host(writer)
host.fork(0, 1)
for pid in range(2, 10):
    host.fork(1, pid)
for pid in range(10, 1000):
    host.fork(2, pid)
writer.heartbeat(time.clock_gettime_ns(time.CLOCK_BOOTTIME))
writer.set_state(layout.STATE_READY)
print("ready", flush=True)
number, end = 0, time.monotonic() + float(sys.argv[4])
while time.monotonic() < end or number < 3000:  # a busy host can keep it from its processor
    for number in range(number, number + 20):
        pid = 2 + number % 8
        host.exec(pid, b"x", b"\\4\\0\\0\\0%03d\\0" % (number % 1000))
        if number % 3 == 0:
            host.exit(10 + number // 3 % 990)
            host.fork(1 if number % 2 else 2, 10 + number // 3 % 990)
        writer.evict_exited(host.now, 10)
    writer.heartbeat(time.clock_gettime_ns(time.CLOCK_BOOTTIME))
print(writer.evicted_total, flush=True)
"""


@pytest.mark.slow
def test_children_are_complete_without_a_retention(shm_dir: Path) -> None:
    """Nothing that has ended is retained, and the children execute programs all the time."""
    root, here = str(Path(__file__).parents[3]), str(Path(__file__).parent)
    writer = subprocess.Popen(
        [sys.executable, "-c", CHILDREN, str(shm_dir), root, here, SECONDS], stdout=subprocess.PIPE, text=True
    )
    assert writer.stdout is not None
    assert writer.stdout.readline() == "ready\n"
    calls = 0
    with ProcessTable.attach(path=shm_dir) as table:
        while writer.poll() is None:
            try:
                found = [child.pid for child in table.children(1)]
            except (BusyError, StaleError):  # the writer was kept from its processor, or has ended
                continue
            assert found[:8] == list(range(2, 10)) and len(set(found)) == len(found)
            calls += 1
    assert calls > times(100, 10) and int(writer.stdout.read()) > 1000


@pytest.mark.expensive
@pytest.mark.slow
@pytest.mark.parametrize(
    ("pids", "rows"),
    # The index is always read for a list, or only after a row was freed. The links of large tables are kept.
    chosen([(4096, 200), (65536, 200), (4096, 8192)], 1),
)
def test_no_reader_sees_a_torn_row_or_the_string_of_another_process(shm_dir: Path, pids: int, rows: int) -> None:
    """Each read is checked: the row against its checksum, its arguments against its name, and single words against
    what other reads found of the same process."""
    root, here = str(Path(__file__).parents[3]), str(Path(__file__).parent)
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(shm_dir), root, here, str(pids), str(rows)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert writer.stdout is not None
    assert writer.stdout.readline() == "ready\n"
    readers = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(shm_dir), root, SECONDS], stdout=subprocess.PIPE, text=True
        )
        for program in random.sample(PROGRAMS, times(len(PROGRAMS), 2))
    ]
    results = []
    for reader in readers:
        output, _ = reader.communicate(timeout=60)
        assert reader.returncode == 0
        results.append([int(word) for word in output.split()])
    output, _ = writer.communicate(timeout=60)  # which closes its input
    evicted, _ = map(int, output.split())
    assert evicted > 1000
    for reads, bad, absent, more in results:
        assert reads > 1000
        assert more > 100  # strings, or ancestors
        assert (bad, absent) == (0, 0)

"""Compare the tables with /proc; runs on a host, and prints the differences (JSON).

Usage: exact.py SECONDS. It tries again for this time, because the tables follow /proc by some hundred milliseconds.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from pipeline import ProcessTable

PAUSE_S = 0.2
#: /proc has times in units of this.
TICK_NS = 10_000_000


def processes() -> dict[int, tuple[int, int]]:
    """Return parent and start, in ticks since boot, of every process in /proc that has not ended, by pid."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                text = (entry / "stat").read_text(errors="surrogateescape")
            except OSError:
                continue
            fields = text.rpartition(")")[2].split()
            if fields[0] not in "ZX":
                found[int(entry.name)] = (int(fields[1]), int(fields[19]))
    return found


def differences(table: ProcessTable) -> tuple[list[str], int]:
    """Return what differs, and how many processes were compared.

    A process that begins or ends between the two reads of /proc is not compared.
    """
    before = processes()
    entries = {
        entry.pid: (entry.ppid, (entry.start_time_ns - table.boot_unix_ns) // TICK_NS)
        for entry in table.walk()
        if entry.exit_time_ns is None
    }
    after = processes()
    lasting = {pid for pid in before if after.get(pid) == before[pid]}
    found = [
        f"{pid}: /proc {before[pid]}, tables {entries.get(pid)}" for pid in lasting if entries.get(pid) != before[pid]
    ]
    found += [f"{pid}: tables {entries[pid]}, not in /proc" for pid in entries if pid not in before | after]
    return found, len(lasting)


def main() -> None:
    """Compare until nothing differs, or the time is over."""
    deadline = time.monotonic() + float(sys.argv[1])
    with ProcessTable.attach() as table:
        while True:
            found, compared = differences(table)
            if not found or time.monotonic() > deadline:
                break
            time.sleep(PAUSE_S)
    print(json.dumps({"differences": found, "compared": compared}))


if __name__ == "__main__":
    main()

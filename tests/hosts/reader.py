"""A reader that stays attached while the service is upgraded; runs on a host, and reports what it saw.

Usage: reader.py PID REPORT. PID is a process that has exited. Asks for it, and for a process that does not exist, until
SIGTERM; then writes REPORT (JSON).
"""

from __future__ import annotations

import json
import signal
import sys
import time
from pathlib import Path

from pipeline import ProcessTable
from pipeline.errors import ProclineError, StaleError

#: A pid that no process has.
ABSENT = (1 << 22) - 1
PAUSE_S = 0.002
#: How long the tables may be used without a writer: longer than a start takes on a busy machine.
MAX_AGE_MS = 120_000


def main() -> None:
    """Look up until SIGTERM."""
    exited, report = int(sys.argv[1]), Path(sys.argv[2])
    ends: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: ends.append(number))
    lookups, missed, stretches, errors = 0, 0, [], {}
    stale_since = 0.0
    with ProcessTable.attach(max_age_ms=MAX_AGE_MS) as table:
        report.with_suffix(".attached").touch()
        while not ends:
            lookups += 1
            try:
                entry = table.resolve(exited)
                missed += entry is None or not entry.exit_time_ns
            except ProclineError as error:
                name = f"hit: {type(error).__name__}"
                errors[name] = errors.get(name, 0) + 1
            now = time.monotonic()
            try:
                table.resolve(ABSENT)
                if stale_since:
                    stretches.append(now - stale_since)
                    stale_since = 0.0
            except StaleError:
                stale_since = stale_since or now
            except ProclineError as error:
                name = f"absent: {type(error).__name__}"
                errors[name] = errors.get(name, 0) + 1
            time.sleep(PAUSE_S)
        stats = table.stats()
        first = table.resolve(1)
    report.write_text(
        json.dumps({
            "lookups": lookups, "missed": missed, "stale_s": stretches, "is_stale": bool(stale_since), "errors": errors,
            "takeovers": stats["takeovers"], "epoch": stats["epoch"], "sees_pid_1": first is not None,
        })
    )  # fmt: skip


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Add the lineage to log lines that name a process: journalctl -f | log_lineage.py.

A line names a process as syslog does: "cron[4711]: ...". The process may have ended, as long as it is retained.
"""

import argparse
import io
import re
import sys
from contextlib import suppress

from pipeline import ProcessTable, ProclineError, printable

argparse.ArgumentParser(description=__doc__).parse_args()
log = io.TextIOWrapper(sys.stdin.buffer, errors="backslashreplace")  # it can contain anything
with suppress(KeyboardInterrupt), ProcessTable.attach() as table:
    for line in log:
        lineage = ""
        if found := re.search(r"\[([0-9]{1,7})\]: ", line):
            try:
                names = [printable(f"{entry.comm}({entry.pid})") for entry in table.ancestors(int(found[1]))]
            except ProclineError:  # the instance is being restarted, or the process was just evicted
                names = ["lineage not available now"]
            lineage = " < ".join(dict.fromkeys(names))  # earlier images of a process have the same pid
        print(line.rstrip("\n") + (f"  [from {lineage}]" if lineage else ""), flush=True)

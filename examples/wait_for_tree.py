#!/usr/bin/env python3
"""Run a command, wait for everything that it started, also in the background, and print what that was."""

import argparse
import subprocess
import sys

from pipeline import ProcessTable, WaitTimeoutError, printable

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--timeout", type=float, default=3600.0, help="seconds")
parser.add_argument("command", nargs=argparse.REMAINDER, metavar="COMMAND...")
options = parser.parse_args()
if not options.command:
    parser.error("which command?")
try:
    with ProcessTable.attach() as table, subprocess.Popen(options.command) as child:
        root = table.wait_tree(child.pid, options.timeout)
        assert root is not None, "this program is the parent, so the process exists"
        below = root.descendants(by="creator", exited=True)
except (KeyboardInterrupt, WaitTimeoutError) as error:
    sys.exit(printable(error) or "interrupted")
for entry in [root, *below]:
    print(entry.pid, printable(entry.comm), entry.duration, "exit code", entry.exit_status, "signal", entry.exit_signal)

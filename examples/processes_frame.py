#!/usr/bin/env python3
"""Load all live and retained processes into a pandas frame, and print how long those of some executables lived.

Needs pandas: pip install 'procline[pandas]'
"""

import argparse

from pipeline import ProcessTable, printable

argparse.ArgumentParser(description=__doc__).parse_args()
with ProcessTable.attach() as table:
    names = ["pid", "path", "start_time", "exit_time", "is_exited"]
    frame = table.columns(names, running=False).to_pandas()
frame["path"] = frame["path"].astype(object).map(printable, na_action="ignore")

frame["lived_s"] = (frame["exit_time"] - frame["start_time"]).dt.total_seconds()
ended = frame[frame["is_exited"]].groupby("path")["lived_s"]
print(ended.agg(["count", "median", "max"]).sort_values("count", ascending=False).head(10))

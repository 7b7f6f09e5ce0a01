#!/usr/bin/env python3
"""Print how often each program was executed in the last minutes, by the images that the tables retain."""

import argparse
from collections import Counter
from datetime import UTC, datetime, timedelta

from pipeline import ProcessTable, printable

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("minutes", nargs="?", type=float, default=5.0)
since = datetime.now(UTC) - timedelta(minutes=parser.parse_args().minutes)
counts: Counter[str] = Counter()
with ProcessTable.attach() as table:
    for entry in table.walk(exited=True):
        for image in entry.images():  # a process can execute several programs, one after another
            if image.is_exec and image.exec_time and image.exec_time > since:
                counts[image.path or "unknown"] += 1
for path, count in counts.most_common(20):
    print(f"{count:7} {printable(path)}")

#!/usr/bin/env python3
"""List the processes of a container, or the number of processes of each."""

import argparse
from collections import Counter

from pipeline import ProcessTable, printable

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("id", nargs="?", help="the first characters of its id suffice, as for docker and podman")
wanted = parser.parse_args().id
with ProcessTable.attach() as table:
    batch = table.batch(["pid", "ppid", "user", "uid", "comm", "argv", "container_id"], running=True)
inside = [each for each in batch.dicts() if each["container_id"]]
if wanted:
    for each in inside:
        if (each["container_id"] or "").startswith(wanted):
            user = printable(each["user"] or each["uid"])
            print(f"{each['pid']:7} {each['ppid']:7} {user:10} {each['argv'] or [each['comm']]}")
else:
    for container, count in Counter(each["container_id"] for each in inside).most_common():
        print(f"{count:5} processes in {printable(container)}")
    print(f"{len(inside)} processes are in containers")

#!/usr/bin/env python3
"""Warn when a shell starts below a web server. It runs until Ctrl-C."""

import argparse
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import PurePath

from pipeline import Subscriber, printable

SERVERS = {"nginx", "apache2", "httpd", "php-fpm", "gunicorn", "node"}
SHELLS = {"sh", "bash", "dash", "zsh", "busybox"}

argparse.ArgumentParser(description=__doc__).parse_args()
with suppress(KeyboardInterrupt), Subscriber(topics=["exec", "sys.loss"]) as subscriber:
    for event in subscriber:
        if event["event"] != "exec":
            print(f"Events were lost, so an alert may be missing: {event}", flush=True)
            continue
        # The last part of the path: a process can change its name, but not this.
        chain = [PurePath(each["path"] or "").name for each in event["lineage"]]
        if PurePath(event["path"] or "").name in SHELLS and not SERVERS.isdisjoint(chain):
            when = datetime.fromtimestamp(event["time_ns"] / 1e9, UTC).isoformat(timespec="milliseconds")
            came = printable(" < ".join(chain))  # names need not be text
            print(f"{when} ALERT shell below a web server: pid {event['pid']} {event['argv']} < {came}", flush=True)

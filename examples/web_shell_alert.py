#!/usr/bin/env python3
"""Warn when a shell starts below a web server, also in the background. It runs until Ctrl-C."""

import argparse
from contextlib import suppress
from pathlib import PurePath

from pipeline import EventObject, ProcessTable, ProclineError, Subscriber, printable

SERVERS = {"nginx", "apache2", "httpd", "php-fpm", "gunicorn", "node"}
SHELLS = {"sh", "bash", "dash", "zsh", "busybox"}


def program(path: str | None) -> str:  # a process can change its name, but not this
    return PurePath(path or "").name


argparse.ArgumentParser(description=__doc__).parse_args()
with suppress(KeyboardInterrupt), ProcessTable.attach() as table, Subscriber(topics=["exec", "sys.loss"]) as subscriber:
    for event in subscriber:
        if event["event"] != "exec":
            print(f"Events were lost, so an alert may be missing: {event}", flush=True)
        elif program(event["path"]) in SHELLS:
            chain = [program(each["path"]) for each in event["lineage"]]  # its earlier programs, and its parents
            with suppress(ProclineError):  # the parent of an orphan is pid 1: its origin is what started it
                entry = table.resolve(event["pid"], at=event["time_ns"])
                chain += [program(each.path) for each in (entry.ancestors(by="origin") if entry else ())]
            if not SERVERS.isdisjoint(chain):
                when, came = EventObject(event).time, printable(" < ".join(filter(None, dict.fromkeys(chain))))
                print(f"{when} ALERT shell below a web server: pid {event['pid']} {event['argv']} < {came}", flush=True)

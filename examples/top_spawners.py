#!/usr/bin/env python3
"""Count forks for some seconds, and print which programs made the most."""

import argparse
from collections import Counter
from contextlib import suppress

from pipeline import Subscriber, printable

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("seconds", nargs="?", type=float, default=10.0)
forks: Counter[str] = Counter()
with Subscriber(topics=["fork"], on_gap=print, timeout=parser.parse_args().seconds) as subscriber:
    with suppress(KeyboardInterrupt):
        for event in subscriber:
            for parent in event["lineage"][:1]:  # the nearest ancestor is the process that forked
                forks[f"{parent['path']} (pid {parent['pid']})"] += 1
    print(f"{sum(forks.values())} forks, {subscriber.missed} events missed")
for program, count in forks.most_common(10):
    print(f"{count:7} {printable(program)}")

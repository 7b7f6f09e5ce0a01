#!/usr/bin/env python3
"""Draw a histogram of how long processes live, by the exits of some seconds."""

import argparse
from collections import Counter
from contextlib import suppress

from pipeline import Subscriber

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("seconds", nargs="?", type=float, default=10.0)
#: How many processes lived up to 10**n microseconds.
lived: Counter[int] = Counter()
with suppress(KeyboardInterrupt):
    for event in Subscriber(topics=["exit"], on_gap=print, timeout=parser.parse_args().seconds):
        if event["start_time_ns"] and event["exit_time_ns"]:
            lived[len(str((event["exit_time_ns"] - event["start_time_ns"]) // 1000))] += 1
for power in range(min(lived, default=1), max(lived, default=0) + 1):
    bar = "#" * (50 * lived[power] // max(lived.values()))
    print(f"up to {10**power / 1000:>11,.12g} ms {lived[power]:7} {bar}")

"""A subscriber that checks the numbers of what it gets: `python -m tests.faults.listener DIRECTORY`.

At SIGTERM it prints JSON: for each topic the first and last number, and how many it has seen, missed and seen twice.
"""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path
from typing import Any

from pipeline import Subscriber

TOPICS = {"fork": "proc.fork", "exit": "proc.exit"}


class Numbers:
    """The numbers of one topic."""

    def __init__(self) -> None:
        self.first = self.last = self.seen = self.missed = self.wrong = 0

    def take(self, first: int, last: int, *, is_missed: bool) -> None:
        """Note that the events with these numbers have arrived, or are reported as missing."""
        if self.last and first != self.last + 1:
            self.wrong += 1
        self.first = self.first or first
        self.last = last
        if is_missed:
            self.missed += last + 1 - first
        else:
            self.seen += 1


def main() -> None:
    """Listen until SIGTERM."""
    numbers = {topic: Numbers() for topic in TOPICS.values()}
    others: list[Any] = []

    def end(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, end)
    try:
        with Subscriber(path=Path(sys.argv[1]), topics=list(TOPICS.values()), follow=True) as subscriber:
            print("listening", flush=True)
            for event in subscriber:
                if event["event"] == "missed" and event["topic"] in numbers and event["last"]:
                    numbers[event["topic"]].take(event["first"], event["last"], is_missed=True)
                elif event["event"] in TOPICS:
                    numbers[TOPICS[event["event"]]].take(event["seq"], event["seq"], is_missed=False)
                else:
                    others.append(event)
    except KeyboardInterrupt:
        pass
    print(json.dumps({"numbers": {topic: vars(each) for topic, each in numbers.items()}, "others": others[:5]}))


if __name__ == "__main__":
    main()

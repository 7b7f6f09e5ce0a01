"""A subscriber that is a process of its own, which a test can kill: it writes what it receives and where it stands.

Each line of its file is a JSON object: `events`, the fields FIELDS of those about descendants of one process; `runs`,
the consecutive numbers of all events as (kind, first, last, whether missed); `now_ns`, when they were returned; and the
`position` behind them. If the file exists, it continues behind the position of the last whole line.
"""

from __future__ import annotations

import json
import signal
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pipeline import StreamPosition, Subscriber
from pipeline.bus.stream.stream_reader import RECEIVE_HWM_MESSAGES

#: What the state of a process is made of; `exit_code` is null while it lives.
FACTS = ("pid", "ppid", "comm", "path", "images", "is_exited", "exit_code", "creator_entity_id", "fork_time_ns")
FIELDS = ("event", "seq", "time_ns", "entity_id", *FACTS)
CONNECT_TIMEOUT_S = 120.0
_TOPICS = {"fork", "exec", "exit", "cred", "reparent"}


class Family:
    """The descendants of a process, by the creators that events name; and runs of the numbers of all events.

    Other programs of a busy host can make many more events than a test.
    """

    def __init__(self, root: str) -> None:
        self.members = {root}

    def compact(self, events: Iterable[Mapping[str, Any]]) -> tuple[list[list[Any]], list[list[Any]]]:
        """Return the fields of the events about descendants, and the runs."""
        kept: list[list[Any]] = []
        runs: list[list[Any]] = []
        open_runs: dict[str, list[Any]] = {}
        events = list(events)
        size = 0
        while size != len(self.members):  # a list of processes can have a child before its parent
            size = len(self.members)
            listed = (event for event in events if event["event"] == "snapshot")
            self.members |= {each["entity_id"] for each in listed if each["creator_entity_id"] in self.members}
        for event in events:
            kind, seq = event["event"], event.get("seq")
            if kind == "missed":
                assert event.get("topic"), "a restart"
                kind = event["topic"].partition(".")[2]
                runs.append([kind, event["first"], event["last"], True])
                open_runs.pop(kind, None)
                continue
            if kind in {"unwatched", "loss", "stats"}:
                continue
            if seq is not None:
                topic = kind if kind in _TOPICS else "context"
                run = open_runs.get(topic)
                if run is not None and run[2] + 1 == seq:
                    run[2] = seq
                else:
                    open_runs[topic] = run = [topic, seq, seq, False]
                    runs.append(run)
            entity = event.get("entity_id")
            if entity in self.members or event.get("creator_entity_id") in self.members:
                self.members.add(entity)
                kept.append([event.get(field) for field in FIELDS])
        return kept, runs


def lines(file: Path) -> Iterator[dict[str, Any]]:
    """Read the whole lines of a file; a kill can have cut the last one short."""
    with file.open("rb") as opened:
        for line in opened:
            if line.endswith(b"\n"):
                yield json.loads(line)


def main(directory: Path, file: Path, root: str, *, waits: bool = False, pace: float = 0.0) -> None:
    """Read until this is killed.

    Args:
        directory: of the instance.
        file: what is written.
        root: entity id of the process with the descendants.
        waits: nothing is read until standard input ends.
        pace: reads this many events a second until SIGUSR1; 0: as fast as possible.
    """
    hurry = threading.Event()
    signal.signal(signal.SIGUSR1, lambda number, frame: hurry.set())
    resume, family = None, Family(root)
    if file.exists():
        whole = list(lines(file))
        resume = StreamPosition.from_dict(whole[-1]["position"])
        family.members |= {event[FIELDS.index("entity_id")] for line in whole for event in line["events"]}
        with file.open("r+b") as opened:  # without what was cut short
            opened.truncate(opened.read().rfind(b"\n") + 1)
    with (
        file.open("a") as out,
        Subscriber(
            "test", ["proc"], path=directory, snapshot=resume is None, resume=resume,
            connect_timeout=CONNECT_TIMEOUT_S, receive_hwm=1 if waits else RECEIVE_HWM_MESSAGES,
        ) as subscriber,
    ):  # fmt: skip
        events: list[Any] = []
        while True:
            now_ns = time.time_ns()
            kept, runs = family.compact(events)
            line = {
                "now_ns": now_ns, "events": kept, "runs": runs,
                "position": subscriber.position.as_dict(), "missed": subscriber.missed,
                "recovered": subscriber.recovered, "repeats": subscriber.repeats, "listed": subscriber.listed,
            }  # fmt: skip
            out.write(json.dumps(line) + "\n")
            out.flush()
            if waits:
                sys.stdin.read()
                waits = False
            if pace and events:
                hurry.wait(len(events) / pace)
            events = subscriber.read()


if __name__ == "__main__":
    mode = sys.argv[4] if len(sys.argv) > 4 else ""
    main(
        Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], waits=mode == "waits",
        pace=float(mode.removeprefix("pace=")) if mode.startswith("pace=") else 0.0,
    )  # fmt: skip

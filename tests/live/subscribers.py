"""Subscribers in processes of their own, and what tests ask of them."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tests.live.harness import CHECKOUT, Daemon, resolve
from tests.live.subscriber_process import FIELDS, lines
from tests.waiting import eventually

#: How long a test waits for a subscriber. On an idle machine it takes less than a second.
LONG_S = 180.0


class Reader:
    """A subscriber in Python that writes to a file; see `subscriber_process.py`.

    Args:
        stack: ends it.
        daemon: the instance.
        name: of its file.
        root: entity id of the process whose descendants' events it keeps.
        mode: "waits", "pace=N", or nothing.
    """

    def __init__(self, stack: ExitStack, daemon: Daemon, name: str, root: str, mode: str = "") -> None:
        self.name = name
        self.file = daemon.root / f"{name}.events"
        self._command = [sys.executable, "-m", "tests.live.subscriber_process", str(daemon.directory), str(self.file)]
        self._command += [root, mode] if mode else [root]
        self._environment = daemon.environment
        self.joined_ns = 0
        self.start()
        stack.callback(self.kill)

    def start(self) -> None:
        """Start it, or start it again behind its position; return when it has connected."""
        size = self.file.stat().st_size if self.file.exists() else 0
        # In a session of its own, as programs of different users are: a kernel may divide the CPU among sessions.
        self._process = subprocess.Popen(
            self._command, cwd=CHECKOUT, env=self._environment, stdin=subprocess.PIPE, start_new_session=True
        )
        eventually(lambda: self.file.exists() and self.file.stat().st_size > size, limit_s=LONG_S)
        self.joined_ns = self.joined_ns or time.time_ns()

    def go_on(self) -> None:
        """Let it read, if it waits."""
        assert self._process.stdin is not None
        self._process.stdin.close()

    def kill(self) -> None:
        """End it with SIGKILL."""
        self._process.kill()
        self._process.wait()

    @property
    def pid(self) -> int:
        return self._process.pid

    def has(self, word: str) -> bool:
        """Whether it has written a word recently."""
        return has(self.file, word)

    def events(self) -> Iterator[dict[str, Any]]:
        """The events about descendants of the test that it has received, with `now_ns`."""
        for line in lines(self.file):
            for values in line["events"]:
                yield dict(zip(FIELDS, values, strict=True), now_ns=line["now_ns"])

    def runs(self) -> Iterator[list[Any]]:
        """The runs of the numbers of all events."""
        for line in lines(self.file):
            yield from line["runs"]

    @property
    def last_line(self) -> dict[str, Any]:
        with self.file.open("rb") as opened:
            opened.seek(max(0, self.file.stat().st_size - (1 << 22)))
            return dict(json.loads(opened.read().rpartition(b"\n")[0].rpartition(b"\n")[2]))


def has(file: Path, word: str) -> bool:
    with file.open("rb") as opened:
        opened.seek(max(0, file.stat().st_size - (1 << 22)))
        return word.encode() in opened.read()


def identity(daemon: Daemon, pid: int) -> str:
    with daemon.attach() as table:
        return str(resolve(table, pid).to_dict()["entity_id"])


def mark(daemon: Daemon) -> str:
    """Run a program with a new name, and return the name."""
    program = daemon.root / f"m{random.getrandbits(40):x}"
    shutil.copy("/bin/true", program)
    subprocess.run([program], check=True)
    return program.name


def numbers(runs: Iterable[list[Any]]) -> tuple[int, int]:
    """How many numbers are in gaps, and how many are neither in a gap nor received; none comes twice or too early."""
    last: dict[str, int] = {}
    missed = lacking = 0
    for kind, first, end, is_missed in runs:
        assert first > last.get(kind, 0), (kind, first, last[kind])
        lacking += first - last.get(kind, first - 1) - 1
        missed += (end - first + 1) * is_missed
        last[kind] = end
    return missed, lacking


def delays_s(reader: Reader, begin_ns: int, end_ns: int) -> list[float]:
    """Return how late the events of a time arrived, the shortest delay first."""
    return sorted(
        (event["now_ns"] - event["time_ns"]) / 1e9
        for event in reader.events()
        if event["seq"] is not None and begin_ns <= event["time_ns"] < end_ns
    )

"""Eight subscribers at once: each builds the state of the table from its events, whatever the others do.

One never reads, one joins in the middle, one is killed and returns with its position, one is not written in Python.
`PROCLINE_SUBSCRIBER_EVENTS` sets how many events the load makes; the default suits CI.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from pipeline import paths
from tests.client import languages
from tests.live.harness import CHECKOUT, Daemon, eventually, resolve
from tests.live.reader import FACTS, FIELDS, Family, lines

pytestmark = [pytest.mark.live, pytest.mark.slow, pytest.mark.alone]

EVENTS = int(os.environ.get("PROCLINE_SUBSCRIBER_EVENTS", "4000"))
IS_WHOLE = EVENTS >= 50_000
RATE = 2000 if IS_WHOLE else 500
#: The load is made in so many parts.
PARTS = 5
LONG_S = 180.0
#: What a subscriber that never reads finds later must be less than what is made meanwhile.
SETTINGS = f"""
[stream]
hwm_messages = {1024 if IS_WHOLE else 64}
journal_bytes = {max(4 << 20, EVENTS * 700)}
"""
#: How much later events may arrive while another subscriber never reads: a factor, and seconds, for a busy machine.
LAG_FACTOR, LAG_MORE_S = 3.0, 1.0


class Reader:
    """A subscriber in Python that writes to a file; see `reader.py`."""

    def __init__(self, stack: ExitStack, daemon: Daemon, name: str, root: str, *, waits: bool = False) -> None:
        self.name = name
        self.file = daemon.root / f"{name}.events"
        self._command = [sys.executable, "-m", "tests.live.reader", str(daemon.directory), str(self.file), root]
        self._command += ["waits"] * waits
        self._environment = daemon.environment
        self.joined_ns = 0
        self.start()
        stack.callback(self.kill)

    def start(self) -> None:
        """Start it, or start it again behind its position; return when it has connected."""
        size = self.file.stat().st_size if self.file.exists() else 0
        self._process = subprocess.Popen(self._command, cwd=CHECKOUT, env=self._environment, stdin=subprocess.PIPE)
        eventually(lambda: self.file.exists() and self.file.stat().st_size > size, timeout=LONG_S)
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
        """What it has received about descendants of the test, with `now_ns`."""
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


def state_of(events: Iterable[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the facts of each process, as its last event has them."""
    return {event["entity_id"]: {fact: event[fact] for fact in FACTS} for event in events}


def identity(daemon: Daemon, pid: int) -> str:
    with daemon.attach() as table:
        return str(resolve(table, pid).to_dict()["entity_id"])


def table_of(daemon: Daemon, root: str) -> dict[str, dict[str, Any]]:
    """Return the facts of all descendants of a process that the table has."""
    made: dict[Any, list[dict[str, Any]]] = {}
    with daemon.attach() as table:
        for row in table.batch(["entity_id", *FACTS]).dicts():
            made.setdefault(row["creator_entity_id"], []).append(row)
    found, waiting = {}, [root]
    while waiting:
        for row in made.get(waiting.pop(), ()):
            found[row["entity_id"]] = {fact: row[fact] for fact in FACTS}
            waiting.append(row["entity_id"])
    return found


def assert_equal(name: str, state: dict[str, Any], table: dict[str, Any], since_ns: int, *, lists: bool = True) -> None:
    """All that live, and all that began after a subscriber joined, are in its state; what is there is right.

    A subscriber that does not list the processes of the table does not know those that are older than itself.
    """
    needed = {
        key
        for key, facts in table.items()
        if (lists and not facts["is_exited"]) or (facts["fork_time_ns"] or 0) > since_ns
    }
    lacking = needed - set(state)
    assert not lacking, (name, len(lacking), [table[key] for key in list(lacking)[:3]])
    wrong = [(table[key], state[key]) for key in table if key in state and state[key] != table[key]]
    # Of a process that has changed since the table was read, its events say more.
    wrong = [(row, seen) for row, seen in wrong if row["is_exited"] or seen["images"] <= row["images"]]
    differing = [
        {field: (row[field], seen[field]) for field in row if row[field] != seen[field]} for row, seen in wrong
    ]
    differing = [each for each in differing if each.keys() - {"is_exited", "exit_code"} or not each["is_exited"][1]]
    assert not differing, (name, len(differing), differing[:3])


def p99_s(reader: Reader, begin_ns: int, end_ns: int) -> float:
    """How late the events of a time arrived."""
    lags = sorted(
        event["now_ns"] - event["time_ns"]
        for event in reader.events()
        if event["seq"] is not None and begin_ns <= event["time_ns"] < end_ns
    )
    assert len(lags) > 100
    return lags[int(len(lags) * 0.99)] / 1e9


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


class Load:
    """`procline load` against the running instance."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self.made = 0
        self.failed = 0

    def begin(self, events: int) -> subprocess.Popen[str]:
        """Start making about so many events."""
        return subprocess.Popen(
            [sys.executable, "-m", "pipeline.cli.main", "load", "mix", "--name", self._daemon.name, "--rate", str(RATE),
             "--duration", f"{max(1.0, events / RATE):g}", "--json"],
            env=self._daemon.environment, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def end(self, process: subprocess.Popen[str]) -> int:
        """Wait for its end, and return how many events it made."""
        out, _ = process.communicate(timeout=LONG_S * 10)
        if process.returncode not in (0, 1):
            # On a busy machine the tables can be too far behind for its begin.
            self.failed += 1
            assert self.failed < 20
            return 0
        made = json.loads(out)["made"]
        count = sum(number for kind, number in made.items() if kind != "thread")
        self.made += count
        return count

    def run(self, events: int) -> None:
        """Make at least so many events. A busy machine makes fewer in the time."""
        while events > 0:
            events -= self.end(self.begin(events))


def mark(daemon: Daemon) -> str:
    """Run a program with a new name, and return the name."""
    program = daemon.root / f"m{random.getrandbits(40):x}"
    shutil.copy("/bin/true", program)
    subprocess.run([program], check=True)
    return program.name


@pytest.mark.timeout(3600)
def test_each_of_eight_subscribers_builds_the_state_of_the_table(live_kernel: None) -> None:
    language = next(iter(each for each in languages.available() if each in {"c", "perl"}))
    part = EVENTS // PARTS
    with Daemon(SETTINGS) as daemon, ExitStack() as stack:
        load, root = Load(daemon), identity(daemon, os.getpid())
        healthy = [Reader(stack, daemon, f"healthy-{number}", root) for number in range(4)]
        returning = Reader(stack, daemon, "returning", root)
        foreign_file = daemon.root / "foreign.events"
        with foreign_file.open("wb") as out:
            foreign = subprocess.Popen(
                [*languages.command(language), paths.endpoint(paths.stream_socket(daemon.directory))], stdout=out,
                stdin=subprocess.DEVNULL,
            )  # fmt: skip
        stack.callback(foreign.wait)
        stack.callback(foreign.kill)
        eventually(lambda: has(foreign_file, mark(daemon)) or has(foreign_file, "exec"), timeout=LONG_S, interval=0.2)
        foreign_ns = time.time_ns()

        without = [time.time_ns()]
        load.run(part)
        without.append(time.time_ns())
        load.made = 0
        slow = Reader(stack, daemon, "slow", root, waits=True)
        with_slow = [time.time_ns()]
        for number in range(PARTS):
            process = load.begin(part)
            before = returning.last_line["position"]
            if number == 1:
                eventually(lambda before=before: returning.last_line["position"] != before, timeout=LONG_S)
                returning.kill()
            elif number == 2:
                late = Reader(stack, daemon, "late", root)
            rest = part - load.end(process)
            if number == 1:
                returning.start()
            load.run(rest)
        with_slow.append(time.time_ns())

        name = mark(daemon)
        for reader in (*healthy, returning, late):
            eventually(lambda reader=reader: reader.has(name), timeout=LONG_S)
        eventually(lambda: has(foreign_file, name), timeout=LONG_S)
        slow.go_on()
        eventually(lambda: slow.has(name), timeout=LONG_S)
        time.sleep(1)  # the exit of the last program
        table = table_of(daemon, root)
        lost = daemon.stat()["lost"]
        for reader in (*healthy, returning, late, slow):
            reader.kill()
        foreign.send_signal(signal.SIGINT)
        foreign.wait(LONG_S)
        with foreign_file.open("rb") as opened:
            kept, runs = Family(root).compact(map(json.loads, opened))
        foreign_events = [dict(zip(FIELDS, values, strict=True)) for values in kept]

        lags = [(p99_s(reader, *without), p99_s(reader, *with_slow)) for reader in healthy]
        found = {reader.name: numbers(reader.runs()) for reader in (*healthy, returning, late, slow)}
        found[language] = numbers(runs)
        print(
            f"{load.made} events of the load, {len(table)} processes; p99 of the lag without and with the slow one, s: "
            + ", ".join(f"{before:.3f} {after:.3f}" for before, after in lags)
            + f"; missed: { {name: missed for name, (missed, _) in found.items()} }; "
            f"recovered: {returning.last_line['recovered']}, {slow.last_line['recovered']}"
        )
        assert load.made >= EVENTS and not any(lost.values())
        assert len(table) > EVENTS / 10
        for reader in (*healthy, returning, late):
            missed, lacking = found[reader.name]
            assert missed == reader.last_line["repeats"] == 0, reader.name
            # A list of processes shows what the next events report, so the subscriber drops those and counts them.
            assert lacking <= (0 if reader is returning else reader.last_line["listed"]), reader.name
            assert_equal(reader.name, state_of(reader.events()), table, reader.joined_ns)
        assert found[language][1] == 0
        if not found[language][0]:  # it does not read the journal, so a queue that was full is a gap
            assert_equal(language, state_of(foreign_events), table, foreign_ns, lists=False)
        assert returning.last_line["recovered"] > 0
        # The slow one knows what it missed, and its state is right as well: it lists the processes after a gap.
        assert found["slow"][0] == slow.last_line["missed"] > 0
        for before, after in lags:
            assert after < before * LAG_FACTOR + LAG_MORE_S, "a slow subscriber made others late"

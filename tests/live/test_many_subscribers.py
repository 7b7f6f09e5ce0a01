"""Eight subscribers at once: each builds the state of the table from its events, whatever the others do.

One never reads, one joins in the middle, one is killed and returns with its position, one is not written in Python.
`PROCLINE_SUBSCRIBER_EVENTS` sets how many events the load makes; the default suits CI.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from contextlib import ExitStack
from typing import Any

import pytest

from pipeline import paths
from tests.client import languages
from tests.linux import SKIPPED_KINDS, lost_kinds
from tests.live.harness import Daemon
from tests.live.subscriber_process import FACTS, FIELDS, Family
from tests.live.subscribers import LONG_S, Reader, delays_s, has, identity, mark, numbers
from tests.waiting import eventually

pytestmark = [pytest.mark.live, pytest.mark.slow, pytest.mark.alone, pytest.mark.tolerant]

EVENTS = int(os.environ.get("PROCLINE_SUBSCRIBER_EVENTS", "4000"))
IS_WHOLE = EVENTS >= 50_000
RATE = 2000 if IS_WHOLE else 500
#: The load makes a little less than its rate. A second one, for the few events that are missing, would take seconds.
MARGIN = 1.1
#: Parts in which the load is made.
PARTS = 5
#: What a subscriber that never reads finds later must be less than what is made meanwhile.
SETTINGS = f"""
[stream]
hwm_messages = {1024 if IS_WHOLE else 64}
journal_bytes = {max(4 << 20, EVENTS * 700)}
"""
#: How much later events may arrive while another subscriber never reads: a factor, and seconds, for a busy machine.
LAG_FACTOR, LAG_MORE_S = 3.0, 1.0


def state_of(events: Iterable[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the facts of each process, as its last event has them."""
    return {event["entity_id"]: {fact: event[fact] for fact in FACTS} for event in events}


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
    # If a process has changed since the table was read, its events say more.
    wrong = [(row, seen) for row, seen in wrong if row["is_exited"] or seen["images"] <= row["images"]]
    differing = [
        {field: (row[field], seen[field]) for field in row if row[field] != seen[field]} for row, seen in wrong
    ]
    differing = [each for each in differing if each.keys() - {"is_exited", "exit_code"} or not each["is_exited"][1]]
    assert not differing, (name, len(differing), differing[:3])


def received(reader: Reader) -> int:
    """Return how many events a subscriber has received."""
    return sum(end - first + 1 for _, first, end, is_missed in reader.runs() if not is_missed)


def kill_and_start(reader: Reader, other: Reader) -> None:
    """Kill a subscriber that receives events, and start it again when another one has received some without it.

    It may not be away for longer: how long the journal holds them depends on what else the machine runs meanwhile.
    """
    before = received(reader)
    eventually(lambda: received(reader) > before, limit_s=LONG_S)
    reader.kill()
    before = received(other)
    eventually(lambda: received(other) >= before + EVENTS // PARTS // 4, limit_s=LONG_S)
    reader.start()


def p99_s(reader: Reader, begin_ns: int, end_ns: int) -> float:
    """How late the events of a time arrived."""
    late = delays_s(reader, begin_ns, end_ns)
    assert len(late) > 100
    return late[int(len(late) * 0.99)]


class Load:
    """`procline load` against the running instance."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self.made = 0
        self.failed = 0

    def begin(self, events: int) -> subprocess.Popen[str]:
        """Start making about this many events."""
        return subprocess.Popen(
            [sys.executable, "-m", "pipeline.cli.main", "load", "mix", "--name", self._daemon.name, "--rate", str(RATE),
             "--duration", f"{max(1.0, events / RATE * MARGIN):g}", "--json"],
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
        """Make at least this many events. A busy machine makes fewer in the time."""
        while events > 0:
            events -= self.end(self.begin(events))


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
        eventually(lambda: has(foreign_file, mark(daemon)) or has(foreign_file, "exec"), limit_s=LONG_S, pause_s=0.2)
        foreign_ns = time.time_ns()

        without = [time.time_ns()]
        load.run(part)
        without.append(time.time_ns())
        load.made = 0
        slow = Reader(stack, daemon, "slow", root, "waits")
        with_slow = [time.time_ns()]
        for number in range(PARTS):
            process = load.begin(part)
            if number == 1:
                kill_and_start(returning, healthy[0])
            elif number == 2:
                late = Reader(stack, daemon, "late", root)
            load.run(part - load.end(process))
        with_slow.append(time.time_ns())

        name = mark(daemon)
        for reader in (*healthy, returning, late):
            eventually(lambda reader=reader: reader.has(name), limit_s=LONG_S)
        eventually(lambda: has(foreign_file, name), limit_s=LONG_S)
        slow.go_on()
        eventually(lambda: slow.has(name), limit_s=LONG_S)
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
        assert load.made >= EVENTS and lost_kinds(lost) <= SKIPPED_KINDS
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

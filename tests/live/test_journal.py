"""kill -9 of shards, resolver and supervisor in storms: a subscriber gets each event once, or a gap is reported to it.

`PROCLINE_KILLS` and `PROCLINE_SUPERVISOR_KILLS` set how many processes are killed; the defaults suit CI.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from pipeline import ProclineError, StreamPosition, Subscriber
from tests.live.harness import Daemon
from tests.live.storms import SHARED, Storm
from tests.waiting import eventually

pytestmark = [pytest.mark.live, pytest.mark.slow]

KILLS = int(os.environ.get("PROCLINE_KILLS", "4"))
SUPERVISOR_KILLS = int(os.environ.get("PROCLINE_SUPERVISOR_KILLS", "1"))
#: A busy machine may take this time to replace a process. Waiting ends as soon as the process is replaced.
LONG_S = 120.0
SETTINGS = """
[supervision]
early_deaths_max = 1000
restarts_max = 100000
"""


class Follower:
    """Reads the events of a daemon in a thread, and keeps what identifies them."""

    def __init__(self, daemon: Daemon, resume: StreamPosition | None = None) -> None:
        self._daemon = daemon
        self.subscriber = Subscriber(
            "test", ["fork", "exec", "exit"], path=daemon.directory, connect_timeout=LONG_S, resume=resume
        )
        #: By stream and kind: numbers, and identities.
        self.seqs: dict[tuple[int, str], list[int]] = {}
        self.identities: Counter[tuple[Any, ...]] = Counter()
        self.parents: list[tuple[str, int | None, str | None]] = []
        self.gaps: list[Any] = []
        self.names: set[str | None] = set()
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        while not self._is_over.is_set():
            events = self.subscriber.read(timeout=0.2)
            stream = self.subscriber.position.stream
            for event in events:
                if event["event"] in {"missed", "unwatched"}:
                    self.gaps.append(event)
                    continue
                kind = event["event"]
                self.seqs.setdefault((stream, kind), []).append(event["seq"])
                self.identities[kind, event["entity_id"], event["time_ns"]] += 1
                self.parents.append((kind, event["ppid"], event["comm"]))
                self.names.add(event["comm"])

    def stop(self, program: Path) -> None:
        """Read until an exec of a new program has arrived, and end."""
        catch_up(self._daemon)
        marker = program.with_name(f"m{random.getrandbits(40):x}")
        shutil.copy("/bin/true", marker)
        subprocess.run([marker], check=True)
        # After many kills on a busy machine much can be waiting; it must become less.
        seen, deadline = -1, 0.0
        while marker.name not in self.names:
            count = sum(map(len, self.seqs.values()))
            if count != seen:
                seen, deadline = count, time.monotonic() + LONG_S
            if time.monotonic() > deadline:
                frames = "".join(traceback.format_stack(sys._current_frames()[self._thread.ident or 0]))
                stat = {key: value for key, value in self._daemon.stat().items() if key != "histograms"}
                log = self._daemon.log.read_text()[-2000:]
                raise AssertionError(f"{seen} events, then none; {self.subscriber.position}; {stat}\n{log}\n{frames}")
            time.sleep(0.1)
        time.sleep(0.5)  # its exit, which is not awaited, makes no difference
        self._is_over.set()
        self._thread.join()

    def assert_once(self) -> None:
        """Each number came once and in order, and no event came under two numbers."""
        for (_, kind), seqs in self.seqs.items():
            assert seqs == list(range(seqs[0], seqs[0] + len(seqs))), kind
        twice = [key for key, count in self.identities.items() if count > 1]
        assert not twice, twice[:5]


def catch_up(daemon: Daemon) -> None:
    """Wait until what has happened so far is in the tables: what a full ring loses no journal can return."""
    now = time.clock_gettime_ns(time.CLOCK_BOOTTIME)

    def has_caught_up() -> bool:
        try:
            with daemon.attach() as table:
                return table.watermark_boot_ns > now
        except ProclineError:
            return False

    eventually(has_caught_up, limit_s=LONG_S)


def workers(daemon: Daemon, role: str) -> list[tuple[int, int]]:
    """Return (pid, start) of live workers. A storm uses all pids within minutes, so a pid alone is not enough."""
    found = []
    for pid in daemon.pids(role):
        with suppress(FileNotFoundError, ProcessLookupError):
            found.append((pid, int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])))
    return found


def test_kills_of_shards_and_resolver_cost_a_subscriber_nothing(live_kernel: None, workload: Path) -> None:
    chance = random.Random(19)
    # By a name of its own: within minutes, the workload of another test can have the pid of one of these parents.
    program = workload.with_name(f"s{random.getrandbits(40):x}")
    shutil.copy(workload, program)
    with Daemon(SETTINGS) as daemon:
        follower = Follower(daemon)
        killed: set[tuple[int, int]] = set()
        with Storm(program, pause_s=0.05, **SHARED) as storm:
            while len(killed) < KILLS:
                time.sleep(chance.uniform(0.05, 1.0))
                role = chance.choice(["resolver", "resolver", "shard"])
                victim = eventually(lambda role=role: set(workers(daemon, role)) - killed, limit_s=LONG_S).pop()
                with suppress(ProcessLookupError):
                    os.kill(victim[0], signal.SIGKILL)
                    killed.add(victim)
                # One in four may hit a process that is just starting; more would leave no process to empty the rings.
                if chance.random() < 0.75:
                    catch_up(daemon)
        follower.stop(workload)
        subscriber = follower.subscriber
        print(
            f"{len(killed)} kills, {sum(follower.identities.values())} events, {subscriber.recovered} from the journal"
        )
        assert follower.gaps == [] and subscriber.missed == 0 and subscriber.repeats == 0
        follower.assert_once()
        # All processes of the workload are there, and no more.
        made = Counter(kind for kind, ppid, comm in follower.parents if ppid in storm.parents and comm == program.name)
        assert made["exec"] == storm.made["exec"] and made["fork"] == storm.made["fork"] + storm.made["exec"]
        subscriber.close()


def test_kills_of_the_supervisor_are_one_gap_each(live_kernel: None, workload: Path) -> None:
    """Earlier events are read from the journal; for the rest an event says from when to when no daemon watched."""
    with Daemon(SETTINGS) as daemon:
        follower = Follower(daemon)
        killed: list[int] = []
        with Storm(workload, pause_s=0.05, **SHARED) as storm:
            for _ in range(SUPERVISOR_KILLS):
                before = len(storm.parents)
                eventually(lambda before=before: len(storm.parents) > before, limit_s=LONG_S)
                daemon.kill()
                killed.append(time.time_ns())
                daemon.start()
        # A heartbeat reports it, up to a second after the first events.
        eventually(lambda: len(follower.gaps) >= SUPERVISOR_KILLS, limit_s=LONG_S)
        follower.stop(workload)
        subscriber = follower.subscriber
        print(f"{SUPERVISOR_KILLS} kills, {sum(follower.identities.values())} events")
        assert [gap["event"] for gap in follower.gaps] == ["unwatched"] * SUPERVISOR_KILLS
        assert subscriber.missed == 0 and subscriber.repeats == 0
        follower.assert_once()
        # The times begin with what was committed, and end when the next capture was complete: events of the last step
        # before, and of the beginning of the next capture, may have been seen.
        for gap, killed_ns in zip(follower.gaps, killed, strict=True):
            assert gap["unwatched_from_ns"] < killed_ns < gap["unwatched_to_ns"]
        subscriber.close()


def test_a_subscriber_returns_after_an_orderly_restart(live_kernel: None, workload: Path) -> None:
    with Daemon("[supervision]\nkeep_tables = true\n") as daemon:
        with Subscriber("test", ["exec"], path=daemon.directory, connect_timeout=LONG_S) as first:
            subprocess.run(["/bin/true"], check=True)
            events: list[Any] = list(first.read(timeout=LONG_S))
            position = StreamPosition.from_dict(json.loads(json.dumps(first.position.as_dict())))
        program = workload.with_name("unheard")
        shutil.copy("/bin/true", program)
        subprocess.run([program], check=True)
        daemon.stop()
        subprocess.run(["/bin/false"], check=False)
        daemon.start()
        later = workload.with_name("later")
        shutil.copy("/bin/true", later)
        subprocess.run([later], check=True)
        with Subscriber("test", ["exec"], path=daemon.directory, connect_timeout=LONG_S, resume=position) as second:
            deadline = time.monotonic() + LONG_S
            while not any(event.get("comm") == "later" for event in events):
                assert time.monotonic() < deadline
                events += second.read(timeout=0.2)
            assert second.missed == 0 and second.repeats == 0 and second.recovered > 0
    names = [event.get("comm") or event["event"] for event in events]
    found = [name for name in names if name in {"unheard", "unwatched", "later"}]
    assert found == ["unheard", "unwatched", "later"] and "false" not in names


def test_without_a_journal_nothing_is_kept(live_kernel: None) -> None:
    with (
        Daemon("[stream]\njournal_bytes = 0\n") as daemon,
        Subscriber("test", ["exec"], path=daemon.directory, connect_timeout=LONG_S) as subscriber,
    ):
        subprocess.run(["/bin/true"], check=True)
        assert subscriber.read(timeout=LONG_S)
        assert not (daemon.directory / "stream" / "journal").exists()
        assert daemon.stat()["counters"]["journal_events"] == 0

"""Events gather while no program waits for them, and are read at once for a subscriber."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import pytest

from pipeline.config.schema import Config
from pipeline.errors import ClosedError
from pipeline.shm.layout import layout
from tests.live.harness import EMULATION_FACTOR, Daemon, Recorder, patience
from tests.waiting import eventually

pytestmark = [pytest.mark.live, pytest.mark.alone]

COMMANDS = 25


@pytest.fixture(scope="module")
def slow(live_kernel: None) -> Iterator[Daemon]:
    """Events gather for 0.4 s here, so without a question hardly any process that was just started would be found."""
    with Daemon("[capture]\nfreshness_ms = 500\n", name="slow") as running:
        yield running


@pytest.fixture(scope="module")
def usual(live_kernel: None) -> Iterator[Daemon]:
    """Events gather as long as by default. Emulated, a command takes longer than that."""
    freshness_ms = Config().capture.freshness_ms * EMULATION_FACTOR
    with Daemon(f"[capture]\nfreshness_ms = {freshness_ms}\n", name="usual") as running:
        yield running


def frames_and_events(daemon: Daemon) -> tuple[int, int]:
    """Run some commands, one after the other; return the frames and the events that the resolver got meanwhile.

    A frame has the events of one ring, so all commands run on one CPU.
    """

    def counts() -> tuple[int, int]:
        stat = daemon.stat()
        return stat["frames"], sum(stat["events"].values())

    time.sleep(1.5)
    before = counts()
    cpus = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cpus)})
    try:
        for _ in range(COMMANDS):
            subprocess.run(["true"], check=True)
            time.sleep(0.06 * EMULATION_FACTOR)
    finally:
        os.sched_setaffinity(0, cpus)
    time.sleep(1.5)
    after = counts()
    return after[0] - before[0], after[1] - before[1]


def test_a_fresh_look_up_finds_what_was_forked_a_moment_ago(slow: Daemon) -> None:
    with slow.attach() as table, ExitStack() as stack:
        audience = stack.enter_context(audience_of(slow))
        eventually(lambda: audience() == layout.AUDIENCE_READERS)
        found = []
        for _ in range(10):
            child = stack.enter_context(subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE))
            stack.callback(child.kill)
            # Popen returns a moment before the kernel reports the exec. A program that has answered has begun.
            os.write(child.stdin.fileno(), b"?")  # type: ignore[union-attr]
            os.read(child.stdout.fileno(), 1)  # type: ignore[union-attr]
            asked = time.monotonic()
            entry = table.resolve(child.pid, fresh=True)
            found.append((entry is not None and entry.comm, time.monotonic() - asked < 0.2 * patience()))
            time.sleep(0.05)
        assert found == [("cat", True)] * 10
        done = slow.cli("resolve", str(child.pid), "--fresh", "--json")
        assert done.returncode == 0 and json.loads(done.stdout)["comm"] == "cat"
        assert slow.cli("resolve", str(child.pid), "--fresh", "--at", "5").returncode == 2


def test_after_a_refresh_every_read_has_what_was_started_before(slow: Daemon) -> None:
    with slow.attach() as table, ExitStack() as stack:
        audience = stack.enter_context(audience_of(slow))
        eventually(lambda: audience() == layout.AUDIENCE_READERS)
        found = []
        for _ in range(20):
            child = stack.enter_context(subprocess.Popen(["sleep", "60"]))
            stack.callback(child.kill)
            table.refresh()
            found.append(
                (
                    child.pid in table,
                    child.pid in table.batch(["pid"], running=True).column("pid"),
                    bool(table.resolve_many([child.pid], fields=("ppid",))["found"][0]),
                    child.pid in [entry.pid for entry in table],
                )
            )
            time.sleep(0.02)
        assert found == [(True, True, True, True)] * 20
        child.kill()
        child.wait()
        table.refresh(timeout_ms=5000)
        assert child.pid not in table
    with pytest.raises(ClosedError):
        table.refresh()


def test_a_user_who_may_not_ask_can_still_read(live_kernel: None) -> None:
    program = """
import sys
from pipeline import AccessError, ProcessTable
with ProcessTable.attach(sys.argv[1]) as table:
    try:
        table.refresh()
    except AccessError as error:
        print("access.requests_mode" in str(error), 1 in table)
"""
    with Daemon('[access]\nrequests_mode = "0600"\n') as daemon:
        done = subprocess.run(
            [sys.executable, "-c", program, daemon.name], env=daemon.environment, capture_output=True, text=True,
            user=65534, group=65534, extra_groups=[], timeout=60,
        )  # fmt: skip
    assert done.stdout == "True True\n", done.stderr


@contextmanager
def audience_of(daemon: Daemon) -> Iterator[Callable[[], int]]:
    """Yield a function that returns the audience. The file is opened only once, because that counts as a reader."""
    with (daemon.directory / "control").open("rb") as file:
        offset = layout.CONTROL.fields["audience"][1]
        yield lambda: int.from_bytes(os.pread(file.fileno(), 4, offset), "little")


def test_a_program_that_opens_the_tables_finds_what_was_forked_before(live_kernel: None) -> None:
    """Events gather for 250 ms while no program reads. One that opens the tables does not wait for that."""
    with Daemon() as daemon, ExitStack() as stack:
        audience = stack.enter_context(audience_of(daemon))
        took = []
        for _ in range(5):
            eventually(lambda: audience() == layout.AUDIENCE_NOBODY, limit_s=15)
            time.sleep(0.3)
            child = stack.enter_context(subprocess.Popen(["sleep", "60"]))
            stack.callback(child.kill)
            began = time.monotonic()
            with daemon.attach() as table:
                while (entry := table.resolve(child.pid)) is None or entry.comm != "sleep":
                    assert time.monotonic() - began < 10
                    time.sleep(0.0002)
                took.append(time.monotonic() - began)
                assert audience() == layout.AUDIENCE_READERS
        assert sorted(took)[2] < 0.04, took


@pytest.mark.parametrize("audience", ["nobody", "a reader", "a subscriber"])
def test_a_command_is_one_turn_while_nobody_subscribes(usual: Daemon, audience: str) -> None:
    with ExitStack() as stack:
        if audience == "a reader":
            stack.enter_context(usual.attach())
        elif audience == "a subscriber":
            stack.enter_context(Recorder(usual, "proc.fork", "proc.exec", "proc.exit").started())
        expected = {
            "nobody": layout.AUDIENCE_NOBODY, "a reader": layout.AUDIENCE_READERS,
            "a subscriber": layout.AUDIENCE_SUBSCRIBERS,
        }[audience]  # fmt: skip
        now = stack.enter_context(audience_of(usual))
        eventually(lambda: now() == expected)
        frames, events = frames_and_events(usual)
        others = events - 3 * COMMANDS
        assert others >= 0
        # Other processes of this host end too, and each of their events may have a frame for itself.
        # With a subscriber, the shard may wake up between the three events or behind them: the scheduler decides.
        assert audience == "a subscriber" or frames - others <= 2 * COMMANDS

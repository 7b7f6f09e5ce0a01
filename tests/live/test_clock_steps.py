"""The clock is set by hours while a daemon runs.

In a guest (tests/vm) it is the machine's clock. Elsewhere the daemon and the commands have a library that moves the
clock for them (`clock.c`), because other programs need the machine's.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pipeline import ProcessTable, StreamPosition, Subscriber
from tests.linux import IS_GUEST, SKIPPED_KINDS, lost_kinds
from tests.live.agreement import assert_agrees
from tests.live.harness import Daemon, resolve
from tests.waiting import eventually

pytestmark = [pytest.mark.live, pytest.mark.vm]

SOURCE = Path(__file__).with_name("clock.c")
NS = 1_000_000_000
HOUR_S = 3600
#: Emulated, everything takes some fifteen times as long.
LONG_S = 300.0
#: Shorter than the steps: if eviction went by the clock that is set, a step forward would empty the tables.
CONFIG = "[tables]\nretention_s = 1800\n"


class Clock:
    """The clock of a daemon and of the commands that ask it."""

    def __init__(self, daemon: Daemon, directory: Path) -> None:
        self._shift = directory / "shift"
        self._shift.write_bytes(bytes(8))
        self.library = directory / "clock.so"
        if not IS_GUEST:
            build = ["gcc", "-O2", "-Wall", "-Werror", "-shared", "-fPIC", "-o", self.library, SOURCE]
            subprocess.run(build, check=True)
            daemon.environment |= {"LD_PRELOAD": str(self.library), "PROCLINE_TEST_CLOCK": str(self._shift)}

    def _move(self, step_ns: int) -> None:
        if IS_GUEST:
            time.clock_settime_ns(time.CLOCK_REALTIME, time.clock_gettime_ns(time.CLOCK_REALTIME) + step_ns)
        else:
            before = int.from_bytes(self._shift.read_bytes(), "little", signed=True)
            with self._shift.open("r+b") as file:  # in place: it is mapped
                file.write((before + step_ns).to_bytes(8, "little", signed=True))

    @contextmanager
    def set_by(self, step_s: int) -> Iterator[None]:
        """Set the clock by this much, and back by as much at the end."""
        self._move(step_s * NS)
        try:
            yield
        finally:
            self._move(-step_s * NS)


@pytest.fixture(scope="module")
def setting(live_kernel: None) -> Iterator[tuple[Daemon, Clock]]:
    with tempfile.TemporaryDirectory(prefix="procline-clock-") as directory:
        daemon = Daemon(CONFIG)
        clock = Clock(daemon, Path(directory))
        with daemon:
            if not IS_GUEST:
                for pid in daemon.pids(""):
                    assert str(clock.library) in Path(f"/proc/{pid}/maps").read_text()
            yield daemon, clock


@pytest.fixture
def daemon(setting: tuple[Daemon, Clock]) -> Daemon:
    return setting[0]


@pytest.fixture
def clock(setting: tuple[Daemon, Clock]) -> Clock:
    return setting[1]


@pytest.fixture
def table(daemon: Daemon) -> Iterator[ProcessTable]:
    with daemon.attach() as attached:
        yield attached


def now_ns(table: ProcessTable) -> int:
    """Return the present time as the tables show it."""
    return table.boot_unix_ns + time.clock_gettime_ns(time.CLOCK_BOOTTIME)


steps = pytest.mark.parametrize("step_s", [3 * HOUR_S, -5 * HOUR_S], ids=["3h", "-5h"])


def ended(table: ProcessTable) -> Any:
    """Return the entry of a process that has ended."""
    process = subprocess.Popen(["/bin/sleep", "0.3"])
    process.wait()

    def is_ended() -> Any:
        entry = table.resolve(process.pid)
        return entry if entry is not None and entry.exit_time_ns is not None else False

    return eventually(is_ended, LONG_S)


@steps
def test_times_and_lookups(clock: Clock, table: ProcessTable, step_s: int) -> None:
    before = ended(table)
    with subprocess.Popen(["/bin/sleep", "600"]) as living:
        shown = eventually(lambda: found if (found := resolve(table, living.pid)).is_exec else False, LONG_S)
        with clock.set_by(step_s):
            began_ns = now_ns(table)
            after = ended(table)
            assert began_ns < after.start_time_ns < after.exit_time_ns < now_ns(table), "the clock that is set decides"
            again = resolve(table, living.pid)
            assert (again.entity_id, again.start_time_ns) == (shown.entity_id, shown.start_time_ns)
            for one in (before, after):  # also not evicted
                middle_ns = (one.start_time_ns + one.exit_time_ns) // 2
                found = table.resolve(one.pid, middle_ns)
                assert found is not None and found.entity_id == one.entity_id
            assert 0 < again.age_ns < LONG_S * NS, "an age is not the difference to a clock that was set"
            eventually(lambda: assert_agrees(table, complete=False), LONG_S, 0.5)
        living.kill()


@steps
def test_workers_losses_and_lags(
    daemon: Daemon, clock: Clock, table: ProcessTable, step_s: int, workload: Path
) -> None:
    workers = sorted(daemon.pids(""))
    before = table.stats()
    with clock.set_by(step_s):
        for _ in range(3):
            subprocess.run([workload, "storm", "100", "20", "4"], check=True, stdout=subprocess.DEVNULL)
            time.sleep(1)
        eventually(lambda: table.stats()["watermark_lag_ns"] < 5 * NS, LONG_S, 0.2)
        stats = table.stats()
        assert stats["state"] == "ready"
    time.sleep(1)
    assert sorted(daemon.pids("")) == workers, "the watchdog took a step of the clock for a hang"
    after = table.stats()
    assert lost_kinds(Counter(after["lost"]) - Counter(before["lost"])) <= SKIPPED_KINDS
    assert after["late"] == before["late"]


@steps
def test_the_journal_and_a_position(daemon: Daemon, clock: Clock, step_s: int, workload: Path) -> None:
    """A subscriber that left before the step returns after it, and gets each event once, in order."""

    def marked(name: str) -> None:
        program = workload.with_name(name)
        if not program.exists():
            program.symlink_to("/bin/true")
        subprocess.run([program], check=True)

    prefix = f"m{abs(step_s)}"
    with Subscriber("test", ["exec"], path=daemon.directory, connect_timeout=LONG_S) as first:
        marked(f"{prefix}-0")
        seen = []
        deadline = time.monotonic() + LONG_S
        while not any(each["argv"] and each["argv"][0].endswith(f"{prefix}-0") for each in seen):
            assert time.monotonic() < deadline
            seen += first.read(timeout=0.5)
        position = StreamPosition.from_dict(json.loads(json.dumps(first.position.as_dict())))
    marked(f"{prefix}-1")
    with clock.set_by(step_s):
        marked(f"{prefix}-2")
        with Subscriber("test", ["exec"], path=daemon.directory, connect_timeout=LONG_S, resume=position) as second:
            later: list[Any] = []
            deadline = time.monotonic() + LONG_S
            while not any(each["argv"] and each["argv"][0].endswith(f"{prefix}-2") for each in later):
                assert time.monotonic() < deadline
                later += second.read(timeout=0.5)
            assert (second.missed, second.repeats) == (0, 0)
    own = [each for each in later if each["argv"] and f"/{prefix}-" in each["argv"][0]]
    assert [each["argv"][0][-1] for each in own] == ["1", "2"]
    times = [each["time_ns"] for each in later]
    assert times == sorted(times)


def test_commands(daemon: Daemon, clock: Clock, table: ProcessTable) -> None:
    """`now` counts from the tables' present (tests/cli/test_clock.py has the other commands), and stat says why."""
    with subprocess.Popen(["/bin/sleep", "600"]) as living:
        eventually(lambda: resolve(table, living.pid).is_exec, LONG_S)
        with clock.set_by(-5 * HOUR_S):
            done = daemon.cli("resolve", str(living.pid), "--at", "now", "--json", timeout=LONG_S)
            assert done.returncode == 0, (done.stdout, done.stderr)
            done = daemon.cli("stat", timeout=LONG_S)
            assert done.returncode == 0 and "set back by 5 h 0 min" in done.stdout, (done.stdout, done.stderr)
        living.kill()

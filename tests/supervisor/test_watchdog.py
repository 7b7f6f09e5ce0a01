"""When a worker counts as hanging, with made-up times: no process runs here."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.supervisor.watchdog import INTERVAL_MAX_S, Watchdog, read_times

LOOK_S = 4.0


class Process:
    """A ``/proc`` with one process, which makes the progress that the test sets."""

    def __init__(self, proc: Path, *, has_schedstat: bool = True) -> None:
        self.thread = proc / "7" / "task" / "7"
        self.thread.mkdir(parents=True)
        self.has_schedstat = has_schedstat
        self.now_s = self.cpu_s = self.waited_s = 0.0
        self.watchdog = Watchdog(7, proc)
        self.interval("S", sign=0)

    def interval(self, state: str, cpu_s: float = 0.0, waited_s: float = 0.0, *, sign: object = 0) -> None:
        """Let the process compute and wait for these times in the interval between two checks; then check."""
        self.now_s += LOOK_S
        self.cpu_s += cpu_s
        self.waited_s += waited_s
        fields = [state, *["0"] * 10, str(round(self.cpu_s * 100)), "0", *["0"] * 10]
        (self.thread / "stat").write_text(f"7 (a) b) c) {' '.join(fields)}\n")
        if self.has_schedstat:
            (self.thread / "schedstat").write_text(f"{int(self.cpu_s * 1e9)} {int(self.waited_s * 1e9)} 12\n")
        self.watchdog.observe(sign, self.now_s)


@pytest.fixture(params=[True, False], ids=["schedstat", "no schedstat"])
def process(request: pytest.FixtureRequest, tmp_path: Path) -> Process:
    return Process(tmp_path, has_schedstat=request.param)


@pytest.mark.parametrize("state", ["S", "T", "t", "D"])
def test_time_asleep_stopped_or_blocked_without_a_sign_counts(process: Process, state: str) -> None:
    for _ in range(3):
        process.interval(state)
    assert process.watchdog.counted_s == process.watchdog.still_s == 3 * LOOK_S


def test_its_own_cpu_time_without_a_sign_counts(process: Process) -> None:
    for _ in range(3):
        process.interval("R", cpu_s=LOOK_S)
    assert process.watchdog.counted_s == pytest.approx(3 * LOOK_S)


def test_of_a_shared_cpu_only_its_own_share_counts(process: Process) -> None:
    for _ in range(4):
        process.interval("R", cpu_s=1.0)
    assert process.watchdog.counted_s == pytest.approx(4.0)
    assert process.watchdog.still_s == 4 * LOOK_S


def test_waiting_for_a_cpu_does_not_count(process: Process) -> None:
    for _ in range(100):
        process.interval("R")
    assert process.watchdog.counted_s == 0
    assert process.watchdog.still_s == 100 * LOOK_S


def test_a_wait_that_the_kernel_counted_meanwhile_does_not_count_in_any_state(tmp_path: Path) -> None:
    process = Process(tmp_path)
    process.interval("S", cpu_s=0.5, waited_s=3.0)
    assert process.watchdog.counted_s == pytest.approx(1.0)
    process.interval("S", waited_s=100.0)  # a wait that began before the last check
    assert process.watchdog.counted_s == pytest.approx(1.0)


def test_waiting_for_memory_or_a_disk_does_not_count_while_it_gets_on(process: Process) -> None:
    for _ in range(10):
        process.interval("D", cpu_s=0.02)
    assert process.watchdog.counted_s == pytest.approx(0.2)


def test_a_sign_of_life_ends_the_count(process: Process) -> None:
    process.interval("S")
    process.interval("S", sign=1)
    assert process.watchdog.counted_s == process.watchdog.still_s == 0
    process.interval("S", sign=1)
    assert process.watchdog.counted_s == LOOK_S


def test_nothing_counts_while_nothing_is_expected(process: Process) -> None:
    for _ in range(5):
        process.interval("S", sign=None)
    assert process.watchdog.counted_s == process.watchdog.still_s == 0


def test_one_observation_after_a_long_time_does_not_decide(process: Process) -> None:
    """The supervisor itself got no CPU time, or the virtual machine was paused."""
    process.now_s += 1000
    process.interval("S")
    assert process.watchdog.counted_s == INTERVAL_MAX_S


def test_a_process_with_unreadable_times_is_judged_by_the_clock(tmp_path: Path) -> None:
    watchdog = Watchdog(7, tmp_path)
    for now_s in range(0, 12, 4):
        watchdog.observe(0, now_s)
    assert watchdog.counted_s == 8


def test_times_of_this_process_are_read() -> None:
    import os

    times = read_times(os.getpid())
    assert times is not None
    assert times.state == "R" and times.cpu_s > 0
    assert read_times(2**22 + 1) is None

"""How many shards there should be: decisions on a made-up /proc."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from pipeline import files
from pipeline.config.schema import Shards
from pipeline.host.boot import CLOCK_TICKS
from pipeline.supervisor import shard_count
from pipeline.supervisor.shard_count import BUSY_SHARE, BUSY_TIMES, OBSERVE_S, QUIET_S, RETRY_S, ShardCount, most_shards


class Host:
    """A /proc with shards that use a part of a CPU each."""

    def __init__(self, proc: Path, most: int) -> None:
        self.proc = proc
        self.count = ShardCount(most, proc)
        self.now_s = 100.0
        self.ticks: dict[int, float] = {}

    def pass_time(self, *shares: float, first_pid: int = 10, seconds: float = OBSERVE_S) -> int:
        """Let the shards with these pids use these parts of a CPU, and return how many there should be."""
        self.now_s += seconds
        pids = range(first_pid, first_pid + len(shares))
        for pid, share in zip(pids, shares, strict=True):
            self.ticks[pid] = self.ticks.get(pid, 0.0) + share * seconds * CLOCK_TICKS
            task = self.proc / str(pid) / "task" / str(pid)
            task.mkdir(parents=True, exist_ok=True)
            # A name with brackets, and the rest as in proc_pid_stat(5): half of the time is the kernel's.
            half = round(self.ticks[pid] / 2)
            (task / "stat").write_text(f"{pid} (a) b) S 1 1 1 0 -1 0 0 0 0 0 {half} {half} 0 0 20 0 2 0 99 0\n")
        return self.count.observe(pids, self.now_s)


def test_a_busy_shard_gets_help_and_a_quiet_one_gets_none(tmp_path: Path) -> None:
    host = Host(tmp_path, most=4)
    assert [host.pass_time(0.5) for _ in range(10)] == [1] * 10
    assert [host.pass_time(BUSY_SHARE + 0.05) for _ in range(BUSY_TIMES)] == [1, 2]
    # The new shards have used nothing yet.
    assert host.pass_time(0.9, 0.9, first_pid=20) == 2
    assert [host.pass_time(0.1, 0.9, first_pid=20) for _ in range(2)] == [2, 4], "the busiest one counts"
    assert [host.pass_time(*[0.9] * 4, first_pid=30) for _ in range(5)] == [4] * 5, "and no more than the most"


def test_one_busy_moment_changes_nothing(tmp_path: Path) -> None:
    host = Host(tmp_path, most=2)
    shares = [0.1, 0.9, 0.1, 0.9, 0.1]
    assert [host.pass_time(share) for share in shares] == [1] * 5


@pytest.mark.expensive
def test_the_number_halves_after_a_long_quiet_time(tmp_path: Path) -> None:
    host = Host(tmp_path, most=2)
    for _ in range(1 + BUSY_TIMES):
        host.pass_time(0.9)
    assert host.count.count == 2
    host.pass_time(0.05, 0.05, first_pid=20)
    times = round(QUIET_S / OBSERVE_S)
    assert {host.pass_time(0.05, 0.05, first_pid=20) for _ in range(times - 1)} == {2}
    assert host.pass_time(0.2, 0.2, first_pid=20) == 2, "one shard would have been busy: the time begins again"
    assert {host.pass_time(0.05, 0.05, first_pid=20) for _ in range(times)} == {2}
    assert host.pass_time(0.05, 0.05, first_pid=20) == 1
    assert {host.pass_time(0.01, first_pid=30) for _ in range(2 * times)} == {1}


def test_after_a_failed_change_nothing_is_tried_for_a_while(tmp_path: Path) -> None:
    host = Host(tmp_path, most=2)
    for _ in range(1 + BUSY_TIMES):
        host.pass_time(0.9)
    host.count.stay(1, host.now_s)
    tries = [host.pass_time(0.9) for _ in range(round(RETRY_S / OBSERVE_S) + BUSY_TIMES + 1)]
    assert tries.index(2) > RETRY_S / OBSERVE_S


def test_the_time_without_decisions_is_not_measured(tmp_path: Path) -> None:
    """A shard that uses little all the time has used much when the time is over."""
    host = Host(tmp_path, most=2)
    for _ in range(1 + BUSY_TIMES):
        host.pass_time(0.9)
    host.count.stay(1, host.now_s)
    host.pass_time(BUSY_SHARE / 2, seconds=RETRY_S + OBSERVE_S)
    assert host.count._busy_times == 0
    assert [host.pass_time(0.9) for _ in range(BUSY_TIMES)] == [1] * (BUSY_TIMES - 1) + [2]


@pytest.mark.parametrize("error", [errno.EACCES, errno.EMFILE, errno.EIO])
def test_a_shard_whose_cpu_time_cannot_be_read_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    host = Host(tmp_path, most=2)
    host.pass_time(0.9)

    def failing(path: str) -> bytes:
        raise OSError(error, os.strerror(error))

    with monkeypatch.context() as patched:
        patched.setattr(files, "read_kernel", failing)
        assert host.pass_time(0.9) == 1
    assert [host.pass_time(0.9) for _ in range(1 + BUSY_TIMES)] == [1] * BUSY_TIMES + [2]


def test_a_shard_that_has_ended_is_passed_over(tmp_path: Path) -> None:
    host = Host(tmp_path, most=2)
    host.pass_time(0.9)
    assert host.count.observe([10, 11], host.now_s + OBSERVE_S) == 1


@pytest.mark.parametrize(("cpus", "rings", "limit", "most"), [
    (1, 1, 2, 1), (4, 4, 2, 1), (8, 8, 2, 2), (128, 128, 2, 2), (128, 128, 16, 16), (256, 3, 16, 3), (256, 256, 1, 1),
])  # fmt: skip
def test_a_small_host_has_one_shard_and_a_large_one_no_more_than_the_setting(
    monkeypatch: pytest.MonkeyPatch, cpus: int, rings: int, limit: int, most: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(cpus)))
    assert most_shards(Shards(auto_max=limit), rings) == most
    assert shard_count.CPUS_A_SHARD == 4

"""Where the workers of an idle host run: decisions on a made-up /proc, and binding of real threads."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

from pipeline.supervisor.shared_cpu import WAIT_NS, SharedCpu

ALLOWED = sorted(os.sched_getaffinity(0))
BUSY, IDLE = (100, 0), (0, 100)


class Host:
    """A /proc with busy or idle CPUs, and with workers that wait; records where each thread was bound last."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.ticks = dict.fromkeys(ALLOWED, (0, 0))
        self.where: dict[int, set[int]] = {}
        self.refuses: type[OSError] | None = None
        self.refuses_at = 0  # once
        self.home = SharedCpu(directory, self.bind)
        self.now_s = 0.0
        self.pass_time(*[IDLE] * len(ALLOWED))

    def bind(self, thread: int, cpus: Iterable[int]) -> None:
        if self.refuses:
            raise self.refuses
        if thread == self.refuses_at:
            self.refuses_at = 0
            raise PermissionError
        self.where[thread] = set(cpus)

    def worker(self, pid: int, *, wait_ns: int = 0, runs: int = 1, threads: int = 2) -> int:
        """Add a worker, or set its total wait time and number of runs."""
        for thread in range(pid, pid + threads):
            (self.directory / str(pid) / "task" / str(thread)).mkdir(parents=True, exist_ok=True)
        (self.directory / str(pid) / "schedstat").write_text(f"123456 {wait_ns} {runs}\n")
        return pid

    def pass_time(self, *spent: tuple[int, int]) -> None:
        """Let two seconds pass; `spent` has, by CPU, the ticks that it was busy and idle."""
        self.now_s += 2.0
        lines = ["cpu  9 9 9 9 9 9 9 0 0 0"]
        for cpu, (busy, idle) in zip(ALLOWED, spent, strict=True):
            before = self.ticks[cpu]
            self.ticks[cpu] = before[0] + busy, before[1] + idle
            lines.append(f"cpu{cpu} {self.ticks[cpu][0]} 0 0 {self.ticks[cpu][1]} 0 0 0 0 7 0")
        lines.append("cpu4095 0 0 0 99999 0 0 0 0 0 0")  # no worker may run there
        (self.directory / "stat").write_text("\n".join([*lines, "intr 1 2 3"]) + "\n")

    def balance(self, *pids: int) -> int | None:
        self.home.balance(pids, self.now_s)
        return self.home.cpu

    def settled(self, *pids: int) -> int:
        """Keep all CPUs idle until the workers share a home CPU."""
        self.balance(*pids)
        self.pass_time(*[IDLE] * len(ALLOWED))
        cpu = self.balance(*pids)
        assert cpu is not None
        return cpu


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def on_all_but(cpu: int, others: tuple[int, int], own: tuple[int, int]) -> list[tuple[int, int]]:
    return [own if each == cpu else others for each in ALLOWED]


def test_an_idle_cpu_becomes_the_home_of_all_threads(host: Host) -> None:
    shard, resolver = host.worker(10), host.worker(20, threads=3)
    assert host.balance(shard, resolver) is None, "one look says nothing about CPUs"
    assert host.where == {}
    cpu = host.settled(shard, resolver)
    assert host.where == {thread: {cpu} for thread in (10, 11, 20, 21, 22)}


def test_the_idlest_of_the_allowed_cpus_is_chosen(host: Host) -> None:
    worker = host.worker(10)
    host.balance(worker)
    host.pass_time(*on_all_but(ALLOWED[0], (20, 80), (10, 90)))
    assert host.balance(worker) == ALLOWED[0]


def test_without_an_idle_cpu_no_worker_is_bound(host: Host) -> None:
    worker = host.worker(10)
    host.balance(worker)
    host.pass_time(*[(30, 70)] * len(ALLOWED))
    assert host.balance(worker) is None
    assert host.where == {}


def test_workers_leave_a_busy_home_and_get_another(host: Host) -> None:
    worker = host.worker(10)
    first = host.settled(worker)
    host.worker(10, wait_ns=10 * (WAIT_NS + 1), runs=11)
    host.pass_time(*on_all_but(first, IDLE, BUSY))
    assert host.balance(worker) is None
    assert host.where == {10: set(ALLOWED), 11: set(ALLOWED)}
    host.pass_time(*on_all_but(first, IDLE, BUSY))
    if len(ALLOWED) > 1:
        assert host.balance(worker) not in {first, None}
    else:
        assert host.balance(worker) is None


def test_short_waits_are_no_reason_to_leave(host: Host) -> None:
    worker = host.worker(10)
    cpu = host.settled(worker)
    host.where.clear()
    host.worker(10, wait_ns=1000 * WAIT_NS, runs=1001)
    host.pass_time(*[BUSY] * len(ALLOWED))
    assert host.balance(worker) == cpu
    assert host.where == {}, "and no process is bound again"


def test_earlier_waiting_times_do_not_count(host: Host) -> None:
    worker = host.worker(10, wait_ns=10**12, runs=1)
    assert host.settled(worker) in ALLOWED
    host.pass_time(*[IDLE] * len(ALLOWED))
    replaced = host.worker(30, wait_ns=10**12, runs=1)
    assert host.balance(replaced) in ALLOWED


def test_a_replaced_worker_is_bound_as_well(host: Host) -> None:
    first, second = host.worker(10), host.worker(20)
    cpu = host.settled(first, second)
    host.where.clear()
    host.pass_time(*[IDLE] * len(ALLOWED))
    assert host.balance(first, host.worker(30)) == cpu
    assert host.where == {30: {cpu}, 31: {cpu}}


def test_no_other_process_is_moved(host: Host) -> None:
    ended, worker = host.worker(10), host.worker(20)
    host.settled(ended, worker)
    host.where.clear()
    host.worker(20, wait_ns=10 * WAIT_NS, runs=2)
    host.pass_time(*[IDLE] * len(ALLOWED))
    assert host.balance(worker) is None
    assert set(host.where) == {20, 21}, "the pid of an ended worker may belong to another process by now"


def test_measurements_in_quick_succession_are_ignored(host: Host) -> None:
    worker = host.worker(10)
    cpu = host.settled(worker)
    host.worker(10, wait_ns=10 * WAIT_NS, runs=2)
    host.now_s += 0.5
    assert host.balance(worker) == cpu


def test_a_worker_that_is_gone_is_passed_over(host: Host) -> None:
    assert host.settled(host.worker(10), 77) in ALLOWED
    assert 77 not in host.where


@pytest.mark.parametrize("error", [PermissionError, OSError])
def test_without_permission_no_worker_stays_bound(host: Host, error: type[OSError]) -> None:
    worker = host.worker(10)
    host.refuses = error
    host.balance(worker)
    host.pass_time(*[IDLE] * len(ALLOWED))
    assert host.balance(worker) is None
    host.refuses = None
    host.pass_time(*[IDLE] * len(ALLOWED))
    assert host.balance(worker) is None, "and does not try again"


def test_a_partly_bound_worker_is_released(host: Host) -> None:
    worker = host.worker(10, threads=3)
    host.balance(worker)
    host.refuses_at = 11
    host.pass_time(*[IDLE] * len(ALLOWED))
    assert host.balance(worker) is None
    assert host.where[10] == set(ALLOWED)


@pytest.mark.parametrize("told", ["0 0 0\n", "0\n", ""])
def test_a_kernel_that_does_not_count_waits(host: Host, told: str) -> None:
    worker = host.worker(10)
    (host.directory / "10" / "schedstat").write_text(told)
    assert host.balance(worker) is None
    host.pass_time(*[IDLE] * len(ALLOWED))
    assert host.balance(worker) is None


def test_real_threads_are_bound_and_freed(tmp_path: Path) -> None:
    """The threads are real; their wait times and the idle times of the CPUs are made up."""
    program = "import threading, sys; e = threading.Event(); threading.Thread(target=e.wait, daemon=True).start(); "
    program += "print(flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        cpus = "cpu  0 0 0 0\n" + "".join(f"cpu{cpu} 0 0 0 %d 0 0 0 0 0 0\n" for cpu in ALLOWED)
        (tmp_path / "stat").write_text(cpus.replace("%d", "0"))
        (tmp_path / str(process.pid)).mkdir()
        (tmp_path / str(process.pid) / "task").symlink_to(f"/proc/{process.pid}/task")
        schedstat = tmp_path / str(process.pid) / "schedstat"
        schedstat.write_text("1 0 1\n")
        home = SharedCpu(tmp_path)
        home.balance([process.pid], 0.0)
        (tmp_path / "stat").write_text(cpus.replace("%d", "200"))
        home.balance([process.pid], 2.0)
        threads = [int(entry.name) for entry in Path(f"/proc/{process.pid}/task").iterdir()]
        assert len(threads) == 2
        assert [os.sched_getaffinity(thread) for thread in threads] == [{ALLOWED[-1]}] * 2
        schedstat.write_text(f"1 {10 * WAIT_NS} 2\n")
        home.balance([process.pid], 4.0)
        assert home.cpu is None
        assert [os.sched_getaffinity(thread) for thread in threads] == [set(ALLOWED)] * 2
        process.communicate()

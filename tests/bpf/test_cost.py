"""The costs in an exit record, compared with those that the process itself, wait4(2) and /proc report."""

from __future__ import annotations

import os
import resource
import select
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from pipeline.bpf.loader import Capture
from pipeline.records import declared
from tests.bpf.ring_reader import Reader
from tests.linux import IS_REAL_TIME

pytestmark = [pytest.mark.live, pytest.mark.usefixtures("live_kernel")]

US, MS = 1_000, 1_000_000
#: What a process uses between its report and its exit, and then until it is gone: 0.1 ms, and much more on a busy host.
END_NS = 100 * MS
#: The same for each thread that ends with it.
END_OF_A_THREAD_NS = 2 * MS
#: What wait4() may lack of each thread that has ended: see docs/cost.md. Other kernels show no difference here.
NOT_WAITED_NS = 2 * MS if IS_REAL_TIME else 0


@dataclass
class Spent:
    """The costs of one process, from four sources. Times are in ns."""

    cpu_ns: int  # the process itself, right before its end; this and the following four
    minor: int
    major: int
    voluntary: int
    involuntary: int
    cost: np.void  # the record
    waited: resource.struct_rusage
    stat: list[str]  # /proc/PID/stat of the zombie, from the third field on
    io: dict[str, int]  # /proc/PID/io of the zombie

    @property
    def run_ns(self) -> int:
        return int(self.cost["cpu_user_ns"]) + int(self.cost["cpu_system_ns"])

    @property
    def waited_ns(self) -> int:
        return round((self.waited.ru_utime + self.waited.ru_stime) * 1e9)


def spend(reader: Reader, program: Path, *acts: str | Path, status: int = 0) -> Spent:
    out, into = os.pipe()
    pid = os.posix_spawn(program, [program, *acts], {}, file_actions=[(os.POSIX_SPAWN_DUP2, into, 1)])
    os.close(into)
    with os.fdopen(out) as pipe:
        # Other tests fill the rings meanwhile.
        while not select.select([pipe], [], [], 0.1)[0]:
            reader.poll()
        report = pipe.read()
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    io = dict(line.split(": ") for line in Path(f"/proc/{pid}/io").read_text().splitlines())
    _, code, waited = os.wait4(pid, 0)
    assert code == status
    exit_ = reader.one(pid, declared.KIND_EXIT)
    assert exit_.body["exit_flags"] & declared.EXIT_COST and exit_.body["exit_flags"] & declared.EXIT_IO
    return Spent(*map(int, report.split()), exit_.cost, waited, stat, {name: int(value) for name, value in io.items()})


def check(spent: Spent, threads: int = 0, killed: int = 0) -> None:
    """Whatever a process does, its numbers lie between its own report and that of wait4().

    The kernel adds to all of them until the process is gone, and wait4() counts CPU time in us.

    Args:
        spent: the numbers.
        threads: how many threads may have used CPU time after the report.
        killed: how many threads ran until the process ended.
    """
    cost, waited = spent.cost, spent.waited
    assert spent.cpu_ns <= spent.run_ns <= spent.waited_ns + US + killed * NOT_WAITED_NS
    assert spent.run_ns - spent.cpu_ns < END_NS + threads * END_OF_A_THREAD_NS
    assert spent.minor <= cost["minor_faults"] <= waited.ru_minflt
    assert spent.major <= cost["major_faults"] <= waited.ru_majflt
    assert spent.voluntary <= cost["voluntary_switches"] <= waited.ru_nvcsw
    assert spent.involuntary <= cost["involuntary_switches"] <= waited.ru_nivcsw
    # Each process leaves its CPU once more when it is gone, and may lose it while it ends.
    assert waited.ru_nvcsw - cost["voluntary_switches"] <= 3
    # Nothing changes these any more.
    assert cost["max_rss_bytes"] == waited.ru_maxrss * 1024
    assert cost["minor_faults"] == int(spent.stat[7])
    assert cost["major_faults"] == int(spent.stat[9])
    assert cost["read_bytes"] == spent.io["read_bytes"]
    assert cost["write_bytes"] == spent.io["write_bytes"]
    assert cost["children_cpu_ns"] == 0


def test_a_command_that_ends_within_a_tick_has_its_time(reader: Reader, spender: Path) -> None:
    """The kernel adds to a run time at ticks and switches; a short command has none of either."""
    for _ in range(20):
        spent = spend(reader, spender)
        check(spent)
        assert spent.run_ns > 50 * US


def test_user_and_system_time_are_divided_as_the_kernel_divides_them(reader: Reader, spender: Path) -> None:
    spent = spend(reader, spender, "user", "60", "system", "60")
    check(spent)
    for name, waited in (("cpu_user_ns", spent.waited.ru_utime), ("cpu_system_ns", spent.waited.ru_stime)):
        assert abs(int(spent.cost[name]) - waited * 1e9) < END_NS, name
    # How much of it is user time the kernel estimates at its ticks, which on a busy machine may see one kind only.
    assert spent.run_ns > 100 * MS
    # /proc has ticks of 10 ms, of what wait4() says.
    assert abs(spent.run_ns - (int(spent.stat[11]) + int(spent.stat[12])) * 10 * MS) <= 20 * MS + END_NS


@pytest.mark.slow
def test_more_than_32_bits_of_time_are_divided_too(reader: Reader, spender: Path) -> None:
    spent = spend(reader, spender, "left", "1", "2400", "user", "800", "system", "1500", "sleep", "9000")
    check(spent, killed=1)
    assert spent.run_ns > 1 << 32
    for name, waited in (("cpu_user_ns", spent.waited.ru_utime), ("cpu_system_ns", spent.waited.ru_stime)):
        assert abs(int(spent.cost[name]) - waited * 1e9) < END_NS, name


def test_threads_that_have_ended_count(reader: Reader, spender: Path) -> None:
    spent = spend(reader, spender, "threads", "7", "5")
    check(spent)
    assert spent.run_ns > 35 * MS


def test_threads_that_end_with_the_process_count(reader: Reader, spender: Path) -> None:
    for _ in range(5):
        spent = spend(reader, spender, "left", "15", "5000", "user", "10")
        check(spent, killed=15)


def test_a_process_that_is_killed_has_its_numbers(reader: Reader, spender: Path) -> None:
    spent = spend(reader, spender, "left", "3", "5000", "memory", "8", "kill", status=signal.SIGKILL)
    check(spent, killed=3)
    assert spent.cost["minor_faults"] > 2048


def test_an_exec_by_a_thread_keeps_the_sums(reader: Reader, spender: Path) -> None:
    spent = spend(reader, spender, "threads", "2", "10", "sleep", "20", "exec", "user", "5")
    check(spent)
    assert spent.run_ns > 25 * MS
    assert spent.cost["voluntary_switches"] >= 20


def test_memory_is_the_largest_of_all_times_and_faults_are_counted(reader: Reader, spender: Path) -> None:
    spent = spend(reader, spender, "memory", "256")
    check(spent)
    assert spent.cost["max_rss_bytes"] >= 256 << 20
    assert spent.cost["minor_faults"] >= 256 << 8


def test_bytes_from_and_to_storage_are_counted(reader: Reader, spender: Path, tmp_path: Path) -> None:
    here = next((each for each in (tmp_path, Path.cwd()) if is_on_storage(each)), None)
    if here is None:
        pytest.skip("neither the temporary nor the current directory is on storage")
    file = here / f"cost-{os.getpid()}.tmp"
    try:
        spent = spend(reader, spender, "write", file, "8", "read", file)
    finally:
        file.unlink(missing_ok=True)
    check(spent)
    assert spent.cost["write_bytes"] >= 8 << 20
    assert spent.cost["read_bytes"] >= 8 << 20


def test_bytes_of_children_are_not_counted_again(reader: Reader, spender: Path, tmp_path: Path) -> None:
    """The kernel adds them to the parent's /proc/PID/io when it waits for them."""
    here = next((each for each in (tmp_path, Path.cwd()) if is_on_storage(each)), None)
    if here is None:
        pytest.skip("neither the temporary nor the current directory is on storage")
    file = here / f"cost-{os.getpid()}.tmp"
    shell = subprocess.Popen(["/bin/sh", "-c", f"{spender} write {file} 8; cat /proc/$$/io >&2"],
                             stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)  # fmt: skip
    try:
        _, shown = shell.communicate(timeout=60)
    finally:
        file.unlink(missing_ok=True)
    assert int(dict(line.split(": ") for line in shown.splitlines())["write_bytes"]) >= 8 << 20
    assert reader.one(shell.pid, declared.KIND_EXIT).cost["write_bytes"] < 1 << 20


def is_on_storage(directory: Path) -> bool:
    """Whether files in a directory are on a block device, so not on tmpfs or a network."""
    return os.major(directory.stat().st_dev) != 0


def test_descendants_that_were_waited_for_are_summed_up(reader: Reader, spender: Path) -> None:
    script = f"{spender} user 30; ({spender} user 20; :); {spender} user 10 & exit 0"
    shell = subprocess.Popen(["/bin/sh", "-c", script], stdout=subprocess.DEVNULL)
    _, _, waited = os.wait4(shell.pid, 0)
    shell.returncode = 0
    cost = reader.one(shell.pid, declared.KIND_EXIT).cost
    own = int(cost["cpu_user_ns"]) + int(cost["cpu_system_ns"])
    assert 50 * MS <= cost["children_cpu_ns"] < 50 * MS + END_NS
    assert 0 <= round((waited.ru_utime + waited.ru_stime) * 1e9) + US - own - int(cost["children_cpu_ns"]) < END_NS


def test_many_threads_that_end_at_once_have_their_sums(reader: Reader, capture: Capture, spender: Path) -> None:
    """The threads are released while their numbers are summed up; see pl_sum_threads in cost.bpf.h.

    Without "first" the thread that makes the others would share the CPUs with them, which takes seconds of CPU time.
    """
    for _ in range(5):
        check(spend(reader, spender, "first", "left", "300", "2000", "sleep", "3000"), threads=300, killed=300)

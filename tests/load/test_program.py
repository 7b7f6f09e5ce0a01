"""The program alone: what it makes is what it says, and nothing is left of it. No instance is needed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import ProclineError, UnsupportedError
from pipeline.load import program
from pipeline.load.declared import KIND_THREAD
from pipeline.load.measuring import kernel_forks
from pipeline.load.program import Bounded, Load
from pipeline.load.scenarios import SCENARIOS, Settings, effective_capabilities
from pipeline.records.declared import KIND_EXIT, KIND_FORK
from tests.sampling import chosen
from tests.waiting import until

WORKERS = 2


def can(name: str) -> bool:
    capabilities = SCENARIOS[name].capabilities
    return not capabilities or any(effective_capabilities() >> number & 1 for number, _ in capabilities)


def left(comm: str) -> list[str]:
    """Return the processes with this name, except zombies."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            text = status.read_text(errors="replace")
        except OSError:
            continue
        if f"({comm})" in text and text.rpartition(")")[2].split()[0] not in "ZX":
            found.append(text[:60])
    return found


def nothing_is_left(comm: str, seconds: float = 60) -> bool:
    deadline = time.monotonic() + seconds
    while left(comm):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


@pytest.mark.parametrize("name", chosen(list(SCENARIOS), 4))
def test_it_reports_what_it_made(name: str) -> None:
    if not can(name):
        pytest.skip("needs privileges")
    forks = kernel_forks()
    with Load(Settings(name, 300, 0.6, WORKERS)) as load:
        load.begin()
        made = load.result()
        assert nothing_is_left(load.comm, 0)
    forks = kernel_forks() - forks
    counts = made.counts()
    assert made.units > 0 and not made.failed and not made.is_full
    assert counts["fork"] == counts["exit"]
    assert counts["fork"] + counts["thread"] <= forks
    if SCENARIOS[name].events:
        assert made.events == made.units * SCENARIOS[name].events + 2 * WORKERS
    records = made.records
    assert np.all(records["begin_ns"] > 0) and np.all(records["begin_ns"] <= records["end_ns"])
    assert (counts["thread"] > 0) == (name in {"threads", "mix"})
    assert (counts["cred"] > 0) == (name == "credentials")
    assert (counts["exec"] > 0) == (name in {"execs", "build", "namespaces", "pid-reuse", "mix"})
    # Each process ended by itself, with an exit code that the scenario chose.
    codes = records["about"][records["kind"] == KIND_EXIT]
    assert np.all(codes & 0xFF == 0) and np.all(codes >> 8 < 64)
    if name == "pid-reuse":
        pids, uses = np.unique(records["pid"][records["kind"] == KIND_FORK], return_counts=True)
        assert len(pids) <= 3 * WORKERS and uses.max() > 10
    if name == "deep":
        forked = records[records["kind"] == KIND_FORK]
        assert len(set(forked["about"].tolist()) & set(forked["pid"].tolist())) > len(forked) / 2
    if name == "threads":
        assert np.all(records["count"][records["kind"] == KIND_THREAD] == 8)


def test_it_keeps_the_rate() -> None:
    with Load(Settings("forks", 200, 2, 1)) as load:
        load.begin()
        made = load.result()
    assert 300 <= made.events <= 410
    assert 1.9 <= made.seconds <= 3


def test_it_waits_for_its_start_and_runs_on_the_cpus() -> None:
    cpu = min(os.sched_getaffinity(0))
    with Load(Settings("forks", None, 30, 1, (cpu,))) as load:
        time.sleep(0.2)
        assert load.events_so_far() == 0
        assert os.sched_getaffinity(load.pid) == {cpu}
        load.begin()
        until(lambda: load.events_so_far() >= 10)
    assert nothing_is_left(load.comm, 0)


def test_a_full_log_ends_it() -> None:
    with Load(Settings("forks", None, 60, 1), capacity=8300) as load:
        load.begin()
        made = load.result()
    assert made.is_full and 0 < len(made.records) <= 8300


@pytest.mark.parametrize("name", chosen(["forks", "build", "deep", "daemons", "mix"], 1))
@pytest.mark.slow
def test_a_stop_ends_all_its_processes(name: str) -> None:
    with Load(Settings(name, None, 60, WORKERS)) as load:
        load.begin()
        time.sleep(0.3)
        assert left(load.comm)
    assert nothing_is_left(load.comm, 0)


@pytest.mark.parametrize("name", chosen(["forks", "deep", "daemons", "mix"], 1))
def test_nothing_outlives_a_killed_program(name: str) -> None:
    with Load(Settings(name, None, 60, WORKERS)) as load:
        load.begin()
        time.sleep(0.3)
        os.kill(load.pid, signal.SIGKILL)
        assert nothing_is_left(load.comm)
        with pytest.raises(ProclineError, match="SIGKILL"):
            load.result()


CALLER = """
import sys, time
from pipeline.load.program import Load
from pipeline.load.scenarios import Settings
with Load(Settings("mix", 500, 60, 2)) as load:
    load.begin()
    print(load.comm, load._place.name, flush=True)
    time.sleep(60)
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", chosen([signal.SIGKILL, signal.SIGINT, signal.SIGTERM], 1))
def test_nothing_outlives_the_caller(number: signal.Signals) -> None:
    with subprocess.Popen([sys.executable, "-c", CALLER], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as caller:
        assert caller.stdout is not None
        comm, place = caller.stdout.readline().decode().split()
        time.sleep(0.3)
        assert left(comm)
        caller.send_signal(number)
    assert nothing_is_left(comm)
    assert not Path(place).exists()


def test_a_guarded_command_ends_with_the_caller() -> None:
    """Also one that ignores the closed input, and its children."""
    command = [str(program.program()), "guard", "sh", "-c", "sleep 61.25 & sleep 61.25; true"]
    with Bounded(command):
        time.sleep(0.3)
        assert len(guarded()) == 3
    assert not guarded()


def guarded() -> list[str]:
    shown = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout.splitlines()
    return [line for line in shown if "sleep 61.25" in line and "guard" not in line]


def test_a_guard_returns_the_code_of_its_command() -> None:
    with Bounded([str(program.program()), "guard", "sh", "-c", "exit 7"]) as process:
        assert process.process.wait(60) == 7


def test_a_program_that_was_not_compiled_is_explained(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(program, "PROGRAM", tmp_path / "none")
    with pytest.raises(UnsupportedError, match=r"missing.*wheel"):
        program.program()


def test_a_failed_system_call_is_explained() -> None:
    """A limit of open processes, for a user that has one."""
    if os.geteuid() != 0:
        pytest.skip("needs root, which can become another user")
    code = (
        "import os, resource; os.setgid(64999); os.setuid(64999); resource.setrlimit(resource.RLIMIT_NPROC, (2, 2))\n"
        "from pipeline.load.program import Load\nfrom pipeline.load.scenarios import Settings\n"
        "with Load(Settings('forks', 100, 1, 1)) as load:\n    load.begin()\n    load.result()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert "ProclineError: the load could not make its processes: Resource temporarily unavailable" in done.stderr

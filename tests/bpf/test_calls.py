"""Calls that the programs of calls.bpf.c record. A kernel may reject fentry: the tests run in the guest (tests/vm)."""

from __future__ import annotations

import ctypes
import fcntl
import os
import resource
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from pipeline.bpf import loader, syscall
from pipeline.bus.context_events import ContextEvent
from pipeline.host.boot import ticks_of
from pipeline.procfs.proc_reader import ProcReader
from tests.bpf.queued_calls import take_calls

pytestmark = [
    pytest.mark.live,
    pytest.mark.vm,
    pytest.mark.usefixtures("live_kernel"),
]

TRACEME, ATTACH, DETACH, SEIZE = 0, 16, 17, 0x4206
_libc = ctypes.CDLL(None, use_errno=True)


def ptrace(request: int, pid: int) -> None:
    if _libc.ptrace(ctypes.c_long(request), ctypes.c_long(pid), None, None):
        raise OSError(ctypes.get_errno(), "ptrace")


@contextmanager
def child(*command: str) -> Iterator[int]:
    process = subprocess.Popen(command or ["/bin/sleep", "600"], stdout=subprocess.PIPE)
    try:
        if command:
            assert process.stdout is not None
            process.stdout.readline()
        yield process.pid
    finally:
        process.kill()
        process.wait()


def started(pid: int) -> int | None:
    """Return the start of a process, in ticks."""
    return ProcReader().read_start(pid)


class Calls:
    """A capture with this tier, and what it queued."""

    def __init__(self, capture: loader.Capture) -> None:
        self.fds = capture.fds

    def made(self) -> list[ContextEvent]:
        return take_calls(self.fds.calls)

    def by(self, pid: int) -> list[tuple[str, dict[str, Any]]]:
        return [(event.kind, dict(event.body)) for event in self.made() if event.pid == pid]

    @property
    def dropped(self) -> int:
        return int.from_bytes(syscall.lookup(self.fds.calls_dropped, bytes(4), 8) or b"", "little")


@pytest.fixture(scope="module")
def loaded(live_kernel: None) -> Iterator[Calls]:
    with loader.Capture(ring_bytes=1 << 16, credentials="off", task_iterator="off", calls="on") as capture:
        (tier,) = [tier for tier in capture.tiers if tier.name == "calls"]
        assert tier.is_on and "no attach point" not in tier.detail, tier.detail
        yield Calls(capture)


@pytest.fixture
def calls(loaded: Calls) -> Calls:
    loaded.made()
    return loaded


def test_an_attaching_process_and_its_target_are_recorded(calls: Calls) -> None:
    with child() as first, child() as second:
        ptrace(ATTACH, first)
        os.waitpid(first, 0)
        ptrace(DETACH, first)
        ptrace(SEIZE, second)
        with pytest.raises(OSError, match="ptrace"):
            ptrace(SEIZE, second)  # it has a debugger
        targets = [started(first), started(second)]
    made = [event for event in calls.made() if event.pid == os.getpid()]
    assert [(event.kind, event.body["target"], event.body["request"]) for event in made] == [
        ("ptrace", first, ATTACH), ("ptrace", second, SEIZE),
    ]  # fmt: skip
    assert {ticks_of(event.start_boot_ns) for event in made} == {started(os.getpid())}
    assert [ticks_of(event.target_start_boot_ns) for event in made] == targets
    assert made[0].tid == os.getpid() and 0 < made[0].time_boot_ns < made[1].time_boot_ns


def test_a_process_that_asks_to_be_traced_and_its_children(calls: Calls) -> None:
    code = f"import ctypes, os, time; ctypes.CDLL(None).ptrace({TRACEME}, 0, 0, 0); print(flush=True); time.sleep(600)"
    with child("/usr/bin/python3", "-c", code) as pid:
        (event,) = (event for event in calls.made() if event.pid == pid)
    assert (event.kind, event.body) == ("ptrace", {"target": 0, "request": TRACEME})
    assert event.target_start_boot_ns == 0


def test_limits(calls: Calls) -> None:
    with child() as pid:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (100, 200))
        resource.prlimit(pid, resource.RLIMIT_NOFILE)  # reads only
        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
        target = started(pid)
    number, unlimited = resource.RLIMIT_NOFILE, (1 << 64) - 1
    first, second = (event for event in calls.made() if event.pid == os.getpid())
    assert (first.kind, second.kind) == ("setrlimit", "setrlimit")
    assert first.body == {"target": pid, "resource": number, "soft": 100, "hard": 200}
    assert [ticks_of(event.target_start_boot_ns) for event in (first, second)] == [target, 0]
    assert second.body["target"] == 0 and second.body["resource"] == resource.RLIMIT_CORE
    assert second.body["hard"] == resource.getrlimit(resource.RLIMIT_CORE)[1] & unlimited


def test_only_seals_of_tracing_libraries_memfds_are_recorded(calls: Calls) -> None:
    def sealed(name: str) -> int:
        file = os.memfd_create(name, os.MFD_ALLOW_SEALING)
        fcntl.fcntl(file, fcntl.F_GET_SEALS)
        fcntl.fcntl(file, fcntl.F_ADD_SEALS, fcntl.F_SEAL_GROW)
        return file

    files = [sealed("datadog-tracer-info-x"), sealed("other"), sealed("")]
    try:
        assert calls.by(os.getpid()) == [("tracer_memfd_seal", {"fd": files[0]})]
    finally:
        for file in files:
            os.close(file)


FLOOD = """
import resource
for number in range(1500):
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
"""


def test_a_user_with_many_calls_does_not_hide_those_of_others(calls: Calls) -> None:
    before = calls.dropped
    subprocess.run(["/usr/bin/python3", "-c", FLOOD], user=65533, check=True)
    with child() as pid:
        ptrace(SEIZE, pid)
        assert ("ptrace", {"target": pid, "request": SEIZE}) in calls.by(os.getpid())
    assert calls.dropped > before


HIDES = """
import ctypes, resource, subprocess, sys
for number in range(500):
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
process = subprocess.Popen(["/bin/sleep", "600"])
failed = ctypes.CDLL(None).ptrace(ctypes.c_long(0x4206), ctypes.c_long(process.pid), None, None)
print(process.pid)
process.kill()
sys.exit(failed)
"""


def test_a_user_with_many_calls_of_one_kind_does_not_hide_another(calls: Calls) -> None:
    run = subprocess.run(["/usr/bin/python3", "-c", HIDES], user=65532, check=True, stdout=subprocess.PIPE)
    made = [dict(event.body) for event in calls.made() if event.kind == "ptrace"]
    assert {"target": int(run.stdout), "request": SEIZE} in made

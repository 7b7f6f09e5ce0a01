"""Calls that the programs of calls.bpf.c record. A kernel may refuse fentry: the tests run in the guest (tests/vm)."""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.live.harness import Daemon, Recorder, eventually
from tests.live.test_context import of, traced

pytestmark = [pytest.mark.live, pytest.mark.vm]

TRACEME, ATTACH, DETACH, SEIZE = 0, 16, 17, 0x4206
#: An emulated guest is slow.
SECONDS = 120
_libc = ctypes.CDLL(None, use_errno=True)


def ptrace(request: int, pid: int) -> None:
    if _libc.ptrace(ctypes.c_long(request), ctypes.c_long(pid), None, None):
        raise OSError(ctypes.get_errno(), "ptrace")


@pytest.fixture(scope="module")
def daemon(live_kernel: None) -> Iterator[Daemon]:
    with Daemon('[capture]\ncalls = "on"\n', name="calls") as one:
        tiers = json.loads((one.directory / "tiers").read_text())
        assert not tiers["calls"].startswith("off"), tiers["calls"]
        yield one


@pytest.fixture
def recorder(daemon: Daemon) -> Iterator[Recorder]:
    with Recorder(daemon, "proc.context", "proc.exec") as one:
        one.started()
        yield one


@contextmanager
def sleeping(*command: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(command or ["/bin/sleep", "600"], text=True, stdout=subprocess.PIPE)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def waited(recorder: Recorder, kind: str, pid: int, count: int = 1) -> list[dict[str, Any]]:
    recorder.wait_for(lambda events: len(of(events, kind, pid)) >= count, SECONDS)
    return of(recorder.events, kind, pid)


def test_who_attaches_to_whom_is_reported(recorder: Recorder) -> None:
    own = os.getpid()
    with sleeping() as first, sleeping() as second:
        ptrace(ATTACH, first.pid)
        os.waitpid(first.pid, 0)
        ptrace(DETACH, first.pid)
        ptrace(SEIZE, second.pid)
        events = waited(recorder, "ptrace", own, 2)
        assert [event["context"]["request"] for event in events] == [ATTACH, SEIZE]
        assert [event["context"]["target"]["pid"] for event in events] == [first.pid, second.pid]
        assert {event["context"]["target"]["comm"] for event in events} == {"sleep"}
        assert {event["context"]["error"] for event in events} == {None}


def test_a_process_that_asks_to_be_traced_has_no_target(recorder: Recorder) -> None:
    code = f"import ctypes, time; ctypes.CDLL(None).ptrace({TRACEME}, 0, 0, 0); time.sleep(600)"
    with sleeping(sys.executable, "-c", code) as process:
        (event,) = waited(recorder, "ptrace", process.pid)
        assert event["context"]["request"] == TRACEME and not (event["context"]["target"] or {}).get("pid")


def test_the_target_has_its_present_parent(daemon: Daemon, recorder: Recorder) -> None:
    """Its creator has ended; the event shows the process that adopted it."""
    code = "import subprocess; p = subprocess.Popen(['/bin/sleep', '600'], stdout=subprocess.DEVNULL); print(p.pid)"
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True)
    orphan = int(done.stdout)
    try:
        adopter = int(Path(f"/proc/{orphan}/stat").read_text("ascii").rpartition(") ")[2].split()[1])
        resource.prlimit(orphan, resource.RLIMIT_NOFILE, (100, 200))
        (event,) = waited(recorder, "setrlimit", os.getpid())[-1:]
        context = event["context"]
        assert (context["target"]["pid"], context["soft"], context["hard"]) == (orphan, 100, 200)
        assert context["resource"] == resource.RLIMIT_NOFILE
        assert daemon.cli("resolve", str(orphan), "--json").stdout.count(f'"ppid": {adopter}') == 1
    finally:
        os.kill(orphan, signal.SIGKILL)


def test_a_limit_of_the_own_process_has_no_target(recorder: Recorder) -> None:
    code = "import resource, time; resource.setrlimit(resource.RLIMIT_CORE, (0, 0)); time.sleep(600)"
    with sleeping(sys.executable, "-c", code) as process:
        (event,) = waited(recorder, "setrlimit", process.pid)
        assert event["context"] | {"target": None} == {
            "target": None, "resource": resource.RLIMIT_CORE, "soft": 0, "hard": 0, "error": None,
        }  # fmt: skip


def test_a_tracers_memfd_is_read_when_it_is_sealed(recorder: Recorder) -> None:
    with traced() as (process, fd):
        (event,) = waited(recorder, "tracer_memfd_seal", process.pid)
        assert event["context"] == {"fd": fd, "error": None}
        assert event["extra"]["tracer_metadata"]["service_name"] == "shop"


FLOOD = """
import os, resource
for number in range(1500):
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
"""


def test_a_user_with_many_calls_hides_nobody_elses(daemon: Daemon, recorder: Recorder) -> None:
    user = 65533
    flood = subprocess.Popen(["/usr/bin/python3", "-c", FLOOD], user=user)
    try:
        with sleeping() as process:
            ptrace(SEIZE, process.pid)

            def is_reported(events: list[dict[str, Any]]) -> bool:
                mine = of(events, "ptrace", os.getpid())
                return any(event["context"]["target"]["pid"] == process.pid for event in mine)

            recorder.wait_for(is_reported, SECONDS)
    finally:
        flood.wait()
    with daemon.attach() as table:
        eventually(lambda: table.stats()["counters"]["calls_unrecorded"] > 0, timeout=SECONDS)

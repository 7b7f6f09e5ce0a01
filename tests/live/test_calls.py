"""Calls that the kernel reports to a daemon without an agent (`capture.calls`).

The programs need fentry, which this host may refuse; the guest of tests/vm allows it.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest

from pipeline.bpf import probe
from pipeline.shm.layout.layout import HOT
from tests.actor import Actor
from tests.live.agreement import assert_agrees
from tests.live.harness import Daemon, Recorder, resolve
from tests.waiting import eventually

pytestmark = [
    pytest.mark.live,
    pytest.mark.vm,
    pytest.mark.timeout(900),
]

#: Without comparisons with /proc, so that only an event or the repair for a call corrects the tables.
CONFIG = '[capture]\ncalls = "on"\n[repair]\ncheck_interval_s = 0\n'
SEIZE = 0x4206
#: Emulated, everything takes some fifteen times as long; all waits of one test together must end in time.
LONG_S = 300.0

#: A child that forks: both pids are printed, and both live until they are killed.
FAMILY = """
pipe = os.pipe()
parent = os.fork()
if not parent:
    child = os.fork()
    if child:
        os.write(pipe[1], b"%d" % child)
    while True:
        time.sleep(60)
family = [parent, int(os.read(pipe[0], 20))]
"""


@pytest.fixture(scope="module")
def daemon(live_kernel: None, missing: Callable[[str], NoReturn]) -> Iterator[Daemon]:
    kind = probe.attach_kind("fentry")
    if not kind.ok:
        # Also where tests of the live kernel must run: .ci/run runs this file in a guest.
        pytest.skip(f"this kernel refuses fentry ({kind.detail})")
    with Daemon(CONFIG) as running:
        yield running


@contextmanager
def calls_of(daemon: Daemon) -> Iterator[tuple[Actor, Callable[..., dict[str, Any]]]]:
    """Yield a process that makes calls, and a function that returns its event of a kind with these fields."""
    with Actor() as actor, daemon.attach() as table, Recorder(daemon, "proc.context", "proc.exec").started() as heard:
        eventually(lambda: resolve(table, actor.pid).is_exec, LONG_S)

        def event(kind: str, **expected: object) -> dict[str, Any]:
            def matching() -> list[dict[str, Any]]:
                mine = [each for each in list(heard.events) if each["event"] == kind and each["pid"] == actor.pid]
                return [one for one in mine if all(one["context"].get(name) == expected[name] for name in expected)]

            heard.wait_for(lambda _: matching(), LONG_S)
            (one,) = matching()
            assert one["entity_id"] == resolve(table, actor.pid).entity_id
            return one

        yield actor, event


def test_a_tracer_and_its_target(daemon: Daemon) -> None:
    # The tracer ends before its target, whose parent could not wait for it otherwise.
    with Actor() as target, calls_of(daemon) as (actor, event), daemon.attach() as table:
        actor.do(f"libc.ptrace({SEIZE}, {target.pid}, 0, 0)")
        context = event("ptrace")["context"]
        shown = resolve(table, target.pid)
        assert context["request"] == SEIZE and context["error"] is None
        assert (context["target"]["pid"], context["target"]["entity_id"]) == (target.pid, shown.entity_id)
        assert context["target"]["comm"] == shown.comm


def test_a_limit_of_another_process(daemon: Daemon) -> None:
    with calls_of(daemon) as (actor, event), Actor() as target:
        actor.do(f"import resource; resource.prlimit({target.pid}, resource.RLIMIT_NOFILE, (100, 200))")
        context = event("setrlimit", soft=100, hard=200)["context"]
        assert context["target"]["pid"] == target.pid and context["error"] is None


def test_the_seal_of_a_tracing_librarys_memfd(daemon: Daemon) -> None:
    with calls_of(daemon) as (actor, event), daemon.attach() as table:
        metadata = b"\x83\xaeschema_version\x01\xaftracer_language\xa6python\xacservice_name\xa3web"
        actor.do(
            "import fcntl\n"
            "memfd = os.memfd_create('datadog-tracer-info-abcd1234', os.MFD_ALLOW_SEALING)\n"
            f"os.write(memfd, {metadata!r})\n"
            "fcntl.fcntl(memfd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK)"
        )
        assert event("tracer_memfd_seal")["context"]["error"] is None
        eventually(lambda: resolve(table, actor.pid).extra["tracer_metadata"]["service_name"] == "web", LONG_S)


def test_a_target_that_no_event_has_shown(daemon: Daemon) -> None:
    """The shard is frozen, so the forks of target and parent are in the ring. The call comes by its own queue."""
    with calls_of(daemon) as (actor, event):
        (shard,) = daemon.pids("shard")[:1]
        os.kill(shard, signal.SIGSTOP)
        try:
            actor.do(FAMILY)
            (child,) = children_of(*children_of(actor.pid))
            (parent,) = children_of(actor.pid)
            assert not rows_of(daemon, child) and not rows_of(daemon, parent)
            actor.do(f"libc.ptrace({SEIZE}, family[1], 0, 0)")
            context = event("ptrace")["context"]
            assert context["target"]["pid"] == child and context["target"]["comm"] is not None
            (row,) = rows_of(daemon, child)
            assert (row["ppid"], row["exit_boot_ns"]) == (parent, 0)
            assert int(row["parent"]) and len(rows_of(daemon, parent)) == 1
        finally:
            os.kill(shard, signal.SIGCONT)
        try:
            with daemon.attach() as table:
                # The events of both come later, and add what the kernel's maps do not have.
                eventually(lambda: assert_agrees(table, complete=False), LONG_S, 0.5)
                assert resolve(table, child).ppid == parent and resolve(table, parent).ppid == actor.pid
                assert context["target"]["entity_id"] == resolve(table, child).entity_id
            assert len(rows_of(daemon, child)) == len(rows_of(daemon, parent)) == 1
        finally:
            for pid in (child, parent):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


def children_of(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def rows_of(daemon: Daemon, pid: int) -> list[Any]:
    """Return the rows of live images of a pid as they are in the tables, however far behind these are."""
    for _ in range(100):
        hot = np.fromfile(daemon.directory / "hot", HOT)
        found = hot[(hot["flags"] != 0) & (hot["tgid"] == pid) & (hot["exit_boot_ns"] == 0)]
        if not (found["row_seq"] % 2).any():
            return list(found)
        time.sleep(0.01)
    raise AssertionError(f"the row of {pid} is being written all the time")

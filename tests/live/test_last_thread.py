"""A process with a leader that ends first, and a last thread with another name and other credentials.

The exit event and the table have the facts of the leader, and the status that wait() reports. On Linux 5.10 that is the
leader's, which the proc connector cannot know: it has that of the last thread.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bpf.task_check import codes_of_separate_ends
from tests.live.harness import Daemon, Recorder, resolve
from tests.waiting import eventually

pytestmark = [pytest.mark.live]

#: System call numbers of exit and setresuid, because the C library's functions act on every thread.
CALLS = {"x86_64": (60, 117), "aarch64": (93, 147)}

PROGRAM = """
import ctypes, sys, threading, time
libc = ctypes.CDLL(None)
exit, setresuid, prctl_name = int(sys.argv[1]), int(sys.argv[2]), 15
def last():
    libc.prctl(prctl_name, b"own-name", 0, 0, 0)
    libc.syscall(setresuid, 65534, 65534, 65534)
    while open("/proc/self/stat").read().rpartition(")")[2].split()[0] != "Z":
        time.sleep(0.001)
    libc.syscall(exit, 7)
libc.prctl(prctl_name, b"the-process", 0, 0, 0)
threading.Thread(target=last).start()
sys.stdin.readline()
libc.syscall(exit, 5)
"""


@pytest.fixture(scope="module", params=["ebpf", "proc-connector"])
def daemon(request: pytest.FixtureRequest, live_kernel: None) -> Iterator[Daemon]:
    with Daemon("", "--source", request.param) as running:
        yield running


def test_an_exit_has_the_facts_of_the_process_and_the_status_of_wait(daemon: Daemon) -> None:
    numbers = CALLS[os.uname().machine]
    with Recorder(daemon, "proc.exit").started() as recorder, daemon.attach() as table:
        child = subprocess.Popen([sys.executable, "-c", PROGRAM, *map(str, numbers)], stdin=subprocess.PIPE)
        capabilities = int(Path("/proc/self/status").read_text().split("CapEff:")[1].split()[0], 16)
        eventually(lambda: resolve(table, child.pid).comm == "the-process")
        child.communicate(b"\n", timeout=20)
        assert child.returncode in codes_of_separate_ends()
        code = 7 if "proc-connector" in daemon.options else child.returncode
        recorder.wait_for(lambda events: any(event["pid"] == child.pid for event in events))
        (event,) = [event for event in recorder.stop() if event["pid"] == child.pid]
        entry = resolve(table, child.pid)
        assert (event["comm"], event["uid"], event["euid"]) == ("the-process", os.getuid(), os.getuid())
        assert (entry.comm, entry.uid, entry.euid) == ("the-process", os.getuid(), os.getuid())
        assert event["cap_effective"] == entry.cap_effective == capabilities
        assert os.waitstatus_to_exitcode(event["exit_code"]) == code
        assert os.waitstatus_to_exitcode(entry.exit_code) == code

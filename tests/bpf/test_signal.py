"""The sender of the signal that ended a process, as the tier of `capture.signal_senders` records it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from pipeline.bpf import loader
from pipeline.records import declared
from tests.bpf.ring_reader import RING_BYTES, Reader

pytestmark = [pytest.mark.live, pytest.mark.usefixtures("live_kernel")]


@pytest.fixture(scope="module")
def watched(live_kernel: None) -> Iterator[Reader]:
    with loader.Capture(ring_bytes=RING_BYTES, credentials="off", signal_senders="on") as capture:
        (tier,) = [tier for tier in capture.tiers if tier.name == "signal"]
        assert tier.is_on, tier.detail
        yield Reader(capture)


def sender_of(reader: Reader, pid: int) -> np.void | None:
    """Return the sender in the exit record of a process; None: there is none."""
    reader.until(lambda: reader.of(pid, declared.KIND_EXIT))
    (record,) = reader.of(pid, declared.KIND_EXIT)
    return record.sender


def sleeper(code: str = "") -> subprocess.Popen[str]:
    program = f"import os, signal, time\n{code}\nprint(flush=True)\ntime.sleep(60)"
    child = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    child.stdout.readline()
    return child


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV, signal.SIGRTMAX])
def test_the_sender_of_the_last_signal_is_in_the_exit(watched: Reader, number: int) -> None:
    child = sleeper()
    os.kill(child.pid, number)
    assert child.wait() == -number
    sender = sender_of(watched, child.pid)
    assert sender is not None
    assert (int(sender["sender_tgid"]), int(sender["sender_uid"])) == (os.getpid(), os.getuid())
    assert int(sender["sender_signal"]) == number
    assert bytes(sender["sender_comm"]).rstrip(b"\0") == Path("/proc/self/comm").read_bytes().strip()
    ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    assert int(sender["sender_start_boot_ns"]) // (10**9 // os.sysconf("SC_CLK_TCK")) == ticks


def test_another_user_and_the_later_of_two_senders(watched: Reader) -> None:
    child = sleeper("signal.signal(signal.SIGUSR1, lambda *_: None)")
    os.kill(child.pid, signal.SIGUSR1)
    time.sleep(0.05)
    killer = subprocess.run(
        ["/bin/sh", "-c", f"echo $$; kill -USR2 {child.pid}"], capture_output=True, text=True, check=True
    )
    assert child.wait() == -signal.SIGUSR2
    sender = sender_of(watched, child.pid)
    assert sender is not None and int(sender["sender_tgid"]) == int(killer.stdout)
    assert bytes(sender["sender_comm"]).rstrip(b"\0") == b"sh"


@pytest.mark.parametrize(
    ("code", "number"),
    [
        ("signal.alarm(1)", signal.SIGALRM),  # a timer of the kernel
        ("signal.setitimer(signal.ITIMER_REAL, 0.2)", signal.SIGALRM),
        ("import ctypes; print(flush=True); ctypes.string_at(8)", signal.SIGSEGV),
    ],
)
def test_signals_of_the_kernel_have_no_sender(watched: Reader, code: str, number: int) -> None:
    child = sleeper(code)
    while child.poll() is None:
        watched.poll()  # other tests fill the rings meanwhile
        time.sleep(0.01)
    assert child.returncode == -number
    assert sender_of(watched, child.pid) is None


def test_a_fault_after_an_ignored_signal_of_a_process_has_no_sender(watched: Reader) -> None:
    """The handler survives the first SIGSEGV, which a process sent; the second one is a fault."""
    program = (
        "import ctypes, os, signal, sys, time\n"
        "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGSEGV])\nprint(flush=True)\n"
        "signal.sigwait([signal.SIGSEGV])\nsignal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGSEGV])\n"
        "ctypes.string_at(8)"
    )
    child = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    child.stdout.readline()
    os.kill(child.pid, signal.SIGSEGV)
    assert child.wait() == -signal.SIGSEGV
    assert sender_of(watched, child.pid) is None


def test_a_process_that_ends_by_itself_has_no_sender(watched: Reader) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", "import signal as s; s.pthread_sigmask(0, [15]); print(flush=True); s.sigwait([15])"],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert child.stdout is not None
    child.stdout.readline()
    os.kill(child.pid, signal.SIGTERM)
    assert child.wait() == 0 and sender_of(watched, child.pid) is None


def test_a_process_may_send_it_to_itself(watched: Reader) -> None:
    child = sleeper("os.kill(os.getpid(), 15)")
    assert child.wait() == -15
    sender = sender_of(watched, child.pid)
    assert sender is not None and int(sender["sender_tgid"]) == child.pid


def test_it_is_off_by_default() -> None:
    with loader.Capture(ring_bytes=4096, credentials="off") as capture:
        (tier,) = [tier for tier in capture.tiers if tier.name == "signal"]
        assert (tier.is_on, tier.detail) == (False, 'capture.signal_senders is "off"')
        assert "pl_on_sent" not in {program.name for program in capture.programs}

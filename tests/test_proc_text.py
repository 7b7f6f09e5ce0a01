"""The format of ``/proc/PID/stat``, ``status``, ``fdinfo`` and ``mountinfo``."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline import proc_text
from pipeline.host.boot import CLOCK_TICKS

MOUNTINFO = Path("/proc/self/mountinfo")


def test_the_positions_are_those_of_this_kernel() -> None:
    fields = proc_text.stat_fields(Path("/proc/self/stat").read_bytes())
    assert fields[proc_text.STATE] == b"R" and not proc_text.has_ended(fields)
    assert int(fields[proc_text.PPID]) == os.getppid()
    assert (int(fields[proc_text.PGID]), int(fields[proc_text.SID])) == (os.getpgrp(), os.getsid(0))
    assert int(fields[proc_text.THREADS]) == len(list(Path("/proc/self/task").iterdir()))
    assert int(fields[proc_text.ARGS_START]) < int(fields[proc_text.ARGS_END]) <= int(fields[proc_text.ENVS_START])
    assert int(fields[proc_text.CODE_START]) < int(fields[proc_text.CODE_END]) < int(fields[proc_text.STACK_START])
    assert int(fields[proc_text.ENVS_END]) - int(fields[proc_text.ENVS_START]) == len(
        Path("/proc/self/environ").read_bytes()
    )
    used = os.times()
    assert abs(proc_text.cpu_ticks(fields) / CLOCK_TICKS - used.user - used.system) < 0.5
    uptime_s = float(Path("/proc/uptime").read_text().split()[0])
    assert 0 <= int(fields[proc_text.START_TICKS]) / CLOCK_TICKS <= uptime_s + 1


def test_the_scheduler_counts_what_proc_shows() -> None:
    for directory in (Path("/proc/self"), Path(f"/proc/self/task/{os.getpid()}")):
        cpu_ns, wait_ns, runs = proc_text.schedstat((directory / "schedstat").read_bytes())
        assert 0 < cpu_ns <= time.process_time_ns() and wait_ns >= 0 and runs > 0
    for text in (b"", b"1 2\n", b"1 2 3 4\n", b"a b c\n"):
        with pytest.raises(ValueError, match=r"unpack|invalid"):
            proc_text.schedstat(text)


def test_a_zombie_has_ended() -> None:
    with subprocess.Popen([sys.executable, "-ISc", ""]) as child:
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert proc_text.has_ended(proc_text.stat_fields(Path(f"/proc/{child.pid}/stat").read_bytes()))


@pytest.mark.parametrize("name", [b"sh", b"", b"a) R 1 (b", b") Z 0 (", b"(\n)", b"\xff )"])
def test_a_name_is_not_mistaken_for_fields(name: bytes) -> None:
    text = b"7 (" + name + b") S 1 7 7 0 -1\n"
    assert proc_text.split_stat(text) == (name, [b"S", b"1", b"7", b"7", b"0", b"-1"])


@pytest.mark.parametrize("text", [b"", b"7 (sh"])
def test_other_text_is_no_process(text: bytes) -> None:
    with pytest.raises(ProcessLookupError):
        proc_text.stat_fields(text)


def test_values_of_status() -> None:
    text = b"Name:\tx\\nUid:\t7\rGid:\t8\nUmask:\t0022\nUid:\t1\t2\t3\t4\nVmHWM:\t   12 kB\nNSpid:\t5\t1"
    assert proc_text.status_value(text, b"Uid") == b"1\t2\t3\t4"
    assert proc_text.status_value(text, b"VmHWM") == b"   12 kB"
    assert proc_text.status_value(text, b"NSpid") == b"5\t1", "also of a text that was cut"
    assert proc_text.status_value(text, b"Gid") == b"", "a name cannot add a line"
    own = Path("/proc/self/status").read_bytes()
    assert int(proc_text.status_value(own, b"Pid")) == os.getpid()


def test_effective_capabilities_are_a_mask() -> None:
    assert proc_text.effective_capabilities(b"Name:\tx\nCapPrm:\t0f\nCapEff:\t000000000020000e\n") == 0x20_000E
    assert proc_text.effective_capabilities(b"Name:\tx\n") == 0


def test_a_descriptor_is_on_the_mount_that_mountinfo_lists() -> None:
    fd = os.open("/proc/self/status", os.O_RDONLY)
    try:
        number = proc_text.mount_id(fd)
        assert number == proc_text.fdinfo_value(fd, b"mnt_id") and proc_text.fdinfo_value(fd, b"max_entries") == b""
    finally:
        os.close(fd)
    types = {mounted[0]: tail.split()[0] for mounted, tail in proc_text.mounts_of(MOUNTINFO.read_bytes())}
    assert types[number] == b"proc"
    with pytest.raises(OSError, match="fdinfo"):
        proc_text.mount_id(fd)


def test_the_own_pid_namespace() -> None:
    assert f"pid:[{proc_text.own_pid_ns()}]" == str(Path("/proc/self/ns/pid").readlink())


def test_lines_of_mountinfo() -> None:
    line = b"36 35 98:0 / /mnt/a\\040b\r rw shared:1 master:2 - ext3 /dev/root rw,errors=continue"
    [(mounted, tail)] = proc_text.mounts_of(line + b"\n37 35 cut\n\n")
    assert mounted[:3] == [b"36", b"35", b"98:0"] and mounted[6:] == [b"shared:1", b"master:2"]
    assert proc_text.unescape(mounted[4]) == b"/mnt/a b\r" and tail == b"ext3 /dev/root rw,errors=continue"

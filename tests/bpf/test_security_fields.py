"""no_new_privs, seccomp_mode and the working directory in records, compared with /proc."""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.procfs import proc_reader
from pipeline.records import declared
from tests.bpf.ring_reader import Reader, Record

pytestmark = [pytest.mark.live, pytest.mark.usefixtures("live_kernel")]

# include/uapi/linux/prctl.h and seccomp.h
PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS = 22, 38
SECCOMP_MODE_STRICT, SECCOMP_MODE_FILTER = 1, 2

LIBC = ctypes.CDLL(None, use_errno=True)


def set_no_new_privs() -> None:
    assert LIBC.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0


def set_filter() -> None:
    """Install a filter that allows every call."""
    set_no_new_privs()
    allow = struct.pack("<HBBI", 0x06, 0, 0, 0x7FFF0000)  # BPF_RET | BPF_K, SECCOMP_RET_ALLOW
    program = ctypes.create_string_buffer(allow)
    head = ctypes.create_string_buffer(struct.pack("<HxxxxxxQ", 1, ctypes.addressof(program)))
    assert LIBC.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, head, 0, 0) == 0


def executed(reader: Reader, prepare: Callable[[], None] | None = None, cwd: Path | None = None) -> list[Record]:
    """Return fork, exec and exit of a process that ran `prepare` before its exec, and compare the exec with /proc."""
    child = subprocess.Popen(["/bin/cat"], stdin=subprocess.PIPE, preexec_fn=prepare, cwd=cwd)
    try:
        record = reader.until(lambda: reader.of(child.pid, declared.KIND_EXEC))[0]
        info = proc_reader.ProcReader().read(child.pid)
        assert info is not None and record.task is not None
        assert info.states == (record.task["no_new_privs"], record.task["seccomp_mode"])
        assert info.directories == tuple(record.directories.values())
    finally:
        child.communicate(timeout=60)
    last = reader.until(lambda: reader.of(child.pid, declared.KIND_EXIT))[0]
    return [reader.of(child.pid, declared.KIND_FORK)[0], record, last]


def states(record: Record) -> tuple[int, int]:
    assert record.task is not None
    return int(record.task["no_new_privs"]), int(record.task["seccomp_mode"])


def of_true(reader: Reader) -> Record:
    """Run `true`, and return its exec."""
    with subprocess.Popen(["/bin/true"]) as child:
        return reader.one(child.pid, declared.KIND_EXEC)


def test_a_process_without_any(reader: Reader) -> None:
    info = proc_reader.ProcReader().read(os.getpid())
    assert info is not None
    for record in executed(reader):
        assert states(record) == info.states


def test_no_new_privs_is_recorded_from_the_exec_on(reader: Reader) -> None:
    fork, exec_, exit_ = executed(reader, set_no_new_privs)
    assert (states(fork)[0], states(exec_)[0], states(exit_)[0]) == (1, 2, 2)


def test_a_filter_is_recorded_from_the_exec_on(reader: Reader) -> None:
    _, exec_, exit_ = executed(reader, set_filter)
    assert states(exec_) == states(exit_) == (2, 1 + SECCOMP_MODE_FILTER)


def test_strict_mode_is_recorded_at_the_exit(reader: Reader) -> None:
    code = "import ctypes; ctypes.CDLL(None).prctl(22, 1, 0, 0, 0)"
    child = subprocess.Popen([sys.executable, "-S", "-c", code], stdin=subprocess.DEVNULL)
    # The first forbidden call ends it by SIGKILL. SIGSEGV was seen once, on a busy host.
    assert child.wait(timeout=60) in (-signal.SIGKILL, -signal.SIGSEGV)
    record = reader.until(lambda: reader.of(child.pid, declared.KIND_EXIT))[0]
    # The call that strict mode forbids ends the process: the kernel then reports the mode as "dead".
    assert states(record)[1] in (1 + SECCOMP_MODE_STRICT, 1 + SECCOMP_MODE_FILTER)


def test_a_forked_child_has_the_states_of_its_parent(reader: Reader) -> None:
    script = "/bin/sh -c '/bin/true; :'"
    child = subprocess.Popen(["/bin/sh", "-c", script], preexec_fn=set_filter, cwd="/usr")
    assert child.wait(timeout=60) == 0
    inner = reader.until(
        lambda: [r for r in reader.records if r.kind == declared.KIND_FORK and int(r.header["ppid"]) == child.pid]
    )[0]
    assert states(inner) == (2, 1 + SECCOMP_MODE_FILTER)


def test_cwd_is_the_directory_at_the_exec(reader: Reader, tmp_path: Path) -> None:
    directory = tmp_path / "with space" / "and\nnewline"
    directory.mkdir(parents=True)
    assert executed(reader, cwd=directory)[1].directories["cwd"] == os.fsencode(directory)
    assert executed(reader, cwd=Path("/"))[1].directories["cwd"] == b"/"


def test_a_long_cwd_is_whole_and_a_longer_one_is_unknown(reader: Reader, tmp_path: Path) -> None:
    here, name = Path.cwd(), Path("d" * 200)
    try:
        os.chdir(tmp_path)
        length = len(os.fsencode(tmp_path))
        while length + 201 < 4090:
            name.mkdir()
            os.chdir(name)
            length += 201
        directory = Path("/proc/self/cwd").readlink()
        record = of_true(reader)
        assert record.directories["cwd"] == os.fsencode(directory) and len(os.fsencode(directory)) == length
        longer = Path("d" * 250)  # beyond PATH_MAX, however long tmp_path is
        longer.mkdir()
        os.chdir(longer)
        record = of_true(reader)
        assert record.directories["cwd"] is None and record.name == b"/bin/true"
    finally:
        os.chdir(here)
        shutil.rmtree(tmp_path, ignore_errors=True)


def test_a_deleted_cwd_is_unknown(reader: Reader, tmp_path: Path) -> None:
    directory = tmp_path / "gone"
    directory.mkdir()

    def enter() -> None:
        os.chdir(directory)
        directory.rmdir()

    assert executed(reader, enter)[1].directories["cwd"] is None

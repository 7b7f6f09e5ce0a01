"""Facts from /proc as the records that BPF programs write."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.procfs.info import UNSET, ProcInfo, to_record, to_records, with_directories
from pipeline.procfs.proc_reader import WANT_ALL, read_process
from pipeline.records import declared, dtypes
from pipeline.shm.layout.declared import STATES
from tests.record_sizes import PLAIN_BYTES


def make(**facts: Any) -> ProcInfo:
    known: dict[str, Any] = {
        "tgid": 100,
        "ppid": 1,
        "start_ticks": 7,
        "start_boot_ns": 70_000_000,
        "comm": b"name",
        "state": "S",
        "task_flags": 0x400000,
        "thread_count": 1,
        "pgid": 90,
        "sid": 80,
        "tty": b"pts3",
        "uids": (1, 2, 3, 4),
        "gids": (5, 6, 7, 8),
        "cap_effective": 9,
        "cap_permitted": 10,
        "ns_pids": (100, 11),
    }
    return ProcInfo(**(known | facts))


def test_head_identifies_the_process_and_is_partial() -> None:
    header = to_record(make(), time_boot_ns=123).header[0]
    assert header["time_boot_ns"] == 123
    assert (header["tgid"], header["tid"], header["ppid"], header["start_boot_ns"]) == (100, 100, 1, 70_000_000)
    assert (header["kind"], header["flags"]) == (declared.KIND_EXEC, declared.FLAG_PARTIAL)
    assert to_record(make()).header[0]["time_boot_ns"] == 70_000_000


def test_task_has_each_value_in_its_field() -> None:
    facts = {"pid_ns": 12, "mnt_ns": 13, "net_ns": 14, "user_ns": 15, "cgroup_id": 16, "auid": 17, "audit_session": 18}
    task = to_record(make(**facts)).task[0]
    expected = {
        "uid": 1,
        "euid": 2,
        "suid": 3,
        "fsuid": 4,
        "gid": 5,
        "egid": 6,
        "sgid": 7,
        "fsgid": 8,
        "cap_effective": 9,
        "cap_permitted": 10,
        "ns_pid": 11,
        "sid": 80,
        "pgid": 90,
        "task_flags": 0x400000,
        "comm": b"name",
        "tty": b"pts3",
        "exe_inode": 0,
        "exe_dev": 0,
        "cookie": 0,
        **facts,
    }
    assert {name: task[name] for name in expected} == expected


def test_exec_has_each_value_in_its_field() -> None:
    info = make(
        exe=b"/jail/bin/x", root=b"/jail", exe_inode=1, exe_ctime_ns=2, exe_mtime_ns=3, exe_device=4, mount_id=5,
        exe_uid=6, exe_gid=7, exe_nlink=8, exe_mode=0o100755, argv=b"x\0\0y\0", args_full_bytes=99, envs=b"A=1\0",
        envs_full_bytes=4, is_args_truncated=True, mount_end=6, fs_magic=0xEF53,
    )  # fmt: skip
    records = to_record(info)
    row = records.exec[0]
    expected = {
        "inode": 1,
        "ctime_ns": 2,
        "mtime_ns": 3,
        "device": 4,
        "mount_id": 5,
        "file_uid": 6,
        "file_gid": 7,
        "nlink": 8,
        "mode": 0o100755,
        "exec_flags": declared.EXEC_ARGS_TRUNCATED,
        "exec_tid": 100,
        "prev_tid": 100,
        "path_bytes": 11,
        "root_offset": 5,
        "name_bytes": 0,
        "args_bytes": 5,
        "args_full_bytes": 99,
        "envs_bytes": 4,
        "envs_full_bytes": 4,
        "argc": 3,
        "envc": 1,
        "mount_end": 6,
        "fs_magic": 0xEF53,
    }
    assert {name: row[name] for name in expected} == expected
    assert records.blob == b"/jail/bin/xx\0\0y\0A=1\0"
    assert records.header[0]["var_bytes"] == len(records.blob)
    assert records.header[0]["record_bytes"] == PLAIN_BYTES + 128 + len(records.blob)


def test_states_and_the_working_directory_are_in_the_record() -> None:
    records = to_record(make(states=(2, 3), directories=(b"/srv",), exe=b"/bin/x", argv=b"x\0", envs=b""))
    assert (records.task[0]["no_new_privs"], records.task[0]["seccomp_mode"]) == (2, 3)
    assert (records.exec[0]["name_bytes"], records.blob) == (5, b"/bin/x\0/srvx\0")
    unknown = to_record(make()).task[0]
    assert (unknown["no_new_privs"], unknown["seccomp_mode"]) == (0, 0)


@pytest.mark.parametrize(
    ("directories", "stored"),
    [((), b"./a"), ((None,), b"./a"), ((b"/srv",), b"./a\0/srv"), ((b"/srv", None), b"./a\0/srv"),
     ((None, b"/r"), b"./a\0\0/r"), ((b"/srv", b"/r"), b"./a\0/srv\0/r"), ((None, None), b"./a")],
)  # fmt: skip
def test_each_directory_follows_the_name_after_a_nul(directories: tuple[bytes | None, ...], stored: bytes) -> None:
    assert with_directories(b"./a", directories) == stored


def test_the_states_of_a_record_have_the_order_of_the_declaration() -> None:
    names = dtypes.TASK.names or ()
    places = [names.index(state.name) for state in STATES]
    assert places == sorted(places)


def test_unknown_is_marked_not_empty() -> None:
    row = to_record(make()).exec[0]
    assert row["exec_flags"] == declared.EXEC_ARGS_UNREADABLE | declared.EXEC_ENVS_UNREADABLE
    assert to_record(make(argv=b"", envs=b"")).exec[0]["exec_flags"] == 0
    task = to_record(make()).task[0]
    assert (task["auid"], task["audit_session"], task["pid_ns"]) == (UNSET, UNSET, 0)


def test_flags_of_the_executable() -> None:
    memfd = to_record(make(exe=b"/memfd:x", is_memfd=True, is_exe_deleted=True, argv=b"", envs=b""))
    assert memfd.exec[0]["exec_flags"] == declared.EXEC_MEMFD | declared.EXEC_DELETED
    for exe, root, flag in ((b"/jail/x", b"/jail", 0), (b"/x", b"/", 0), (b"/x", None, 0), (b"/jailed/x", b"/jail", 1)):
        row = to_record(make(exe=exe, root=root, argv=b"", envs=b"")).exec[0]
        assert row["exec_flags"] == flag * declared.EXEC_NO_ROOT


def test_other_kinds_carry_the_executable_in_task() -> None:
    records = to_record(make(exe_inode=5, exe_device=6), kind=declared.KIND_FORK)
    assert (records.task[0]["exe_inode"], records.task[0]["exe_dev"]) == (5, 6)
    assert records.header[0]["record_bytes"] == PLAIN_BYTES


def test_children_get_the_start_of_a_parent_in_the_same_batch() -> None:
    records = to_records([make(tgid=1, ppid=0, start_boot_ns=50), make(tgid=2, ppid=1), make(tgid=3, ppid=77)])
    assert records.header["parent_start_boot_ns"].tolist() == [0, 50, 0]
    assert records.header["tgid"].tolist() == [1, 2, 3]
    assert (records.task.shape, records.exec.shape) == ((3,), (3,))


def test_no_processes_make_empty_columns() -> None:
    records = to_records([])
    assert (len(records.header), len(records.task), len(records.exec), records.blob) == (0, 0, 0, b"")


def test_record_dtypes_are_the_vocabularys() -> None:
    info = read_process(os.getpid(), WANT_ALL)
    assert info is not None
    records = to_record(info)
    assert (records.header.dtype, records.task.dtype, records.exec.dtype) == (dtypes.HEADER, dtypes.TASK, dtypes.EXEC)
    assert records.exec["inode"][0] == np.uint64(Path("/proc/self/exe").stat().st_ino)


@pytest.mark.parametrize(
    ("comm", "exe", "argv", "script"),
    [
        (b"x.py", b"/usr/bin/python3.13", b"/usr/bin/python3\0./x.py\0", b"./x.py"),
        (b"x.py", b"/usr/bin/python3.13", b"/usr/bin/python3\0/a/x.py\0-v\0", b"/a/x.py"),
        (b"x.py", b"/usr/bin/python3.13", b"/usr/bin/python3\0-u\0/a/x.py\0-v\0", b"/a/x.py"),
        (b"a_name_longer_t", b"/bin/dash", b"/bin/sh\0/a_name_longer_than_15\0", b"/a_name_longer_than_15"),
        (b"python3", b"/usr/bin/python3", b"/usr/bin/python3\0python3\0", None),
        (b"x.py", b"/usr/bin/python3.13", b"python3\0x.py\0", None),
        (b"worker", b"/usr/sbin/nginx", b"nginx: worker process\0", None),
        (b"x", b"/bin/x", b"", None),
        (b"x", None, b"/bin/sh\0x\0", None),
    ],
)
def test_script_is_recognised(comm: bytes, exe: bytes | None, argv: bytes, script: bytes | None) -> None:
    info = make(comm=comm, exe=exe, argv=argv, envs=b"")
    assert info.script_path == script
    records = to_record(info)
    assert bool(records.exec[0]["exec_flags"] & declared.EXEC_SCRIPT) == (script is not None)
    if script is not None:
        assert records.blob == (exe or b"") + script + argv

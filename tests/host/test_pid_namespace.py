"""A capture is rejected if the kernel's pids and those of ``/proc`` differ."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pipeline.errors import UnsupportedError
from pipeline.host import pid_namespace

INNER = 4026532201


def made(proc: Path, own: int, inode: int) -> Path:
    """Create a ``/proc`` in which this process is `own`, in the pid namespace `inode`."""
    (proc / str(own) / "ns").mkdir(parents=True)
    (proc / str(own) / "ns" / "pid").symlink_to(f"pid:[{inode}]")
    (proc / "self").symlink_to(str(own))
    (proc / "uptime").touch()
    return proc


def test_the_initial_namespace_with_its_proc_is_accepted(tmp_path: Path) -> None:
    assert pid_namespace.fault(made(tmp_path, os.getpid(), pid_namespace.INITIAL)) is None


def test_an_inner_namespace_is_refused_whichever_proc_it_has(tmp_path: Path) -> None:
    for number in (os.getpid(), os.getpid() + 1):
        found = pid_namespace.fault(made(tmp_path / str(number), number, INNER))
        assert found is not None and "not the initial pid namespace" in found[0] and "--pid=host" in found[1]


def test_a_proc_in_which_this_process_is_absent_or_has_another_number_is_refused(tmp_path: Path) -> None:
    other = made(tmp_path / "other", os.getpid() + 1, pid_namespace.INITIAL)
    absent = tmp_path / "absent"
    absent.mkdir()
    (absent / "uptime").touch()
    for proc in (other, absent):
        found = pid_namespace.fault(proc)
        assert found is not None and "mounted for another pid namespace" in found[0] and "mount -t proc" in found[1]


def test_a_proc_that_is_not_mounted_is_refused(tmp_path: Path) -> None:
    found = pid_namespace.fault(tmp_path)
    assert found is not None and "nothing is mounted" in found[0]


def test_only_sources_that_combine_both_numberings_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pid_namespace, "fault", lambda: ("the reason", "the remedy"))
    for source in ("tracer", "replay:/tmp/x"):
        pid_namespace.require_initial(source)
    for source in ("ebpf", "proc-connector"):
        with pytest.raises(UnsupportedError, match=f"'{source}' cannot run here: the reason; the remedy"):
            pid_namespace.require_initial(source)

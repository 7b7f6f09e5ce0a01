"""Processes of other pid namespaces, found by their numbers there."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from pipeline.resolver.upkeep.foreign import PASS_NS, ForeignPids, key_of
from pipeline.shm.layout import layout
from tests.waiting import eventually


def process(proc: Path, pid: int, numbers: str, namespace: int) -> None:
    """Add a process to /proc; a namespace is a file here, and its number is the file's inode."""
    directory = proc / str(pid)
    (directory / "ns").mkdir(parents=True)
    (directory / "status").write_text(f"Name:\tx\nNSpid:\t{numbers}\nNSpgid:\t{numbers}\n")
    inode = proc / f"namespace{namespace}"
    inode.touch()
    (directory / "ns/pid").symlink_to(inode)


def test_a_process_is_found_by_its_innermost_number(tmp_path: Path) -> None:
    process(tmp_path, 10, "10", 1)
    process(tmp_path, 11, "11\t3", 2)
    process(tmp_path, 12, "12\t7\t3", 3)
    inner, innermost = ((tmp_path / f"namespace{number}").stat().st_ino for number in (2, 3))
    now = [0]
    pids = ForeignPids(str(tmp_path), lambda: now[0])
    assert pids.find((3, inner)) == 0, "nothing was read yet"
    assert pids.refresh()
    assert [pids.find(key) for key in ((3, inner), (3, innermost), (7, innermost), (11, inner))] == [11, 12, 0, 0]
    # The pid has another owner now.
    (tmp_path / "11/status").write_text("Name:\tx\nNSpid:\t11\t4\n")
    assert pids.find((3, inner)) == 0
    assert not pids.refresh(), "a moment ago"
    now[0] += PASS_NS
    assert pids.refresh() and pids.find((4, inner)) == 11


@pytest.mark.skipif(os.geteuid() != 0, reason="namespaces are made by root")
def test_a_real_one() -> None:
    with subprocess.Popen(["unshare", "--pid", "--fork", "--kill-child", "sleep", "300"]) as outer:
        try:

            def child() -> int:
                (one,) = Path(f"/proc/{outer.pid}/task/{outer.pid}/children").read_text().split() or ("0",)
                assert int(one)
                return int(one)

            pid = eventually(child)
            pids = ForeignPids()
            assert pids.refresh() and pids.find((1, Path(f"/proc/{pid}/ns/pid").stat().st_ino)) == pid
        finally:
            outer.kill()


def test_only_processes_of_tracers_have_a_key() -> None:
    class Tables:
        hot = np.zeros(3, layout.HOT)
        cold = np.zeros(3, layout.COLD)

        def py_head(self, tgid: int) -> int:
            return {5: 1, 6: 2}.get(tgid, 0)

        def hot_view(self) -> np.ndarray:
            return self.hot

        def cold_view(self) -> np.ndarray:
            return self.cold

    tables = Tables()
    tables.hot["flags"][1:] = layout.ROW_HEAD, layout.ROW_HEAD | layout.ROW_FOREIGN
    tables.cold["ns_pid"][1:], tables.cold["pid_ns"][1:] = 7, 99
    assert [key_of(tables, tgid) for tgid in (4, 5, 6)] == [None, None, (7, 99)]


def test_the_name_of_a_process_is_not_its_number(tmp_path: Path) -> None:
    """A process chooses its name, and the kernel escapes only the end of a line in it."""
    process(tmp_path, 11, "11\t3", 2)
    (tmp_path / "11/status").write_bytes(b"Name:\tx\rNSpid:\t1\nNSpid:\t11\t3\n")
    pids = ForeignPids(str(tmp_path), lambda: 0)
    inner = (tmp_path / "namespace2").stat().st_ino
    assert pids.refresh()
    assert [pids.find((number, inner)) for number in (1, 3)] == [0, 11]

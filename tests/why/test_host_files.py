"""The file at the path of an executable: found without asking a file system that may not answer."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pipeline.why import host, host_files
from pipeline.why.phrases import quoted
from tests.why.world import image

MOUNTINFO = rb"""21 28 0:20 / /proc rw shared:5 - proc proc rw
28 1 8:1 / / rw shared:1 - ext4 /dev/sda1 rw
40 28 0:50 / /home/a/x\\040y rw - fuse.sshfs - rw
41 28 0:51 / /mnt rw master:2 - nfs4 server:/ rw
42 28 0:52 / /net rw - autofs systemd-1 rw
"""


def test_the_inode_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "usr").mkdir()
    file = tmp_path / "usr/x"
    file.write_text("")
    assert host_files.inode_of("/usr/x", str(tmp_path)) == file.stat().st_ino
    assert host_files.inode_of("/usr//./x", str(tmp_path)) == file.stat().st_ino
    with pytest.raises(FileNotFoundError):
        host_files.inode_of("/usr/y", str(tmp_path))
    with pytest.raises(NotADirectoryError):
        host_files.inode_of("/usr/x/y", str(tmp_path))


def test_links_and_ways_up_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("")
    (tmp_path / "link").symlink_to("x")
    (tmp_path / "directory").symlink_to(".")
    assert host_files.inode_of("/link", str(tmp_path)) is None
    assert host_files.inode_of("/directory/x", str(tmp_path)) is None
    assert host_files.inode_of("/../x", str(tmp_path)) is None


def test_file_systems_that_may_not_answer_are_known() -> None:
    assert host_files.answering_mounts(MOUNTINFO) == {"21", "28"}


def test_nothing_is_asked_of_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The path of a process that runs can be covered by a FUSE file system later."""
    (tmp_path / "x").write_text("")
    with monkeypatch.context() as patch:
        patch.setattr(host_files, "answering_mounts", lambda text: frozenset())
        patch.setattr(os, "fstat", None)
        found = host_files.inode_of("/x", str(tmp_path))
    assert found is None


def test_an_executable_that_was_replaced_or_deleted(tmp_path: Path) -> None:
    own = host.Host(str(tmp_path))
    assert own.executable(image(7, "/x")) == host.DELETED
    (tmp_path / "x").write_text("")
    inode = (tmp_path / "x").stat().st_ino
    assert own.executable(image(7, "/x", inode=inode)) == host.SAME
    assert own.executable(image(7, "/x", inode=inode + 1)) == host.REPLACED


def test_nothing_is_claimed_about_files_that_the_caller_does_not_see() -> None:
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip().replace("-", "")
    entry = image(7, entity_id=f"{boot}-7")
    mine = Path("/proc/self/ns/mnt").stat().st_ino
    assert not isinstance(host.host_of(entry, image(1, mnt_ns=mine)), host.NoHost)
    assert not isinstance(host.host_of(entry, image(1, mnt_ns=None)), host.NoHost)
    assert isinstance(host.host_of(entry, image(1, mnt_ns=mine + 1)), host.NoHost)


def test_a_quotation_cannot_be_ended_by_what_it_quotes() -> None:
    assert quoted('a" b') == r'"a\" b"'
    assert quoted('a\\" b') == r'"a\\\" b"'
    assert quoted("a\\") == r'"a\\"'
    assert quoted("a\x1b") == r'"a\x1b"' != quoted(r"a\x1b")

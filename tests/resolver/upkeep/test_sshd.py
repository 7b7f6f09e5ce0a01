"""Which process is the host's sshd: its user, its namespaces, and its file."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.procfs.proc_reader import WANT_EXE, WANT_NS, read_process
from pipeline.records import declared
from pipeline.resolver.upkeep import sshd
from pipeline.resolver.upkeep.namespaces import host_namespaces
from pipeline.resolver.upkeep.sshd import HostSshd, is_hosts_file
from pipeline.shm.layout import layout
from tests.resolver.applier_world import World
from tests.resolver.story import instance

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, the owner of sshd")

USER, OTHER_NS = 1000, 4026532999


# -- the process -------------------------------------------------------------------------------------------------------


@pytest.fixture
def w(monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setattr(sshd, "is_hosts_file", lambda record, root: record.endswith(b"/usr/sbin/sshd"))
    with instance() as directory:
        world = World(directory)
        world.init()
        world.host = HostSshd(world.tables)
        yield world
        world.tables.close()


def run(w: World, tgid: int, uid: int = 0, path: bytes = b"/usr/sbin/sshd", parent: int = 1) -> int:
    w.fork(parent, tgid, uid=uid)
    w.exec(tgid, path)
    return w.proc(tgid).row


def put(w: World, row: int, table: str, **facts: int) -> None:
    w.tables.py_begin(row)
    for name, value in facts.items():
        getattr(w.tables, f"{table}_view")()[name][row] = value
    w.tables.py_end(row)


def test_the_sshd_of_root_and_its_children(w: World) -> None:
    assert w.host.recognizes(run(w, 3))
    w.fork(3, 4, uid=USER)  # it has dropped root's rights
    assert w.host.recognizes(w.proc(4).row)
    w.fork(4, 5, uid=USER)
    assert not w.host.recognizes(w.proc(5).row), "only one generation: this is what a user may have started"


def test_a_process_that_is_recognized_is_not_examined_again(w: World, monkeypatch: pytest.MonkeyPatch) -> None:
    row = run(w, 3)
    assert w.host.recognizes(row) and w.host.recognizes(row) and w.host.decisions == 1
    monkeypatch.setattr(sshd, "PROCESSES_MAX", 2)
    for tgid in (4, 5, 6):
        assert w.host.recognizes(run(w, tgid))
    assert len(w.host._rows) == 2


@pytest.mark.parametrize(
    ("table", "facts"),
    [
        ("hot", {"uid": USER}),
        ("cold", {"euid": USER}),
        ("hot", {"uid": 0xFFFFFFFF}),
        ("cold", {"mnt_ns": OTHER_NS}),
        ("cold", {"user_ns": OTHER_NS}),
        ("cold", {"mnt_ns": 0}),
        ("hot", {"known": 0}),
        ("hot", {"known": layout.KNOWN_CREDS | layout.KNOWN_FILE}),
    ],
)
def test_a_process_without_root_on_the_host_is_not_its_sshd(w: World, table: str, facts: dict[str, int]) -> None:
    row = run(w, 3)
    put(w, row, table, **facts)
    assert not w.host.recognizes(row)


def test_a_user_may_run_the_real_one(w: World) -> None:
    """Also below root's sshd, as in a session: the user controls everything that it says about clients."""
    run(w, 3)
    w.fork(3, 4, uid=USER)
    w.exec(4, b"/usr/sbin/sshd")
    assert not w.host.recognizes(w.proc(4).row)
    # Nor one that su started for the user, in a process that root's program forked.
    run(w, 5, path=b"/bin/su")
    w.fork(5, 6, uid=USER)
    w.exec(6, b"/usr/sbin/sshd")
    assert not w.host.recognizes(w.proc(6).row)
    # As a snapshot shows it: of two generations with the same image, the upper one is root's.
    w.fork(4, 7, uid=USER)
    put(w, w.proc(7).row, "hot", source=layout.SOURCE_SNAPSHOT)
    assert not w.host.recognizes(w.proc(7).row)


def test_a_process_of_a_user_below_another_program_of_root_is_not_the_hosts(w: World) -> None:
    run(w, 3, path=b"/bin/sh")
    w.story.fork(3, 4, uid=USER)
    w.snapshot(4, b"/usr/sbin/sshd")
    assert w.proc(4).uid == USER and not w.host.recognizes(w.proc(4).row)


def test_the_root_directory_of_the_host(tmp_path: Path) -> None:
    assert sshd._root_of(str(tmp_path)) == ""  # as without permission
    (tmp_path / "1/root").mkdir(parents=True)
    assert sshd._root_of(str(tmp_path)) == f"{tmp_path}/1/root"


def test_the_namespaces_of_the_host(w: World) -> None:
    """Those of pid 1; of this process if the kernel did not report them."""
    own = tuple(os.stat(f"/proc/self/ns/{kind}").st_ino for kind in ("mnt", "user"))  # noqa: PTH116
    row = w.proc(1).row
    put(w, row, "cold", mnt_ns=5, user_ns=6)
    assert host_namespaces(w.tables) == (5, 6)
    put(w, row, "cold", mnt_ns=0)
    assert host_namespaces(w.tables) == own


def test_another_namespace_above_does_not_count(w: World) -> None:
    row = run(w, 3)
    put(w, row, "cold", mnt_ns=OTHER_NS)
    w.fork(3, 4, uid=USER)
    assert not w.host.recognizes(w.proc(4).row)


def test_unknown_facts_are_read_from_proc_a_few_times_a_turn(w: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a lost record, the rows do not show the process's user; any user can cause thousands of such rows."""
    asked: list[int] = []
    monkeypatch.setattr(sshd, "read_process", lambda tgid, want: asked.append(tgid))
    rows = []
    for tgid in range(100, 200):
        rows.append(run(w, tgid))
        put(w, rows[-1], "hot", known=0)
    assert not any(map(w.host.recognizes, rows)) and len(asked) == sshd.READS_PER_TURN
    w.host.turn()
    assert not any(map(w.host.recognizes, rows)) and len(asked) == 2 * sshd.READS_PER_TURN


@needs_root
def test_a_process_that_only_proc_knows(w: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = read_process(os.getpid(), sshd.WANT_IDS | WANT_EXE | WANT_NS)
    assert info is not None and info.exe is not None
    monkeypatch.setattr(sshd, "is_hosts_file", lambda record, root: record.endswith(info.exe))
    monkeypatch.setattr(sshd, "host_namespaces", lambda tables: (info.mnt_ns, info.user_ns))
    w.story.begin(info.tgid, start=info.start_boot_ns)
    w.snapshot(info.tgid, ticks=True, known=0)
    row = w.proc(info.tgid).row
    put(w, row, "hot", known=0)
    assert w.host.recognizes(row)
    other = HostSshd(w.tables)
    put(w, row, "hot", start_boot_ns=info.start_boot_ns + 50_000_000)
    assert not other.recognizes(row), "the pid has another owner"
    put(w, row, "hot", start_boot_ns=info.start_boot_ns)


# -- the file ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def binary(tmp_path: Path) -> Path:
    directory = tmp_path / "sbin"
    directory.mkdir()
    path = directory / "sshd"
    shutil.copy("/bin/true", path)
    path.chmod(0o755)
    return path


def record_of(path: Path, **facts: Any) -> bytes:
    """The FILE record that the kernel writes for an executable."""
    status = path.stat()
    file = np.zeros(1, layout.FILE)
    known = {
        "file_inode": status.st_ino, "device": os.major(status.st_dev) << 20 | os.minor(status.st_dev),
        "file_uid": status.st_uid, "mode": status.st_mode, "mount_id": mount(path), "fs_magic": 0xEF53,
    }  # fmt: skip
    for name, value in (known | facts).items():
        file[name] = value
    return file.tobytes() + os.fsencode(path)


def mount(path: Path) -> int:
    fd = os.open(path, os.O_PATH)
    try:
        return int(sshd.mount_id(fd))
    finally:
        os.close(fd)


@needs_root
def test_a_file_of_roots_that_the_host_has_there(binary: Path) -> None:
    assert is_hosts_file(record_of(binary))
    for name in ("sshd-session", "sshd-auth"):
        assert is_hosts_file(record_of(binary.rename(binary.with_name(name))))
        binary = binary.with_name(name)
    assert not is_hosts_file(record_of(binary.rename(binary.with_name("bash"))))


@needs_root
@pytest.mark.parametrize(
    "facts",
    [
        {"file_inode": 5}, {"device": 5, "mount_id": 5}, {"file_uid": USER}, {"mode": 0o104755}, {"mode": 0o102755},
        {"mode": 0o100757}, {"mode": 0o100775}, {"mode": 0o060755}, {"file_flags": declared.EXEC_DELETED},
        {"file_flags": declared.EXEC_MEMFD}, {"file_flags": declared.EXEC_DETACHED},
        {"file_flags": declared.EXEC_NO_ROOT}, {"file_flags": declared.EXEC_ESCAPED},
        {"file_flags": declared.EXEC_PATH_TRUNCATED}, {"fs_magic": 0x65735546},
    ],
)  # fmt: skip
def test_another_file_than_the_one_there(binary: Path, facts: dict[str, int]) -> None:
    """A file mounted over the name elsewhere has another inode or device; no valid sshd has the other differences."""
    assert not is_hosts_file(record_of(binary, **facts))


@needs_root
def test_a_subvolume_has_a_device_of_its_own_and_the_same_mount(binary: Path) -> None:
    assert is_hosts_file(record_of(binary, device=5))


@needs_root
@pytest.mark.parametrize("mode", [0o777, 0o775, 0o1777])
def test_a_directory_that_others_may_write_to(binary: Path, mode: int) -> None:
    """Another user could put a link to one of root's files there, also in a sticky directory."""
    binary.parent.chmod(mode)
    assert not is_hosts_file(record_of(binary))


@needs_root
def test_a_directory_further_up(binary: Path) -> None:
    above = binary.parent.parent
    for mode, is_accepted in ((0o1777, True), (0o777, False), (0o755, True)):
        above.chmod(mode)
        assert is_hosts_file(record_of(binary)) is is_accepted
    os.chown(above, USER, 0)
    assert not is_hosts_file(record_of(binary))


@needs_root
def test_a_link_or_a_missing_file_on_the_path(binary: Path) -> None:
    link = binary.parent.with_name("link")
    link.symlink_to(binary.parent)
    assert not is_hosts_file(record_of(link / "sshd"))
    gone = record_of(binary)
    binary.unlink()
    assert not is_hosts_file(gone)
    binary.symlink_to("/bin/true")
    assert not is_hosts_file(record_of(binary))
    assert not is_hosts_file(record_of(Path("/"))[:64] + b"sshd")
    assert not is_hosts_file(gone[:64] + b"/x" * 40 + b"/sshd")
    assert not is_hosts_file(gone[:64] + b"/a\0b/sshd")


@needs_root
def test_the_file_is_searched_below_the_hosts_root(binary: Path) -> None:
    root = binary.parents[1]
    inside = record_of(binary)[:64] + b"/sbin/sshd"
    assert is_hosts_file(inside, str(root)) and not is_hosts_file(inside)


@needs_root
def test_a_file_that_was_recognized_stays_so_when_it_is_replaced(w: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """An upgrade puts another file there; existing sessions continue in processes of the old file."""
    row = run(w, 3)
    assert w.host.recognizes(row)
    monkeypatch.setattr(sshd, "is_hosts_file", lambda record, root: False)
    w.fork(3, 4)
    assert w.host.recognizes(w.proc(4).row)

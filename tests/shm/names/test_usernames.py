"""Names of users and groups as a reader sees them: from the files beside the tables, and never from its own host."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.shm.layout import layout
from pipeline.shm.names import usernames
from pipeline.shm.names.details import BELIEVED_NS
from pipeline.shm.names.usernames import DIRECTORY, HOST_FILE, UserNames, file_name
from tests.shm.full_row import resolve
from tests.shm.handmade import Tables

HOST = {
    "mnt_ns": 1, "user_ns": 2, "user": {"0": "root", "7": "gr\u00fc\u00df\udcff"},
    "group": {"0": "wheel", "8": "backup", "9": "staff"},
}  # fmt: skip
INSIDE = {"user": {"7": "app"}, "group": {}}


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / DIRECTORY).mkdir()
    (tmp_path / DIRECTORY / HOST_FILE).write_text(json.dumps(HOST))
    (tmp_path / DIRECTORY / file_name("c0ffee", 3, 2)).write_text(json.dumps(INSIDE))
    for container in (None, "rootless"):
        (tmp_path / DIRECTORY / file_name(container, 5, 6)).write_text(json.dumps(usernames.HOSTS))
    return tmp_path


@pytest.mark.parametrize(
    ("kind", "number", "container", "mnt_ns", "user_ns", "name"),
    [
        ("user", 0, None, 1, 2, "root"),
        ("user", 7, None, 1, 2, "gr\u00fc\u00df\udcff"),
        ("group", 0, None, 1, 2, "wheel"),
        ("group", 7, None, 1, 2, None),
        ("user", 7, "c0ffee", 3, 2, "app"),
        ("user", 0, "c0ffee", 3, 2, None),  # the host's root does not exist there
        ("user", 0, "c0ffee", 1, 2, None),  # a container in the host's namespaces is a container
        ("user", 0, None, 3, 2, None),
        ("user", 0, None, 1, 3, None),
        ("user", 0, None, 5, 6, "root"),  # namespaces made by a user: the kernel's ids have the host's names
        ("group", 0, "rootless", 5, 6, "wheel"),
        ("user", 100_000, "rootless", 5, 6, None),
    ],
)
def test_which_names_apply(
    directory: Path, kind: str, number: int, container: str | None, mnt_ns: int, user_ns: int, name: str | None
) -> None:
    assert UserNames(str(directory)).name(kind, number, container, mnt_ns, user_ns) == name


def test_a_user_namespace_that_is_not_known_may_have_the_hosts_ids(directory: Path) -> None:
    names = UserNames(str(directory))
    assert names.name("user", 0, None, 1, 0) is None
    assert names.name("user", 0, None, 1, 0, has_host_ids=True) == "root"
    assert names.name("user", 0, None, 3, 0, has_host_ids=True) is None
    assert names.name("user", 0, "c0ffee", 1, 0, has_host_ids=True) is None


def test_namespaces_of_the_host_that_are_not_known_are_any(directory: Path) -> None:
    (directory / DIRECTORY / HOST_FILE).write_text(json.dumps(HOST | {"mnt_ns": 0, "user_ns": 0}))
    names = UserNames(str(directory))
    assert names.name("user", 0, None, 77, 78) == "root"
    assert names.name("user", 0, "c", 77, 78) is None


def test_a_file_is_read_once_and_again_when_it_was_replaced(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [10**12]
    monkeypatch.setattr(usernames.time, "monotonic_ns", lambda: now[0])
    names = UserNames(str(directory))
    assert names.name("user", 0, None, 1, 2) == "root"
    new = directory / DIRECTORY / "new"
    new.write_text(json.dumps(HOST | {"user": {"0": "toor"}}))
    new.rename(directory / DIRECTORY / HOST_FILE)
    assert names.name("user", 0, None, 1, 2) == "root"
    now[0] += BELIEVED_NS
    assert names.name("user", 0, None, 1, 2) == "toor"
    monkeypatch.setattr(usernames.json, "load", lambda file: pytest.fail("what has not changed is not read again"))
    now[0] += BELIEVED_NS
    assert names.name("user", 0, None, 1, 2) == "toor"


def test_no_files_or_broken_ones_are_no_names(tmp_path: Path) -> None:
    assert UserNames(str(tmp_path)).name("user", 0, None, 1, 2) is None
    (tmp_path / DIRECTORY).mkdir()
    (tmp_path / DIRECTORY / HOST_FILE).write_bytes(b'{"user": {"0": "r')
    assert UserNames(str(tmp_path)).name("user", 0, None, 1, 2) is None


def test_remembered_files_are_bounded(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(usernames, "FILES_MAX", 4)
    names = UserNames(str(directory))
    for number in range(20):
        assert names.name("user", 0, f"c{number}", 1, 2) is None
    assert len(names._files) <= 4
    assert names.name("user", 7, "c0ffee", 3, 2) == "app"


def test_an_entry_shows_the_names_of_its_ids(shm_dir: Path) -> None:
    tables = Tables(shm_dir)
    facts = {"uid": 0, "euid": 7, "fsuid": 0, "gid": 0, "egid": 9, "fsgid": 8, "mnt_ns": 1, "user_ns": 2}
    tables.row(7, known=layout.KNOWN_CREDS | layout.KNOWN_NS, **facts)
    (Path(tables.directory) / DIRECTORY).mkdir()
    (Path(tables.directory) / DIRECTORY / HOST_FILE).write_text(json.dumps(HOST))
    entry = resolve(tables, 7)
    assert (entry.user, entry.euser, entry.fsuser) == ("root", "gr\u00fc\u00df\udcff", "root")
    assert (entry.group, entry.egroup, entry.fsgroup) == ("wheel", "staff", "backup")
    tables.row(8, known=layout.KNOWN_CREDS, **facts)  # it is not known which names apply
    assert resolve(tables, 8).user is None
    tables.row(9, known=layout.KNOWN_NS, **facts)
    assert resolve(tables, 9).user is None


def test_pid_1_has_the_hosts_names_where_its_namespaces_are_hidden(shm_dir: Path) -> None:
    """Some kernels let nobody read them; any other process without them may be in a container."""
    tables = Tables(shm_dir)
    (Path(tables.directory) / DIRECTORY).mkdir()
    (Path(tables.directory) / DIRECTORY / HOST_FILE).write_text(json.dumps(HOST))
    for pid in (1, 7):
        tables.row(pid, known=layout.KNOWN_CREDS, uid=0)
    assert resolve(tables, 1).user == "root"
    assert resolve(tables, 7).user is None


def test_the_file_of_an_entry_has_the_names_of_its_owner(shm_dir: Path) -> None:
    tables = Tables(shm_dir)
    (Path(tables.directory) / DIRECTORY).mkdir()
    (Path(tables.directory) / DIRECTORY / HOST_FILE).write_text(json.dumps(HOST))
    (Path(tables.directory) / DIRECTORY / file_name("c0ffee", 3, 2)).write_text(json.dumps(INSIDE))
    known = layout.KNOWN_FILE | layout.KNOWN_NS  # the process's own ids do not matter
    container = tables.intern("names", b"c0ffee")

    def owner(pid: int, **facts: int) -> tuple[str | None, str | None]:
        facts = {"known": known, "mnt_ns": 1, "user_ns": 2} | facts
        inode = facts.pop("file_inode", 5)
        tables.row(pid, file_ref=tables.file(b"/bin/tool", file_inode=inode, file_uid=7), **facts)
        file = resolve(tables, pid).file
        return file["user"], file["group"]

    assert owner(7) == ("gr\u00fc\u00df\udcff", "wheel")
    assert owner(8, container_ref=container, mnt_ns=3) == ("app", None)
    assert owner(9, container_ref=container) == (None, None)
    assert owner(10, known=layout.KNOWN_FILE) == (None, None)
    assert owner(11, file_inode=0) == (None, None)

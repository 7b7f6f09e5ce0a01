"""The sources of names: the host's own files, a container's, and the name service; and no fault in them raises."""

from __future__ import annotations

import json
import os
import pwd
import subprocess
from pathlib import Path

import pytest

from pipeline.procfs.users import Kind, host_name
from pipeline.resolver.stream._name_cache import GROUP, HOST_NAMES, USER
from pipeline.resolver.upkeep import name_reader
from pipeline.resolver.upkeep.name_reader import NameReader
from pipeline.shm.names.usernames import HOSTS
from tests.procfs.roots import UNSHARED, needs_root, process_in
from tests.procfs.strangers import stranger


def refuse(kind: Kind, number: int) -> str:
    raise KeyError(number)


def test_the_host_is_read_once_and_again_when_its_files_change(monkeypatch: pytest.MonkeyPatch) -> None:
    reader = NameReader("/proc", refuse)
    answer = reader.host()
    assert answer is not None
    what, users, groups = answer
    assert what == "host" and users[0] == pwd.getpwuid(0).pw_name and groups[0] == "root"
    assert reader.host() is None
    monkeypatch.setattr(name_reader, "_version", lambda path: (1, 2, 3))
    assert reader.host() == answer
    assert reader.host() is None


@needs_root
def test_a_container_is_read_unless_its_root_is_the_hosts(root: Path) -> None:
    reader = NameReader("/proc", refuse)
    reader.host()
    with process_in(root) as tgid:
        found = reader.view(tgid, True)
        assert found is not None and json.loads(found.file)["user"]["1000"] == "app"
    assert reader.view(tgid, True) is None, "it has ended"
    with subprocess.Popen(["sleep", "60"]) as child:
        assert reader.view(child.pid, True) is None
        found = reader.view(child.pid, False)  # other namespaces, the same files: a service with a private /tmp
        assert found is not None and json.loads(found.file)["user"]["0"] == "root"
        child.kill()


@needs_root
def test_a_user_namespace_of_a_user_has_the_hosts_names() -> None:
    reader = NameReader("/proc", refuse)
    reader.host()
    with stranger(UNSHARED, user=65534) as tgid:
        for is_container in (False, True):  # a cgroup that was delegated to a user can have any name
            found = reader.view(tgid, is_container)
            assert found is not None and found.names is HOST_NAMES and found.owner == 65534
            assert json.loads(found.file) == HOSTS


@needs_root
def test_a_process_that_has_left_its_namespaces_is_not_used(root: Path) -> None:
    reader = NameReader("/proc", refuse)
    reader.host()
    mnt_ns, user_ns = (Path(f"/proc/self/ns/{kind}").stat().st_ino for kind in ("mnt", "user"))
    for namespaces, is_read in (
        ((mnt_ns, user_ns), True), ((mnt_ns, 0), True), ((mnt_ns + 1, user_ns), False), ((mnt_ns, user_ns + 1), False),
    ):  # fmt: skip
        with process_in(root) as tgid:
            assert (reader.view(tgid, True, *namespaces) is not None) == is_read
        with stranger(UNSHARED, user=65534) as tgid:
            assert reader.view(tgid, True, *namespaces) is None


def test_any_failure_results_in_no_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> str:
        raise RuntimeError("a library of the name service")

    reader = NameReader("/proc", fails)
    reader.host()
    assert reader.ids([(USER, 7)]) == {(USER, 7): ""}
    monkeypatch.setattr(name_reader, "read_names", fails)
    assert reader.view(os.getpid(), False) is None


def test_the_name_service_is_that_of_this_root_only() -> None:
    reader = NameReader("/proc", host_name)
    reader.host()
    assert reader.ids([(USER, 0), (GROUP, 0), (USER, 4_000_000)]) == {
        (USER, 0): "root", (GROUP, 0): "root", (USER, 4_000_000): "",
    }  # fmt: skip
    reader._is_own = False
    assert reader.ids([(USER, 0)]) == {(USER, 0): ""}

"""Who could have named a container, by the path of a cgroup."""

from __future__ import annotations

import os
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.procfs.containers import container_of_path
from pipeline.software._container_paths import container_trust
from tests.cgroup_paths import FIXTURES

ID, OTHER = "c0ffee" * 10 + "c0ff", "0badcafe" * 8
MANAGER = "/user.slice/user-7.slice/user@7.service"


@pytest.mark.parametrize(
    "case", [case for case in FIXTURES["path"] if "id" in case], ids=lambda case: case["path"]
)  # fmt: skip
def test_paths_of_runtimes(case: dict[str, Any]) -> None:
    assert container_trust(case["path"], case["id"]) == case.get("trust", "root"), case.get("note")


@pytest.mark.parametrize(
    ("cgroup", "container_id"),
    [
        (f"{MANAGER}/docker-{ID}.scope", ID),
        (f"{MANAGER}/app.slice/{ID}", ID),
        (f"{MANAGER}/lxc.payload.web", "web"),
        (f"{MANAGER}/lxc.payload.\udcff", "\udcff"),
        (f"{MANAGER}/lxc/web", "web"),
        (f"{MANAGER}/systemd-nspawn@web.service", "web"),
        (r"/system.slice/app.service/systemd-nspawn@a\x2db.service", "a-b"),
        ("/system.slice/app.service/docker/6f265890-5165-7fab-6b52-18d1", "6f265890-5165-7fab-6b52-18d1"),
        (f"/user/alice/0/docker/{ID}", ID),
        (f"/lxc/{ID}", ID),
        (f"/lxc.payload.{ID}", ID),
        (f"/machine.slice/machine-{ID}.scope/payload", ID),
        (f"/machine.slice/systemd-nspawn@{ID}.service", ID),
        (f"/docker/{OTHER}/libpod_parent/{ID}", ID),
        (f"/docker/x{ID}", ID),
        ("/web/x.service/lxc/web", "web"),
    ],
)
def test_others_than_root_name_these(cgroup: str, container_id: str) -> None:
    assert container_trust(cgroup, container_id) == "user"


def test_a_path_that_names_no_container_says_only_whether_it_is_a_users() -> None:
    """The container is then known by version 1."""
    for cgroup in ("/", "/system.slice/docker.service", "/docker", f"/docker/{OTHER}"):
        assert container_trust(cgroup, ID) is None
    for cgroup in (MANAGER, f"{MANAGER}/app.slice/x.service"):
        assert container_trust(cgroup, ID) == container_trust(cgroup, "web") == "user"
    for cgroup in ("/user.slice/user-7.slice/user@x.service", "/user.slice/user-7.slice/user@.service"):
        assert container_trust(cgroup, ID) is None


def test_without_a_container_there_is_no_trust() -> None:
    assert container_trust(f"/docker/{ID}", None) is container_trust(None, ID) is container_trust("/", "") is None


_PARTS = st.sampled_from([
    "system.slice", "app.service", "user@7.service", "user", "docker", "lxc", "lxc.payload", "garden", "ecs",
    "libpod_parent", "payload", ID, OTHER, f"docker-{ID}.scope", f"libpod-{ID}", f"kata_{ID}", f"x.slice:crio:{ID}",
    "lxc.payload.web", "web", r"systemd-nspawn@a\x2db.service", r"systemd-nspawn@\xff\xc3\xa9.service",
    "machine-web.scope", "34dc0b5e626f2c5c4c5170e34b10e765-1234567890", "6f265890-5165-7fab-6b52-18d1", "\udcff",
    "systemd-nspawn@.service", r"systemd-nspawn@\x", "lxc.payload.", ".scope",
])  # fmt: skip


@given(st.lists(_PARTS, max_size=6))
def test_every_container_of_a_path_has_a_trust(parts: list[str]) -> None:
    """No form of a path that makes a process part of a container goes unmarked."""
    path = "/" + "/".join(parts)
    found = container_of_path(path)
    if found is None:
        return
    trust = container_trust(path, found.container_id)
    assert trust in {"root", "user"}
    assert container_trust(f"{MANAGER}{path}", found.container_id) == "user"
    assert container_trust(f"/a.service{path}", found.container_id) == "user"
    assert os.fsdecode(os.fsencode(found.container_id)) == found.container_id

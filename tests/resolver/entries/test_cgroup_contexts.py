"""The path and the container of a cgroup id, for single calls and context events."""

from __future__ import annotations

from pathlib import Path

from pipeline.procfs.containers import CgroupTree
from pipeline.resolver.entries.cgroup_contexts import CgroupContexts
from pipeline.resolver.entries.model import CGroupContext, PathKey

CONTAINER = "a" * 64


def test_a_known_cgroup_has_a_path_and_a_container_and_is_learned(tmp_path: Path) -> None:
    tree = CgroupTree(str(tmp_path), "unified")
    tree.learn(7, f"/system.slice/docker-{CONTAINER}.scope")
    tree.learn(8, "/user.slice")
    learned: list[tuple[int, bytes]] = []
    contexts = CgroupContexts(tree, lambda cgroup_id, path: learned.append((cgroup_id, path)))

    found = contexts.add_pid(5, CGroupContext(path_key=PathKey(7), source="event"))
    assert found is not None
    cgroup, container = found
    assert (cgroup.cgroup_id, cgroup.path_key.inode, cgroup.source) == (
        f"/system.slice/docker-{CONTAINER}.scope", 7, "event",
    )  # fmt: skip
    assert container.container_id == CONTAINER

    found = contexts.add_pid(5, CGroupContext(path_key=PathKey(8)))
    assert found is not None and found[0].cgroup_id == "/user.slice" and found[1].container_id == ""
    assert learned == [(7, f"/system.slice/docker-{CONTAINER}.scope".encode()), (8, b"/user.slice")]


def test_an_unknown_cgroup_has_none(tmp_path: Path) -> None:
    contexts = CgroupContexts(CgroupTree(str(tmp_path), "unified"), lambda *_: None)
    assert contexts.add_pid(5, CGroupContext()) is None
    assert contexts.add_pid(5, CGroupContext(path_key=PathKey(9))) is None

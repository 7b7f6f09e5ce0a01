"""Containers from cgroup paths, and paths from cgroup ids."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.procfs import containers
from pipeline.procfs.containers import (
    CgroupTree,
    Container,
    container_of_cgroups,
    container_of_path,
    find_cgroup_mounts,
)
from tests.cgroup_paths import FIXTURES

ID = "2f8c6b1f3f5a4f7e9d0c1b2a3948576e6f5d4c3b2a190817263544536271809a"


def expected(case: dict[str, Any]) -> Container | None:
    return Container(case["id"], case["runtime"], case.get("pod", "")) if "id" in case else None


@pytest.mark.parametrize("case", FIXTURES["path"], ids=lambda case: case["path"])
def test_path(case: dict[str, Any]) -> None:
    assert container_of_path(case["path"]) == expected(case), case.get("note")


@pytest.mark.parametrize("case", FIXTURES["path"], ids=lambda case: case["path"])
def test_path_with_a_mount_point_before_it(case: dict[str, Any]) -> None:
    assert container_of_path("/sys/fs/cgroup" + case["path"]) == expected(case)


@pytest.mark.parametrize("case", FIXTURES["file"], ids=lambda case: case["name"])
def test_file(case: dict[str, Any]) -> None:
    assert container_of_cgroups(case["text"].lstrip("\n").encode()) == expected(case)


def test_the_fixtures_name_their_source() -> None:
    cases = FIXTURES["path"] + FIXTURES["file"]
    assert {case["source"] for case in cases if "source" in case} == FIXTURES["sources"].keys()
    assert [case for case in cases if "id" in case and "source" not in case] == []


def test_the_fixtures_have_each_runtime_on_each_kind_of_hierarchy() -> None:
    found = set()
    for case in FIXTURES["file"]:
        lines = case["text"].split()
        unified = [line for line in lines if line.startswith("0::")]
        kind = "v1" if not unified else "v2" if len(lines) == 1 else "hybrid"
        found.add((case.get("runtime", ""), kind))
        if case.get("pod"):
            found.add(("kubernetes", kind))
    runtimes = ("docker", "containerd", "cri-o", "podman", "systemd-nspawn", "kubernetes")
    assert {(runtime, kind) for runtime in runtimes for kind in ("v1", "v2", "hybrid")} <= found


_hex = st.text("0123456789abcdef", min_size=64, max_size=64)
_outer = st.lists(
    st.sampled_from(["system.slice", "a b", "x", "\udcff", "user.slice", "..", "kubepods.slice"]), max_size=4
)


@given(_outer, st.sampled_from(["docker-", "cri-containerd-", "crio-", "libpod-"]), _hex)
def test_an_id_with_a_runtime_is_found_below_any_directories(outer: list[str], prefix: str, number: str) -> None:
    found = container_of_path("/" + "/".join([*outer, f"{prefix}{number}.scope"]))
    assert found is not None and found.container_id == number


@given(_outer, st.integers(1, 63).flatmap(lambda n: st.text("0123456789abcdef", min_size=n, max_size=n)))
def test_a_part_of_an_id_is_no_container(outer: list[str], number: str) -> None:
    if len(number) not in {32, 36}:
        assert container_of_path("/" + "/".join([*outer, f"docker-{number}.scope"])) is None


@given(st.text(max_size=40))
def test_text_without_an_id_is_no_container(path: str) -> None:
    """Names of LXC containers and of machines are short, so their directories are left out."""
    if not any(word in path for word in ("lxc", "nspawn", "machine")):
        found = container_of_path(path)
        assert found is None or len(found.container_id) >= 32


@given(st.lists(st.binary(max_size=40).filter(lambda line: b"\n" not in line), max_size=5), _hex)
def test_a_container_is_found_between_any_other_lines(lines: list[bytes], number: str) -> None:
    """The v2 line counts first, and junk has none that names a container."""
    text = b"\n".join([*lines, f"0::/system.slice/docker-{number}.scope".encode(), *lines])
    found = container_of_cgroups(text)
    assert found is not None
    assert found.container_id == number or any(line.startswith(b"0:") for line in lines)


V2_ONLY = "24 1 0:22 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw\n"
HYBRID = (
    "30 24 0:26 / /sys/fs/cgroup ro - tmpfs tmpfs ro\n"
    "31 30 0:27 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
    "32 30 0:28 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
)


@pytest.mark.parametrize(
    ("text", "result"),
    [
        (V2_ONLY, ("/sys/fs/cgroup", "unified")),
        (HYBRID, ("/sys/fs/cgroup/unified", "hybrid")),
        (HYBRID.splitlines(keepends=True)[2], (None, "legacy")),
        ("", (None, "none")),
        (r"24 1 0:22 / /my\040cgroup rw - cgroup2 none rw" + "\n" + V2_ONLY, ("/my cgroup", "unified")),
    ],
)
def test_mounts_are_found(tmp_path: Path, text: str, result: tuple[str | None, str]) -> None:
    file = tmp_path / "mountinfo"
    file.write_text(text)
    assert find_cgroup_mounts(str(file)) == result


@pytest.mark.parametrize(("mounted", "found"), [((), None), (("a",), "a"), (("b",), "b"), (("a", "b"), "a")])
def test_the_usual_mount_point_of_v2(
    mounted: tuple[str, ...], found: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(containers, "CGROUP_ROOTS", (str(tmp_path / "a"), str(tmp_path / "b")))
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        if name in mounted:
            (tmp_path / name / "cgroup.procs").touch()
    assert containers.cgroup_v2_root() == (found and str(tmp_path / found))


def test_unreadable_mounts_are_none() -> None:
    assert find_cgroup_mounts("/nonexistent") == (None, "none")


class Clock:
    def __init__(self) -> None:
        self.now = 0

    def __call__(self) -> int:
        return self.now


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A tree of plain directories: as in a hierarchy, the ids are inodes."""
    (tmp_path / f"cg/system.slice/docker-{ID}.scope").mkdir(parents=True)
    (tmp_path / "cg/user.slice").mkdir()
    (tmp_path / "cg/cgroup.procs").touch()
    (tmp_path / "proc").mkdir()
    return tmp_path / "cg"


class CountingTree(CgroupTree):
    """A tree that counts how often it walks over the hierarchy."""

    walks_total = 0

    def _walk(self, wanted: int) -> None:
        self.walks_total += 1
        super()._walk(wanted)


def tree_of(root: Path, **options: Any) -> CountingTree:
    return CountingTree(str(root), "unified", proc=str(root.parent / "proc"), **options)


def inode(path: Path) -> int:
    return path.stat().st_ino


def put_process(root: Path, tgid: int, text: str) -> None:
    (root.parent / f"proc/{tgid}").mkdir()
    (root.parent / f"proc/{tgid}/cgroup").write_text(text)


def test_one_walk_learns_the_whole_tree(root: Path) -> None:
    tree = tree_of(root, clock=Clock())
    scope = root / f"system.slice/docker-{ID}.scope"
    assert tree.path_of(inode(scope)) == f"/system.slice/docker-{ID}.scope"
    assert tree.path_of(inode(root / "user.slice")) == "/user.slice"
    assert tree.path_of(inode(root)) == "/"
    assert tree.walks_total == 1
    assert tree.container_of(inode(scope), 0) == Container(ID, "docker")


def test_unknown_id_walks_again_only_after_a_while(root: Path) -> None:
    clock = Clock()
    tree = tree_of(root, clock=clock, walk_interval_ns=100)
    assert tree.path_of(1 << 60) is None
    later = root / "later"
    later.mkdir()
    clock.now = 99
    assert tree.path_of(inode(later)) is None and tree.walks_total == 1
    clock.now = 100
    assert tree.path_of(inode(later)) == "/later" and tree.walks_total == 2


def test_path_of_a_removed_cgroup_stays_known(root: Path) -> None:
    tree = tree_of(root, clock=Clock())
    number = inode(root / "user.slice")
    assert tree.path_of(number) == "/user.slice"
    (root / "user.slice").rmdir()
    assert tree.path_of(number) == "/user.slice"


def test_a_process_names_its_container_without_a_walk(root: Path) -> None:
    tree = tree_of(root, clock=Clock())
    put_process(root, 7, "0::/user.slice\n")
    assert tree.path_of(inode(root / "user.slice"), tgid=7) == "/user.slice"
    assert tree.walks_total == 0


def test_process_that_moved_is_not_believed(root: Path) -> None:
    tree = tree_of(root, clock=Clock())
    put_process(root, 7, "0::/system.slice\n")
    assert tree.path_of(inode(root / "user.slice"), tgid=7) == "/user.slice"
    assert tree.walks_total == 1
    put_process(root, 8, "0::/../elsewhere\n")
    assert tree.path_of(1 << 60, tgid=8) is None


def test_on_v1_the_process_is_asked_for_its_container(root: Path) -> None:
    tree = CgroupTree(str(root), "hybrid", proc=str(root.parent / "proc"))
    put_process(root, 7, f"5:memory:/docker/{ID}\n0::/\n")
    assert tree.container_of(inode(root), 7) == Container(ID, "docker")
    assert tree.container_of(inode(root), 8) is None, "gone is unknown"


def test_capacity_is_a_bound(root: Path) -> None:
    tree = tree_of(root, capacity=2, clock=Clock())
    wanted = inode(root / "user.slice")
    assert tree.path_of(wanted) == "/user.slice"
    assert len(tree) == 2
    tree.learn(0, "/nothing")
    assert len(tree) == 2


def test_zero_and_no_mount_are_unknown(root: Path) -> None:
    assert tree_of(root).path_of(0) is None
    assert CgroupTree(None, "none").path_of(5) is None or find_cgroup_mounts()[0] is not None


def test_live_hierarchy() -> None:
    """With the running kernel's ids: the path that is found has that inode."""
    mount, mode = find_cgroup_mounts()
    if mount is None:
        pytest.skip("no cgroup v2 hierarchy is mounted")
    tree = CountingTree()
    assert (tree.root, tree.mode) == (mount, mode)
    for directory, _, _ in os.walk(mount):
        number = inode(Path(directory))
        path = tree.path_of(number)
        assert path is not None and inode(Path(mount + path)) == number
    assert tree.walks_total <= 1
    tree.container_of(inode(Path(mount)), os.getpid())

"""Cgroup hierarchies of version 1: their numbers, their mount points, and the paths of their cgroups."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.procfs.containers import Container
from pipeline.procfs.hierarchies import REPORTED_MAX, Hierarchies, Line, lines_of
from pipeline.records import declared
from pipeline.records.cgroup_sets import cgroup_set

ID, OTHER = "a" * 64, "b" * 64


class Clock:
    now = 0

    def __call__(self) -> int:
        return self.now


@pytest.fixture
def host(tmp_path: Path) -> Path:
    """Plain directories for two hierarchies with controllers and one with a name: the ids are inodes."""
    (tmp_path / f"memory/docker/{ID}").mkdir(parents=True)
    (tmp_path / f"my cpu/docker/{ID}").mkdir(parents=True)
    (tmp_path / f"systemd/docker/{OTHER}").mkdir(parents=True)
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("5:memory:/\n4:cpu,cpuacct:/\n1:name=systemd:/\n0::/\n")
    escaped = f"{tmp_path}/my\\040cpu"
    (tmp_path / "proc/self/mountinfo").write_text(
        "23 1 0:1 / / rw - ext4 /dev/vda rw\n"
        f"30 23 0:5 /part /elsewhere rw - cgroup cgroup rw,memory\n"
        f"31 23 0:5 / {tmp_path}/memory rw - cgroup cgroup rw,memory\n"
        f"32 23 0:4 / {escaped} rw shared:7 - cgroup cgroup rw,cpu,cpuacct\n"
        f"33 23 0:3 / {tmp_path}/systemd rw - cgroup cgroup rw,xattr,name=systemd\n"
        f"34 23 0:2 / {tmp_path}/unified rw - cgroup2 cgroup2 rw\n"
    )
    return tmp_path


def of(host: Path, **options: object) -> Hierarchies:
    return Hierarchies(proc=str(host / "proc"), clock=Clock(), **options)  # type: ignore[arg-type]


def test_lines() -> None:
    text = b"5:memory:/a:b (deleted)\n1:name=x:/\n0::/c\nnothing\nx:y:z\n"
    assert lines_of(text) == [Line(5, "memory", "/a:b"), Line(1, "name=x", "/"), Line(0, "", "/c")]


def test_a_set_is_of_the_cgroups_that_are_no_roots_in_any_order(host: Path) -> None:
    hierarchies = of(host)
    memory = (host / f"memory/docker/{ID}").stat().st_ino
    cpu = (host / f"my cpu/docker/{ID}").stat().st_ino
    text = f"5:memory:/docker/{ID}\n4:cpu,cpuacct:/docker/{ID}\n1:name=systemd:/\n0::/user.slice\n"
    expected = cgroup_set([(4, cpu), (5, memory)])
    assert hierarchies.set_of(text.encode()) == expected == cgroup_set([(5, memory), (4, cpu)])
    assert expected >> 63 == 1
    assert hierarchies.set_of(b"5:memory:/\n0::/x\n") == hierarchies.set_of(b"0::/x\n") == declared.CGROUPS_V1_ROOTS
    assert cgroup_set([(5, memory)]) != cgroup_set([(4, memory)]) != expected


@pytest.mark.parametrize("line", ["5:memory:/gone", "9:pids:/docker", "5:memory:/../outside"])
def test_a_set_with_a_cgroup_that_cannot_be_found_is_unknown(host: Path, line: str) -> None:
    assert of(host).set_of(f"{line}\n0::/\n".encode()) == 0


def test_sets_of_65536_identities_do_not_collide() -> None:
    assert len({cgroup_set([(h, n), (h + 1, n)]) for h in range(1, 17) for n in range(2, 4098)}) == 65536


def test_a_process_is_asked(host: Path) -> None:
    (host / "proc/7").mkdir()
    text = f"5:memory:/docker/{ID}\n"
    (host / "proc/7/cgroup").write_text(text)
    hierarchies = of(host)
    assert hierarchies.set_of_process(7) == (hierarchies.set_of(text.encode()), text.encode())
    assert hierarchies.set_of_process(8) == (0, b"")


def test_controllers_are_asked_before_names(host: Path) -> None:
    """Processes inside a container can change the hierarchy name=systemd."""
    hierarchies = of(host)
    memory = (5, (host / f"memory/docker/{ID}").stat().st_ino)
    named = (1, (host / f"systemd/docker/{OTHER}").stat().st_ino)
    assert hierarchies.container_of([named, memory]) == (Container(ID, "docker"), True)
    assert hierarchies.container_of([named]) == (Container(OTHER, "docker"), True)
    assert hierarchies.container_of([(5, (host / "memory/docker").stat().st_ino)]) == (None, True)


def test_nspawns_supervisor_is_known_by_one_hierarchy_alone(host: Path) -> None:
    unit = "machine.slice/systemd-nspawn@web.service"
    for path in (f"memory/{unit}", f"systemd/{unit}/supervisor", f"systemd/{unit}/payload"):
        (host / path).mkdir(parents=True)
    hierarchies = of(host)
    memory = (5, (host / "memory" / unit).stat().st_ino)
    payload, supervisor = ((1, (host / "systemd" / unit / name).stat().st_ino) for name in ("payload", "supervisor"))
    assert hierarchies.container_of([memory, payload]) == (Container("web", "systemd-nspawn"), True)
    assert hierarchies.container_of([memory, supervisor]) == (None, True)
    assert hierarchies.container_of([memory, (1, 1 << 40)]) == (None, False), "not known yet which of the two it is"


def test_an_unknown_hierarchy_is_not_taken_for_an_absent_one(host: Path) -> None:
    hierarchies = of(host)
    assert hierarchies.container_of([(5, 1 << 40)]) == (None, False)
    assert hierarchies.container_of([(77, 3)]) == (None, False)


def test_a_reported_cgroup_needs_no_mount(host: Path) -> None:
    hierarchies = of(host)
    hierarchies.learn(77, 3, f"/docker/{ID}")
    assert hierarchies.container_of([(77, 3)]) == (Container(ID, "docker"), True)
    for number in range(REPORTED_MAX):
        hierarchies.learn(78, number, "/x")
    assert hierarchies.container_of([(77, 3)]) == (None, False)


def test_a_hierarchy_that_is_mounted_later_is_found_after_a_while(host: Path) -> None:
    clock = Clock()
    hierarchies = Hierarchies(proc=str(host / "proc"), clock=clock, again_ns=100)
    (host / "late/group").mkdir(parents=True)
    assert hierarchies.set_of(b"6:name=late:/group\n") == 0
    with (host / "proc/self/cgroup").open("a") as file:
        file.write("6:name=late:/\n")
    with (host / "proc/self/mountinfo").open("a") as file:
        file.write(f"35 23 0:9 / {host}/late rw - cgroup none rw,name=late\n")
    assert hierarchies.set_of(b"6:name=late:/group\n") == 0, "not looked for at every question"
    clock.now = 100
    assert hierarchies.set_of(b"6:name=late:/group\n") == cgroup_set([(6, (host / "late/group").stat().st_ino)])


def test_a_carriage_return_in_a_name_begins_no_line() -> None:
    text = f"0::/a\r0::docker-{ID}.scope/b\n".encode()
    assert lines_of(text) == [Line(0, "", f"/a\r0::docker-{ID}.scope/b")]

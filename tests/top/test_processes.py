"""The processes of a moment, from images."""

from __future__ import annotations

import itertools

import pytest

from pipeline.shm.layout import layout
from pipeline.top.processes import Processes, processes_at
from tests.top.host import Host, S


def at(host: Host, ago: float = 0.0, keep: float = 3.0, *, is_past: bool = False) -> Processes:
    numbers, rows = host.feed()._table.images()  # type: ignore[union-attr]
    return processes_at(numbers, rows, host.ago(ago), int(keep * S), is_past=is_past)


def parents(processes: Processes) -> dict[int, int]:
    """Return the parent of each process, by pid; 0: none."""
    pids = processes.pids.tolist()
    return {pid: pids[at] if at >= 0 else 0 for pid, at in zip(pids, processes.parents.tolist(), strict=True)}


def test_each_process_has_its_parent(host: Host) -> None:
    assert parents(at(host)) == {1: 0, 40: 1, 41: 40}


def test_processes_are_in_order_of_start(host: Host) -> None:
    host.start(7, "date", parent=40, ago=1)
    assert at(host).pids.tolist() == [1, 40, 41, 7]


def test_an_exec_leaves_one_process_with_the_new_image(host: Host) -> None:
    new = host.execute(41, "date", ago=1)
    found = at(host)
    assert found.pids.tolist() == [1, 40, 41]
    assert found.links[2] == host.tables.link(new)
    assert found.began_boot_ns[2] == host.ago(1)
    assert not found.ended_boot_ns.any()


def test_ended_processes_stay_for_the_chosen_time(host: Host) -> None:
    host.end(41, ago=2)
    assert at(host, keep=3).ended_boot_ns.tolist() == [0, 0, host.ago(2)]
    assert at(host, keep=1).pids.tolist() == [1, 40]


def test_a_reused_pid_is_two_processes_with_their_own_parents(host: Host) -> None:
    host.end(41, ago=2)
    host.start(42, "cat", parent=41, ago=300)
    host.start(41, "date", parent=1, ago=1)
    found = at(host)
    by_start = list(zip(found.pids.tolist(), found.parents.tolist(), strict=True))
    # The cat is a child of the first owner of 41, which is older; the second owner is a child of init.
    assert by_start == [(1, -1), (40, 0), (41, 1), (42, 2), (41, 0)]


def test_a_process_in_the_middle_of_an_exec_lives(host: Host) -> None:
    """The rows were read before the new image was there, and after the old one had been replaced."""
    row = host._rows[41]
    host.tables.change(row, exit_boot_ns=host.ago(0.01), flags=layout.ROW_IS_EXEC | layout.ROW_REPLACED)
    found = at(host)
    assert found.pids.tolist() == [1, 40, 41] and not found.ended_boot_ns.any()


def test_a_parent_that_is_unknown_is_none(host: Host) -> None:
    host.start(50, "date", parent=999)
    host.start(51, "date", parent=51)
    assert parents(at(host))[50] == 0 and parents(at(host))[51] == 0


def test_the_past_has_the_images_of_that_time(host: Host) -> None:
    old = host._rows[41]
    host.execute(41, "date", ago=10)
    host.end(41, ago=5)
    for ago, (link, ended) in {
        20: (host.tables.link(old), 0), 8: (host.link(41), 0), 4: (host.link(41), host.ago(5)),
    }.items():  # fmt: skip
        found = at(host, ago, is_past=True)
        assert found.pids.tolist() == [1, 40, 41]
        assert (found.links[2], found.ended_boot_ns[2]) == (link, ended), ago
    assert at(host, 450, is_past=True).pids.tolist() == [1, 40]
    assert at(host, 1, is_past=True).pids.tolist() == [1, 40]


def test_in_the_past_an_orphan_was_the_child_of_its_creator(host: Host) -> None:
    host.tables.change(host._rows[41], ppid=1)
    host.end(40, ago=10)
    assert parents(at(host, 5, keep=20, is_past=True))[41] == 1
    assert parents(at(host, 20, is_past=True))[41] == 40


def test_a_subtree_contains_all_descendants(host: Host) -> None:
    host.start(50, "date", parent=41, ago=1)
    found = at(host)
    below = found.below(found.pids.tolist().index(40))
    assert sorted(itertools.compress(found.pids.tolist(), below)) == [40, 41, 50]


def test_processes_are_found_by_identity(host: Host) -> None:
    found = at(host)
    for position, identity in enumerate(found.identities):
        assert found.find(*identity) == position
    assert found.find(5, 41) == -1


@pytest.mark.parametrize("is_past", [False, True])
def test_no_images_are_no_processes(host: Host, is_past: bool) -> None:
    numbers, rows = host.feed()._table.images()  # type: ignore[union-attr]
    assert len(processes_at(numbers[:0], rows[:0], host.now_ns, S, is_past=is_past)) == 0

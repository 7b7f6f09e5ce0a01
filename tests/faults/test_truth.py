"""The comparison with the processes of a storm finds each event that is missing or was applied twice."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pipeline.shm.layout import layout
from tests.faults.truth import COMM, Truth, message, truth
from tests.live.storms import Made

PARENT, FORKED, EXECUTED = 100, 200, 201
START, LATER = 5, 1_000_000_005  #: when two runs of a storm began, boot ns
MADE = [Made("fork", FORKED, PARENT, START, START + 1), Made("exec", EXECUTED, PARENT, START, START + 1)]
LOST = {"fork": 0, "exec": 0, "exit": 0, "unknown": 0}
ENDED = layout.ROW_HEAD | layout.ROW_DELETED | layout.ROW_EXIT_KNOWN


class Rows:
    """The rows of tables that contain all events of `MADE`."""

    def __init__(self) -> None:
        self.hot = np.zeros(8, layout.HOT)
        self.cold = np.zeros(8, layout.COLD)
        self.put(1, FORKED, ENDED)
        self.put(2, EXECUTED, layout.ROW_REPLACED)
        self.put(3, EXECUTED, ENDED | layout.ROW_IS_EXEC)
        self.hot["known"][3] |= layout.KNOWN_EXEC_TIME

    def put(self, row: int, pid: int, flags: int) -> None:
        self.hot["row_seq"][row] = 2
        for name, value in {
            "tgid": pid, "ppid": PARENT, "start_boot_ns": START, "exit_boot_ns": 9, "flags": flags, "comm": COMM,
            "known": layout.KNOWN_FORK_TIME, "images": row,
        }.items():  # fmt: skip
            self.hot[name][row] = value
        self.cold["creator_tgid"][row] = PARENT

    def remove(self, row: int) -> None:
        self.hot[row] = 0

    def truth(self, made: list[Made] = MADE) -> Truth:
        return truth(made, self.hot, self.cold)


def stats(**more: Any) -> dict[str, Any]:
    return {"counters": {}, "lost": LOST, "late": 0, "repairs": 0, "evictions": 0, "takeovers": 0, "events": {}} | more


def test_all_events_are_found() -> None:
    found = Rows().truth()
    assert found.made == found.found == {"fork": 2, "exec": 1, "exit": 2}
    assert found.faults(LOST, 0) == []
    assert not found.missing and not found.rows


def test_a_missing_process_is_found() -> None:
    rows = Rows()
    rows.remove(1)
    found = rows.truth()
    assert len(found.faults(LOST, 0)) == 2  # its fork and its exit
    assert len(found.faults(LOST, 5)) == 2  # what was late was applied
    assert found.faults(LOST | {"fork": 1, "exit": 1}, 0) == []
    assert found.faults(LOST | {"unknown": 1}, 0) == []
    assert found.rows == [f"{FORKED}: no row"]
    assert "missing process: 1" in message(found, stats())


@pytest.mark.parametrize(("kind", "field", "mask"), [
    ("fork", "known", layout.KNOWN_FORK_TIME), ("exec", "known", layout.KNOWN_EXEC_TIME),
    ("exit", "flags", layout.ROW_EXIT_KNOWN),
])  # fmt: skip
def test_a_missing_event_is_found(kind: str, field: str, mask: int) -> None:
    rows = Rows()
    rows.hot[field][2:4] &= np.uint32(~mask & 0xFFFFFFFF)
    found = rows.truth()
    assert found.made - found.found == {kind: 1}
    assert len(found.faults(LOST, 9)) == 1
    others = {name: 9 for name in LOST if name not in {kind, "unknown"}}
    assert len(found.faults(LOST | others, 0)) == 1  # the loss of another kind explains nothing
    assert found.faults(LOST | {kind: 1}, 0) == []
    assert f"of {EXECUTED}: parent {PARENT}" in message(found, stats())


def test_an_exec_before_its_fork_is_explained_by_late_events_only() -> None:
    rows = Rows()
    rows.remove(2)
    found = rows.truth()
    assert found.made == found.found and found.unnamed == 1
    assert len(found.faults(LOST, 0)) == 1
    assert found.faults(LOST, 1) == []


def test_a_first_image_without_its_name_is_found() -> None:
    rows = Rows()
    rows.hot["comm"][2] = b""
    assert len(rows.truth().faults(LOST, 0)) == 1


def test_an_event_that_was_applied_twice_is_found() -> None:
    rows = Rows()
    rows.put(4, FORKED, ENDED)
    assert any("twice" in text for text in rows.truth().faults(LOST, 9))
    rows = Rows()
    rows.put(4, EXECUTED, ENDED | layout.ROW_IS_EXEC)
    rows.hot["known"][4] |= layout.KNOWN_EXEC_TIME
    assert any("twice" in text for text in rows.truth().faults(LOST, 9))


def test_a_process_that_was_not_made_is_found() -> None:
    rows = Rows()
    rows.put(4, 300, ENDED)
    assert any("not made" in text for text in rows.truth().faults(LOST, 9))
    rows = Rows()
    rows.put(4, FORKED, ENDED)
    rows.hot["start_boot_ns"][4] += 1
    assert any("2 processes instead of one" in text for text in rows.truth().faults(LOST, 9))


def test_a_process_of_another_time_is_no_part_of_the_storm() -> None:
    """Pids are given in order, so a pid and that of its parent often occur together again."""
    rows = Rows()
    rows.put(4, FORKED, ENDED | layout.ROW_IS_EXEC)
    rows.hot["start_boot_ns"][4] = LATER
    assert rows.truth().faults(LOST, 0) == []
    rows.remove(1)
    assert len(rows.truth().faults(LOST, 0)) == 2


def test_a_process_that_seems_to_live_is_found() -> None:
    rows = Rows()
    rows.hot["exit_boot_ns"][1] = 0
    assert any("have ended" in text for text in rows.truth().faults(LOST, 9))


def test_a_pid_that_was_used_twice_is_two_processes() -> None:
    rows = Rows()
    again = [*MADE, Made("exec", FORKED, PARENT, LATER, LATER + 1)]
    assert len(rows.truth(again).faults(LOST, 0)) == 3
    rows.put(4, FORKED, layout.ROW_REPLACED)
    rows.put(5, FORKED, ENDED | layout.ROW_IS_EXEC)
    rows.hot["known"][5] |= layout.KNOWN_EXEC_TIME
    rows.hot["start_boot_ns"][4:6] = LATER
    assert rows.truth(again).faults(LOST, 0) == []

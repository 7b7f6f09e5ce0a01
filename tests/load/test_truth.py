from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.load import truth
from pipeline.load.declared import KIND_THREAD, KINDS
from pipeline.load.truth import RECORD, SEEN
from pipeline.records.declared import KIND_COUNT, KIND_CRED, KIND_EXEC, KIND_EXIT, KIND_FORK

MS = 1_000_000
BASE = 5_000_000_000


def records(*rows: tuple[int, int, int, int, int, int]) -> npt.NDArray[np.void]:
    """(kind, pid, begin ms, end ms, about, count)"""
    made = np.zeros(len(rows), RECORD)
    for row, (kind, pid, begin, end, about, count) in zip(made, rows, strict=True):
        row["kind"], row["pid"], row["about"], row["count"] = kind, pid, about, count
        row["begin_ns"], row["end_ns"] = BASE + begin * MS, BASE + end * MS
    return made


def seen(*rows: tuple[int, int, int, int]) -> npt.NDArray[np.void]:
    """(kind, pid, time ms, about)"""
    made = np.zeros(len(rows), SEEN)
    for row, (kind, pid, time, about) in zip(made, rows, strict=True):
        row["kind"], row["pid"], row["about"], row["time_ns"] = kind, pid, about, BASE + time * MS
    return made


LIFE = records((KIND_FORK, 7, 10, 12, 3, 1), (KIND_EXEC, 7, 10, 40, 3, 2), (KIND_EXIT, 7, 10, 40, 256, 1))
EVENTS = seen((KIND_FORK, 7, 11, 3), (KIND_EXEC, 7, 13, 3), (KIND_EXEC, 7, 14, 3), (KIND_EXIT, 7, 30, 256))


def faults(result: truth.Compared) -> dict[str, dict[str, int]]:
    """Return what is not 0."""
    return {
        what: found
        for what in ("lost", "extra", "wrong")
        if (found := {kind: count for kind, count in getattr(result, what).items() if count})
    }


def test_a_thread_has_a_kind_that_no_record_has() -> None:
    assert KIND_THREAD >= KIND_COUNT


def test_all_is_seen() -> None:
    result = truth.compare(LIFE, EVENTS)
    assert result.is_exact and not result.examples
    assert result.seen == {"fork": 1, "exec": 2, "exit": 1, "cred": 0}


def test_each_lost_event_is_counted_by_kind() -> None:
    for left in range(len(EVENTS)):
        result = truth.compare(LIFE, np.delete(EVENTS, left))
        kind = next(name for name, number in KINDS.items() if number == EVENTS["kind"][left])
        assert faults(result) == {"lost": {kind: 1}}
        assert result.examples


def test_an_event_that_was_seen_twice_is_extra() -> None:
    assert faults(truth.compare(LIFE, np.append(EVENTS, EVENTS[3:]))) == {"extra": {"exit": 1}}


def test_an_event_outside_of_its_span_was_not_made() -> None:
    late = EVENTS.copy()
    late["time_ns"][0] = BASE + 13 * MS
    assert faults(truth.compare(LIFE, late)) == {"lost": {"fork": 1}, "extra": {"fork": 1}}
    other = EVENTS.copy()
    other["pid"][3] = 8
    assert faults(truth.compare(LIFE, other)) == {"lost": {"exit": 1}, "extra": {"exit": 1}}


def test_the_order_of_events_does_not_matter_but_their_time_does() -> None:
    assert truth.compare(LIFE[::-1], EVENTS[::-1]).is_exact


def test_wrong_facts() -> None:
    for at, kind in ((0, "fork"), (1, "exec"), (3, "exit")):
        events = EVENTS.copy()
        events["about"][at] += 1
        assert faults(truth.compare(LIFE, events)) == {"wrong": {kind: 1}}
    events = EVENTS.copy()
    events["is_other"][2] = 1
    assert faults(truth.compare(LIFE, events)) == {"wrong": {"exec": 1}}


def test_lives_of_one_pid_are_distinguished() -> None:
    """The first life lost its exit, the second has all events."""
    lives = records(
        (KIND_FORK, 7, 10, 11, 3, 1), (KIND_EXIT, 7, 10, 20, 0, 1), (KIND_FORK, 7, 21, 22, 3, 1),
        (KIND_EXIT, 7, 21, 30, 512, 1),
    )  # fmt: skip
    result = truth.compare(lives, seen((KIND_FORK, 7, 10, 3), (KIND_FORK, 7, 21, 3), (KIND_EXIT, 7, 29, 512)))
    assert faults(result) == {"lost": {"exit": 1}}
    assert result.seen["exit"] == 1


def test_changes_of_credentials_go_to_and_fro() -> None:
    made = records((KIND_CRED, 7, 10, 20, 65534, 2))
    assert truth.compare(made, seen((KIND_CRED, 7, 11, 65534), (KIND_CRED, 7, 12, 0))).is_exact
    wrong = truth.compare(made, seen((KIND_CRED, 7, 11, 1000), (KIND_CRED, 7, 12, 0)))
    assert faults(wrong) == {"wrong": {"cred": 1}}


def test_nothing_made_and_nothing_seen() -> None:
    assert truth.compare(records(), seen()).is_exact
    assert faults(truth.compare(records(), EVENTS[:1])) == {"extra": {"fork": 1}}
    assert faults(truth.compare(LIFE, seen()))["lost"] == {"fork": 1, "exec": 2, "exit": 1}


def test_the_largest_pid() -> None:
    largest = (1 << 22) - 1
    made = records((KIND_FORK, largest, 10, 12, 3, 1), (KIND_FORK, largest - 1, 10, 12, 3, 1))
    assert truth.compare(made, seen((KIND_FORK, largest, 11, 3), (KIND_FORK, largest - 1, 11, 3))).is_exact


def write(log: truth.Log, made: npt.NDArray[np.void], **head: int) -> None:
    """Write to the memory as the program does."""
    names = ["capacity", "used", "begin", "end", "cpu", "units", "failed"]
    for name, value in {"used": len(made), **head}.items():
        log._memory[8 * names.index(name) : 8 * names.index(name) + 8] = value.to_bytes(8, "little")
    log._memory[4096 : 4096 + made.nbytes] = made.tobytes()


def test_an_orphan_s_exit_begins_with_its_fork() -> None:
    log = truth.Log(100)
    try:
        made = records(
            (KIND_FORK, 7, 10, 11, 3, 1), (KIND_FORK, 7, 21, 22, 3, 1), (KIND_EXIT, 7, 0, 30, 0, 1),
            (KIND_FORK, 7, 40, 41, 3, 1), (KIND_EXIT, 9, 0, 30, 0, 1),
        )  # fmt: skip
        made["begin_ns"][[2, 4]] = 0
        write(log, made, begin=BASE, end=BASE + 10**9)
        result = log.read()
        assert result.records["begin_ns"][2] == BASE + 21 * MS
        assert result.records["begin_ns"][4] == 0, "pid 9 was not forked"
        assert result.seconds == 1.0
        assert result.counts() == {"fork": 3, "exec": 0, "exit": 2, "cred": 0, "thread": 0}
    finally:
        log.close()


def test_events_are_counted_while_the_load_runs_and_not_beyond_the_log() -> None:
    log = truth.Log(2)
    try:
        assert log.events() == 0
        write(log, LIFE[:1])
        assert log.events() == 1
        write(log, LIFE[:2], used=3)
        assert log.events() == 3  # a fork and two execs
        assert len(log.read().records) == 2
    finally:
        log.close()


def test_examples_name_the_process() -> None:
    found: Any = truth.compare(LIFE, EVENTS[1:]).examples
    assert found == ["fork of pid 7: made 1, seen 0"]

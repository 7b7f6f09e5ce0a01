"""`sampled_change` in a row's `extra`: between which times the change happened that a comparison found last."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.bus.stream.messages import TOPICS
from pipeline.records import declared, dtypes
from pipeline.resolver.apply import _applier
from pipeline.resolver.apply._applier import Applier
from pipeline.resolver.entries import entry_extra
from pipeline.resolver.stream._encoder import Encoder
from pipeline.resolver.upkeep.repair import end_torn
from pipeline.shm.check.validate import validate_tables
from pipeline.shm.layout import layout
from tests.resolver.applier_world import World as ApplierWorld
from tests.resolver.applier_world import flag
from tests.resolver.apply.full_arenas import full
from tests.resolver.apply.stepped_change import AFTER_NS, CASES, OPTIONS, stepping
from tests.resolver.story import BOOT_ID, BOOT_UNIX_NS, Event, checked, instance, sampled, task_of
from tests.sampling import chosen
from tests.shm.writer.stepped import put_state

CRED, SID, COMM = declared.KIND_CRED, declared.KIND_SID, declared.KIND_COMM


class Marks(ApplierWorld):
    """The last change of a process, by the tables."""

    def extra(self, tgid: int) -> dict[str, Any]:
        return extra_of(self, self.proc(tgid))

    def limits(self, tgid: int) -> tuple[int | None, int] | None:
        """The limits on the boot clock; a row that has them has the mark."""
        change = self.extra(tgid).get("sampled_change")
        if change is None:
            return None
        assert flag(self.proc(tgid), "CHANGE_SAMPLED") and list(change) == ["changed_after_ns", "changed_before_ns"]
        after, before = change.values()
        return None if after is None else after - BOOT_UNIX_NS, before - BOOT_UNIX_NS

    def is_marked(self, tgid: int) -> bool:
        return flag(self.proc(tgid), "CHANGE_SAMPLED")


class World(Marks):
    def __init__(self, directory) -> None:
        super().__init__(directory, args_bytes=1 << 22)
        self.init()
        self.fork(1, 3)

    def find(self, tgid: int, kind: int = CRED, after: int | None = 500, **facts: object) -> Event:
        """Let a comparison find a change; return its record."""
        event = sampled(self.story.change(tgid, kind, **facts), after)
        event.apply(self.applier)
        return event

    def survey(self, tgid: int, at: int | None = None) -> int:
        """Read the process from /proc, or use what was read at an earlier time."""
        process = self.story.processes[tgid]
        header = np.zeros(1, dtypes.HEADER)
        header["tgid"] = header["tid"] = tgid
        header["start_boot_ns"], header["time_boot_ns"] = process.start, self.story.tick() if at is None else at
        assert process.parent is not None
        header["ppid"], header["parent_start_boot_ns"] = process.parent.tgid, process.parent.start
        return self.applier.insert_from_proc(header, task_of(process), source=layout.SOURCE_PROCFS)

    def put_extra(self, tgid: int, extra: dict[str, Any]) -> None:
        """Add to the map of a process, as a caller of the resolver's methods does."""
        row = self.proc(tgid).row
        self.tables.py_begin(row)
        self.tables.py_set_ref("extra", row, self.tables.py_intern_args(entry_extra.pack(self.extra(tgid) | extra)))
        self.tables.py_end(row)


def extra_of(w: World, row: Any) -> dict[str, Any]:
    return entry_extra.unpack(w.tables.args.py_bytes(row.extra_ref)) if row.extra_ref else {}


@pytest.fixture
def w() -> Iterator[World]:
    with instance() as directory, checked(World(directory)) as world:
        yield world


# -- when a row has limits ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [CRED, SID])
def test_the_last_change_has_limits_until_one_is_seen_exactly(w: World, kind: int) -> None:
    assert w.limits(3) is None
    found = w.find(3, kind, 500, uid=4)
    assert w.limits(3) == (500, found.time)
    w.change(3, COMM, comm=b"q")
    assert w.limits(3) == (500, found.time), "a change of name says nothing of credentials"
    found = w.find(3, SID, 600, uid=5)
    assert w.limits(3) == (600, found.time)
    w.change(3, kind, uid=6)
    assert w.extra(3) == {} and not w.is_marked(3)
    found = w.find(3, kind, None, uid=7)
    assert w.limits(3) == (None, found.time), "an older recording does not have the first limit"
    w.exit(3)
    assert w.limits(3) == (None, found.time), "an end changes no credentials"


@pytest.mark.parametrize("other", ["comm", "exit", "proc"])
def test_another_record_that_shows_a_later_change_removes_the_limits(w: World, other: str) -> None:
    """The mark stays: this change, too, happened before its record, but it is not known when."""
    found = w.find(3, uid=4)
    w.story.processes[3].uid = 5
    if other == "comm":
        w.change(3, COMM, comm=b"q")
    elif other == "exit":
        w.exit(3)
    else:
        assert w.survey(3, at=found.time - 1) == _applier.SAME, "read before the comparison"
        assert w.limits(3) == (500, found.time)
        assert w.survey(3) == _applier.CHANGED
    assert w.proc(3).uid == 5 and w.limits(3) is None and w.is_marked(3)


def test_facts_from_proc_that_are_known_leave_the_limits(w: World) -> None:
    found = w.find(3, uid=4)
    assert w.survey(3) == _applier.SAME
    w.story.processes[3].comm = b"new"
    assert w.survey(3) == _applier.CHANGED
    assert w.limits(3) == (500, found.time)


def test_facts_that_were_unknown_leave_the_limits(w: World) -> None:
    """A comparison finds a change of a process that is not in the tables; /proc completes the entry."""
    process = w.story.begin(9, inode=7)
    process.parent = w.story.processes[1]
    found = partial(sampled(w.story.change(9, CRED, uid=4), 500), layout.KNOWN_CREDS)
    found.apply(w.applier)
    assert not w.proc(9).known & layout.KNOWN_SID
    assert w.survey(9) != _applier.SAME and w.proc(9).known & layout.KNOWN_SID
    assert w.limits(9) == (500, found.time)


def test_a_process_that_is_found_in_proc_has_no_limits(w: World) -> None:
    process = w.story.begin(9, inode=7)
    process.parent = w.story.processes[1]
    assert w.survey(9) == _applier.ADDED
    assert w.extra(9) == {} and not w.is_marked(9)


def partial(event: Event, groups: int) -> Event:
    """Make a record of a source without eBPF."""
    event.header["flags"] |= declared.FLAG_PARTIAL
    event.task["known"] = groups
    return event


def test_a_comparison_without_any_limit_leaves_the_mark_alone(w: World) -> None:
    """A terminal that is found by descriptor 0: it is read after the time of its event."""
    w.find(3, uid=4)
    partial(sampled(w.story.change(3, SID)), layout.KNOWN_TTY).apply(w.applier)
    assert w.is_marked(3) and w.extra(3) == {}


@pytest.mark.parametrize("shown", [0, 1])
def test_what_a_source_finds_by_reading_is_published_although_proc_has_shown_it(w: World, shown: int) -> None:
    """It compares with its own last reading; what the resolver reads makes no event."""
    w.applier = Applier(w.tables, encoder := Encoder(bytes(16)))
    w.story.processes[3].uid = 5
    if shown:
        assert w.survey(3) == _applier.CHANGED
    found = partial(sampled(w.story.change(3, CRED, uid=5), 500), layout.KNOWN_CREDS)
    found.apply(w.applier)
    assert w.limits(3) == (500, found.time)
    assert int(encoder.sequences()[layout.TOPICS.index("proc.cred")]) == 1


def test_no_fork_and_no_later_image_inherits_the_limits(w: World) -> None:
    w.exec(3, b"/bin/a", inode=7)
    w.put_extra(3, {"ssh": {"ssh_session_id": 5}, "span_id": 9})
    found = w.find(3, uid=4)
    w.fork(3, 4)
    assert w.extra(4) == {"ssh": {"ssh_session_id": 5}}
    w.exec(3, b"/bin/a", inode=7)
    assert w.limits(3) == (500, found.time), "the same program again is the same image"
    w.exec(3, b"/bin/b", inode=8)
    assert w.extra(3) == {"ssh": {"ssh_session_id": 5}} and not w.is_marked(3)
    previous = w.read.follow(w.proc(3).ancestor)
    assert previous is not None and previous.flags & layout.ROW_CHANGE_SAMPLED
    assert extra_of(w, previous)["sampled_change"]["changed_before_ns"] == BOOT_UNIX_NS + found.time


# -- the order of records ----------------------------------------------------------------------------------------------


def test_a_late_record_changes_no_limits_of_a_younger_one(w: World) -> None:
    late = sampled(w.story.change(3, CRED, uid=4), 300)
    exact = w.story.change(3, CRED, uid=5)
    found = w.find(3, uid=6)
    late.apply(w.applier)
    assert w.limits(3) == (500, found.time)
    exact.apply(w.applier)
    assert w.limits(3) == (500, found.time) and w.proc(3).uid == 6
    late = sampled(w.story.change(3, CRED, uid=7), 700)
    w.change(3, CRED, uid=8)
    late.apply(w.applier)
    assert w.limits(3) is None and not w.is_marked(3)


@pytest.mark.parametrize("executed", [0, 1])
def test_a_late_fork_or_exec_returns_to_a_state_without_limits(w: World, executed: int) -> None:
    """/proc showed the process, and a comparison its change, before older records arrived."""
    late = w.story.fork(3, 4)
    if executed:
        late.apply(w.applier)
        late = w.story.exec(4, b"/bin/a", inode=5)
    w.snapshot(4, b"/bin/a", flags=0, source=layout.SOURCE_PROCFS)
    w.put_extra(4, {"span_id": 9})
    found = w.find(4, uid=4)
    assert w.limits(4) == (500, found.time) and w.proc(4).images == 1 + executed
    late.apply(w.applier)
    assert w.proc(4).images == 1 + executed and w.proc(4).uid == 0
    assert w.extra(4) == {"span_id": 9} and not w.is_marked(4)


def test_a_successor_finishes_what_its_predecessor_began(w: World) -> None:
    """It was killed when it had set or not yet removed the mark, and the limits were not there."""
    found = w.find(3, uid=4)
    row = w.proc(3).row
    for event, is_marked in ((found, True), (w.story.change(3, CRED, uid=4), False)):
        w.tables.py_begin(row)
        w.tables.py_set_ref("extra", row, 0)
        w.tables.py_end(row)
        w.applier = Applier(w.tables)
        event.apply(w.applier)
        assert w.is_marked(3) == is_marked
        assert w.limits(3) == ((500, found.time) if is_marked else None)


@pytest.mark.parametrize("kind", [CRED, SID])
def test_no_reader_sees_a_change_without_its_mark(w: World, kind: int) -> None:
    """Nor does a successor after a kill, which would take the change for one that is known."""
    row = w.proc(3).row
    for uid in (4, 5):
        before = int(w.tables.hot_view()["row_seq"][row])
        found = w.find(3, kind, uid=uid)
        assert int(w.tables.hot_view()["row_seq"][row]) == before + 2, "the row was open once"
        assert w.proc(3).uid == uid and w.limits(3) == (500, found.time)


@pytest.mark.expensive
@pytest.mark.parametrize("case", chosen(CASES))
def test_a_successor_publishes_a_change_wherever_its_predecessor_was_killed(directory: Path, case: str) -> None:
    """It gets the record again, and the row may have the facts of the change already."""
    try:
        with stepping(case, directory) as (event, stepped):
            states = list(stepped)
    except PermissionError as error:
        pytest.skip(f"needs ptrace on a child process: {error}")
    assert len(states) >= 5
    is_sampled = bool(event.header["flags"][0] & declared.FLAG_SAMPLED)
    for number, state in enumerate(states):
        put_state(directory / "state", state)
        w = Marks(directory / "state", **OPTIONS)
        assert w.tables.is_takeover, f"state {number}: {w.tables.fresh_reason}"
        encoder = Encoder(BOOT_ID)
        encoder.topics_mask = 1 << TOPICS.index("proc.cred")
        event.apply(Applier(w.tables, encoder))
        end_torn(w.tables, w.tables.torn_rows)
        assert [message.count for message in encoder.take()] == [1], f"state {number}: the change is not published"
        assert w.proc(3).uid == 4 and w.is_marked(3) == is_sampled, f"state {number}"
        assert w.limits(3) == ((AFTER_NS, event.time) if is_sampled else None), f"state {number}"
        validate_tables(w.tables)
        w.tables.close()


# -- the map -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keys", [0, 1, 13, 14, 15, 16, 200])
def test_the_limits_are_a_part_of_a_map_of_any_size(w: World, keys: int) -> None:
    more: dict[str, Any] = {f"key{number}": number for number in range(keys)}
    more |= {"ssh": {"ssh_session_id": 5}, "names": {"user": "\udcff"}} if keys % 2 else {}
    w.find(3, uid=4)
    if more:
        w.put_extra(3, more)
    for number, kind in enumerate((CRED, SID, CRED)):
        found = w.find(3, kind, 500 + number)
        assert w.limits(3) == (500 + number, found.time)
        assert w.extra(3) == more | {"sampled_change": w.extra(3)["sampled_change"]}
    w.put_extra(3, {"more": 1})
    assert w.limits(3) == (502, found.time), "a caller keeps what it does not know"
    w.change(3, CRED)
    assert w.extra(3) == more | {"more": 1}


def test_the_names_of_former_ids_go_and_the_limits_of_their_change_come(w: World) -> None:
    w.put_extra(3, {"ssh": {}, "names": {"user": "x"}, "span_id": 9})
    found = w.find(3, uid=4)
    assert w.extra(3).keys() == {"sampled_change", "ssh", "span_id"} and w.limits(3) == (500, found.time)


@pytest.mark.parametrize("more", [{}, {"ssh": {"ssh_session_id": 5}, "span_id": 9}])
def test_a_full_arena_leaves_the_mark_alone(w: World, more: dict[str, Any]) -> None:
    """The limits of an earlier change do not stay beside it."""
    if more:
        w.put_extra(3, more)
    with full(w.tables.args):
        before = w.read.counter("arena_full")
        w.find(3, uid=4)
        assert w.read.counter("arena_full") > before
    assert w.is_marked(3) and w.extra(3) == more
    found = w.find(3, SID)
    assert w.limits(3) == (500, found.time)
    # Another row has the same map, so its memory does not become free.
    shared = w.proc(3).extra_ref
    w.fork(1, 5)
    row = w.proc(5).row
    w.tables.py_begin(row)
    w.tables.py_set_ref("extra", row, w.tables.py_intern_args(w.tables.args.py_bytes(shared)))
    w.tables.py_end(row)
    with full(w.tables.args):
        w.find(3, SID, 600)
    assert w.is_marked(3) and w.limits(3) is None
    w.change(5, COMM, comm=b"q")
    assert "sampled_change" in w.extra(5)
    w.change(5, CRED, uid=1)


def test_a_map_without_room_for_the_limits_stays(w: World) -> None:
    w.put_extra(3, {"longest": "x" * ((1 << 20) - 64)})
    w.find(3, uid=4)
    assert w.is_marked(3) and w.extra(3).keys() == {"longest"}
    w.change(3, CRED, uid=5)
    assert not w.is_marked(3) and w.extra(3).keys() == {"longest"}

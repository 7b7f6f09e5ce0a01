"""Methods of an entry: it finds others, describes itself, has times, and is copied and pickled."""

from __future__ import annotations

import copy
import gc
import pickle
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline import trust
from pipeline.errors import ClosedError, DetachedError, LayoutError, StaleError, TooOldError
from pipeline.resolver.apply._applier import Applier
from pipeline.shm.layout import layout
from pipeline.shm.names import ssh, usernames
from pipeline.shm.reader._entry import FIELDS
from pipeline.shm.reader.entry_dict import EntryAttributes, EntryDict
from pipeline.shm.reader.table import Entry, ProcessTable
from tests.resolver.story import Story, make_tables
from tests.shm.full_row import ALL_KNOWN, full_row
from tests.shm.handmade import Tables, now_boot_ns

HOSTILE = b"a, of\x1b\n\xff(1)"
NOTHING = np.zeros(4, np.uint64)


class World:
    """Processes of a story in real tables, and a reader."""

    def __init__(self, directory: Path) -> None:
        self.story = Story(now=10**10)
        self.tables = make_tables(directory)
        self.applier = Applier(self.tables)
        self.fork(0, 1)
        self.tables.set_state(layout.STATE_READY)
        self.table = ProcessTable.attach(path=directory)

    def __getattr__(self, name: str) -> Any:
        """Return a method of the story that also applies the event."""

        def happen(*args: Any, **facts: Any) -> None:
            getattr(self.story, name)(*args, **facts).apply(self.applier)
            self.tables.heartbeat(now_boot_ns())
            self.tables.commit(self.story.now, NOTHING, NOTHING, np.zeros(16, np.uint64))

        return happen

    def entry(self, pid: int) -> Entry:
        found = self.table.resolve(pid)
        assert found is not None
        return found


@pytest.fixture
def world(shm_dir: Path) -> Iterator[World]:
    world = World(shm_dir)
    yield world
    world.table.close()
    world.tables.close()


@pytest.fixture
def tables(shm_dir: Path) -> Tables:
    return Tables(shm_dir)


def resolve(tables: Tables, pid: int) -> Entry:
    found = ProcessTable.attach(path=tables.directory).resolve(pid)
    assert found is not None
    return found


def pids(entries: list[Entry]) -> list[int]:
    return [entry.pid for entry in entries]


# -- relatives ---------------------------------------------------------------------------------------------------------


def test_a_process_that_is_left_behind_has_another_parent_than_creator(world: World) -> None:
    for parent, child in ((1, 2), (2, 3), (3, 4), (4, 5)):
        world.fork(parent, child)
        world.exec(child, b"/bin/p%d" % child)
    job = world.entry(2)
    world.exit(3)
    parent, creator = world.entry(4).parent, world.entry(4).creator
    assert parent is not None and creator is not None
    assert (parent.pid, creator.pid, creator.path) == (1, 3, "/bin/p3")
    assert pids(world.entry(1).children()) == [2, 4] and pids(world.entry(4).children()) == [5]
    assert pids(job.descendants()) == [] and pids(world.entry(1).descendants()) == [2, 4, 5]
    assert pids(job.descendants(by="creator")) == [4, 5]
    assert pids(job.descendants(by="creator", exited=True)) == [3, 4, 5]
    assert pids(world.entry(5).ancestors(by="parent")) == [4, 1]
    assert pids(world.entry(5).ancestors(by="creator", limit=2)) == [4, 3]
    assert world.entry(5).ancestors() == world.table.ancestors(5)


def test_processes_of_the_same_pid_are_not_mixed_up(world: World) -> None:
    world.fork(1, 2)
    world.fork(2, 3)
    former = world.entry(2)
    world.exit(2)
    world.fork(1, 2)
    world.exec(2, b"/bin/new")
    world.fork(2, 4)
    assert former != world.entry(2)
    assert former.children() == [] and pids(world.entry(2).children()) == [4]
    assert pids(former.descendants(by="creator")) == [3] and pids(world.entry(2).descendants(by="creator")) == [4]
    assert not former.is_running and world.entry(2).is_running
    assert [image.path for image in world.entry(2).images()] == [None, "/bin/new"]
    assert former.images() == [former]


def test_every_retained_process_is_listed_though_its_pid_was_used_again(world: World) -> None:
    """A job forks 30 processes, which get three pids in turn, and each of them forks another one."""
    world.fork(1, 2)
    world.exec(2, b"/bin/job")
    for number in range(10):
        for pid in (3, 4, 5):
            world.fork(2, pid)
            world.fork(pid, pid + 10)
            world.exec(pid + 10, b"/bin/run%d" % number)
            world.exit(pid)
            world.exit(pid + 10)
    world.fork(1, 3)  # the pid now has a process of another job
    world.tables.heartbeat(now_boot_ns() + 600 * 10**9)
    job = world.entry(2)
    expected = [pid for pid in (3, 4, 5, 13, 14, 15) for _ in range(10)]
    found = job.descendants(by="creator", exited=True)
    assert pids(found) == expected and len(set(found)) == 60 and all(each.is_exited for each in found)
    assert pids(job.descendants(by="origin", exited=True)) == expected
    assert pids(job.descendants(by="creator")) == []
    assert [each.path for each in found if each.pid == 13] == [f"/bin/run{number}" for number in range(10)]
    starts = [each.start_time_ns for each in found if each.pid == 3]
    assert starts == sorted(starts) and len(set(starts)) == 10
    everything = list(world.table.walk())
    assert pids(everything) == sorted([*expected, 1, 2, 3]) and len(set(everything)) == 63
    batch = world.table.batch(["pid", "start_time_ns", "path"])
    assert [each["start_time_ns"] for each in batch.dicts()] == [each.start_time_ns for each in everything]
    assert [each for part in world.table.batches(["pid"], size=7) for each in part.column("pid")] == pids(everything)
    assert [each.path for each in world.table.find(path="/bin/run*", exited=True)] == [
        f"/bin/run{number}" for _ in range(3) for number in range(10)
    ]
    assert len(world.table.columns(["pid"], running=False)["pid"]) == len(world.table.rows()) == 63
    assert (
        world.table.columns(["pid"])["pid"].tolist()
        == [1, 2, 3]
        == world.table.batch(["pid"], running=True).column("pid")
    )
    ended = world.table.wait_tree(found[0], timeout=0)
    assert ended == found[0] and pids(ended.descendants(by="origin", exited=True)) == [13]


def test_a_process_without_its_last_image_is_not_listed_and_what_it_started_is(tables: Tables) -> None:
    """A process that runs descends from an earlier image; the last image was evicted after the end."""
    root = tables.row(3)
    earlier = tables.row(
        4, insert=False, creator=tables.link(root), exit_boot_ns=5_000, flags=layout.ROW_REPLACED
    )  # fmt: skip
    tables.row(5, creator=tables.link(earlier))
    assert pids(resolve(tables, 3).descendants(by="creator", exited=True)) == [5]
    table = ProcessTable.attach(path=tables.directory)
    assert pids(list(table.walk())) == [3, 5] == table.batch(["pid"]).column("pid")


def test_the_origin_is_the_creator_or_the_parent_where_that_is_unknown(tables: Tables) -> None:
    """A shell that is older than the daemon starts one that forks twice; the process in between ends."""
    init = tables.row(1)
    old = tables.row(5, ppid=1, parent=tables.link(init), flags=layout.ROW_HEAD | layout.ROW_BEFORE_CAPTURE)
    middle = tables.row(6, creator=tables.link(old), parent=tables.link(old), exit_boot_ns=50_000)
    tables.row(
        7, ppid=1, creator=tables.link(middle), parent=tables.link(init), flags=layout.ROW_HEAD | layout.ROW_ADOPTED
    )
    daemon = resolve(tables, 7)
    assert pids(daemon.ancestors(by="parent")) == [1]
    assert pids(daemon.ancestors(by="creator")) == [6, 5]
    assert pids(daemon.ancestors(by="origin")) == [6, 5, 1]
    assert pids(daemon.ancestors(by="origin", limit=2)) == [6, 5]
    assert pids(resolve(tables, 5).descendants(by="origin")) == [7]
    assert pids(resolve(tables, 1).descendants(by="origin", exited=True)) == [5, 6, 7]
    assert pids(resolve(tables, 1).descendants(by="creator")) == []
    tables.free(middle)
    assert pids(daemon.ancestors(by="origin")) == [1], "the creator is not retained"
    assert pids(resolve(tables, 1).descendants(by="origin")) == [5, 7]


def test_images_are_all_of_the_process_whichever_is_asked(world: World) -> None:
    world.fork(1, 2)
    world.exec(2, b"/bin/sh")
    world.fork(2, 3)
    first = world.entry(3)
    for path in (b"/bin/a", b"/bin/b"):
        world.exec(3, path)
    images = world.entry(3).images()
    assert [image.path for image in images] == ["/bin/sh", "/bin/a", "/bin/b"]
    assert [image.image_number for image in images] == [1, 2, 3]
    assert all(image.images() == images for image in (first, *images)) and images[0] == first
    assert not images[0].is_elided
    for image in images:
        creator = image.creator
        assert creator is not None and creator.path == "/bin/sh" and creator.pid == 2


def test_an_image_that_is_not_retained_is_said_to_be_missing(tables: Tables) -> None:
    gone = tables.row(7, insert=False)
    tables.row(7, ancestor=tables.link(gone), images=2, flags=layout.ROW_HEAD | layout.ROW_IS_EXEC)
    entry = resolve(tables, 7)
    assert pids(entry.images()) == [7, 7]
    tables.free(gone)
    (only,) = entry.images()
    assert only.is_elided


def test_images_can_be_read_when_the_process_is_not_retained_any_more(tables: Tables) -> None:
    earlier = tables.row(7, insert=False, known=ALL_KNOWN, file_ref=tables.file(b"/bin/a"))
    row = tables.row(7, ancestor=tables.link(earlier), images=2, known=ALL_KNOWN, file_ref=tables.file(b"/bin/b"))
    entry, loaded, images = resolve(tables, 7), resolve(tables, 7).load(), resolve(tables, 7).images()
    tables.free(row)
    tables.free(earlier)
    assert [image.path for image in images] == ["/bin/a", "/bin/b"]
    assert entry.images() == [] and loaded.images() == [loaded]
    for link in (row, earlier):
        tables.reuse(link, 8)
    assert entry.images() == []


@pytest.mark.parametrize("is_newest_exact", [True, False])
def test_a_start_that_just_becomes_exact_separates_no_images(tables: Tables, is_newest_exact: bool) -> None:
    """The start of a process that was found in /proc is corrected in one row after the other."""
    exact, coarse = {"start_boot_ns": 5_003_000_000}, {"start_boot_ns": 5_000_000_000}
    tables.control["user_hz"] = 100
    early, late = (coarse, exact) if is_newest_exact else (exact, coarse)
    flags = {id(coarse): layout.ROW_START_TICKS, id(exact): 0}
    first = tables.row(7, insert=False, **early, flags=flags[id(early)] | layout.ROW_REPLACED)
    newest = tables.row(
        7, ancestor=tables.link(first), images=2, **late, flags=layout.ROW_HEAD | layout.ROW_IS_EXEC | flags[id(late)]
    )
    tables.row(8, ppid=7, start_boot_ns=5_004_000_000, parent=tables.link(first), creator=tables.link(first))
    entry = resolve(tables, 7)
    assert [image.image_number for image in entry.images()] == [1, 2]
    assert pids(entry.children()) == pids(entry.descendants()) == pids(entry.descendants(by="creator")) == [8]
    # A later process of the pid is another one.
    tables.change(newest, start_boot_ns=5_020_000_000, flags=layout.ROW_HEAD | layout.ROW_IS_EXEC)
    assert len(resolve(tables, 7).images()) == 1 and resolve(tables, 7).children() == []


def test_a_relative_that_is_unknown_or_not_retained_is_none(tables: Tables) -> None:
    parent = tables.row(3)
    row = tables.row(7, ppid=3, parent=tables.link(parent), creator=tables.link(parent))
    entry = resolve(tables, 7)
    assert entry.parent is not None and entry.parent.pid == 3
    tables.free(parent)
    assert entry.parent is None and entry.creator is None and entry.ppid == 3
    tables.change(row, parent=0, creator=0, ppid=0)
    assert resolve(tables, 7).parent is None


def test_links_in_a_circle_end(tables: Tables) -> None:
    row = tables.row(7)
    tables.row(8, parent=tables.link(row))
    tables.change(row, parent=tables.link(row + 1))
    tables.row(9, start_boot_ns=5)
    assert resolve(tables, 9).descendants() == []
    assert pids(resolve(tables, 7).descendants()) == [8], "each is below the other, and none below itself"


def test_whether_a_process_runs_is_read_each_time(world: World) -> None:
    world.fork(1, 2)
    entry, loaded = world.entry(2), world.entry(2).load()
    assert entry.is_running
    world.exec(2, b"/bin/true")
    assert entry.is_running, "the process runs, with another image"
    newest = world.entry(2).load()
    world.exit(2, code=3 << 8)
    assert not entry.is_running and not loaded.is_running
    assert not newest.is_exited, "as it was read"
    assert not newest.is_running
    assert newest.is_exited and newest.exit_status == 3, "updated"
    assert newest.path == "/bin/true"


def test_whether_a_process_runs_is_not_guessed(tables: Tables) -> None:
    row = tables.row(7)
    entry = resolve(tables, 7)
    tables.free(row)
    assert not entry.is_running, "a process that runs is retained"
    tables.heartbeat(3.0)
    with pytest.raises(StaleError):
        _ = entry.is_running


# -- tables ------------------------------------------------------------------------------------------------------------

NAVIGATIONS = ("parent", "creator", "is_running")
SEARCHES = ("images", "ancestors", "children", "descendants")


def find_all(entry: Entry) -> Iterator[Any]:
    """Yield functions that look for other images or processes."""
    for name in NAVIGATIONS:
        yield lambda name=name: getattr(entry, name)
    for name in SEARCHES:
        yield getattr(entry, name)


def test_an_entry_of_a_closed_table_keeps_its_fields_and_finds_nothing(tables: Tables) -> None:
    tables.row(7, known=ALL_KNOWN, file_ref=tables.file(b"/bin/x"))
    with ProcessTable.attach(path=tables.directory) as table:
        entry = table.resolve(7)
        assert entry is not None
    assert entry.path == "/bin/x" and "Entry 7 p7" in repr(entry)
    for find in find_all(entry):
        with pytest.raises(ClosedError, match="of pid 7 is closed"):
            find()


def test_an_entry_of_a_table_that_was_dropped_finds_others(world: World) -> None:
    world.fork(1, 2)
    world.fork(2, 3)
    entry = ProcessTable.attach(path=world.tables.directory).resolve(2)
    assert entry is not None and entry.parent is not None
    assert entry.is_running and pids(entry.children()) == pids(entry.descendants()) == [3]
    assert entry.images() == [entry] and pids(entry.ancestors()) == [1]


def test_the_table_is_opened_once_more_for_all_questions(tables: Tables, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []

    class Directory(trust.Directory):
        def __init__(self, path: str) -> None:
            opened.append(path)
            super().__init__(path)

    tables.row(7)
    entry = ProcessTable.attach(path=tables.directory, max_age_ms=3_600_000).resolve(7)
    assert entry is not None
    tables.heartbeat(20.0)  # older than a table may be by default
    monkeypatch.setattr(trust, "Directory", Directory)
    for _ in range(5):
        assert entry.images() == [entry] and entry.ancestors() == []
    assert opened == [str(tables.directory)]


def test_a_table_that_is_dropped_is_gone_at_once(tables: Tables) -> None:
    """A cycle with its entries would keep files mapped, and count a reader that reads no more."""
    tables.row(7)
    gc.disable()
    try:
        keeper = ProcessTable.attach(path=tables.directory)
        entry = ProcessTable.attach(path=tables.directory).resolve(7)
        assert entry is not None and keeper.count_readers()[0] == 1
        files = Path("/proc/self/fd")
        open_files = len(list(files.iterdir()))
        for _ in range(5):
            assert entry.children() == []
        del entry
        assert len(list(files.iterdir())) == open_files - 1
    finally:
        gc.enable()
        keeper.close()


# -- wrong arguments ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "kind", "text"),
    [
        (lambda e: e.descendants(by="ancestor"), ValueError, "by is 'ancestor', not 'origin', 'creator' or 'parent'"),
        (lambda e: e.descendants(by=1), ValueError, "by is 1"),
        (
            lambda e: e.ancestors(by="parents"),
            ValueError,
            "by is 'parents', not 'ancestor', 'origin', 'creator' or 'parent'",
        ),
        (lambda e: e.descendants("creator"), TypeError, "positional"),
        (lambda e: e.as_dict("pid"), TypeError, r"write \['pid'\]"),
        (lambda e: e.to_dict("pid"), TypeError, r"write \['pid'\]"),
        (lambda e: e.as_dict(7), TypeError, "list of names, not int"),
        (lambda e: e.as_dict([7]), TypeError, "7, which is not a name"),
        (lambda e: e.as_dict(["strat_time"]), ValueError, "did you mean 'start_time'"),
        (lambda e: e.as_dict(["children"]), ValueError, "no field 'children'"),
        (lambda e: e.to_dict(["start_time"]), ValueError, "did you mean 'start_time_ns'"),
        (lambda e: setattr(e, "parent", e), AttributeError, "parent"),
    ],
)
def test_a_wrong_argument_is_named(tables: Tables, call: Any, kind: type[Exception], text: str) -> None:
    tables.row(7)
    with pytest.raises(kind, match=text):
        call(resolve(tables, 7))


# -- times and ends ----------------------------------------------------------------------------------------------------


def test_times_have_two_forms(tables: Tables) -> None:
    full_row(tables)
    entry = resolve(tables, 7)
    times = [name for name in dir(Entry) if name.endswith("_ns") and name.removesuffix("_ns") in dir(Entry)]
    times = [name for name in times if name not in {"pid_ns", "user_ns"}]  # namespaces
    assert len(times) == 9 and "start_time_ns" in times
    for name in set(times) - {"age_ns"}:
        ns, other = getattr(entry, name), getattr(entry, name.removesuffix("_ns"))
        if name == "duration_ns":
            assert other == timedelta(microseconds=ns // 1000)
        else:
            assert (
                other.tzinfo is UTC
                and (other - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1) == ns // 1000
            ), name
    tables.row(8, known=0, start_boot_ns=0)
    unknown = resolve(tables, 8)
    assert all(getattr(unknown, name) is getattr(unknown, name.removesuffix("_ns")) is None for name in times)


def test_the_age_counts_from_the_start_and_the_duration_to_the_end(tables: Tables) -> None:
    tables.control["boot_unix_ns"] = time.time_ns() - now_boot_ns()
    tables.row(7, start_boot_ns=now_boot_ns() - 5 * 10**9)
    running = resolve(tables, 7)
    assert running.age is not None and timedelta(seconds=5) <= running.age < timedelta(seconds=60)
    assert running.duration is running.duration_ns is None
    tables.row(8, start_boot_ns=1000, exit_boot_ns=4000)
    ended = resolve(tables, 8)
    assert ended.duration_ns == 3000 and ended.duration == timedelta(microseconds=3)
    assert ended.age is not None and ended.age > ended.duration
    tables.row(9, start_boot_ns=now_boot_ns() + 10**12, exit_boot_ns=1)
    strange = resolve(tables, 9)
    assert strange.age_ns == 0 and strange.duration_ns == 0
    tables.row(10, exit_boot_ns=20_000, flags=layout.ROW_REPLACED)
    assert resolve(tables, 10).duration_ns is None


@pytest.mark.parametrize(
    ("code", "status", "number"), [(0, 0, None), (3 << 8, 3, None), (9, None, 9), (11 | 0x80, None, 11)]
)
def test_the_end_of_a_process(tables: Tables, code: int, status: int | None, number: int | None) -> None:
    tables.row(7, exit_boot_ns=9000, exit_code=code, flags=layout.ROW_HEAD | layout.ROW_EXIT_KNOWN)
    entry = resolve(tables, 7)
    assert (entry.exit_code, entry.exit_status, entry.exit_signal) == (code, status, number)
    tables.row(8, exit_boot_ns=9000, exit_code=code)
    unseen = resolve(tables, 8)
    assert (unseen.exit_code, unseen.exit_status, unseen.exit_signal) == (None, None, None)


# -- the story ---------------------------------------------------------------------------------------------------------

KNOWN = layout.ROW_HEAD | layout.ROW_EXIT_KNOWN


@pytest.mark.parametrize(
    ("fields", "story"),
    [
        ({"exit_code": 0, "flags": KNOWN}, "exited 0 after 2 µs"),
        ({"exit_code": 9, "flags": KNOWN}, "killed by SIGKILL after 2 µs"),
        ({"exit_code": 0x8B, "flags": KNOWN}, "killed by SIGSEGV after 2 µs"),
        ({"exit_code": 63, "flags": KNOWN}, "killed by SIGRTMIN+29 after 2 µs"),
        ({}, "ended after 2 µs"),
        ({"start_boot_ns": 0}, "ended"),
        ({"flags": layout.ROW_HEAD | layout.ROW_EXIT_UNSEEN}, "ended after at most 2 µs"),
        ({"flags": layout.ROW_REPLACED, "exec_boot_ns": 8000}, "replaced by an exec after 1 µs"),
        ({"exit_boot_ns": 0, "start_boot_ns": 0}, "running"),
    ],
)  # fmt: skip
def test_a_story(tables: Tables, fields: dict[str, Any], story: str) -> None:
    shell = tables.row(6, comm=b"sshd")
    parent = tables.row(5, comm=b"sh", parent=tables.link(shell))
    tables.row(7, **({"exit_boot_ns": 9000, "ppid": 5, "parent": tables.link(parent)} | fields))
    assert repr(resolve(tables, 7)) == f"<Entry 7 p7, {story}, of sh(5) of sshd(6)>"
    tables.free(parent)
    assert repr(resolve(tables, 7)) == f"<Entry 7 p7, {story}, of 5>"


def test_a_story_of_a_process_that_runs(tables: Tables) -> None:
    tables.control["boot_unix_ns"] = time.time_ns() - now_boot_ns()
    tables.row(7, start_boot_ns=now_boot_ns() - 61 * 10**9)  # a host may have just booted
    assert re.fullmatch(r"<Entry 7 p7, started 1 min \d+ s ago>", repr(resolve(tables, 7)))


def test_a_story_is_printable_and_bounded_and_cannot_be_forged(tables: Tables) -> None:
    parent = tables.row(6, comm=b"\xff" * 16)
    parent = tables.row(5, comm=HOSTILE, parent=tables.link(parent))
    tables.row(7, comm="a\u202eb".encode(), parent=tables.link(parent), exit_boot_ns=9000)
    text = repr(resolve(tables, 7))
    assert text.startswith(r"<Entry 7 'a\u202eb', ended after 2 µs, of 'a, of\x1b\n\udcff(1)'(5) of '\udcff")
    assert text.isprintable() and len(text) < 250
    tables.row(8, comm=b"", exit_boot_ns=9000)
    assert repr(resolve(tables, 8)).startswith("<Entry 8 '', ended")
    tables.row(9, known=0, exit_boot_ns=9000)
    assert repr(resolve(tables, 9)).startswith("<Entry 9 ?, ended")


def test_there_is_a_story_of_an_entry_that_is_not_retained(tables: Tables) -> None:
    row = tables.row(7, exit_boot_ns=9000)
    entry = resolve(tables, 7)
    tables.free(row)
    assert repr(entry) == "<Entry 7 p7>"


# -- copies and pickles ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", [copy.copy, copy.deepcopy])
def test_a_copy_is_an_entry_of_its_own(world: World, how: Any) -> None:
    world.fork(1, 2)
    world.exec(2, b"/bin/a", args=[b"a", b"b"])
    for entry in (world.entry(2), world.entry(2).load()):
        other = how(entry)
        assert other is not entry and other == entry and hash(other) == hash(entry)
        del entry
        gc.collect()
        assert other.to_dict() == world.entry(2).to_dict() and other.parent == world.entry(1)
    assert how([world.entry(2)]) == [world.entry(2)]


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickled_entry_keeps_all_fields(tables: Tables, monkeypatch: pytest.MonkeyPatch, protocol: int) -> None:
    """Those that are read from other rows and from files too; and then the tables are gone."""
    full_row(tables)
    monkeypatch.setattr(usernames.UserNames, "name", lambda self, kind, number, *more: f"{kind}{number}")
    monkeypatch.setattr(ssh, "session", lambda directory, number: {"id": number})
    table = ProcessTable.attach(path=tables.directory)
    entry = table.resolve(7)
    assert entry is not None
    data = pickle.dumps(entry, protocol)
    expected, row, number = entry.to_dict(), entry.row_bytes(), hash(entry)
    assert expected["user"] and expected["ssh_session"] and expected["creator_entity_id"]
    monkeypatch.undo()
    table.close()
    del entry
    tables.control["boot_unix_ns"] = 0
    for _ in range(2):
        found = pickle.loads(data)
        assert list(found.to_dict().items()) == list(expected.items())
        assert found.row_bytes() == row and hash(found) == number
        assert found.start_time_ns == expected["start_time_ns"] and found.path_in_root == "/usr/bin/python3"
        assert found.load() is found and found.verify() in {True, False}
        assert repr(found) == repr(found) and repr(found).endswith(", of 3>")
        data = pickle.dumps(copy.copy(found), protocol)  # again, of the copy


def test_a_pickled_entry_is_equal_and_finds_nothing(world: World) -> None:
    world.fork(1, 2)
    entry = pickle.loads(pickle.dumps(world.entry(2)))
    assert entry == world.entry(2) and entry in {world.entry(2)}
    assert entry != world.entry(1)
    for find in find_all(entry):
        with pytest.raises(DetachedError, match=r"table.newest\(entry\)"):
            find()
    for use in (world.table.ancestors, world.table.children, world.table.get_ancestors_pids):
        with pytest.raises(DetachedError):
            use(entry)
    assert world.table.newest(entry) == entry


def test_unknown_fields_stay_unknown_in_a_pickle(tables: Tables) -> None:
    tables.row(7, known=0, start_boot_ns=0)
    entry = resolve(tables, 7)
    assert pickle.loads(pickle.dumps(entry)).to_dict() == entry.to_dict()


def test_an_entry_that_is_not_retained_cannot_be_pickled(tables: Tables) -> None:
    row = tables.row(7)
    entry, loaded = resolve(tables, 7), resolve(tables, 7).load()
    tables.free(row)
    with pytest.raises(TooOldError):
        pickle.dumps(entry)
    assert pickle.loads(pickle.dumps(loaded)) == entry


def test_a_pickle_of_another_version_is_refused(tables: Tables) -> None:
    tables.row(7)
    restore, (state,) = resolve(tables, 7).__reduce__()  # type: ignore[misc]
    with pytest.raises(LayoutError, match="table layout 1"):
        restore(state | {"layout": 1})
    for wrong in ({"hot": b""}, {"rest": b"x" * 255}, {"strings": ()}, {"facts": None}):
        with pytest.raises(ValueError, match="not the state"):
            restore(state | wrong)
    for wrong in ({"hot": None}, {"strings": (1,) * 7}, {"facts": []}):
        with pytest.raises(TypeError):
            restore(state | wrong)


def test_a_pickle_is_read_by_another_process(world: World) -> None:
    world.fork(1, 2)
    world.exec(2, b"/bin/a", args=[b"a", b"b"])
    program = (
        "import pickle, sys; e = pickle.load(sys.stdin.buffer); print(e.pid, e.argv);"
        "print('numpy' in sys.modules)\n"
        "try: e.parent\n"
        "except Exception as error: print(type(error).__name__)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], input=pickle.dumps(world.entry(2)), capture_output=True, check=True
    )
    assert done.stdout.decode().split("\n")[:3] == ["2 ['a', 'b']", "False", "DetachedError"]


# -- as_dict -----------------------------------------------------------------------------------------------------------


def test_as_dict_has_every_attribute(tables: Tables) -> None:
    full_row(tables)
    entry = resolve(tables, 7)
    assert entry.as_dict() == entry.to_dict() and tuple(entry.as_dict()) == FIELDS
    names = ["start_time", "images", "image_number", "path_in_root", "parent"]
    shown = entry.as_dict(names)
    assert list(shown) == names and (shown["images"], shown["image_number"]) == (2, 2)
    assert shown["start_time"] == entry.start_time and shown["parent"] == entry.parent
    assert entry.as_dict(iter([])) == {}
    assert tuple(EntryDict.__annotations__) == FIELDS
    assert set(entry.as_dict(EntryAttributes.__annotations__)) == set(EntryAttributes.__annotations__)

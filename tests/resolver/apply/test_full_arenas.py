"""Full arenas: an image keeps its facts, and a new image never shows facts of the image before."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.records import declared, dtypes
from pipeline.resolver.apply._applier import Applier
from pipeline.resolver.entries.model import (
    AWSSecurityCredentials,
    CGroupContext,
    ContainerContext,
    Credentials,
    FileEvent,
    PathKey,
    SSHSessionContext,
    UserSessionContext,
)
from pipeline.secrets.argsenvs import ArgsEntry, EnvsEntry
from pipeline.shm.check.validate import validate_tables
from pipeline.shm.layout import layout
from tests.resolver.apply.full_arenas import full
from tests.resolver.apply.model import Model, limits_in
from tests.resolver.random_story import OPS, tell
from tests.resolver.story import Reading, checked, enter_init, instance, make_tables
from tests.resolver.story_world import StoryWorld
from tests.sampling import examples

SMALL = {"names_bytes": 1 << 16, "args_bytes": 1 << 16, "envs_bytes": 1 << 16}
COMMON = settings(deadline=None, max_examples=examples(80), suppress_health_check=[HealthCheck.too_slow])


class World(StoryWorld):
    def __init__(self, directory) -> None:
        super().__init__(directory, **SMALL)
        self.begin()

    def everything(self) -> ExitStack:
        stack = ExitStack()
        stack.enter_context(full(self.tables.names, self.tables.args, self.tables.envs))
        return stack


@pytest.fixture
def w() -> Iterator[World]:
    with instance() as directory, checked(World(directory)) as world:
        yield world


# -- records -----------------------------------------------------------------------------------------------------------


def test_a_new_image_does_not_show_facts_of_the_previous_one(w: World) -> None:
    w.do(w.story.exec(3, b"/bin/old", args=[b"old", b"1"], envs=[b"A=1"]))
    with w.everything():
        before = w.read.counter("arena_full")
        w.do(w.story.exec(3, b"/bin/new", inode=77, args=[b"new", b"1", b"2"], envs=[b"B=2"]))
    row = w.head(3)
    assert (row.images, row.path, w.args(row), row.envs_ref, row.name_ref) == (3, None, None, 0, 0)
    assert (row.inode, row.argc, row.envc) == (77, 3, 1), "what needs no room is known"
    assert row.flags & layout.ROW_ARGS_TRUNCATED and row.flags & layout.ROW_ENVS_TRUNCATED
    assert not row.known & (layout.KNOWN_FILE | layout.KNOWN_ARGS | layout.KNOWN_ENVS)
    assert w.read.counter("arena_full") == before + 4
    assert w.args(w.read.follow(row.ancestor)) == b"old\0001\0"
    # A fork of it shows the same.
    w.do(w.story.fork(3, 4))
    assert (w.head(4).path, w.args(w.head(4))) == (None, None) and w.head(4).flags & layout.ROW_ARGS_TRUNCATED


def test_arguments_without_room_are_not_taken_from_proc_later(w: World) -> None:
    """By then the process may have overwritten them."""
    with w.everything():
        w.do(w.story.exec(3, b"/bin/new", inode=77, args=[b"new"]))
    process = w.story.processes[3]
    header, body = np.zeros(1, dtypes.HEADER), np.zeros(1, dtypes.EXEC)
    header["tgid"], header["start_boot_ns"], header["time_boot_ns"] = 3, process.start, w.story.tick()
    header["ppid"] = 1
    body["inode"], body["path_bytes"], body["args_bytes"], body["args_full_bytes"] = 77, 8, 7, 7
    w.applier.insert_from_proc(header, np.zeros(1, dtypes.TASK), body, b"/bin/newchosen\0", known=0)
    row = w.head(3)
    assert (row.path, w.args(row), row.images) == (b"/bin/new", None, 2) and row.flags & layout.ROW_ARGS_TRUNCATED


def test_the_same_image_keeps_its_facts(w: World) -> None:
    w.do(w.story.exec(3, b"/bin/a", inode=7, args=[b"x"], name=b"/bin/a"))
    with w.everything():
        w.do(w.story.exec(3, b"/usr/bin/a", inode=7, args=[b"x"], name=b"/usr/bin/a"))  # under another of its names
    row = w.head(3)
    assert (row.images, row.path, w.args(row)) == (2, b"/bin/a", b"x\0")
    assert w.tables.names.py_bytes(row.name_ref) == b"/bin/a"
    assert row.known & layout.KNOWN_FILE and not row.flags & layout.ROW_ARGS_TRUNCATED


def test_a_cgroup_that_could_not_be_named_is_asked_for_again(w: World) -> None:
    w.do(w.story.change(3, declared.KIND_CGROUP, cgroup=4711))
    assert [cgroup for cgroup, _ in w.applier.cgroups.take_wanted() if cgroup == 4711]
    with w.everything():
        assert w.applier.cgroups.name(4711, b"/a.slice", b"") == 0
    assert w.head(3).cgroup_ref == 0
    w.do(w.story.change(3, declared.KIND_CGROUP, cgroup=4712))
    w.do(w.story.change(3, declared.KIND_CGROUP, cgroup=4711))
    assert 4711 in {cgroup for cgroup, _ in w.applier.cgroups.take_wanted()}
    assert w.applier.cgroups.name(4711, b"/a.slice", b"c0ffee") == 1
    with w.everything():
        assert w.applier.cgroups.name(4711, b"/a.slice", b"c0ffee", made_boot_ns=5) == 0
    assert w.tables.names.py_bytes(w.head(3).cgroup_ref)[16:] == b"/a.slice"
    w.applier.cgroups.forget()


# -- single updates ----------------------------------------------------------------------------------------------------

SSH = UserSessionContext(ssh=SSHSessionContext(ssh_session_id=5, ssh_username="alice"))
KEYS = (AWSSecurityCredentials("c", "t", "AKIA1", 1, 2),)
FULL_VALUES: dict[str, Any] = {
    "aws_security_credentials": KEYS,
    "user_session": SSH,
    "file_event": FileEvent(inode=5, mtime=6).with_pathname("/bin/one"),
    "container": ContainerContext("c0ffee", 3, ("env:prod",), True),
    "cgroup": CGroupContext("/one", PathKey(41), 1, 0, 9),
    "args_entry": ArgsEntry(["a", "b"], True),
    "envs_entry": EnvsEntry(["A=1"], True),
    "credentials": Credentials(uid=7, user="seven"),
}  # fmt: skip
OTHER_VALUES: dict[str, Any] = {
    "aws_security_credentials": (*KEYS, AWSSecurityCredentials("c", "t", "AKIA2" * 40, 1, 2)),
    "user_session": UserSessionContext(3, 2, ssh=SSHSessionContext(ssh_session_id=6, ssh_username="bob" * 100)),
    "file_event": FileEvent(inode=8, mtime=9).with_pathname("/bin/" + "two" * 50),
    "container": ContainerContext("beef" * 60, 4, ("env:test" * 20,), True),
    "cgroup": CGroupContext("/two" * 50, PathKey(42), 2, 0, 10),
    "args_entry": ArgsEntry(["c" * 200]),
    "envs_entry": EnvsEntry(["B=" + "2" * 200]),
    "credentials": Credentials(uid=0, user="root" * 60),
}  # fmt: skip


def shown(value: Any) -> Any:
    """A comparable form: arguments and environments compare by identity."""
    return (value.values, value.is_truncated) if isinstance(value, ArgsEntry | EnvsEntry) else value


@pytest.mark.parametrize("field", FULL_VALUES)
def test_an_update_without_room_leaves_the_value(w: World, field: str) -> None:
    entry = w.entry(3)
    entry.set(**FULL_VALUES)
    row = w.head(3)
    with w.everything():
        before = w.read.counter("arena_full")
        entry.set(**{field: OTHER_VALUES[field]})
    assert w.read.counter("arena_full") > before
    found = {name: shown(getattr(entry, name)) for name in FULL_VALUES}
    assert {name for name, value in FULL_VALUES.items() if found[name] != shown(value)} <= {field}
    if field == "credentials":
        # Ids need no space in an arena. The names of the former ids must not stay beside them.
        assert (found[field].uid, found[field].user) == (0, "")
        assert (entry.user_session, entry.aws_security_credentials) == (SSH, KEYS)
    else:
        assert found[field] == shown(FULL_VALUES[field])
        now = w.head(3)
        assert (now.inode, now.cgroup_id, now.argc, now.flags) == (row.inode, row.cgroup_id, row.argc, row.flags)
    entry.set(**{field: OTHER_VALUES[field]})
    assert shown(getattr(entry, field)) == shown(OTHER_VALUES[field])


def test_fields_without_a_value_are_marked(w: World) -> None:
    entry = w.entry(3)
    with w.everything():
        entry.set(args_entry=ArgsEntry(["a" * 99]), args_truncated=False, envs_entry=EnvsEntry(["A=1" * 99]))
    assert (entry.args_entry, entry.args_truncated, entry.envs_entry, entry.envs_truncated) == (None, True, None, True)
    assert not w.head(3).known & (layout.KNOWN_ARGS | layout.KNOWN_ENVS)


@COMMON
@given(st.lists(st.tuples(st.sampled_from(sorted(FULL_VALUES)), st.booleans(), st.booleans()), max_size=30))
def test_updates_equal_a_dict_except_for_those_without_room(steps):
    """A field has its newest value or, if that had no room, the previous one; never a mixture."""
    with instance() as directory:
        world = World(directory)
        entry = world.entry(3)
        entry.set(**FULL_VALUES)
        model = {name: shown(value) for name, value in FULL_VALUES.items()}
        for field, is_other, is_full in steps:
            value = (OTHER_VALUES if is_other else FULL_VALUES)[field]
            with full(world.tables.names, world.tables.args, world.tables.envs) if is_full else ExitStack():
                entry.set(**{field: value})
            found, value = shown(getattr(entry, field)), shown(value)
            if not is_full or field != "credentials":
                assert found == value or (is_full and found == model[field]), field
            elif found != value:
                assert (found.uid, found.user) == (value.uid, "")
            model[field] = found
            assert {name: shown(getattr(entry, name)) for name in model} == model
            validate_tables(world.tables)
        world.tables.close()


# -- any story ---------------------------------------------------------------------------------------------------------


@COMMON
@given(OPS, st.data())
def test_with_full_arenas_an_image_shows_its_own_facts_or_none(ops, data):
    """Like `test_events_in_order_equal_the_model`, with arenas that are full at random moments."""
    story = tell(ops)
    process = story.processes[1]
    model = Model()
    model.begin_init(process.start)
    with instance() as directory:
        tables = make_tables(directory, **SMALL)
        applier, read = Applier(tables), Reading(tables)
        enter_init(tables, applier, story)
        arenas = {"names": tables.names, "args": tables.args, "envs": tables.envs}
        for event in story.events:
            which = data.draw(st.sets(st.sampled_from(sorted(arenas)), max_size=3))
            with full(*(arenas[name] for name in which)):
                event.apply(applier)
            model.apply(event)
        validate_tables(tables)
        expected = model.view()
        hot = tables.hot_view()
        status = tables.private_view("status")
        for row in (row for row in range(1, tables.rows_frontier) if status[row] & 1):
            found = read.row(row)
            own = expected[found.tgid, found.start_boot_ns, found.images]
            args = tables.args.py_bytes(found.args_ref)[4:] if found.args_ref else None
            assert found.path in (own["path"], None) and args in (own["args"], None)
            assert bool(found.known & layout.KNOWN_FILE) == (found.path is not None)
            assert bool(found.known & layout.KNOWN_ARGS) == (args is not None)
            if own["args"] is not None and args is None:
                assert hot[row]["flags"] & layout.ROW_ARGS_TRUNCATED
            assert bool(found.flags & layout.ROW_CHANGE_SAMPLED) == own["is_sampled"], "a flag needs no room"
            extra = tables.args.py_bytes(found.extra_ref) if found.extra_ref else None
            assert limits_in(extra) in (own["limits"], None)
            for name in ("inode", "ppid", "exec_boot_ns", "exit_boot_ns", "uid", "cgroup_id"):
                assert getattr(found, name) == own[name], name
        tables.close()

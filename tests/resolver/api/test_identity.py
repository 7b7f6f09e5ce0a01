"""Events that are late, repeated, or of an earlier owner of a pid: live records and single calls give the same result.

`Kernel` makes events in order and with times; the test decides when to report them, through either path.
"""

from __future__ import annotations

import gc
import random
from collections.abc import Iterator
from zlib import crc32

import pytest

from pipeline.records import declared
from pipeline.resolver.entries.cache_entry import ProcessCacheEntry
from pipeline.resolver.entries.event import Event
from pipeline.resolver.entries.model import CGroupContext, Credentials, FileEvent, PathKey, PIDContext
from pipeline.secrets.argsenvs import ArgsEntry
from tests.resolver.resolver_world import World, high, world
from tests.resolver.story import Event as Record
from tests.resolver.story import Story, apply_batch
from tests.sampling import times

_IDS = ("uid", "gid", "euid", "egid", "fsuid", "fsgid")


class Kernel:
    """A kernel with processes below pid 1.

    Args:
        how: "records" passes what is reported to the applier as it is; "batches" passes it as the daemon does, each
            record as a frame through the merger; "calls" passes it as the event of a method.
    """

    def __init__(self, w: World, how: str) -> None:
        self.w = w
        self.how = how
        init = w.fork(0, 1, 7)
        assert init.entry is not None
        self.story = Story(now=w.clock())
        self.story.begin(1, inode=7, start=init.entry.start_boot_ns)
        if how == "calls":
            # `tell` collects garbage before each call: only what this test makes, not what has been imported.
            gc.collect()
            gc.freeze()

    def fork(self, ppid: int, pid: int) -> Record:
        return self.story.fork(high(ppid), high(pid))

    def exec(self, pid: int, path: bytes, *args: bytes) -> Record:
        # Each exec has a file of its own: an exec of the same file, under any path, repeats the running program.
        return self.story.exec(high(pid), path, inode=crc32(path), args=args)

    def exit(self, pid: int) -> Record:
        return self.story.exit(high(pid))

    def set_uid(self, pid: int, uid: int) -> Record:
        return self.story.change(high(pid), declared.KIND_CRED, uid=uid)

    def tell(self, *records: Record) -> ProcessCacheEntry | None:
        """Report these records in this order; return the entry of the last one, if the call returns an entry."""
        self.w.clock.now = max(self.w.clock.now, self.story.now)
        entry = None
        for record in records:
            if self.how == "records":
                record.apply(self.w.applier)
                continue
            if self.how == "batches":
                apply_batch(self.w.applier, record)
                continue
            # Without the object of the row, the call must read everything that it needs from the tables.
            entry = None
            gc.collect()
            entry = self._call(record)
        return entry

    def _call(self, record: Record) -> ProcessCacheEntry | None:
        r, header, task = self.w.resolver, record.header[0], record.task[0]
        pid = int(header["tgid"])
        context = PIDContext(
            pid=pid, tid=pid, ppid=int(header["ppid"]), exec_inode=int(task["exe_inode"]),
            start_boot_ns=int(header["start_boot_ns"]), parent_start_boot_ns=int(header["parent_start_boot_ns"]),
        )  # fmt: skip
        event = Event(timestamp_ns=record.time, pid_context=context)
        if record.kind == declared.KIND_FORK:
            event.entry = r.new_process_cache_entry(context)
            event.entry.fork_time = record.time
            r.add_fork_entry(event, CGroupContext())
        elif record.kind == declared.KIND_EXEC:
            assert record.body is not None
            body, strings = record.body[0], record.strings
            path = strings[: int(body["path_bytes"])].decode()
            args = strings[int(body["path_bytes"]) + int(body["name_bytes"]) :][: int(body["args_bytes"])]
            file = FileEvent(inode=int(body["inode"])).with_names(path, path.rpartition("/")[2])
            event.entry = r.new_process_cache_entry(context)
            event.entry.set(
                exec_time=record.time, file_event=file, args_entry=ArgsEntry(args.decode().split("\0")[:-1]),
                credentials=Credentials(**{name: int(task[name]) for name in _IDS}), comm=task["comm"].decode(),
                cookie=int(task["cookie"]), cgroup=CGroupContext(path_key=PathKey(int(task["cgroup_id"]))),
            )  # fmt: skip
            r.add_exec_entry(event, CGroupContext())
        elif record.kind == declared.KIND_EXIT:
            assert record.body is not None
            event.reaper_pid = int(record.body["reaper_tgid"][0])
            event.reaper_start_boot_ns = int(record.body["reaper_start_boot_ns"][0])
            r.apply_exit_entry(event)
            r.delete_entry(pid, record.time + self.w.offset)
        else:
            uid = int(task["uid"])
            event.credentials = Credentials(**dict.fromkeys(_IDS, uid))
            r.update_uid(pid, event)
            r.update_gid(pid, event)
        return event.entry

    def paths(self, pid: int) -> list[str] | None:
        """Executables of the images of the pid's owner, newest first; "" is the one that init had."""
        head = self.w.resolver.get(high(pid))
        if head is None:
            return None
        return [entry.file_event.pathname for entry in head.chain() if entry.pid == high(pid)]


@pytest.fixture(params=["records", "calls"])
def k(request: pytest.FixtureRequest) -> Iterator[Kernel]:
    with world() as w:
        yield Kernel(w, request.param)


def test_a_repeated_fork_keeps_the_current_image(k: Kernel) -> None:
    fork, exec_ = k.fork(1, 3), k.exec(3, b"/bin/new")
    k.tell(fork, exec_)
    first = k.tell(fork)
    assert k.paths(3) == ["/bin/new", ""]
    head = k.w.resolver.get(high(3))
    assert head is not None and head.is_exec and head.file_event.inode == k.story.processes[high(3)].inode
    if k.how == "calls":
        assert first is head.root, "the event's entry is the image that its fork made"


def test_a_fork_that_comes_after_the_exec_leaves_the_image_that_runs(k: Kernel) -> None:
    fork, exec_ = k.fork(1, 3), k.exec(3, b"/bin/new")
    k.tell(exec_, fork)
    head = k.w.resolver.get(high(3))
    assert head is not None and head.is_exec and head.file_event.pathname == "/bin/new"
    assert head.file_event.inode == k.story.processes[high(3)].inode


def test_a_late_exec_is_put_below_the_later_one(k: Kernel) -> None:
    fork, old, new = k.fork(1, 3), k.exec(3, b"/bin/old"), k.exec(3, b"/bin/new")
    k.tell(fork, new)
    for _ in range(2):
        late = k.tell(old)
        assert k.paths(3) == ["/bin/new", "/bin/old", ""]
        if k.how == "calls":
            assert late is not None and late.file_event.pathname == "/bin/old"
    newest = k.tell(new)
    assert k.paths(3) == ["/bin/new", "/bin/old", ""]
    if k.how == "calls":
        assert newest is k.w.resolver.get(high(3))


def test_an_exec_that_comes_after_the_end_is_of_the_process_that_ended(k: Kernel) -> None:
    fork, exec_, end = k.fork(1, 3), k.exec(3, b"/bin/late"), k.exit(3)
    k.tell(fork, end, exec_)
    assert k.w.resolver.get(high(3)) is None
    if k.how == "calls":
        late = k.tell(exec_)
        assert late is not None and late.file_event.pathname == "/bin/late" and not late.is_parent_missing
        assert late.exit_time is not None and late.ancestor is not None and not late.ancestor.is_exec


def test_a_fork_of_an_earlier_owner_of_the_parents_pid_has_that_creator(k: Kernel) -> None:
    told = [k.fork(1, 3), k.exec(3, b"/bin/old")]
    late = k.fork(3, 4)
    told += [k.exec(3, b"/bin/then"), k.exit(3), k.fork(1, 3), k.exec(3, b"/bin/young")]
    old, young = int(told[0].header["start_boot_ns"][0]), k.story.processes[high(3)].start
    k.tell(*told, late)
    child = k.w.resolver.get(high(4))
    assert child is not None and child.ancestor is not None
    assert child.ancestor.start_boot_ns == old and child.file_event.pathname == "/bin/old"
    hot = k.w.tables.hot_view()
    creator = k.w.tables.py_follow(int(hot[k.w.tables.py_head(high(4))]["creator"]))
    assert int(hot[creator]["start_boot_ns"]) == old
    owner = k.w.resolver.get(high(3))
    assert owner is not None and owner.start_boot_ns == young and owner.children == []


def test_an_exit_that_comes_late_is_of_the_process_that_ended(k: Kernel) -> None:
    fork, end, again = k.fork(1, 3), k.exit(3), k.fork(1, 3)
    k.tell(fork, again)
    first = k.w.resolver.book.of_identity(high(3), int(fork.header["start_boot_ns"][0]))
    k.tell(end)
    young = k.w.resolver.get(high(3))
    assert young is not None and young.exit_time is None
    assert first is not None and first.exit_time == end.time + k.w.offset


def test_a_repeated_exit_changes_nothing(k: Kernel) -> None:
    fork, end = k.fork(1, 3), k.exit(3)
    assert k.tell(fork, end) is not None or k.how == "records"
    before = k.w.tables.hot_view().tobytes()
    assert k.tell(end) is None
    assert k.w.tables.hot_view().tobytes() == before and k.w.cache == {1}


def test_an_exit_before_its_fork_leaves_no_live_process(k: Kernel) -> None:
    fork, end = k.fork(1, 3), k.exit(3)
    k.tell(end, fork)
    assert k.w.resolver.get(high(3)) is None and k.w.cache == {1}


def test_credentials_of_an_earlier_owner_are_not_those_of_the_next(k: Kernel) -> None:
    fork, change, end, again = k.fork(1, 3), k.set_uid(3, 77), k.exit(3), k.fork(1, 3)
    k.tell(fork, end, again, change)
    young = k.w.resolver.get(high(3))
    assert young is not None and young.credentials.uid == 0


def test_credentials_from_before_an_exec_are_not_those_of_its_image(k: Kernel) -> None:
    fork, change = k.fork(1, 3), k.set_uid(3, 77)
    k.story.processes[high(3)].uid = 0
    k.tell(fork, k.exec(3, b"/bin/new"), change)
    head = k.w.resolver.get(high(3))
    assert head is not None and head.credentials.uid == 0


def test_credentials_of_a_live_process_are_stored(k: Kernel) -> None:
    k.tell(k.fork(1, 3), k.exec(3, b"/bin/new"), k.set_uid(3, 77))
    head = k.w.resolver.get(high(3))
    assert head is not None and (head.credentials.uid, head.credentials.fsuid) == (77, 77)


@pytest.mark.parametrize("kind", ["fork", "exec"])
def test_an_unknown_parent_is_not_the_current_owner_of_its_pid(k: Kernel, kind: str) -> None:
    k.tell(k.fork(1, 3))
    k.exit(3)
    k.fork(1, 3)  # neither was reported
    fork = k.fork(3, 4)
    k.tell(fork if kind == "fork" else k.exec(4, b"/bin/new"))
    child, stale = k.w.resolver.get(high(4)), k.w.resolver.get(high(3))
    assert child is not None and child.ancestor is None and child.is_parent_missing and child.ppid == high(3)
    assert stale is not None and stale.children == []


def test_the_parent_that_an_exec_names_is_the_new_one(k: Kernel) -> None:
    k.tell(k.fork(1, 3), k.fork(3, 4))
    k.exit(3)  # not reported
    k.tell(k.exec(4, b"/bin/new"))
    child, init = k.w.resolver.get(high(4)), k.w.resolver.get(1)
    assert child is not None and init is not None
    assert (child.ppid, child.root.ancestor) == (1, init) and child in init.children


# -- any order ---------------------------------------------------------------------------------------------------------


def happen(k: Kernel, rnd: random.Random) -> list[Record]:
    """Some forks, execs and exits of four pids, for reporting out of order, one of them twice."""
    alive, records = {1}, []
    for number in range(30):
        what, pid, ppid = rnd.choice(["fork", "fork", "exec", "exit"]), rnd.randrange(3, 7), rnd.choice(sorted(alive))
        if what == "fork" and pid not in alive:
            records.append(k.fork(ppid, pid))
            alive.add(pid)
        elif what == "exec" and pid in alive:
            records.append(k.exec(pid, b"/bin/%d" % number))
        elif what == "exit" and pid in alive:
            records.append(k.exit(pid))
            alive.remove(pid)
    order = sorted((place + rnd.uniform(0, 6), place) for place in range(len(records)))
    return [records[place] for _, place in [*order, rnd.choice(order)]]


def told(k: Kernel, seed: int) -> list[object]:
    """The tables' facts about each pid after everything was reported."""
    base = k.story.now
    k.tell(*happen(k, random.Random(seed)))
    found: list[object] = []
    book, hot = k.w.resolver.book, k.w.tables.hot_view()
    for pid in range(high(3), high(7)):
        row = k.w.tables.py_head(pid)
        if not row:
            continue
        entry, creator = book.entry(row), k.w.tables.py_follow(int(hot[row]["creator"]))
        chain = [
            (one.pid, one.start_boot_ns - base if one.pid != 1 else 0, one.file_event.pathname, one.is_exec)
            for one in entry.chain()
        ]  # fmt: skip
        found.append((
            chain, entry.ppid, entry.is_parent_missing, book.is_cached(row), [child.pid for child in entry.children],
            creator and (int(hot[creator]["tgid"]), book.entry(creator).file_event.pathname),
        ))  # fmt: skip
    return found


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, times(12, 4)))])
def test_calls_in_any_order_equal_records(seed: int) -> None:
    results = []
    for how in ("records", "batches", "calls"):
        with world() as w:
            results.append(told(Kernel(w, how), seed))
    assert results[0] == results[1] == results[2]


# -- in order ----------------------------------------------------------------------------------------------------------

COUNTED = (
    "added_event", "exec_bomb", "inode_error_exec_parent_missing", "inode_error_fork_parent_missing", "parent_missing",
    "reparents", "exits_unseen",
)  # fmt: skip


def all_of(k: Kernel, seed: int) -> list[object]:
    """Forks, execs, repeated execs, credential changes and exits, some of them lost: all resulting facts."""
    rnd, base, alive, is_lossy = random.Random(seed), k.story.now, {1}, bool(seed % 2)
    for number in range(40):
        what, pid = rnd.choice(["fork", "fork", "exec", "again", "again", "uid", "exit"]), rnd.randrange(3, 7)
        ppid = rnd.choice(sorted(alive))
        if what == "fork" and pid not in alive:
            record = k.fork(ppid, pid)
            alive.add(pid)
        elif what in ("exec", "again") and pid in alive:
            before = k.story.processes[high(pid)].paths
            path = before[-1] if what == "again" and before else b"/bin/%d" % number
            record = k.exec(pid, path, b"arg%d" % rnd.randrange(2))
        elif what == "uid" and pid in alive:
            record = k.set_uid(pid, rnd.randrange(2))
        elif what == "exit" and pid in alive:
            record = k.exit(pid)
            alive.remove(pid)
        else:
            continue
        # Forks are never lost: a credentials record of an unknown process makes an entry, a call does not.
        if not is_lossy or what == "fork" or rnd.random() < 0.9:
            k.tell(record)
    shift, found = base + k.w.offset, []
    for pid in range(high(3), high(7)):
        row = k.w.tables.py_head(pid)
        for one in k.w.resolver.book.entry(row).chain() if row else ():
            if one.pid == 1:
                break
            args = one.args_entry
            found.append((
                one.pid, one.start_boot_ns - base, one.file_event.pathname, one.file_event.inode, one.is_exec,
                one.is_exec_exec, one.is_parent_missing, one.is_exec and (one.exec_time or 0) - shift,
                one.exit_time and one.exit_time - shift, one.ppid, one.tid, one.exec_inode,
                # Any record contains name and cookie, so it also shows the effect of a lost exec.
                not is_lossy and one.is_exec and (one.comm, one.cookie), args and args.values,
                [getattr(one.credentials, name) for name in _IDS],
            ))  # fmt: skip
    return [found, {name: k.w.tables.counter(name) for name in COUNTED}]


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, times(20, 6)))])
def test_calls_store_all_fields_of_records(seed: int) -> None:
    results = []
    for how in ("records", "batches", "calls"):
        with world() as w:
            k = Kernel(w, how)
            init = w.resolver.get(1)
            assert init is not None
            init.set(comm="init", cookie=1)
            results.append(all_of(k, seed))
    assert results[0] == results[1] == results[2]

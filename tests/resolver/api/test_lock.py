"""The resolver reads ``/proc`` without its lock (specification 9.3.13), and drops results that no longer apply."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from pipeline.procfs import proc_reader
from pipeline.procfs.info import ProcInfo
from pipeline.resolver.api.flushing import FLUSH_AGE_NS
from pipeline.resolver.api.lock import ResolverLock
from pipeline.resolver.api.stats import SET_PROCESS_CONTEXT
from pipeline.resolver.entries.cache_entry import ProcessCacheEntry
from pipeline.resolver.entries.event import Event
from pipeline.resolver.entries.model import CGroupContext, PathKey, ResolverError
from pipeline.resolver.entries.opts import ResolverOpts
from tests.resolver.resolver_world import FakeMap, FakeProc, World, high, image_of, owner_of, world

#: How long /proc waits for permission to answer; only a failing test waits that long.
PATIENCE_S = 60
#: A thread takes a free lock within a millisecond.
MOMENT_S = 0.05
#: Processes of these tests.
PARENT, CHILD, OTHER, UNKNOWN, NEW = 3, 4, 5, 50, 70


class SlowProc(FakeProc):
    """A ``/proc``. Its first answer after `hold` waits for `let`. It answers with the state when it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.was_asked, self._let = threading.Event(), threading.Event()
        self.is_waiting = self._holds = False

    def hold(self) -> None:
        self._holds = True

    def let(self) -> None:
        self._let.set()

    def _wait(self) -> None:
        if not self._holds:
            return
        self._holds, self.is_waiting = False, True
        self.was_asked.set()
        self._let.wait(PATIENCE_S)
        self.is_waiting = False

    def read(self, tgid: int, want: int = proc_reader.WANT_DEFAULT) -> ProcInfo | None:
        answer = super().read(tgid, want)
        self._wait()
        return answer

    def read_ppid(self, tgid: int) -> int | None:
        answer = super().read_ppid(tgid)
        self._wait()
        return answer

    def read_start(self, tgid: int) -> int | None:
        answer = super().read_start(tgid)
        self._wait()
        return answer


class Slow(World):
    """A world with a slow ``/proc``."""

    proc: SlowProc

    @contextmanager
    def during(self, call: Callable[[], Any]) -> Iterator[dict[str, Any]]:
        """Run `call` in another thread until it waits for ``/proc``; after the block its result is under "is"."""
        result: dict[str, Any] = {}
        thread = threading.Thread(target=lambda: result.update({"is": call()}))
        self.proc.hold()
        thread.start()
        try:
            assert self.proc.was_asked.wait(PATIENCE_S)
            yield result
            assert self.proc.is_waiting, "this thread had to wait for /proc"
        finally:
            self.proc.let()
            thread.join()
        assert "is" in result, "the call failed"


@pytest.fixture
def w() -> Iterator[Slow]:
    with world() as made:
        made.__class__ = Slow
        assert isinstance(made, Slow)
        made.proc = SlowProc()
        made.resolver_with()
        made.resolver.set_state(1)
        yield made


def entry_of(event: Event) -> ProcessCacheEntry:
    assert event.entry is not None
    return event.entry


# -- the lock itself ---------------------------------------------------------------------------------------------------


def can_take(lock: ResolverLock, within_s: float = PATIENCE_S) -> bool:
    """Whether another thread can take the lock."""
    took = threading.Event()

    def take() -> None:
        with lock:
            took.set()

    thread = threading.Thread(target=take, daemon=True)
    thread.start()
    return took.wait(within_s)


def test_a_lock_that_is_held_once_can_be_put_down() -> None:
    lock = ResolverLock()
    with lock:
        assert not can_take(lock, MOMENT_S)
        with lock.put_down():
            assert can_take(lock)
        assert not can_take(lock, MOMENT_S)
    assert can_take(lock)


def test_a_lock_that_is_held_twice_is_kept() -> None:
    lock = ResolverLock()
    with lock:
        with lock, lock.put_down():
            assert not can_take(lock, MOMENT_S)
        with lock.put_down():
            assert can_take(lock)


def test_a_failure_while_the_lock_is_released_acquires_it_again() -> None:
    lock = ResolverLock()
    with lock:
        with pytest.raises(OSError, match="gone"), lock.put_down():
            raise OSError("gone")
        assert not can_take(lock, MOMENT_S)
    assert can_take(lock)


# -- other callers do not wait -----------------------------------------------------------------------------------------


def walk_children(w: Slow) -> Callable[[], Any]:
    child = entry_of(w.fork(PARENT, CHILD, 10))
    w.delete(PARENT)
    w.proc.ppids[high(CHILD)] = 1
    return lambda: w.resolver.try_reparent_from_procfs(child, SET_PROCESS_CONTEXT, None)


def walk_missing(w: Slow) -> Callable[[], Any]:
    child = entry_of(w.fork(0, CHILD, 10))
    w.proc.ppids[high(CHILD)] = 1
    return lambda: w.resolver.try_reparent_from_procfs(child, SET_PROCESS_CONTEXT, None)


def kernel_ppid(w: Slow) -> Callable[[], Any]:
    w.proc.add(high(UNKNOWN), 1, start_boot_ns=w.clock())
    child = entry_of(w.fork(0, CHILD, 10))
    return lambda: w.resolver.try_reparent_from_kernel_ppid(child, high(UNKNOWN), None)


def exit_with_children(w: Slow) -> Callable[[], Any]:
    w.fork(PARENT, CHILD, 10)
    w.proc.ppids[high(CHILD)] = 1
    event = w.event(1, PARENT, 0)
    return lambda: w.apply_exit(event)


def fork_without_ppid(w: Slow) -> Callable[[], Any]:
    w.proc.ppids[high(CHILD)] = 1
    return lambda: w.fork(0, CHILD, 10)


def exec_without_ppid(w: Slow) -> Callable[[], Any]:
    w.proc.ppids[high(CHILD)] = 1
    return lambda: w.exec(0, CHILD, 11)


def fork_below_unknown(w: Slow) -> Callable[[], Any]:
    w.proc.add(high(UNKNOWN), 1, exe_inode=10, start_boot_ns=w.clock())
    return lambda: w.fork(UNKNOWN, CHILD, 10, expected=10)


def resolve(w: Slow) -> Callable[[], Any]:
    w.proc.add(high(CHILD), 1, start_boot_ns=w.clock())
    return lambda: w.resolver.resolve(high(CHILD), high(CHILD), 0, True, None)


def from_procfs(w: Slow) -> Callable[[], Any]:
    w.proc.add(high(CHILD), 1, start_boot_ns=w.clock())
    return lambda: w.resolver.resolve_from_procfs(high(CHILD), 0, None)


def from_maps(w: Slow) -> Callable[[], Any]:
    owner = owner_of(w, high(CHILD), 99, ppid=1)
    w.bind(FakeMap({high(CHILD): owner}), FakeMap({99: image_of(10)}))
    w.proc.add(high(CHILD), 1, start_boot_ns=int(owner["start_boot_ns"]))
    return lambda: w.resolver.resolve_from_kernel_maps(high(CHILD), high(CHILD), 0, None)


def sync(w: Slow) -> Callable[[], Any]:
    w.proc.add(high(CHILD), 1, start_boot_ns=w.clock())
    return lambda: w.resolver.sync_cache(high(CHILD))


def dequeue(w: Slow) -> Callable[[], Any]:
    w.fork(PARENT, CHILD, 10)
    w.proc.ppids[high(CHILD)] = 1
    w.proc.listed = [1, high(CHILD), high(OTHER)]
    w.clock.now += 2 * FLUSH_AGE_NS
    with w.resolver.lock:
        assert w.resolver._flusher.tick() == 1  # the parent
    return w.resolver.dequeue_exited


def flush_all_gone(w: Slow) -> Callable[[], Any]:
    w.fork(PARENT, CHILD, 10)
    w.proc.ppids[high(CHILD)] = 1
    start = w.resolver.get(high(PARENT)).start_boot_ns  # type: ignore[union-attr]
    suspects = np.array([high(PARENT)], np.uint32), np.array([start], np.uint64), np.array([True])
    return lambda: w.resolver.flush_all_gone(*suspects, w.clock())


@pytest.mark.parametrize(
    "ask",
    [
        walk_children, walk_missing, kernel_ppid, exit_with_children, fork_without_ppid, exec_without_ppid,
        fork_below_unknown, resolve, from_procfs, from_maps, sync, dequeue, flush_all_gone,
    ],
)  # fmt: skip
def test_no_caller_waits_for_proc(w: Slow, ask: Callable[[Slow], Callable[[], Any]]) -> None:
    """Other callers continue, and the delayed call has the same result as always."""
    init = entry_of(w.fork(0, 1, 10))
    parent, other = entry_of(w.fork(1, PARENT, 10)), entry_of(w.fork(1, OTHER, 10))
    call = ask(w)
    with w.during(call):
        assert w.resolver.get(high(OTHER)) is other
        assert w.resolver.resolve_from_cache(high(OTHER), high(OTHER), 10) is other
        new = entry_of(w.fork(OTHER, NEW, 10))
        assert new.ancestor is other
        assert w.resolver.try_reparent_from_procfs(new, SET_PROCESS_CONTEXT, None) is None
    w.check()
    child = w.resolver.get(high(CHILD))
    assert child is not None and init in (child.root.ancestor, child.root.ancestor.ancestor)  # type: ignore[union-attr]
    assert child.root.ancestor is not parent


@pytest.mark.parametrize(
    "method",
    ["set_process_args", "set_process_envs", "set_process_tty", "set_process_users_groups", "set_process_symlink"],
)
def test_methods_that_fill_a_field_wait_for_the_lock(w: Slow, monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    """The entry may be a row; both cases must keep the arguments that arrived before in one store."""
    w.resolver_with(opts=ResolverOpts().with_tty_fallback_enabled().with_envs_resolution_enabled())
    monkeypatch.setattr("pipeline.resolver.api.fields.procfs_tty", lambda pid: "pts9")
    entry = entry_of(w.fork(0, 3, 10))
    thread = threading.Thread(target=getattr(w.resolver, method), args=(entry,))
    with w.resolver.lock:
        thread.start()
        thread.join(0.1)
        assert thread.is_alive()
    thread.join(60)
    assert not thread.is_alive()


def test_no_caller_waits_for_a_terminal_from_proc(w: Slow, monkeypatch: pytest.MonkeyPatch) -> None:
    w.resolver_with(opts=ResolverOpts().with_tty_fallback_enabled())
    monkeypatch.setattr("pipeline.resolver.api.fields.procfs_tty", lambda pid: w.proc.read_start(pid) or "pts9")
    w.fork(0, 1, 10)
    w.fork(1, CHILD, 10)
    with w.during(lambda: w.exec(1, CHILD, 11)) as result:
        assert w.resolver.get(high(CHILD)) is not None
    w.check()
    assert entry_of(result["is"]).tty_name == "pts9"


def test_a_holder_of_the_lock_keeps_it_during_a_read_of_proc(w: Slow) -> None:
    """`..._locked`, and a public method inside ``with resolver.lock``."""
    w.fork(0, 1, 10)
    w.fork(1, PARENT, 10)
    walk_children(w)
    child = w.resolver.get(high(CHILD))
    assert child is not None

    def holder() -> None:
        with w.resolver.lock:
            w.resolver.try_reparent_from_procfs_locked(child, SET_PROCESS_CONTEXT, None)

    with w.during(holder):
        assert not can_take(w.resolver.lock, MOMENT_S)
    assert can_take(w.resolver.lock) and child.ppid == 1


def test_a_callback_is_called_under_the_lock(w: Slow) -> None:
    w.fork(0, 1, 10)
    w.proc.add(high(UNKNOWN), 1, start_boot_ns=w.clock())
    taken: list[bool] = []

    def told(entry: ProcessCacheEntry, error: ResolverError | None) -> None:
        w.resolver.try_reparent_from_procfs_locked(entry, SET_PROCESS_CONTEXT, None)
        taken.append(can_take(w.resolver.lock, MOMENT_S))

    assert w.resolver.resolve_from_procfs(high(UNKNOWN), 0, told) is not None
    assert taken == [False]


# -- facts that arrive meanwhile are newer -----------------------------------------------------------------------------


def reuse(w: Slow, pid: int) -> ProcessCacheEntry:
    """End and delete the process, and fork a child of OTHER with its pid."""
    if w.resolver.get(high(pid)) is not None:
        w.delete(pid)
    return entry_of(w.fork(OTHER, pid, 20))


@pytest.mark.parametrize("ask", [walk_children, walk_missing, kernel_ppid, exit_with_children, flush_all_gone])
def test_a_pid_that_is_reused_meanwhile_keeps_its_own_parent(w: Slow, ask: Callable[[Slow], Callable[[], Any]]) -> None:
    """procfs reported the pid's previous owner: this links neither that process nor its successor."""
    w.fork(0, 1, 10)
    w.fork(1, PARENT, 10)
    other = entry_of(w.fork(1, OTHER, 10))
    call = ask(w)
    old = w.resolver.get(high(CHILD))
    assert old is not None
    before = old.ancestor
    with w.during(call):
        new = reuse(w, CHILD)
    w.check()
    assert w.resolver.get(high(CHILD)) is new and new.ancestor is other and new.ppid == high(OTHER)
    assert old.ancestor is before
    assert sum(w.count("reparent_success", tag) for tag in ("do_exit", "kernel_ppid", SET_PROCESS_CONTEXT)) == 0


@pytest.mark.parametrize("ask", [resolve, from_procfs, from_maps])
def test_a_look_up_returns_a_process_that_was_reported_meanwhile(
    w: Slow, ask: Callable[[Slow], Callable[[], Any]]
) -> None:
    w.fork(0, 1, 10)
    other = entry_of(w.fork(1, OTHER, 10))
    call = ask(w)
    with w.during(call) as result:
        new = reuse(w, CHILD)
    w.check()
    assert result["is"] is new and w.resolver.get(high(CHILD)) is new
    assert new.ancestor is other and new.file_event.inode == other.file_event.inode and not new.is_exec


@pytest.mark.parametrize("ask", [fork_without_ppid, exec_without_ppid])
def test_an_insertion_links_nothing_if_the_pid_was_reused_meanwhile(
    w: Slow, ask: Callable[[Slow], Callable[[], Any]]
) -> None:
    w.fork(0, 1, 10)
    other = entry_of(w.fork(1, OTHER, 10))
    call = ask(w)
    with w.during(call) as result:
        new = reuse(w, CHILD)
    w.check()
    old = entry_of(result["is"])
    assert old is not new and old.ancestor is None and old.ppid == 0
    assert w.resolver.get(high(CHILD)) is new and new.ancestor is other
    assert w.count("reparent_success", SET_PROCESS_CONTEXT) == 0


def test_the_cgroup_of_a_pid_that_is_reused_meanwhile_is_its_owners(w: Slow) -> None:
    """cgroups are registered by pid: the insertion for the previous owner arrives too late."""

    class Groups:
        def __init__(self) -> None:
            self.added: list[int] = []

        def add_pid(self, pid: int, cgroup: CGroupContext) -> None:
            self.added.append(cgroup.path_key.inode)

        def del_pid(self, pid: int) -> None: ...

    groups = Groups()
    w.resolver_with(cgroup_resolver=groups).set_state(1)
    w.fork(0, 1, 10)
    w.fork(1, OTHER, 10)
    groups.added.clear()
    event = w.event(OTHER, CHILD, 20, fork_time=w.clock())
    with w.during(fork_without_ppid(w)):
        w.delete(CHILD)
        entry_of(event).fork_time = w.clock()
        w.resolver.add_fork_entry(event, CGroupContext(path_key=PathKey(77)), None)
    assert groups.added == [77]


def test_an_insertion_that_is_moved_meanwhile_stays_there(w: Slow) -> None:
    w.fork(0, 1, 10)
    other = entry_of(w.fork(1, OTHER, 10))
    with w.during(fork_without_ppid(w)):
        child = w.resolver.get(high(CHILD))
        assert child is not None
        w.resolver.try_reparent_from_kernel_ppid(child, high(OTHER), None)
    w.check()
    assert child.ancestor is other and child.ppid == high(OTHER)


def test_a_parent_that_is_reported_meanwhile_is_used(w: Slow) -> None:
    """procfs did not show the parent yet; then the parent's own fork event arrived."""
    w.fork(0, 1, 10)
    before = w.clock()
    with w.during(lambda: w.fork(UNKNOWN, CHILD, 10, expected=10)) as result:
        parent = entry_of(w.fork(1, UNKNOWN, 20, fork_time=before))
    w.check()
    child = entry_of(result["is"])
    assert child.ancestor is parent and child.is_parent_missing


def test_a_parent_that_the_kernel_names_meanwhile_stays(w: Slow) -> None:
    """procfs is read for an unknown parent; before it answers, an event reports init as the child's parent."""
    init = entry_of(w.fork(0, 1, 10))
    call = kernel_ppid(w)
    child = w.resolver.get(high(CHILD))
    assert child is not None
    with w.during(call):
        w.resolver.try_reparent_from_kernel_ppid(child, 1, None)
    w.check()
    assert child.ancestor is init and child.ppid == 1
    assert w.count("reparent_success", "kernel_ppid") == 1 and w.count("reparent_failed", "kernel_ppid") == 0


def test_a_parent_that_is_waited_for_is_no_surprise(w: Slow) -> None:
    """Entering the parent links the child already: the child has moved, but to its intended place."""
    w.fork(0, 1, 10)
    w.proc.add(high(UNKNOWN), 1, start_boot_ns=w.clock())
    child = entry_of(w.fork(UNKNOWN, CHILD, 10))
    assert child.ancestor is None
    w.resolver.try_reparent_from_procfs(child, SET_PROCESS_CONTEXT, None)
    w.check()
    assert child.get_ancestors_pids() == [high(CHILD), high(UNKNOWN), 1]
    assert w.count("reparent_success", SET_PROCESS_CONTEXT) == w.count("reparent_procfs_ok") == 1


@pytest.mark.parametrize("is_snapshot", [False, True])
def test_an_exec_meanwhile_is_the_newest_image(w: Slow, is_snapshot: bool) -> None:
    w.fork(0, 1, 10)
    child = entry_of(w.fork(1, CHILD, 10))
    # For a fileless program procfs shows a fact that no record carries; it would be written to the entry unchanged.
    w.proc.add(
        high(CHILD), 1, exe_inode=20, exe=b"/memfd:x", is_memfd=True, start_boot_ns=child.start_boot_ns
    )  # fmt: skip

    def ask() -> None:
        if is_snapshot:
            w.resolver.sync_cache(high(CHILD))
        else:
            assert w.resolver.resolve_from_procfs(high(CHILD), 0, None) is w.resolver.get(high(CHILD))

    with w.during(ask):
        image = entry_of(w.exec(1, CHILD, 30))
    w.check()
    assert w.resolver.get(high(CHILD)) is image and image.ancestor is child
    assert image.file_event.inode == 30 and image.file_event.pathname == ""


def test_credentials_that_change_meanwhile_are_kept(w: Slow) -> None:
    """The values that were read are as old as the question."""
    w.fork(0, 1, 10)
    child = entry_of(w.fork(1, CHILD, 10))
    w.proc.add(high(CHILD), 1, exe_inode=10, start_boot_ns=child.start_boot_ns)
    with w.during(lambda: w.resolver.resolve_from_procfs(high(CHILD), 0, None)):
        w.resolver.update_uid(high(CHILD), w.change(CHILD, CHILD, uid=77, euid=77, fsuid=77))
    w.check()
    head = w.resolver.get(high(CHILD))
    assert head is not None and head.credentials.uid == 77


def test_a_pid_with_another_known_owner_is_not_read(w: Slow) -> None:
    """An image of an earlier owner, without a parent: procfs would show the new owner's."""
    old = entry_of(w.fork(0, CHILD, 10))
    w.fork(0, 1, 10)
    w.fork(1, OTHER, 10)
    reuse(w, CHILD)
    w.proc.ppids[high(CHILD)] = high(OTHER)
    w.proc.ppid_reads.clear()
    w.resolver.try_reparent_from_procfs(old, SET_PROCESS_CONTEXT, None)
    assert w.proc.ppid_reads == [] and old.ancestor is None and w.count("reparent_failed", SET_PROCESS_CONTEXT) == 1

"""The exported methods of EBPFResolver: specification 3.4 and its edge cases (3.8), not the scenarios of section 8."""

from __future__ import annotations

import ctypes
import json
import os
import struct
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.bpf import maps, syscall
from pipeline.host import boot
from pipeline.procfs.info import to_record
from pipeline.resolver.api.stats import SET_PROCESS_CONTEXT
from pipeline.resolver.entries import kernel_maps
from pipeline.resolver.entries.args_views import get_process_argv, get_process_argv0
from pipeline.resolver.entries.cache_entry import ProcessCacheEntry
from pipeline.resolver.entries.entry_rows import row_of
from pipeline.resolver.entries.event import ArgsEnvsEvent, Event
from pipeline.resolver.entries.model import (
    CGROUP_SOURCE_EVENT,
    CGROUP_SOURCE_PROCFS,
    AWSSecurityCredentials,
    CGroupContext,
    ContainerContext,
    Credentials,
    FileEvent,
    PathKey,
    PathResolutionError,
    PIDContext,
    ResolverError,
    Source,
    SpanContext,
    SSHSessionContext,
    UserSessionContext,
)
from pipeline.resolver.entries.opts import ResolverOpts
from pipeline.secrets.argsenvs import ArgsEntry, EnvsEntry, encode_payload
from pipeline.secrets.scrub import Scrubber
from pipeline.shm.layout import layout
from tests.resolver.resolver_world import PID_CAPACITY, FakeMap, World, high, image_of, owner_of, world
from tests.resolver.story import Story


@pytest.fixture
def w() -> Iterator[World]:
    with world() as made:
        yield made


def entry_of(event: Event) -> ProcessCacheEntry:
    assert event.entry is not None
    return event.entry


def test_a_file_without_a_path_records_the_error(w: World) -> None:
    w.paths.fails = True
    whole = FileEvent(inode=10, mount_id=1).with_pathname("/usr/bin/x")
    event = w.event(0, 3, 10, file_event=whole, interpreter=FileEvent(inode=77, mount_id=1))
    with pytest.raises(PathResolutionError, match="inode 77"):
        w.resolver.add_exec_entry(event, w.dummy_cgroup())
    told = entry_of(event)
    assert told.file_event.pathname == "/usr/bin/x" and not told.file_event.path_resolution_error
    assert told.interpreter.is_pathname_resolved and "no path today" in told.interpreter.path_resolution_error


def test_an_uncompleted_exec_still_has_the_facts_of_its_event(w: World) -> None:
    class Mounts:
        def process_seen(self, pid: int, mnt_ns: int) -> None: ...

        def filesystem(self, mount_id: int, device: int, pid: int) -> str:
            raise LookupError("no such mount")

    r = w.resolver_with(mount_resolver=Mounts())
    event = w.event(0, 3, 10)
    with pytest.raises(ResolverError, match="file system of mount 1"):
        r.add_exec_entry(event, w.dummy_cgroup())
    assert event.exec_entry is event.entry and event.error is None and r.get(high(3)) is None
    r = w.resolver_with()
    event = w.event(0, 0, 10)
    with pytest.raises(ResolverError, match="no pid"):
        r.add_exec_entry(event, w.dummy_cgroup())
    assert event.exec_entry is None


def test_a_thread_that_is_not_known_leaves_the_one_of_before(w: World) -> None:
    entry = entry_of(w.fork(0, 3, 10))
    for tid in (77, 0):
        assert w.resolver.resolve_from_cache(high(3), tid, 0) is entry and entry.tid == 77


def test_a_fork_has_the_symlink_names_of_the_image_that_it_shares(w: World) -> None:
    args = ArgsEntry(["/bin/ls"])
    file = FileEvent(inode=10, mount_id=1).with_pathname("/opt/tool")
    w.exec(0, 3, 10, args_entry=args, is_through_symlink=True, file_event=file)
    child = entry_of(w.fork(3, 5, 10))
    assert child.is_through_symlink
    child_of_other = entry_of(w.exec(3, 5, 11))
    assert not child_of_other.is_through_symlink


@pytest.mark.parametrize("is_raw", [False, True])
def test_without_a_scrubber_argument_secrets_are_hidden(w: World, is_raw: bool) -> None:
    opts = ResolverOpts()
    r = w.resolver_with(opts=opts.with_raw_values() if is_raw else opts)
    entry = entry_of(w.exec(0, 3, 10, args_entry=ArgsEntry(["x", "--password=hunter2"])))
    shown = ["--password=hunter2" if is_raw else "--password=********"]
    assert r.get_process_argv_scrubbed(entry)[0] == get_process_argv(entry)[0] == shown
    assert (b"hunter2" in bytes(np.frombuffer(w.tables.args.view(), np.uint8))) is is_raw


# -- pid 0, kernel threads, table full ---------------------------------------------------------------------------------


def test_a_pid_beyond_the_table_raises_an_error_that_names_it(w: World) -> None:
    pid = PID_CAPACITY + 50_000
    for enter in (w.fork, w.exec):
        with pytest.raises(ResolverError, match=rf"{pid} is outside the table's pids, which end at {PID_CAPACITY - 1}"):
            enter(0, pid, 10)


@pytest.mark.parametrize("pid", [-1, 1 << 32, (1 << 32) + high(3), 1 << 64])
def test_an_impossible_pid_has_no_process(w: World, pid: int) -> None:
    r = w.resolver
    r.set_state(1)
    w.bind(FakeMap(), FakeMap())
    known = entry_of(w.fork(0, 3, 10))
    context = PIDContext(pid=pid, tid=pid)
    assert r.get(pid) is r.resolve(pid, 0, 0, False, None) is r.resolve(pid, 0, 0, True, None) is None
    assert w.count("miss") == 2
    assert r.find(pid).entry is r.find_cached(pid) is r.find_at(pid, w.clock()) is None
    assert r.resolve_from_cache(pid, 0, 0) is r.resolve_from_kernel_maps(pid, 0, 0, None) is None
    assert r.resolve_from_procfs(pid, 0, None) is None
    assert not r.apply_exit_entry(Event(timestamp_ns=w.clock(), pid_context=context))
    r.delete_entry(pid, w.clock() + w.offset)
    r.sync_cache(pid)
    r.update_uid(pid, Event(pid_context=context, credentials=Credentials(uid=1)))
    assert r.fetch_aws_security_credentials(Event(pid_context=context)) == []
    r.try_reparent_from_kernel_ppid(known, pid, None)
    assert known.ppid == 0
    for own, parent in ((pid, high(3)), (high(4), pid)):
        for enter in (r.add_fork_entry, r.add_exec_entry):
            told = PIDContext(pid=own, tid=own, ppid=parent)
            event = Event(timestamp_ns=w.clock(), pid_context=told, entry=r.new_process_cache_entry(told))
            entry_of(event).file_event = FileEvent(inode=10, mount_id=1)
            with pytest.raises(ResolverError, match=str(pid)):
                enter(event, w.dummy_cgroup())
    assert w.cache == {high(3)}


def test_a_map_may_have_a_pid_that_the_tables_have_no_room_for(w: World) -> None:
    r = w.resolver
    pid = PID_CAPACITY + 1
    w.bind(FakeMap({pid: owner_of(w, pid, 7)}), FakeMap({7: image_of(10)}))
    w.proc.add(pid, 0)
    assert r.resolve_from_kernel_maps(pid, 0, 0, None) is None


def test_a_string_ends_at_its_first_nul(w: World) -> None:
    entry = entry_of(w.exec(0, 3, 10, args_entry=ArgsEntry(["x\0y", "z"])))
    assert entry.args_entry is not None and entry.args_entry.values == ["x", "z"]


def test_pid_0_has_no_process(w: World) -> None:
    r = w.resolver
    r.set_state(1)
    w.bind(FakeMap(), FakeMap())
    assert r.resolve(0, 0, 0, True, None) is None and r.find(0).entry is None
    assert r.resolve_from_kernel_maps(0, 0, 0, None) is None
    assert r.resolve_from_procfs(0, 0, None) is None
    with pytest.raises(ResolverError):
        r.add_exec_entry(w.event(0, 0, 5), w.dummy_cgroup())
    assert r.get(0) is None and w.count("miss") == 0
    assert not r.apply_exit_entry(Event(), None)
    with pytest.raises(ResolverError):
        r.add_fork_entry(Event(), w.dummy_cgroup(), None)


def test_kernel_threads_are_not_entered_from_procfs(w: World) -> None:
    w.proc.add(high(7), 2)
    w.proc.add(high(8), 0, task_flags=0x200000)
    assert w.resolver.resolve_from_procfs(high(7), 0, None) is None
    assert w.resolver.resolve_from_procfs(high(8), 0, None) is None
    w.resolver.sync_cache(high(7))
    w.resolver.sync_cache(high(8))
    w.resolver.sync_cache(high(9))  # no such process
    assert w.cache == set()


def test_which_pids_are_those_of_kernel_threads(w: World) -> None:
    assert w.resolver.is_kernel_thread(2, 50) and w.resolver.is_kernel_thread(0, 2)
    assert not w.resolver.is_kernel_thread(1, 50)


def test_a_process_without_executable_is_not_entered(w: World) -> None:
    w.proc.add(high(7), 0, exe=None)
    w.proc.add(high(8), 0, exe=b"/", is_exe_deleted=True)
    assert w.resolver.resolve_from_procfs(high(7), 0, None) is None
    assert w.resolver.resolve_from_procfs(high(8), 0, None) is None


@pytest.mark.expensive
def test_a_full_table_is_reported() -> None:
    with world(rows=1024) as w:
        for number in range(3, 1026):
            w.fork(0, number)
        with pytest.raises(ResolverError, match="full"):
            w.fork(0, 1026)


# -- kernel maps -------------------------------------------------------------------------------------------------------


def test_resolve_searches_the_cache_then_the_maps_then_procfs(w: World) -> None:
    r = w.resolver
    r.set_state(1)
    w.bind(FakeMap({high(7): owner_of(w, high(7), 99)}), FakeMap({99: image_of(10)}))
    w.proc.add(high(8), 0)
    first = r.resolve(high(7), high(7), 0, True, None)
    assert r.resolve(high(7), high(7), 10, True, None) is first
    second = r.resolve(high(8), high(8), 0, True, None)
    assert first is not None and second is not None and second.source == Source.PROCFS_FALLBACK
    assert [w.count("hits", tag) for tag in ("cache", "kernel_maps", "procfs")] == [1, 1, 1]
    assert w.count("miss") == 0 and w.tables.counter("hits_kernel_maps") == 1
    assert w.count("added", "procfs") == 1 and w.proc.reads == [high(7), high(8)]
    w.check()


def test_the_maps_know_of_a_lost_exec(w: World) -> None:
    r = w.resolver
    fork = entry_of(w.fork(0, 7, 10))
    w.bind(
        FakeMap({high(7): owner_of(w, high(7), 99, start_boot_ns=fork.start_boot_ns)}),
        FakeMap({99: image_of(20, b"/bin/new", exec_boot_ns=w.clock())}),
    )
    r.set_state(1)
    entry = r.resolve(high(7), high(7), 20, False, None)
    w.check()
    assert entry is not None and entry.ancestor is fork and entry.is_exec and entry.source == Source.MAP
    assert fork.exit_time == entry.exec_time and w.count("added", "kernel_maps") == 1
    # A repeated answer of the maps returns the entry that exists.
    assert r.resolve_from_kernel_maps(high(7), high(7), 20, None) is entry


def test_the_maps_know_of_a_reused_pid(w: World) -> None:
    old = entry_of(w.fork(0, 7, 10))
    w.bind(FakeMap({high(7): owner_of(w, high(7), 99)}), FakeMap({99: image_of(20, exec_boot_ns=w.clock())}))
    entry = w.resolver.resolve_from_kernel_maps(high(7), high(7), 20, None)
    w.check()
    assert entry is not None and entry is not old and entry.start_boot_ns != old.start_boot_ns
    assert old.exit_time is not None and not entry.is_parent_missing
    fork = entry.ancestor
    assert fork is not None and fork.pid == entry.pid and fork.ancestor is None and fork.is_parent_missing
    assert fork.start_boot_ns == entry.start_boot_ns and w.count("added", "kernel_maps") == 2


#: A cgroup of version 2, and a set of cgroups of version 1.
CGROUP, CGROUPS_V1 = 77, 1 << 63 | 5


def family_of(w: World) -> tuple[Story, int, int]:
    """A parent whose events were applied, and a child that is about to be forked; their cgroups have names."""
    w.applier.cgroups.name(CGROUP, b"/made")
    w.applier.cgroups.name(CGROUPS_V1, b"", b"c0ffee")
    story, parent, child = Story(), high(7), high(8)
    story.begin(1)
    for event in (story.fork(1, parent, cgroup=CGROUP), story.exec(parent, b"/bin/parent")):
        event.apply(w.applier)
    w.resolver.set_state(1)
    return story, parent, child


def test_the_fork_completes_a_process_that_the_maps_showed_before(w: World) -> None:
    story, parent, child = family_of(w)
    fork = story.fork(parent, child)
    fork.task["cgroups_v1"] = CGROUPS_V1
    # In a pid namespace of its own.
    fork.task["ns_pid"], fork.task["pid_ns"] = 1, 4026531999
    w.bind(
        FakeMap({child: owner_of(w, child, int(fork.task["cookie"][0]), ppid=parent, cgroup_id=CGROUP,
                                 start_boot_ns=int(fork.header["start_boot_ns"][0]), fork_boot_ns=fork.time)}),
        FakeMap({int(fork.task["cookie"][0]): image_of(int(fork.task["exe_inode"][0]), b"/bin/parent")}),
    )  # fmt: skip
    entry = w.resolver.resolve(child, child, 0, False, None)
    assert entry is not None and entry.source == Source.MAP and not entry.is_exec
    assert (entry.cgroup.path_key.inode, entry.cgroup.cgroup_id) == (CGROUP, "/made")
    ids = entry.credentials
    assert fork.apply(w.applier) == row_of(entry)
    cold = w.tables.cold_view()[row_of(entry)]
    assert (cold["ns_pid"], cold["pid_ns"], cold["pgid"]) == (1, 4026531999, 1)
    assert entry.cgroup.source == CGROUP_SOURCE_EVENT and entry.cgroup.cgroup_id == "/made"
    assert entry.container.container_id == "c0ffee"
    assert entry.credentials == ids, "what the maps had is more recent than the fork"
    w.applier.cgroups.forget()  # the check counts references of rows only
    w.check()


def test_the_exec_completes_an_image_that_the_maps_showed_before(w: World) -> None:
    story, parent, child = family_of(w)
    fork, execed = story.fork(parent, child), story.exec(child, b"/bin/child", args=[b"child", b"--all"])
    cookie = int(execed.task["cookie"][0])
    w.bind(
        FakeMap({child: owner_of(w, child, cookie, ppid=parent, cgroup_id=CGROUP,
                                 start_boot_ns=int(fork.header["start_boot_ns"][0]), fork_boot_ns=fork.time)}),
        FakeMap({cookie: image_of(int(execed.task["exe_inode"][0]), b"/bin/child", exec_boot_ns=execed.time)}),
    )  # fmt: skip
    entry = w.resolver.resolve(child, child, 0, False, None)
    assert entry is not None and entry.is_exec and get_process_argv(entry) == (None, False)
    for event in (fork, execed):
        assert event.apply(w.applier) == row_of(entry)
    assert get_process_argv(entry) == (["--all"], False)
    assert w.tables.cold_view()[row_of(entry)]["ns_pid"] == child
    w.applier.cgroups.forget()
    w.check()


def test_a_path_that_the_maps_cut_needs_the_path_resolver(w: World) -> None:
    long = b"/" + b"d" * 200
    r = w.resolver
    w.bind(FakeMap({high(7): owner_of(w, high(7), 99)}), FakeMap({99: image_of(10, long)}))
    w.paths.fails = True
    told: list[Any] = []
    assert r.resolve_from_kernel_maps(high(7), high(7), 10, lambda entry, error: told.append(error)) is None
    assert isinstance(told[0], PathResolutionError) and w.cache == set() and w.count("path_error") == 1
    w.paths.fails = False
    assert r.resolve_from_kernel_maps(high(7), high(7), 10, None) is not None


def test_maps_that_hold_nothing_or_fail(w: World) -> None:
    class Failing(FakeMap):
        def get(self, key: int, default: Any = None) -> Any:
            raise OSError("no")

    r = w.resolver
    assert r.resolve_from_kernel_maps(high(7), high(7), 0, None) is None
    w.bind(FakeMap({high(7): owner_of(w, high(7), 99)}), FakeMap())
    assert r.resolve_from_kernel_maps(high(7), high(7), 0, None) is None
    w.bind(Failing(), FakeMap())
    assert r.resolve_from_kernel_maps(high(7), high(7), 0, None) is None


def test_sync_cache_inserts_a_process_here_and_in_the_kernel_maps(w: World) -> None:
    w.proc.add(1, 0, exe=b"/sbin/init", exe_inode=7)
    w.proc.add(high(8), 1, exe=b"/bin/tool", exe_inode=9, comm=b"tool", tty=b"pts3")
    r = w.resolver
    pids, images = FakeMap(), FakeMap()
    w.bind(pids, images)
    r.sync_cache(1)
    r.sync_cache(high(8))
    w.check()
    entry = r.get(high(8))
    assert entry is not None and entry.source == Source.PROCFS_SNAPSHOT and entry.ancestor is r.get(1)
    assert r.get(1).is_exec  # type: ignore[union-attr]
    owner, image = pids[high(8)], images[int(pids[high(8)]["cookie"])]
    assert int(owner["start_boot_ns"]) == entry.start_boot_ns and int(owner["exit_boot_ns"]) == 0
    assert bytes(image["path"]).rstrip(b"\0") == b"/bin/tool" and int(image["inode"]) == 9
    # Snapshots are not counted (3.3.7), and the kernel maps' facts about a pid are newer.
    assert sum(w.count("added", tag) for tag in ("event", "kernel_maps", "procfs")) == 0
    r.sync_cache(high(8))
    assert pids[high(8)] is owner
    again = r.resolve_from_kernel_maps(high(8), high(8), 9, None)
    assert again is entry
    assert w.tables.counter("maps_filled") == 2 and w.tables.counter("maps_refused") == 0


def test_the_kernel_maps_are_newer_than_proc(w: World) -> None:
    """Also if the program's event arrives between the question and the answer: no unreachable image remains."""

    class Late(FakeMap):
        def get(self, key: int) -> Any:  # type: ignore[override]
            return None

    w.proc.add(high(8), 0, exe=b"/bin/tool", exe_inode=9)
    r = w.resolver
    theirs = owner_of(w, high(8), 77)
    for pids in (FakeMap({high(8): theirs}), Late({high(8): theirs})):
        images = FakeMap({77: image_of(12)})
        w.bind(pids, images)
        r.sync_cache(high(8))
        assert dict(pids) == {high(8): theirs} and list(images) == [77]
    assert w.tables.counter("maps_filled") == w.tables.counter("maps_refused") == 0
    entry = r.get(high(8))
    assert entry is not None and entry.cookie == 0


@pytest.mark.parametrize(("later", "ended", "is_named"), [(5, 0, True), (2 * boot.TICK_NS, 0, False), (5, 1, False)])
def test_sync_cache_adds_a_missing_image_of_a_live_owner(w: World, later: int, ended: int, is_named: bool) -> None:
    start = w.proc.add(high(8), 0, exe=b"/bin/tool", exe_inode=9).start_boot_ns
    held = owner_of(w, high(8), 0, uid=7, start_boot_ns=start + later, exit_boot_ns=ended)
    images = FakeMap()
    w.bind(FakeMap({high(8): held}), images)
    w.resolver.sync_cache(high(8))
    assert bool(held["cookie"]) == is_named and held["uid"] == 7
    assert list(images) == ([held["cookie"]] if is_named else [])


def test_maps_that_refuse_are_counted(w: World) -> None:
    class Refusing(FakeMap):
        def put(self, key: int, entry: Any, flags: int = 0) -> None:
            raise PermissionError

    w.proc.add(high(8), 0, exe=b"/bin/tool", exe_inode=9)
    w.bind(FakeMap(), Refusing())
    w.resolver.sync_cache(high(8))
    assert w.resolver.get(high(8)) is not None
    assert w.tables.counter("maps_refused") == 1 and w.tables.counter("maps_filled") == 0


def test_a_process_with_a_hidden_executable_still_has_an_image(w: World) -> None:
    facts = {"uids": (1, 2, 3, 4), "gids": (5, 6, 7, 8), "cap_effective": 9, "auid": 10, "mnt_ns": 11}
    told = to_record(w.proc.add(high(8), 3, exe=None, exe_inode=0, **facts))
    pids, images = FakeMap(), FakeMap()
    w.bind(pids, images)
    assert w.resolver.fill_maps(told.header[0], told.task[0], told.exec[0], b"", 5) == 5
    owner = pids[high(8)]
    assert kernel_maps.is_rounded(owner) and w.tables.counter("maps_filled") == 1
    assert (int(images[5]["inode"]), int(images[5]["tgid"]), images[5]["comm"]) == (0, high(8), b"x")
    assert [int(owner[name]) for name in ("cookie", "ppid", "uid", "euid", "suid", "fsuid")] == [5, 3, 1, 2, 3, 4]
    assert [int(owner[name]) for name in ("gid", "fsgid", "cap_effective", "auid", "mnt_ns")] == [5, 8, 9, 10, 11]


def test_a_rounded_start_in_the_maps_is_the_exact_one_of_the_tables(w: World) -> None:
    """Without an exact start, the entry is marked as rounded, so that the next event of the process finds it."""
    exact = w.clock() // 10_000_000 * 10_000_000 + 1234
    for pid in (high(8), high(9)):
        w.proc.add(pid, 0, exe=b"/bin/tool", exe_inode=9, start_boot_ns=exact)
    owners = {pid: owner_of(w, pid, 77, start_boot_ns=exact - 1234, fork_boot_ns=0) for pid in (high(8), high(9))}
    r = w.resolver
    w.bind(FakeMap(owners), FakeMap({77: image_of(12)}))
    event = w.event(0, 8, 10)
    entry_of(event).set(start_boot_ns=exact, fork_time=exact + w.offset)
    r.add_fork_entry(event, w.dummy_cgroup())
    found = r.resolve_from_kernel_maps(high(8), high(8), 12, None)
    assert found is not None and found.start_boot_ns == exact
    found = r.resolve_from_kernel_maps(high(9), high(9), 12, None)
    assert found is not None and found.start_boot_ns == exact - 1234
    flags = int(w.tables.hot_view()[w.tables.py_head(high(9))]["flags"])
    assert flags & layout.ROW_START_TICKS
    w.check()


@pytest.mark.skipif(os.geteuid() != 0, reason="kernel maps need root")
def test_the_kernels_own_maps(w: World) -> None:
    def create(kind: int, key_bytes: int, value_bytes: int, entries: int, flags: int = 0) -> int:
        attributes = struct.pack("=IIIII108x", kind, key_bytes, value_bytes, entries, flags)
        return syscall.bpf(0, ctypes.create_string_buffer(attributes, len(attributes)))

    try:
        # BPF_MAP_TYPE_ARRAY and BPF_F_MMAPABLE, BPF_MAP_TYPE_LRU_HASH
        owners = create(2, 4, 8 * maps.PID_WAYS, maps.PID_SETS, 1 << 10)
        pids = create(2, 4, maps.PID_ENTRY.itemsize, maps.PID_SETS * maps.PID_WAYS)
        images = create(9, 8, maps.IMAGE_ENTRY.itemsize, 64)
    except OSError as error:
        pytest.skip(f"bpf(2) refused: {error}")
    try:
        stop = threading.Event()
        pid_cache, proc_cache = maps.PidMap(owners, pids), maps.proc_cache(images)
        r = w.resolver_with(manager={"pid_cache": pid_cache, "proc_cache": proc_cache})
        r.start(stop)
        w.proc.add(high(8), 0, exe=b"/bin/tool", exe_inode=9)
        r.sync_cache(high(8))
        held = pid_cache.get(high(8))
        assert held is not None and int(held["start_boot_ns"]) > 0
        r.delete_entry(high(8), w.clock() + w.offset)
        r.set_state(1)
        pid_cache.put(high(9), owner_of(w, high(9), 77), 0)
        proc_cache.put(77, image_of(12))
        entry = r.resolve(high(9), high(9), 12, False, None)
        assert entry is not None and entry.file_event.pathname == "/bin/x"
        assert r.resolve(high(10), high(10), 12, False, None) is None
        stop.set()
    finally:
        for fd in (owners, pids, images):
            os.close(fd)


def flush_threads_end() -> bool:
    """Wait for the threads that `start` created; return whether all have ended."""
    threads = [thread for thread in threading.enumerate() if thread.name == "flush"]
    for thread in threads:
        thread.join(60)
    return not any(thread.is_alive() for thread in threads)


def test_start_needs_the_maps(w: World) -> None:
    with pytest.raises(ResolverError, match="proc_cache"):
        w.resolver_with(manager={"pid_cache": FakeMap()}).start(threading.Event())
    stop = threading.Event()
    w.resolver_with(manager=None).start(stop)
    stop.set()
    assert flush_threads_end()


def test_the_flush_task_ticks_until_its_context_ends(w: World, monkeypatch: pytest.MonkeyPatch) -> None:
    w.fork(0, 3, 10)
    w.clock.now += 90_000_000_000
    resolver = w.resolver_with(manager=None)
    ticks = 0
    enough = threading.Event()
    list_pids = w.proc.list_pids

    def counted() -> list[int]:
        nonlocal ticks
        ticks += 1
        if ticks == 3:
            enough.set()
        return list_pids()

    monkeypatch.setattr(w.proc, "list_pids", counted)
    monkeypatch.setattr("pipeline.resolver.api.flushing.FLUSH_INTERVAL_S", 0.001)
    stop = threading.Event()
    resolver.start(stop)
    assert enough.wait(60)
    stop.set()
    assert flush_threads_end()
    assert w.cache == {high(3)}  # queued at each tick, and never removed
    w.resolver.dequeue_exited()
    assert w.cache == set() and w.count("flushed") == 1


# -- procfs ------------------------------------------------------------------------------------------------------------


def test_missing_ancestors_are_entered_up_to_a_depth(w: World) -> None:
    pids = [high(100 + n) for n in range(20)]
    for number, pid in enumerate(pids):
        w.proc.add(pid, pids[number - 1] if number else 0)
    told: list[int] = []
    entry = w.resolver.resolve_from_procfs(pids[-1], 0, lambda entry, error: told.append(entry.pid))
    w.check()
    assert entry is not None and told == pids[-16:]
    assert entry.get_ancestors_pids() == pids[:-17:-1] and w.count("added", "procfs") == 16
    assert w.resolver.get(pids[-16]).is_parent_missing  # type: ignore[union-attr]


def test_procfs_replaces_the_image_of_a_lost_exec(w: World) -> None:
    fork = entry_of(w.fork(0, 7, 10))
    w.proc.add(high(7), 0, exe=b"/bin/new", exe_inode=20, start_boot_ns=fork.start_boot_ns, comm=b"new")
    w.resolver.set_state(1)
    entry = w.resolver.resolve(high(7), high(7), 20, True, None)
    w.check()
    assert entry is not None and entry is not fork and entry.ancestor is fork and entry.is_exec
    assert entry.file_event.pathname == "/bin/new" and entry.source == Source.PROCFS_FALLBACK


def test_ticks_of_procfs_and_ns_of_the_kernel_are_one_process(w: World) -> None:
    event = w.fork(0, 7, 10)
    assert entry_of(event).start_boot_ns % boot.TICK_NS, "or there is nothing to tell apart"
    w.proc.add(high(7), 0, exe_inode=10, start_boot_ns=entry_of(event).start_boot_ns, tty=b"pts9")
    assert w.resolver.resolve_from_procfs(high(7), 10, None) is event.entry
    assert len(w.cache) == 1 and w.tables.heads_exited == 0, "nor is the other one history"
    assert entry_of(event).tty_name == "pts9", "what procfs says is of this one"


def test_a_memfd_and_its_file_system(w: World) -> None:
    w.proc.add(high(7), 0, exe=b"/memfd:run", is_memfd=True, is_exe_deleted=True, exe_inode=4)
    entry = w.resolver.resolve_from_procfs(high(7), 0, None)
    assert entry is not None
    file = entry.file_event
    assert (file.pathname, file.basename, file.filesystem) == ("", "memfd:run", "tmpfs")
    assert file.is_fileless and file.mount_detached and not file.mount_visible


def test_the_mount_of_a_file_from_procfs(w: World) -> None:
    """Specification 3.3.8 step 3, with and without a mount resolver; unknown facts are marked as unknown."""
    w.proc.add(high(7), 0, exe=b"/srv/x", mount_end=5, fs_magic=0x58465342)
    w.proc.add(high(8), 0, exe=b"/srv/x")
    entry = w.resolver.resolve_from_procfs(high(7), 0, None)
    unknown = w.resolver.resolve_from_procfs(high(8), 0, None)
    assert entry is not None and unknown is not None
    file, other = entry.file_event, unknown.file_event
    assert (file.mount_path, file.filesystem, file.mount_origin, file.mount_source) == ("/srv", "xfs", 1, 3)
    assert file.mount_visible and not file.mount_detached and file.mount_visibility_resolved
    assert (other.mount_path, other.filesystem, other.mount_origin, other.mount_source) == ("", "", 1, 3)
    assert not other.mount_visibility_resolved

    class Mounts:
        def process_seen(self, pid: int, mnt_ns: int) -> None:
            pass

        def filesystem(self, mount_id: int, device: int, pid: int) -> str:
            return "zfs"

    w.proc.add(high(9), 0, exe=b"/srv/x", mount_end=5, fs_magic=0x58465342)
    asked = w.resolver_with(mount_resolver=Mounts()).resolve_from_procfs(high(9), 0, None)
    assert asked is not None
    file = asked.file_event
    assert (file.mount_path, file.filesystem, file.mount_visible) == ("/srv", "zfs", True)


def test_environment_from_procfs(w: World) -> None:
    r = w.resolver_with(opts=ResolverOpts().with_envs_resolution_enabled().with_envs_value(["A"]))
    w.proc.add(high(7), 0, envs=b"B=2\0A=1\0DD_SERVICE=x\0")
    entry = r.resolve_from_procfs(high(7), 0, None)
    assert entry is not None
    assert r.get_process_envs(entry) == (["A=1", "DD_SERVICE", "B"], False)
    # If the option is off, the result is empty and marked as cut.
    w.proc.add(high(8), 0, envs=b"B=2\0")
    other = w.resolver_with().resolve_from_procfs(high(8), 0, None)
    assert other is not None and other.envs_entry is not None
    assert (other.envs_entry.values, other.envs_entry.is_truncated) == ([], True)


def test_all_variables_keep_their_value_where_asked(w: World) -> None:
    """Not only the names, also of an entry from the tables; secrets in arguments are still hidden."""
    opts = ResolverOpts().with_envs_resolution_enabled().with_all_envs_values()
    r = w.resolver_with(opts=opts.copy())
    w.proc.add(high(7), 0, envs=b"B=2\0TOKEN=x\0", argv=b"p\0--password=x\0")
    entry = r.resolve_from_procfs(high(7), 0, None)
    assert entry is not None
    assert r.get_process_envs(entry) == r.get_process_envp(entry) == (["B=2", "TOKEN=x"], False)
    assert get_process_argv(entry) == (["--password=********"], False)


def test_an_environment_resolver_is_asked_and_may_fail(w: World) -> None:
    class Envs:
        def resolve(self, pid: int) -> tuple[list[str], bool]:
            if pid == high(8):
                raise OSError
            return ["A=1"], True

    r = w.resolver_with(env_vars_resolver=Envs(), opts=ResolverOpts().with_raw_values())
    w.proc.add(high(7), 0)
    w.proc.add(high(8), 0)
    entry, failed = r.resolve_from_procfs(high(7), 0, None), r.resolve_from_procfs(high(8), 0, None)
    assert entry is not None and r.get_process_envp(entry) == (["A=1"], True)
    assert failed is not None and failed.envs_entry is not None and failed.envs_entry.values == []
    assert r.get_process_envp(failed) == ([], False), "unknown, not cut"


def test_file_fields_of_a_path(w: World, tmp_path: Any) -> None:
    file = tmp_path / "x"
    file.write_text("x")
    fields = w.resolver.retrieve_file_fields_from_procfs(str(file))
    status = file.stat()
    assert (fields.inode, fields.uid, fields.mode, fields.mtime, fields.nlink) == (
        status.st_ino, status.st_uid, status.st_mode, status.st_mtime_ns, 1,
    )  # fmt: skip
    assert fields.mount_id > 0 and not fields.is_fileless
    os.utime(file, (0, -1))
    fields = w.resolver.retrieve_file_fields_from_procfs(str(file))
    assert fields.mtime == (1 << 64) - 1_000_000_000, "as in the kernel's maps"
    with pytest.raises(OSError):
        w.resolver.retrieve_file_fields_from_procfs(str(tmp_path / "absent"))


# -- arguments and environment -----------------------------------------------------------------------------------------


def chunk(*strings: bytes) -> bytes:
    return encode_payload(strings)


def test_arguments_that_the_exec_event_marks_as_cut_stay_cut(w: World) -> None:
    """The kernel had no room for more chunks; the chunks that arrived are complete (specification 1.3, 2.2)."""
    r = w.resolver_with(opts=ResolverOpts().with_envs_resolution_enabled().with_envs_value(["A"]))
    for number, pid in ((5, 3), (7, 4)):
        r.update_args_envs(ArgsEnvsEvent(number, chunk(b"a", b"b")))
        r.update_args_envs(ArgsEnvsEvent(number + 1, chunk(b"A=1")))
        is_cut = pid == 3
        entry = entry_of(
            w.exec(0, pid, 10, args_id=number, envs_id=number + 1, args_truncated=is_cut, envs_truncated=is_cut)
        )
        assert get_process_argv(entry) == (["b"], is_cut) and get_process_argv0(entry) == ("a", is_cut)
        assert r.get_process_envs(entry) == (["A=1"], is_cut)
        assert (entry.args_truncated, entry.envs_truncated) == (is_cut, is_cut)
    assert (w.count("args_truncated"), w.count("envs_truncated")) == (1, 1)


def test_environments_of_an_exec(w: World) -> None:
    r = w.resolver_with(opts=ResolverOpts().with_envs_resolution_enabled().with_envs_value(["A"]))
    r.update_args_envs(ArgsEnvsEvent(6, chunk(b"A=1", b"B=" + b"2" * 243)))
    entry = entry_of(w.exec(0, 3, 10, envs_id=6))
    assert r.get_process_envs(entry) == (["A=1", "B"], True)
    assert w.count("envs_truncated") == 1 and w.count("envs_size") == 2
    assert entry.envs_truncated


def test_views_without_arguments() -> None:
    entry = ProcessCacheEntry(args_truncated=True)
    assert get_process_argv(entry) == (None, True) and get_process_argv0(entry) == ("", True)
    entry = ProcessCacheEntry(args_entry=ArgsEntry(["a", "b", "c"], True))
    assert get_process_argv(entry) == (["b", "c"], True) and get_process_argv0(entry) == ("a", True)
    assert entry.args_truncated
    assert get_process_argv0(ProcessCacheEntry(args_entry=ArgsEntry())) == ("", False)


# -- credentials, contexts ---------------------------------------------------------------------------------------------


def test_each_change_of_credentials(w: World) -> None:
    entry = entry_of(w.fork(0, 3, 10, credentials=Credentials(uid=1, gid=1, auid=5, cap_effective=3)))
    child = entry_of(w.fork(3, 4, 10))
    pid = high(3)
    w.resolver.update_uid(pid, w.change(pid, pid, uid=7, euid=8, fsuid=9, user="u", gid=99))
    assert (entry.credentials.uid, entry.credentials.euid, entry.credentials.fsuid, entry.credentials.user) == (
        7, 8, 9, "u",
    )  # fmt: skip
    assert entry.credentials.gid == 1 and entry.credentials.cap_effective == 3
    w.resolver.update_gid(pid, w.change(pid, pid, gid=4, egid=5, fsgid=6, egroup="g"))
    assert (entry.credentials.gid, entry.credentials.egid, entry.credentials.fsgid) == (4, 5, 6)
    assert entry.credentials.egroup == "g" and entry.credentials.uid == 7
    w.resolver.update_capset(pid, w.change(pid, pid, cap_effective=1 << 40, cap_permitted=2))
    assert (entry.credentials.cap_effective, entry.credentials.cap_permitted) == (1 << 40, 2)
    w.resolver.update_login_uid(pid, w.change(pid, pid, auid=1000))
    assert entry.auid == 1000 and entry.credentials.uid == 7
    w.check()
    assert child.credentials.uid == 1 and child.auid == 5  # a copy, made at the fork
    # Facts that the methods do not report stay, such as saved ids.
    cold = entry.store.cold  # type: ignore[attr-defined]
    assert (int(cold["suid"]), int(cold["sgid"])) == (0, 0)


def test_only_contexts_that_are_not_null_are_stored(w: World) -> None:
    entry = entry_of(w.fork(0, 3, 10))
    child = entry_of(w.fork(3, 4, 10))
    w.resolver.update_process_contexts(entry, CGroupContext(), ContainerContext())
    assert entry.cgroup.cgroup_id == "/dummy"
    w.resolver.update_process_contexts(entry, CGroupContext("/c", PathKey(9)), ContainerContext("abc"))
    w.check()
    assert (entry.cgroup.cgroup_id, entry.cgroup.path_key.inode, entry.container.container_id) == ("/c", 9, "abc")
    assert child.cgroup.cgroup_id == "/dummy" and child.container.is_null
    free = ProcessCacheEntry(pid=high(3))
    w.resolver.update_process_contexts(free, CGroupContext("/d", PathKey(8)), ContainerContext())
    assert free.cgroup.cgroup_id == "/d" and entry.cgroup.cgroup_id == "/c"


def test_collaborators_are_notified_and_asked(w: World) -> None:
    calls: list[tuple[Any, ...]] = []

    class Mounts:
        def process_seen(self, pid: int, mnt_ns: int) -> None:
            calls.append(("mount", pid, mnt_ns))

        def filesystem(self, mount_id: int, device: int, pid: int) -> str:
            return "ext4"

    class Cgroups:
        def add_pid(self, pid: int, cgroup: CGroupContext) -> tuple[CGroupContext, ContainerContext]:
            calls.append(("cgroup", pid, cgroup.cgroup_id, cgroup.source, cgroup.created_at > 0))
            return CGroupContext("/resolved", PathKey(77)), ContainerContext("abc")

        def del_pid(self, pid: int) -> None:
            calls.append(("gone", pid))

    class Names:
        def user(self, uid: int, tgid: int = 0, view: int = 0) -> str:
            if uid == 5:
                raise KeyError(uid)
            return f"user{uid}@{view}"

        def group(self, gid: int, tgid: int = 0, view: int = 0) -> str:
            return f"group{gid}"

    class Sessions:
        def resolve_ssh(self, entry: ProcessCacheEntry) -> SSHSessionContext:
            return SSHSessionContext(9, "alice")

    r = w.resolver_with(
        mount_resolver=Mounts(), cgroup_resolver=Cgroups(), user_group_resolver=Names(),
        user_session_resolver=Sessions(),
    )  # fmt: skip
    event = w.exec(0, 3, 10, credentials=Credentials(uid=1, euid=5, gid=2), mnt_ns=66)
    entry = entry_of(event)
    assert calls == [("mount", high(3), 66), ("cgroup", high(3), "/dummy", CGROUP_SOURCE_EVENT, True)]
    assert (entry.cgroup.cgroup_id, entry.container.container_id) == ("/resolved", "abc")
    assert (entry.credentials.user, entry.credentials.euser, entry.credentials.group) == ("user1@0", "", "group2")
    assert entry.file_event.filesystem == "ext4"
    w.proc.add(high(8), 0)
    other = r.resolve_from_procfs(high(8), 0, None)
    assert calls[-1] == ("cgroup", high(8), "", CGROUP_SOURCE_PROCFS, True)
    assert other is not None and other.user_session.ssh.ssh_username == "alice"
    assert other.file_event.filesystem == "ext4" and other.file_event.mount_visible
    # Children inherit the ssh session.
    child = entry_of(w.fork(8, 9, 10))
    assert child.user_session.ssh.ssh_session_id == 9
    image = entry_of(w.exec(8, 9, 11))
    assert image.user_session.ssh.ssh_session_id == 9
    r.delete_entry(high(3), w.clock() + w.offset)
    assert calls[-1] == ("gone", high(3))
    (pid, start, absent) = np.array([high(8)], "u4"), np.array([other.start_boot_ns], "u8"), np.array([True])
    assert r.flush_all_gone(pid, start, absent, w.clock()) == 1
    assert calls[-1] == ("gone", high(8)), "a process that was found gone leaves its cgroup too"
    w.check()


def test_a_mount_with_an_unknown_file_system_fails_the_exec(w: World) -> None:
    class Mounts:
        def process_seen(self, pid: int, mnt_ns: int) -> None: ...

        def filesystem(self, mount_id: int, device: int, pid: int) -> str:
            raise LookupError(mount_id)

    w.resolver_with(mount_resolver=Mounts())
    with pytest.raises(ResolverError, match="file system"):
        w.exec(0, 3, 10)
    w.proc.add(high(8), 0)
    assert w.resolver.resolve_from_procfs(high(8), 0, None) is not None  # a failure here only leaves out a detail


def test_the_span_of_a_fork(w: World) -> None:
    event = w.event(0, 3, 10)
    event.span = SpanContext(5, 1 << 70)
    entry_of(event).fork_time = w.clock()
    w.resolver.add_fork_entry(event, w.dummy_cgroup(), None)
    entry = entry_of(event)
    assert (entry.span_id, entry.trace_id) == (5, 1 << 70)
    assert entry_of(w.fork(3, 4, 10)).span_id == 0


def test_tracer_metadata_is_read_for_real_and_inherited(w: World) -> None:
    import fcntl

    import msgpack

    fd = os.memfd_create("datadog-tracer-info-test", os.MFD_ALLOW_SEALING)
    try:
        os.write(fd, msgpack.packb({"schema_version": 1, "tracer_language": "python"}))
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
        w.fork(0, os.getpid(), 10)
        event = Event(pid_context=PIDContext(pid=os.getpid(), tid=os.getpid()), fd=fd)
        w.resolver.add_tracer_metadata(os.getpid(), event)
        entry = w.resolver.get(os.getpid())
        assert entry is not None and entry.tracer_metadata is not None
        assert entry.tracer_metadata.tracer_language == "python"
        child = entry_of(w.fork(os.getpid(), 4, 10))
        assert child.tracer_metadata == entry.tracer_metadata
        image = entry_of(w.exec(os.getpid(), 4, 11))
        assert image.tracer_metadata is None
        event.fd = 999999
        with pytest.raises(Exception, match="descriptor"):
            w.resolver.add_tracer_metadata(os.getpid(), event)
    finally:
        os.close(fd)


def test_a_terminal_from_procfs_only_where_asked(w: World) -> None:
    entry = ProcessCacheEntry(pid=os.getpid())
    assert w.resolver.set_process_tty(entry) == ""
    r = w.resolver_with(opts=ResolverOpts().with_tty_fallback_enabled())
    from pipeline.procfs.tty import procfs_tty

    assert r.set_process_tty(entry) == procfs_tty(os.getpid())
    entry.tty_name = "tty9"
    assert r.set_process_tty(entry) == "tty9"


# -- the rest ----------------------------------------------------------------------------------------------------------


def test_an_end_is_news_once(w: World) -> None:
    w.fork(0, 1, 10)
    w.fork(1, 3, 10)
    event = w.event(1, 3, 10)
    assert w.apply_exit(event) and not w.apply_exit(event) and event.entry is event.exit_entry is None
    assert w.resolver.get(high(3)) is not None  # it stays until it is deleted
    w.fork(1, 3, 10)  # the next owner of the pid
    assert w.apply_exit(event)


def test_an_exit_of_a_former_owner_of_the_pid_is_a_miss(w: World) -> None:
    w.resolver.set_state(1)
    alive = entry_of(w.fork(0, 3, 10))
    context = PIDContext(pid=high(3), tid=high(3), start_boot_ns=w.clock())
    assert not w.resolver.apply_exit_entry(Event(timestamp_ns=w.clock(), pid_context=context))
    assert alive.exit_time is None and (w.count("hits", "cache"), w.count("miss")) == (0, 1)


def test_an_unknown_callpath_moves_no_process(w: World) -> None:
    w.fork(0, 1, 10)
    lost = entry_of(w.fork(500, 55, 10))
    w.proc.add(high(500), 1)
    with pytest.raises(ResolverError, match="nonsense"):
        w.resolver.try_reparent_from_procfs(lost, "nonsense", None)
    with pytest.raises(ResolverError, match="do_exit"), w.resolver.lock:
        w.resolver.try_reparent_from_procfs_locked(lost, "nonsense", None)
    assert lost.ancestor is None


def test_a_time_of_0_is_unset(w: World) -> None:
    entry = w.resolver.new_process_cache_entry(PIDContext(pid=high(3)))
    entry.set(fork_time=0, exec_time=5, exit_time=0)
    w.resolver.apply_boot_time(entry)
    assert (entry.fork_time, entry.exec_time, entry.exit_time) == (None, 5 + w.offset, None)


def test_boot_time_is_applied_once(w: World) -> None:
    entry = w.resolver.new_process_cache_entry(PIDContext(pid=5))
    entry.fork_time = 1000
    w.resolver.apply_boot_time(entry)
    w.resolver.apply_boot_time(entry)
    assert entry.fork_time == 1000 + w.offset and entry.exec_time is None
    other = w.resolver.new_process_cache_entry(PIDContext(pid=5))
    assert other.cookie != entry.cookie and other.cookie >> 32


def test_a_repeated_event_changes_nothing(w: World) -> None:
    event = w.fork(0, 3, 10)
    first = entry_of(event)
    again = w.event(0, 3, 10)
    entry_of(again).fork_time = first.start_boot_ns
    w.resolver.add_fork_entry(again, w.dummy_cgroup(), None)
    assert again.entry is first and w.count("added", "event") == 1
    w.check()


def test_an_exec_without_fork_is_below_its_parent_and_marked(w: World) -> None:
    parent = entry_of(w.fork(0, 3, 10))
    entry = entry_of(w.exec(3, 4, 11))
    w.check()
    assert entry.is_exec and entry.is_parent_missing and entry.ancestor is parent
    assert not entry.has_valid_lineage()[0] and w.count("inode_error", "exec_parent_missing") == 0


@pytest.mark.parametrize("kind", ["fork", "exec"])
def test_a_wrong_inode_is_counted_even_if_the_image_is_known_from_proc_only(w: World, kind: str) -> None:
    """The applier does not compare a number of `stat()` with one of the kernel, but an event says which it expects."""
    w.proc.add(high(3), 0, exe_inode=10)
    assert w.resolver.resolve_from_procfs(high(3), 0, None) is not None
    event = w.fork(3, 4, 99, 99) if kind == "fork" else w.exec(0, 3, 11, 99)
    assert entry_of(event).is_parent_missing and w.count("inode_error", f"{kind}_parent_missing") == 1


def test_a_replaced_image_has_ended_when_its_process_has(w: World) -> None:
    first = entry_of(w.fork(0, 3, 10))
    event = w.exec(0, 3, 11)
    assert first.exit_time is not None
    assert not first.has_ended and not entry_of(event).has_ended
    w.exit(event)
    assert first.has_ended and entry_of(event).has_ended


def test_a_fork_that_arrives_after_its_parents_exit(w: World) -> None:
    """The child stays below its parent at the fork; a fork after that exit belongs to the pid's next owner."""
    event = w.fork(0, 3, 10)
    parent = entry_of(event)
    early = w.clock()
    w.exit(event)
    late = entry_of(w.fork(3, 4, 10, fork_time=early))
    assert late.ancestor is parent and not late.is_parent_missing
    other = entry_of(w.fork(3, 5, 10))
    assert other.ancestor is None and other.is_parent_missing and other.ppid == high(3)
    image = entry_of(w.exec(3, 6, 10))
    assert image.ancestor is None and image.ppid == high(3)
    w.check()


def test_a_fork_and_an_exec_of_the_same_program(w: World) -> None:
    """Counts as an exec bomb; the call returns the cached entry, which records an exec (specification 9.3.8)."""
    fork = entry_of(w.fork(0, 3, 10))
    event = w.exec(0, 3, 10)
    assert event.entry is fork and fork.is_exec and event.exec_entry is fork
    assert w.count("added", "event") == 1


def test_a_fork_has_its_parents_cookie_until_it_calls_exec(w: World) -> None:
    """Specification 2.2 and 5.3: the cookie in the fork's own event does not matter."""
    w.fork(0, 3, 10)
    parent = entry_of(w.exec(0, 3, 11))
    child = entry_of(w.fork(3, 4, 11, cookie=99))
    assert parent.cookie and child.cookie == parent.cookie
    alone = entry_of(w.fork(0, 5, 10, cookie=77))
    assert alone.cookie == 77


def test_an_exec_of_the_running_program_updates_its_entry(w: World) -> None:
    """Only the exec time changes among the compared fields; the rest is as in the event (specification 3.3.4)."""
    init, _ = entry_of(w.fork(0, 1, 10)), w.fork(1, 3, 10)
    w.fork(3, 4, 10)
    first = entry_of(w.exec(3, 4, 11, comm="x"))
    first.comm = "renamed"
    event = w.exec(1, 4, 11, comm="x", tty_name="pts7", cookie=5)
    assert event.entry is first and (first.comm, first.tty_name, first.cookie) == ("x", "pts7", 5)
    assert first.root.ancestor is init and first.ppid == 1
    w.check()


@pytest.fixture
def hiding() -> Iterator[World]:
    with world(scrubber=Scrubber(), opts=ResolverOpts().with_envs_resolution_enabled()) as made:
        yield made


@pytest.mark.parametrize(
    ("first", "second"),
    [((["x", "--password=a"], []), (["x", "--password=b"], [])), ((["x"], ["A=1"]), (["x"], ["A=2"]))],
)
def test_hidden_values_distinguish_images(
    hiding: World, first: tuple[list[str], list[str]], second: tuple[list[str], list[str]]
) -> None:
    """Specification 3.3.4 and 5.9 compare with the previous image; the tables hold the part that the entry lacks."""
    w = hiding

    def run(pid: int, strings: tuple[list[str], list[str]]) -> ProcessCacheEntry:
        args, envs = strings
        return entry_of(w.exec(0, pid, 11, args_entry=ArgsEntry(args), envs_entry=EnvsEntry(envs)))

    w.fork(0, 3, 10)
    w.fork(0, 4, 10)
    one, other = run(3, first), run(4, second)
    assert one.args_entry == other.args_entry and one.envs_entry == other.envs_entry, "as far as one sees"
    assert not one.equals(other) and not other.equals(one) and one.equals(one)
    assert run(3, first) is one, "an exec bomb"
    changed = run(3, second)
    assert changed is not one and changed.equals(other)
    child = entry_of(w.fork(3, 5, 11))
    assert child.equals(changed) and not child.equals(one)
    # Another writer fills the tables: the resolver has forgotten the previous image, so the stored row decides.
    for entry in (one, other, changed):
        w.applier.py_forget_digest(row_of(entry))
    assert one.equals(other) and run(4, first) is other


def test_a_file_is_six_facts(w: World) -> None:
    """Specification 1.4: path, links and modification time are not compared."""
    w.fork(0, 3, 10)
    file = FileEvent(inode=456, mount_id=1, mtime=5, uid=6, gid=7, mode=0o755, pathname="/a/x", basename="x")
    one = entry_of(w.exec(0, 3, 456, file_event=file))
    same = replace(file, pathname="/b/y", basename="y", nlink=3, ctime=4, device=9)
    assert entry_of(w.exec(0, 3, 456, file_event=same)) is one
    for other in ({"mount_id": 2}, {"mtime": 6}, {"uid": 0}, {"gid": 0}, {"mode": 0o700}):
        entry = entry_of(w.exec(0, 3, 456, file_event=replace(file, **other)))
        assert entry is not one and not entry.equals(one), other
        one = entry_of(w.exec(0, 3, 456, file_event=file))


def test_a_child_that_runs_its_parents_program_with_another_secret_called_exec(hiding: World) -> None:
    w = hiding
    for pid, secret, env in ((3, b"a", b"A=1"), (4, b"a", b"A=1"), (5, b"b", b"A=1"), (6, b"a", b"A=2")):
        w.proc.add(high(pid), high(3) if pid != 3 else 0, argv=b"x\0--password=" + secret + b"\0", envs=env + b"\0")
        w.resolver.sync_cache(high(pid))
    children = [w.resolver.get(high(pid)) for pid in (4, 5, 6)]
    assert [child.is_exec for child in children if child is not None] == [False, True, True]


def test_the_first_image_names_the_current_parent(w: World) -> None:
    """Specification 5.6 and 9.2: reparenting moves the first image, so a second call for it has nothing to do."""
    init, _ = entry_of(w.fork(0, 1, 10)), w.fork(1, 3, 10)
    first, last = entry_of(w.fork(3, 4, 10)), entry_of(w.exec(3, 4, 11))
    for _ in range(2):
        for entry in (last, first):
            w.resolver.try_reparent_from_kernel_ppid(entry, high(1), None)
            assert first.ancestor is init and (first.ppid, last.ppid) == (high(1), high(1))
    assert w.count("reparent_success", "kernel_ppid") == 1


def test_a_parent_that_is_resolved_when_its_exec_was_lost(w: World) -> None:
    """Specification 3.3.3 step 3b: the kernel's maps contain the expected image."""
    fork = entry_of(w.fork(0, 3, 10))
    r = w.resolver
    r.set_state(1)
    w.bind(
        FakeMap({high(3): owner_of(w, high(3), 99, start_boot_ns=fork.start_boot_ns)}),
        FakeMap({99: image_of(20, b"/bin/new", exec_boot_ns=w.clock())}),
    )
    child = entry_of(w.fork(3, 4, 20, 20))
    w.check()
    assert child.ancestor is r.get(high(3)) and child.file_event.pathname == "/bin/new"
    assert not child.is_parent_missing and w.count("inode_error", "fork_parent_missing") == 0


def test_a_ppid_of_0_is_read_from_procfs(w: World) -> None:
    """Specification 3.3.7 step 5."""
    parent = entry_of(w.fork(0, 3, 10))
    w.proc.ppids[high(4)] = high(3)
    child = entry_of(w.fork(0, 4, 10))
    assert child.ancestor is parent and child.ppid == high(3) and not child.is_parent_missing
    assert w.count("reparent_success", SET_PROCESS_CONTEXT) == 1
    w.proc.ppids[high(5)] = high(77)
    orphan = entry_of(w.fork(0, 5, 10))
    assert orphan.ppid == high(77) and orphan.ancestor is None and orphan.is_parent_missing
    assert w.count("reparent_failed", SET_PROCESS_CONTEXT) == 1
    w.check()


def test_an_exit_that_names_the_reaper_moves_the_children_at_once(w: World) -> None:
    init = entry_of(w.fork(0, 1, 10))
    event = w.fork(1, 3, 10)
    child = entry_of(w.fork(3, 4, 10))
    event.timestamp_ns, event.exit_status = w.clock(), 256
    event.reaper_pid, event.reaper_start_boot_ns = 1, init.start_boot_ns
    assert w.resolver.apply_exit_entry(event, None)
    w.check()
    assert child.ancestor is init and child.ppid == 1 and event.exit_cause == ("exited", 1)
    assert event.exit_entry is not None
    assert int(event.exit_entry.store.cold["exit_code"]) == 256  # type: ignore[attr-defined]


@pytest.mark.parametrize("status", [None, 0])
def test_an_exit_without_a_status_leaves_it_unknown(w: World, status: int | None) -> None:
    event = w.fork(0, 3, 10)
    event.timestamp_ns, event.exit_status = w.clock(), status
    assert w.resolver.apply_exit_entry(event, None)
    store = entry_of(event).store
    is_known = bool(int(store.hot["flags"]) & layout.ROW_EXIT_KNOWN)  # type: ignore[attr-defined]
    assert is_known is (status is not None)
    assert int(store.hot["row_seq"]) % 2 == 0, "readers can read the row"  # type: ignore[attr-defined]
    w.check()


def test_credentials_are_valid_until_the_nanosecond_at_which_they_expire(w: World) -> None:
    event = w.fork(0, 3, 10)
    at = w.clock() + 5
    event.aws = AWSSecurityCredentials(access_key_id="A", expiration=at + w.offset)
    w.resolver.update_aws_security_credentials(high(3), event)
    for late, keys in ((0, ["A"]), (1, [])):
        event.timestamp_ns = at + late
        assert [one.access_key_id for one in w.resolver.fetch_aws_security_credentials(event)] == keys


@pytest.mark.parametrize(
    ("status", "cause"), [(0, ("exited", 0)), (0x300, ("exited", 3)), (9, ("signaled", 9)), (0x8B, ("coredumped", 11))]
)
def test_exit_causes(status: int, cause: tuple[str, int]) -> None:
    assert Event(exit_status=status).exit_cause == cause


def test_a_parent_that_procfs_is_asked_about_is_limited(w: World) -> None:
    """Specification 9.3.13."""
    child = entry_of(w.fork(0, 4, 10))
    for _ in range(3):
        w.resolver.try_reparent_from_kernel_ppid(child, high(50), None)
    assert w.proc.reads == [high(50)] and w.count("reparent_failed", "kernel_ppid") == 3
    assert w.count("reparent_procfs_fail") == 1 and w.count("limiter_drop") == 2


def test_an_unknown_parent_is_fetched_from_procfs(w: World) -> None:
    w.proc.add(1, 0, exe_inode=3)
    w.proc.add(high(50), 1)
    child = entry_of(w.fork(0, 4, 10))
    told: list[int] = []
    w.resolver.try_reparent_from_kernel_ppid(child, high(50), lambda entry, error: told.append(entry.pid))
    w.check()
    assert told == [1, high(50)] and child.get_ancestors_pids() == [high(4), high(50), 1]
    assert w.count("reparent_procfs_ok") == 1 and child.has_valid_lineage() == (True, None)


def test_the_walk_follows_the_exited_parents_own_ancestors(w: World) -> None:
    init = entry_of(w.fork(0, 1, 10))
    w.fork(1, 3, 10)
    middle = w.fork(3, 4, 10)
    child = entry_of(w.fork(4, 5, 10))
    w.delete(high(4))
    w.proc.ppids[high(5)] = 1
    w.resolver.try_reparent_from_procfs(child, SET_PROCESS_CONTEXT, None)
    w.check()
    assert child.ancestor is init and entry_of(middle).exit_time is not None
    assert w.count("reparent_success", SET_PROCESS_CONTEXT) == 1
    with w.resolver.lock:
        w.resolver.try_reparent_from_procfs_locked(child, SET_PROCESS_CONTEXT, None)
    assert w.count("reparent_success", SET_PROCESS_CONTEXT) == 1


def test_an_earlier_owner_of_a_pid_moves_without_its_successor(w: World) -> None:
    init = entry_of(w.fork(0, 1, 10))
    w.fork(1, 3, 10)
    w.fork(1, 5, 10)
    old = entry_of(w.fork(3, 4, 10))
    w.delete(high(4))
    new = entry_of(w.fork(5, 4, 10))
    assert old.reparent(init) and old.ppid == 1
    w.check()
    assert w.tables.py_children(high(5)) == [high(4)] and new.ppid == high(5)
    w.delete(high(4))
    assert new.reparent(init) and w.tables.py_children(1) == [high(5), high(3)], "an ended process is no child"


def test_walk_calls_back_with_heads_only(w: World) -> None:
    w.fork(0, 3, 10)
    image = entry_of(w.exec(0, 3, 11))
    seen: list[ProcessCacheEntry] = []
    w.resolver.walk(seen.append)
    assert seen == [image]


def test_states(w: World) -> None:
    w.resolver.set_state(1)
    with pytest.raises(ResolverError):
        w.resolver.set_state(2)
    assert w.resolver.state == 1


def test_broken_lineages_are_counted(w: World) -> None:
    w.resolver.count_broken_lineage()
    assert w.count("broken_lineage") == 1 and w.tables.counter("broken_lineage") == 1


def test_a_failing_list_of_pids_skips_the_tick(w: World) -> None:
    w.fork(0, 3, 10)

    def fail() -> list[int]:
        raise OSError

    w.proc.list_pids = fail  # type: ignore[method-assign]
    with w.resolver.lock:
        assert w.resolver._flusher.tick() == 0


def test_a_batch_finds_the_row_of_a_single_call(w: World) -> None:
    """Both paths use one implementation: a live record of the same exec is already applied."""
    from pipeline.records import declared, dtypes
    from pipeline.resolver.entries import entry_records

    w.fork(0, 3, 10)
    entry = entry_of(w.exec(0, 3, 11))
    time_ns = int(entry.store.hot["exec_boot_ns"])  # type: ignore[attr-defined]
    used = w.tables.rows_used
    body = np.zeros(1, dtypes.EXEC)
    body["inode"] = 11
    header = entry_records.header(declared.KIND_EXEC, high(3), high(3), time_ns, entry.start_boot_ns)
    w.applier.apply_records(header, np.zeros(1, dtypes.TASK), body)
    assert w.tables.rows_used == used and w.resolver.get(high(3)) is entry
    row = w.tables.hot_view()[w.tables.py_head(high(3))]
    assert int(row["flags"]) & layout.ROW_IS_EXEC


def test_inheritance_in_a_live_batch(w: World) -> None:
    """Records carry no session and no tracer metadata; the applier copies both, and nothing else of `extra`."""
    from pipeline.procfs.tracer_metadata import TracerMetadata
    from tests.resolver.story import Story

    parent = entry_of(w.fork(0, 3, 10))
    story = Story(now=w.clock())
    story.begin(high(3), inode=10, start=parent.start_boot_ns)
    ssh = UserSessionContext(ssh=SSHSessionContext(9, "alice"))
    for number, fields in enumerate(
        [
            {"user_session": ssh},
            {"tracer_metadata": TracerMetadata(1, "id")},
            {"user_session": replace(ssh, id=77, session_type=2), "span_id": 5},
            {"aws_security_credentials": (AWSSecurityCredentials(access_key_id="A", expiration=1),)},
            {  # more than a map with a header of one byte holds
                "interpreter": FileEvent(inode=5, package_name="p"),
                "container": ContainerContext("c", 1, ("t",)),
                "credentials": Credentials(user="u"),
                "trace_id": 1,
                "args_id": 2,
                "envs_id": 3,
                "nsid": 4,
                "symlink_paths": ("/bin/x",),
                "symlink_basename": "x",
                "file_event": FileEvent(inode=10, package_name="q"),
            },
        ]
    ):
        parent.set(**fields)
        pid = high(20 + number)
        story.fork(high(3), pid).apply(w.applier)
        child = w.resolver.get(pid)
        assert child is not None and child.user_session == ssh and child.span_id == 0
        assert child.tracer_metadata == parent.tracer_metadata and child.aws_security_credentials == ()
        story.exec(pid, b"/bin/new").apply(w.applier)
        image = w.resolver.get(pid)
        assert image is not None and image is not child and image.user_session == ssh and image.tracer_metadata is None
        assert not w.applier.has_heirs and w.resolver.complete_batch() == 0
    assert len(parent.store.extra()) > 15  # type: ignore[attr-defined]
    w.check()


@pytest.mark.parametrize(
    "value", [0, -1, 127, 128, 1 << 16, 1 << 40, -(1 << 40), "", "x" * 31, "x" * 300, "x" * 70_000]
)
def test_a_key_after_a_value_of_any_length_is_not_inherited(w: World, value: Any) -> None:
    """The applier skips msgpack values with its own code."""
    from tests.resolver.story import Story

    parent = entry_of(w.fork(0, 3, 10))
    ssh = SSHSessionContext(value if isinstance(value, int) else 9, value if isinstance(value, str) else "")
    parent.set(user_session=UserSessionContext(ssh=ssh), trace_id=1 << 100)
    story = Story(now=w.clock())
    story.begin(high(3), inode=10, start=parent.start_boot_ns)
    story.fork(high(3), high(4)).apply(w.applier)
    child = w.resolver.get(high(4))
    assert child is not None and child.user_session.ssh == parent.user_session.ssh and child.trace_id == 0


def test_a_process_found_in_procfs_before_its_fork_record_inherits_too(w: World) -> None:
    from tests.resolver.story import Story

    parent = entry_of(w.fork(0, 3, 10))
    parent.user_session = UserSessionContext(ssh=SSHSessionContext(9, "alice"))
    story = Story(now=w.clock())
    story.begin(high(3), inode=10, start=parent.start_boot_ns)
    fork = story.fork(high(3), high(4))
    start = int(fork.header["start_boot_ns"][0])
    w.proc.add(high(4), high(3), start_boot_ns=start, exe=b"/memfd:x", is_memfd=True, exe_inode=4)
    found = w.resolver.resolve_from_procfs(high(4), 0, None)
    assert found is not None and found.user_session.ssh.ssh_session_id == 9
    found.user_session = UserSessionContext(id=5)
    fork.apply(w.applier)
    assert w.applier.has_heirs and w.resolver.complete_batch() == 1
    assert found.user_session == UserSessionContext(id=5, ssh=SSHSessionContext(9, "alice"))


def test_the_processes_of_this_host() -> None:
    """A snapshot by single calls, oldest first, agrees with /proc for every process that did not change meanwhile."""
    from pipeline.procfs.proc_reader import ProcReader

    def said(info: Any) -> tuple[Any, ...]:
        return info.start_ticks, info.exe, info.exe_inode, info.ppid, info.mnt_ns, tuple(info.uids)

    with world(real_proc=True, pid_capacity=1 << 22, rows=1 << 17) as w, ProcReader() as reader:
        infos = [info for pid in reader.list_pids().tolist() if (info := reader.read(pid)) is not None]
        for info in sorted(infos, key=lambda info: info.start_ticks):
            w.resolver.sync_cache(info.tgid)
        w.check()
        compared = 0
        for info in infos:
            # A process that ended between the list and its snapshot has no entry, so each process is first read again.
            now = reader.read(info.tgid)
            if now is None or said(now) != said(info):
                continue
            if now.uids != info.uids or now.mnt_ns != info.mnt_ns:
                continue
            entry = w.resolver.get(info.tgid)
            if entry is None:
                assert info.is_kthread or info.exe is None or info.ppid == 2 or info.tgid == 2
                continue
            compared += 1
            assert (entry.ppid, entry.file_event.inode, entry.mnt_ns) == (info.ppid, info.exe_inode, info.mnt_ns)
            credentials = entry.credentials
            assert (credentials.uid, credentials.euid, credentials.fsuid) == (info.uids[0], info.uids[1], info.uids[3])
            parent = w.resolver.get(info.ppid) if info.ppid else None
            assert parent is None or entry.root.ancestor is parent
        assert compared > 2
        own = w.resolver.get(os.getpid())
        assert own is not None and own.args_entry is not None and own.comm


def test_dumps_have_all_entries(w: World) -> None:
    assert w.resolver.to_json(False) == b'{"Entries":null}'
    w.fork(0, 3, 10)
    entry = entry_of(w.exec(0, 3, 11, args_entry=ArgsEntry(["a", "b c"]), comm='q"x'))
    entry.user_session = UserSessionContext(ssh=SSHSessionContext(9))
    brief = json.loads(w.resolver.to_json(False))
    assert [one["PID"] for one in brief["Entries"]] == [high(3)] and brief["Entries"][0]["Source"] == "event"
    raw = json.loads(w.resolver.to_json(True))["Entries"][0]
    assert raw["args_entry"]["values"] == ["a", "b c"] and raw["user_session"]["ssh"]["ssh_session_id"] == 9
    path = Path(w.resolver.to_dot(True))
    try:
        text = path.read_text()
        assert path.stat().st_mode & 0o777 == 0o400 and 'q\\"x' in text and "b c" in text
    finally:
        path.unlink()

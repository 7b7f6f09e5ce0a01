"""The words of the table of scenarios: what happens to the resolver of a `World`, and looks at what is there.

Entries, events and results have the names that the table gives them. Small pids stand for ones above `pid_max`
(`resolver_world.high`), but for 0, 1, OWN and PARENT.
"""

from __future__ import annotations

import os
from typing import Any

from resolver_world import World, high, world
from scenario_steps import Part, Scenario, expects, happens

from pipeline.resolver import procfs
from pipeline.resolver.cache_entry import ProcessCacheEntry
from pipeline.resolver.model import FileEvent, Source
from pipeline.resolver.stats import DO_EXIT, SET_PROCESS_CONTEXT

#: The two processes of which a test knows what the real /proc says.
OWN, PARENT = os.getpid(), os.getppid()


def ebpf(*parts: Part) -> Scenario:
    """A row about the EBPFResolver."""
    return Scenario(world, parts)


# -- what is there before ----------------------------------------------------------------------------------------------


@happens
def real_proc(w: World) -> None:
    """Of what the test did not make up the real /proc is asked."""
    w.proc.real = procfs.ProcReader()


@happens
def put(
    w: World, name: str, ppid: int, pid: int, inode: int, above: str = "", source: Source = Source.EVENT,
) -> None:  # fmt: skip
    """An entry goes into the cache as it is, below the one that is named and no other."""
    entry = ProcessCacheEntry(pid=high(pid), tid=high(pid), ppid=high(ppid))
    entry.file_event = FileEvent(inode=inode, mount_id=1)
    if above:
        entry.set_fork_parent(w.named[above])
    w.named[name] = w.put(entry, source)


@happens
def cut(w: World, name: str) -> None:
    """An entry loses the link to its ancestor."""
    w.named[name].ancestor = None


@happens
def ended(w: World, name: str) -> None:
    """An entry has an exit time, and is still cached."""
    w.named[name].exit(w.clock() + w.offset)


# -- events and calls --------------------------------------------------------------------------------------------------


@happens
def fork(w: World, name: str, ppid: int, pid: int, inode: int, expected: int = 0, base: str = "") -> None:
    _keep(w, name, w.fork(ppid, pid, inode, expected, base))


@happens
def exec_(w: World, name: str, ppid: int, pid: int, inode: int, expected: int = 0, base: str = "") -> None:
    _keep(w, name, w.exec(ppid, pid, inode, expected, base))


def _keep(w: World, name: str, event: Any) -> None:
    assert event.entry is not None
    w.events[name], w.named[name] = event, event.entry


@happens
def exit_(w: World, name: str) -> None:
    """ApplyExitEntry with the event that made the entry, then DeleteEntry at its time."""
    w.exit(w.events[name])


@happens
def delete(w: World, name: str) -> None:
    w.delete(w.named[name].pid)


@happens
def from_procfs(w: World, name: str, pid: int, inode: int, depth: int) -> None:
    """The internal form of ResolveFromProcfs, whose depth is the caller's."""
    with w.resolver.lock:
        _found(w, name, w.resolver._from_procfs(high(pid), inode, depth, w.tell))


def _found(w: World, name: str, entry: ProcessCacheEntry | None) -> None:
    assert entry is not None
    w.named[name] = entry


@happens
def reparent_from_procfs(w: World, name: str) -> None:
    w.resolver.try_reparent_from_procfs(w.named[name], SET_PROCESS_CONTEXT, None)


@happens
def reparent_from_kernel(w: World, name: str, ppid: int) -> None:
    w.resolver.try_reparent_from_kernel_ppid(w.named[name], high(ppid), None)


@happens
def reparent_children(w: World, name: str) -> None:
    with w.resolver.lock:
        w.resolver._reparent_children(w.named[name], DO_EXIT, None)


# -- looks -------------------------------------------------------------------------------------------------------------


@expects
def cache(w: World, *pids: int) -> None:
    assert w.cache == {high(pid) for pid in pids}


@expects
def head(w: World, pid: int, name: str) -> None:
    assert w.resolver.get(high(pid)) is w.named[name]


@expects
def same(w: World, name: str, other: str) -> None:
    assert w.named[name] is w.named[other]


@expects
def chain(w: World, *names: str) -> None:
    """All that the first descends from, newest first, and nothing else."""
    assert list(w.named[names[0]].chain()) == [w.named[name] for name in names]


@expects
def ancestor(w: World, name: str, above: str) -> None:
    assert w.named[name].ancestor is w.named[above]


@expects
def has(w: World, name: str, **values: Any) -> None:
    """Fields of an entry."""
    assert {field: getattr(w.named[name], field) for field in values} == values


@expects
def file(w: World, name: str, **values: Any) -> None:
    """Fields of an entry's executable."""
    found = w.named[name].file_event
    assert {field: getattr(found, field) for field in values} == values


@expects
def ppid(w: World, name: str, pid: int) -> None:
    assert w.named[name].ppid == high(pid)


@expects
def count(w: World, counter: str, number: int, tag: str = "") -> None:
    assert w.count(counter, tag) == number


@expects
def told(w: World, *names: str) -> None:
    """The new-entry callback was called once for each, without an error."""
    assert w.told == [(w.named[name], None) for name in names]


@expects
def procfs_ppids(w: World, *names: str) -> None:
    """Of these and nobody else /proc was asked for the parent."""
    assert set(w.proc.ppid_reads) == {w.named[name].pid for name in names}

"""Words of the table of scenarios that make something happen to the resolver of a `World`.

The table names entries, events and results, and scenario_checks.py checks them by these names. Small pids stand for
pids above `pid_max` (`resolver_world.high`), except 0, 1, OWN and PARENT.
"""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.procfs import proc_reader
from pipeline.resolver.api.stats import DO_EXIT, SET_PROCESS_CONTEXT
from pipeline.resolver.entries.cache_entry import ProcessCacheEntry
from pipeline.resolver.entries.event import ArgsEnvsEvent, Event
from pipeline.resolver.entries.model import (
    SNAPSHOTTED,
    AWSSecurityCredentials,
    FileEvent,
    PIDContext,
    ResolverError,
    Source,
)
from pipeline.secrets.argsenvs import ArgsEntry, EnvsEntry, encode_payload
from tests.resolver.api.scenario_steps import Part, Scenario, Step, happens
from tests.resolver.resolver_world import FakeMap, World, high, image_of, owner_of, world

SECOND_NS = 1_000_000_000


def ebpf(*parts: Part) -> Scenario:
    """A row that tests the EBPFResolver."""
    return Scenario(world, parts)


def made(fields: dict[str, Any]) -> dict[str, Any]:
    """Copy the fields of an entry. Entries share argument and environment objects, so each run makes its own."""
    fields = dict(fields)
    if "args" in fields:
        fields["args_entry"] = ArgsEntry(fields.pop("args"))
    if "cut_args" in fields:
        fields["args_entry"] = ArgsEntry(fields.pop("cut_args"), is_truncated=True)
    if "envs" in fields:
        fields["envs_entry"] = EnvsEntry(fields.pop("envs"))
    return fields


class Stars:
    """A scrubber that hides every argument that contains "secret"."""

    def scrub(self, args: Any, argv0: str = "") -> tuple[list[str], bool]:
        return ["***" if "secret" in arg else arg for arg in args], True


# -- initial state -----------------------------------------------------------------------------------------------------


@happens
def resolver(w: World, **collaborators: Any) -> None:
    """Create the resolver with these collaborators and options."""
    w.resolver_with(**collaborators)


@happens
def snapshotted(w: World) -> None:
    w.resolver.set_state(SNAPSHOTTED)


@happens
def real_proc(w: World) -> None:
    """Read everything that the test did not make up from the real /proc."""
    w.proc.real = proc_reader.ProcReader()


@happens
def in_procfs(w: World, pid: int, ppid: int, same_as: str = "", **facts: Any) -> None:
    """Add a process to /proc; if the process is cached already, /proc shows the same start time."""
    if same_as:
        facts["start_boot_ns"] = w.named[same_as].start_boot_ns
    w.proc.add(high(pid), high(ppid), **facts)


@happens
def in_procfs_below(w: World, pid: int, ppid: int) -> None:
    """Add only a process's parent to /proc."""
    w.proc.ppids[high(pid)] = high(ppid)


@happens
def kernel_maps(w: World, *records: tuple[int, int, int]) -> None:
    """Fill the kernel's maps with records of pid, cookie and inode of the executable."""
    w.bind(
        FakeMap({high(pid): owner_of(w, high(pid), cookie) for pid, cookie, _ in records}),
        FakeMap({cookie: image_of(inode) for _, cookie, inode in records}),
    )


@happens
def paths_fail(w: World, is_failing: bool) -> None:
    w.paths.fails = is_failing


@happens
def free(w: World, name: str, pid: int = 0, above: str = "", **fields: Any) -> None:
    """Make an entry that is in no table."""
    w.named[name] = ProcessCacheEntry(pid=pid, **made(fields))
    if above:
        w.named[name].ancestor = w.named[above]


@happens
def put(
    w: World, name: str, ppid: int, pid: int, inode: int = 0, above: str = "", source: Source = Source.EVENT,
    **fields: Any,
) -> None:  # fmt: skip
    """Put an entry into the cache unchanged, linked to the named ancestor only."""
    entry = ProcessCacheEntry(pid=high(pid), tid=high(pid), ppid=high(ppid), **made(fields))
    if inode:
        entry.file_event = FileEvent(inode=inode, mount_id=1)
    if above:
        entry.set_fork_parent(w.named[above])
    w.named[name] = w.put(entry, source)


@happens
def change(w: World, name: str, **fields: Any) -> None:
    w.named[name].set(**made(fields))


@happens
def cut(w: World, name: str) -> None:
    """Remove an entry's link to its ancestor."""
    w.named[name].ancestor = None


@happens
def ended(w: World, name: str) -> None:
    """Set an entry's exit time; the entry stays cached."""
    w.named[name].exit(w.clock() + w.offset)


@happens
def time_passes(w: World, seconds: int) -> None:
    w.clock.now += seconds * SECOND_NS


# -- events ------------------------------------------------------------------------------------------------------------


@happens
def fork(
    w: World, name: str, ppid: int, pid: int, inode: int, expected: int = 0, base: str = "", ago: int = 0,
    **fields: Any,
) -> None:  # fmt: skip
    """AddForkEntry, `ago` in seconds."""
    if ago:
        fields["fork_time"] = w.clock.ago(ago)
    _keep(w, name, w.fork(ppid, pid, inode, expected, base, name=name, **made(fields)))


@happens
def exec_(
    w: World, name: str, ppid: int, pid: int, inode: int, expected: int = 0, base: str = "", ago: int = 0,
    **fields: Any,
) -> None:  # fmt: skip
    """AddExecEntry, `ago` in seconds."""
    if ago:
        fields["exec_time"] = w.clock.ago(ago)
    _keep(w, name, w.exec(ppid, pid, inode, expected, base, name=name, **made(fields)))


def _keep(w: World, name: str, event: Event) -> None:
    assert event.entry is not None
    w.named[name] = event.entry


@happens
def fork_of_exactly(w: World, name: str, ppid: int, pid: int) -> None:
    """AddForkEntry with these exact pids, which are not moved above `pid_max`."""
    context = PIDContext(pid=pid, tid=pid, ppid=ppid)
    w.events[name] = Event(pid_context=context, entry=w.resolver.new_process_cache_entry(context))
    w.resolver.add_fork_entry(w.events[name], w.dummy_cgroup(), None)


@happens
def refused(w: World, step: Step) -> None:
    """Run a step that must raise; `error` checks the exception."""
    with pytest.raises(ResolverError) as caught:
        step.run(w)
    w.error = caught.value


@happens
def exit_(w: World, name: str) -> None:
    """ApplyExitEntry with the event that made the entry, then DeleteEntry at its time."""
    w.exit(w.events[name])


@happens
def apply_exit(w: World, name: str) -> None:
    """The first half of `exit_`: only ApplyExitEntry."""
    w.results[name] = w.apply_exit(w.events[name])


@happens
def apply_exit_of_unknown(w: World, name: str, pid: int) -> None:
    w.results[name] = w.apply_exit(w.event(0, pid, 0, name=name))


@happens
def delete_at_exit(w: World, name: str) -> None:
    """The second half of `exit_`: only DeleteEntry."""
    w.delete_at(w.events[name])


@happens
def delete(w: World, name: str) -> None:
    w.delete(w.named[name].pid)


@happens
def args_chunk(w: World, number: int, *strings: bytes) -> None:
    w.resolver.update_args_envs(ArgsEnvsEvent(number, encode_payload(strings)))


@happens
def args_of_ids(w: World, first: int, last: int) -> None:
    """Add a chunk of arguments for each of these ids."""
    for number in range(first, last + 1):
        w.resolver.update_args_envs(ArgsEnvsEvent(number, encode_payload([b"a"])))


@happens
def update(w: World, what: str, pid: int, tid: int, **credentials: Any) -> None:
    """Call UpdateUID or a similar method for a thread."""
    getattr(w.resolver, f"update_{what}")(high(pid), w.change(pid, tid, **credentials))


@happens
def imds(w: World, pid: int, key: str, expires_s: int) -> None:
    """Apply a response of the metadata service; times are seconds since the start of the test."""
    event = Event(pid_context=PIDContext(pid=high(pid), tid=high(pid)), timestamp_ns=w.clock())
    expiration = w.began_unix_ns + expires_s * SECOND_NS
    event.aws = AWSSecurityCredentials("Success", "AWS-HMAC", key, "", expiration, "")
    w.resolver.update_aws_security_credentials(high(pid), event)


# -- calls -------------------------------------------------------------------------------------------------------------


@happens
def resolve(w: World, name: str, pid: int, inode: int = 0, use_procfs: bool = True) -> None:
    _found(w, name, w.resolver.resolve(high(pid), high(pid), inode, use_procfs, w.tell))


@happens
def from_cache(w: World, name: str, pid: int, inode: int, tid: int) -> None:
    _found(w, name, w.resolver.resolve_from_cache(high(pid), tid, inode))


@happens
def from_maps(w: World, name: str, pid: int, inode: int) -> None:
    _found(w, name, w.resolver.resolve_from_kernel_maps(high(pid), high(pid), inode, w.tell))


@happens
def from_procfs(w: World, name: str, pid: int, inode: int = 0) -> None:
    _found(w, name, w.resolver.resolve_from_procfs(high(pid), inode, w.tell))


@happens
def from_procfs_to(w: World, name: str, pid: int, inode: int, depth: int) -> None:
    """The internal form of resolving from procfs, where the caller passes the depth."""
    with w.resolver.lock:
        _found(w, name, w.resolver._finder.from_procfs(high(pid), inode, depth, w.tell))


def _found(w: World, name: str, entry: ProcessCacheEntry | None) -> None:
    w.results[name] = entry
    if entry is not None:
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
        w.resolver._reparenter.move_children(w.named[name], DO_EXIT, None)


@happens
def flush_tick(w: World, name: str) -> None:
    """Run the body of the flush task; the number of queued entries is stored under the name."""
    with w.resolver.lock:
        w.results[name] = w.resolver._flusher.tick()


@happens
def dequeue_exited(w: World) -> None:
    w.resolver.dequeue_exited()


@happens
def set_args(w: World, name: str) -> None:
    w.resolver.set_process_args(w.named[name])


@happens
def take_args(w: World, name: str, number: int) -> None:
    """Take the arguments of an id from the cache of chunks, which removes them."""
    w.results[name] = w.resolver._fields.chunks.take(number)


@happens
def scrub(w: World, name: str) -> None:
    """GetProcessArgvScrubbed."""
    w.results[name] = w.resolver.get_process_argv_scrubbed(w.named[name])


@happens
def set_symlink(w: World, name: str) -> None:
    w.resolver.set_process_symlink(w.named[name])


@happens
def fetch_aws(w: World, name: str, pid: int, at_ns: int = 0) -> None:
    """FetchAWSSecurityCredentials, now or at the given boot time: pairs of key and expiry, as passed to `imds`."""
    event = Event(pid_context=PIDContext(pid=high(pid), tid=high(pid)), timestamp_ns=at_ns or w.clock())
    w.results[name] = [
        (one.access_key_id, (one.expiration - w.began_unix_ns) // SECOND_NS)
        for one in w.resolver.fetch_aws_security_credentials(event)
    ]


# -- operations of entries (specification 5) --------------------------------------------------------------------------


@happens
def entry_fork(w: World, parent: str, child: str) -> None:
    w.named[parent].fork(w.named[child])


@happens
def entry_exec(w: World, previous: str, name: str) -> None:
    w.named[previous].exec(w.named[name])


@happens
def set_fork_parent(w: World, name: str, parent: str) -> None:
    w.named[name].set_fork_parent(w.named[parent])


@happens
def set_exec_parent(w: World, name: str, parent: str) -> None:
    w.named[name].set_exec_parent(w.named[parent])

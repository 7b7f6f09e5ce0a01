"""Change entries that are in the cache: credentials, contexts, metadata from agents.

Covers the methods of specification 3.4 that update, and those of the kinds of table 2.1 that name no method
(capabilities, user sessions). It does not find or insert processes: see `finder` and `insertion`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from pipeline.records import declared
from pipeline.resolver.api.state import ResolverState
from pipeline.resolver.entries import entry_records
from pipeline.resolver.entries.cache_entry import ProcessCacheEntry
from pipeline.resolver.entries.collaborators import CGroupResolver
from pipeline.resolver.entries.model import (
    AWSSecurityCredentials,
    CGroupContext,
    ContainerContext,
    Credentials,
)

if TYPE_CHECKING:
    from pipeline.resolver.entries.event import Event

#: Fields of the credentials that one kind of event changes.
USER_IDS = ("uid", "euid", "fsuid", "user", "euser", "fsuser")
GROUP_IDS = ("gid", "egid", "fsgid", "group", "egroup", "fsgroup")
CAPABILITIES = ("cap_effective", "cap_permitted")
LOGIN_UID = ("auid",)


class Updater:
    """Updates entries. See `EBPFResolver` for the methods of the same names.

    Args:
        state: of the resolver.
        cgroups: resolves cgroups; None: there is none.
    """

    def __init__(self, state: ResolverState, cgroups: CGroupResolver | None) -> None:
        self._state = state
        self._cgroups = cgroups

    def _process_of(self, pid: int, event: Event) -> ProcessCacheEntry | None:
        """Return the process of an event: the one that it identifies by its start, or else the pid's current owner."""
        start = event.pid_context.start_boot_ns
        return self._state.book.of_identity(pid, start) if start else self._state.book.head(pid)

    def set_credentials(self, pid: int, event: Event, names: tuple[str, ...], group: int) -> None:
        """Change the credentials of a process.

        Args:
            pid: of the process.
            event: with the credentials. An event of another thread than the leader is ignored: the credentials of
                other threads are not those of the process.
            names: the fields that the event changed.
            group: their KNOWN_* group.
        """
        context = event.pid_context
        if context.pid != context.tid or event.credentials is None:
            return
        entry = self._process_of(pid, event)
        if entry is None:
            return
        changed = {name: getattr(event.credentials, name) for name in names}
        wanted: Credentials = replace(entry.credentials, **changed)
        task_record = entry_records.credentials_task(entry, wanted, group)
        self._state.applier.apply_records(
            entry_records.header(
                declared.KIND_CRED, pid, context.tid, event.timestamp_ns or self._state.now_boot_ns(),
                entry.start_boot_ns, context.ppid, context.parent_start_boot_ns,
            ),
            task_record.task, known=task_record.known,
        )  # fmt: skip
        entry_records.keep_names(entry, wanted)

    def add_tracer_metadata(self, pid: int, event: Event) -> None:
        """Read the tracing library's memfd, with the lock released, and store its content with the process."""
        from pipeline.procfs.tracer_metadata import read_tracer_metadata  # deferred: few processes have any

        with self._state.lock.put_down():
            metadata = read_tracer_metadata(pid, event.fd)
        entry = self._process_of(pid, event)
        # The memfd belongs to the pid's current owner, so nothing is stored with an earlier one.
        if entry is not None and entry is self._state.book.head(pid):
            entry.tracer_metadata = metadata

    def update_aws_security_credentials(self, pid: int, event: Event) -> None:
        """Store AWS credentials; those with a known access key are replaced (specification 9.3.17)."""
        if event.aws is None or not event.aws.access_key_id:
            return
        entry = self._process_of(pid, event)
        if entry is None:
            return
        known = list(entry.aws_security_credentials)
        for number, one in enumerate(known):
            if one.access_key_id == event.aws.access_key_id:
                known[number] = event.aws
                break
        else:
            known.append(event.aws)
        entry.aws_security_credentials = tuple(known)

    def fetch_aws_security_credentials(self, event: Event) -> list[AWSSecurityCredentials]:
        """Return the credentials that had not expired at the event's time, and remove the others."""
        entry = self._process_of(event.pid_context.pid, event)
        if entry is None:
            return []
        at = self._state.clock.to_unix_ns(event.timestamp_ns or self._state.now_boot_ns())
        known = entry.aws_security_credentials
        valid = tuple(one for one in known if one.expiration >= at)
        if valid != known:
            entry.aws_security_credentials = valid
        return list(valid)

    def move_to_cgroup(self, entry: ProcessCacheEntry, cgroup: CGroupContext) -> None:
        """Resolve a cgroup, and store it and its container with the process."""
        found = None
        if self._cgroups is not None and self._state.book.head(entry.pid) is entry:
            found = self._cgroups.add_pid(entry.pid, cgroup)
        self.update_contexts(entry, *(found or (cgroup, ContainerContext())))

    def update_contexts(self, entry: ProcessCacheEntry, cgroup: CGroupContext, container: ContainerContext) -> None:
        """Store each of the contexts that is not null. Descendants do not change."""
        values: dict[str, object] = {}
        if not cgroup.is_null:
            values["cgroup"] = cgroup
            inode = cgroup.path_key.inode
            head = None if entry.is_free else self._state.book.head(entry.pid)
            if head is entry and inode and inode != entry.cgroup.path_key.inode:
                task_record = entry_records.cgroup_task(inode)
                now = self._state.now_boot_ns()
                self._state.applier.apply_records(
                    entry_records.header(declared.KIND_CGROUP, entry.pid, entry.tid, now, entry.start_boot_ns),
                    task_record.task, known=task_record.known,
                )  # fmt: skip
        if not container.is_null:
            values["container"] = container
        if values:
            entry.set(**values)

    def complete_batch(self) -> int:
        """Add to rows what they inherit and no record carries; see `EBPFResolver.complete_batch`."""
        done = 0
        for link in self._state.applier.take_heirs():
            entry = self._state.book.of_link(link)
            before = entry.ancestor if entry is not None else None
            if entry is None or before is None:
                continue
            entry.inherit_from(before)
            if before.pid != entry.pid and entry.tracer_metadata is None and before.tracer_metadata is not None:
                entry.tracer_metadata = before.tracer_metadata
            done += 1
        return done

"""What events change of entries that are there: arguments to come, credentials, contexts, what agents tell.

The methods of specification 3.4 that update, those of the kinds of table 2.1 that name no method (capabilities, user
sessions), and what a live batch inherits beyond its records. Looking up is in `lookup`, entering in `insertion`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pipeline.procfs.tracer_metadata import read_tracer_metadata
from pipeline.records import kinds as events
from pipeline.resolver.api.reparenting import Reparenting
from pipeline.resolver.entries import entry_records as records
from pipeline.resolver.entries.cache_entry import ProcessCacheEntry
from pipeline.resolver.entries.event import ArgsEnvsEvent, Event
from pipeline.resolver.entries.model import (
    AWSSecurityCredentials,
    CGroupContext,
    ContainerContext,
    Credentials,
    UserSessionContext,
)
from pipeline.shm.layout import tables as layout

_UID = layout.KNOWN_CREDS
_CAPS = layout.KNOWN_CAPS
_AUID = layout.KNOWN_AUID


class Updates(Reparenting):
    """The part of the eBPF resolver that updates entries."""

    def update_args_envs(self, event: ArgsEnvsEvent) -> None:
        """Keep a chunk of arguments or environment for the exec event that follows."""
        with self.lock:
            self.args_envs.update(event.id, event.payload, event.count)

    def update_uid(self, pid: int, e: Event) -> None:
        """A setuid-like call succeeded: `e.credentials` has uid, euid, fsuid and their names."""
        self._update_credentials(pid, e, ("uid", "euid", "fsuid", "user", "euser", "fsuser"), _UID)

    def update_gid(self, pid: int, e: Event) -> None:
        """A setgid-like call succeeded: `e.credentials` has gid, egid, fsgid and their names."""
        self._update_credentials(pid, e, ("gid", "egid", "fsgid", "group", "egroup", "fsgroup"), _UID)

    def update_capset(self, pid: int, e: Event) -> None:
        """capset succeeded: `e.credentials` has the effective and the permitted capabilities."""
        self._update_credentials(pid, e, ("cap_effective", "cap_permitted"), _CAPS)

    def update_login_uid(self, pid: int, e: Event) -> None:
        """The login uid was set: `e.credentials.auid`."""
        self._update_credentials(pid, e, ("auid",), _AUID)

    def _process_of_event(self, pid: int, e: Event) -> ProcessCacheEntry | None:
        """The process that an event is about: the one that it names by its start, or whoever has the pid now."""
        start = e.pid_context.start_boot_ns
        return self.book.of_identity(pid, start) if start else self.book.head(pid)

    def _update_credentials(self, pid: int, e: Event, names: tuple[str, ...], group: int) -> None:
        # The credentials of other threads are not the process'.
        if e.pid_context.pid != e.pid_context.tid or e.credentials is None:
            return
        with self.lock:
            entry = self._process_of_event(pid, e)
            if entry is None:
                return
            wanted: Credentials = replace(entry.credentials, **{name: getattr(e.credentials, name) for name in names})
            told = records.credentials_task(entry, wanted, group)
            context = e.pid_context
            self.applier.apply_records(
                records.head(
                    events.KIND_CRED, pid, context.tid, e.timestamp_ns or self.now_boot_ns(), entry.start_boot_ns,
                    context.ppid, context.parent_start_boot_ns,
                ),
                told.task, known=told.known,
            )  # fmt: skip
            records.keep_names(entry, wanted)

    def add_tracer_metadata(self, pid: int, event: Event) -> None:
        """Read what a tracer sealed in the memfd `event.fd` and keep it with the process.

        Raises:
            FrameError: it cannot be read or decoded; `reason` says why.
        """
        metadata = read_tracer_metadata(pid, event.fd)
        with self.lock:
            entry = self._process_of_event(pid, event)
            # The memfd is of who has the pid now.
            if entry is not None and entry is self.book.head(pid):
                entry.tracer_metadata = metadata

    def update_aws_security_credentials(self, pid: int, e: Event) -> None:
        """Keep what a metadata service said of credentials. A known access key is refreshed (specification 9.3.17)."""
        if e.aws is None or not e.aws.access_key_id:
            return
        with self.lock:
            entry = self._process_of_event(pid, e)
            if entry is None:
                return
            known = list(entry.aws_security_credentials)
            for number, one in enumerate(known):
                if one.access_key_id == e.aws.access_key_id:
                    known[number] = e.aws
                    break
            else:
                known.append(e.aws)
            entry.aws_security_credentials = tuple(known)

    def fetch_aws_security_credentials(self, e: Event) -> list[AWSSecurityCredentials]:
        """The credentials of the event's process that had not expired at its time; the others are forgotten."""
        with self.lock:
            entry = self._process_of_event(e.pid_context.pid, e)
            if entry is None:
                return []
            at = self.clock.to_unix_ns(e.timestamp_ns or self.now_boot_ns())
            known = entry.aws_security_credentials
            valid = tuple(one for one in known if one.expiration >= at)
            if valid != known:
                entry.aws_security_credentials = valid
            return list(valid)

    def update_capabilities_usage(self, pce: ProcessCacheEntry, attempted: int, used: int) -> None:
        """Capability checks were made for a process: masks of those asked for and of those that it had (1.3)."""
        with self.lock:
            pce.set(caps_attempted=pce.caps_attempted | attempted, caps_used=pce.caps_used | used)

    def update_user_session(self, pce: ProcessCacheEntry, session: UserSessionContext) -> None:
        """Somebody tells who is behind a process; its ssh part goes to what the process forks and executes (5.2)."""
        with self.lock:
            pce.set(user_session=session, user_session_id=session.id)

    def move_to_cgroup(self, pce: ProcessCacheEntry, cgroup_context: CGroupContext) -> None:
        """A process was moved to a cgroup, or its cgroup is being traced: resolve it, and take both contexts."""
        with self.lock:
            found = None
            if self.cgroup_resolver is not None and self.book.head(pce.pid) is pce:
                found = self.cgroup_resolver.add_pid(pce.pid, cgroup_context)
            self.update_process_contexts(pce, *(found or (cgroup_context, ContainerContext())))

    def update_process_contexts(
        self, pce: ProcessCacheEntry, cgroup_context: CGroupContext, container_context: ContainerContext
    ) -> None:
        """The process was moved: take each context that is not null. Descendants are not touched."""
        with self.lock:
            values: dict[str, Any] = {}
            if not cgroup_context.is_null:
                values["cgroup"] = cgroup_context
                inode = cgroup_context.path_key.inode
                head = None if pce.is_free else self.book.head(pce.pid)
                if head is pce and inode and inode != pce.cgroup.path_key.inode:
                    told = records.cgroup_task(inode)
                    self.applier.apply_records(
                        records.head(events.KIND_CGROUP, pce.pid, pce.tid, self.now_boot_ns(), pce.start_boot_ns),
                        told.task, known=told.known,
                    )  # fmt: skip
            if not container_context.is_null:
                values["container"] = container_context
            if values:
                pce.set(**values)

    def complete_batch(self) -> int:
        """Give rows what they inherit beside what they have already; returns how many got some.

        The ssh session goes to forks and execs (specification 5.2), tracer metadata to forks (5.3). The applier does so
        by itself, but for a process that was entered from procfs before its fork was told. For the duty cycle, after
        a batch with `has_heirs`.
        """
        done = 0
        with self.lock:
            for link in self.applier.take_heirs():
                entry = self.book.of_link(link)
                before = entry.ancestor if entry is not None else None
                if entry is None or before is None:
                    continue
                entry.inherit_from(before)
                if before.pid != entry.pid and entry.tracer_metadata is None and before.tracer_metadata is not None:
                    entry.tracer_metadata = before.tracer_metadata
                done += 1
        return done

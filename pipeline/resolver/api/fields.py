"""Fill single fields of an entry (specification 3.4): arguments, environment, terminal, names, times, cookie.

It does not insert entries: `insertion` does. `completion` calls these methods in the order of specification 3.3.10.
"""

from __future__ import annotations

import os
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from pipeline.procfs.tty import procfs_tty
from pipeline.resolver.api.state import ResolverState
from pipeline.resolver.entries import args_views
from pipeline.resolver.entries.cache_entry import FreeStore, ProcessCacheEntry
from pipeline.resolver.entries.collaborators import UserGroupResolver
from pipeline.resolver.entries.model import Credentials, PIDContext
from pipeline.secrets.argsenvs import ArgScrubber, ArgsEntry, ArgsEnvsCache, EnvsEntry
from pipeline.shm.names.symlinks import symlink_names

if TYPE_CHECKING:
    from pipeline.resolver.entries.event import ArgsEnvsEvent


def new_entry(pid_context: PIDContext) -> ProcessCacheEntry:
    """Create an empty entry with this context and a random cookie, in no table."""
    cookie = int.from_bytes(os.urandom(4)) << 32 | time.time_ns() & 0xFFFFFFFF
    return ProcessCacheEntry.of_context(pid_context, cookie=cookie)


class FieldFiller:
    """Fills single fields of entries.

    Args:
        state: of the resolver.
        scrubber: hides secrets in arguments; None: nothing is hidden.
        users: names of users and groups; None: names stay empty.

    Attributes:
        chunks: arguments and environments that arrived before their exec event.
    """

    def __init__(self, state: ResolverState, scrubber: ArgScrubber | None, users: UserGroupResolver | None) -> None:
        self._state = state
        self._scrubber = scrubber
        self._users = users
        self.chunks = ArgsEnvsCache()

    def add_chunk(self, event: ArgsEnvsEvent) -> None:
        """Store a chunk of arguments or environment until its exec event arrives."""
        self.chunks.update(event.id, event.payload, event.count)

    def set_boot_times(self, entry: ProcessCacheEntry) -> None:
        """Convert an entry's times from the boot clock to Unix time; a second call does nothing.

        The boot clock counts suspend, and one offset in ns is used, so there is no drift to correct.
        """
        store = entry.store
        if not isinstance(store, FreeStore) or not store.times_are_boot:
            return
        store.times_are_boot = False
        for name, value in (
            ("fork_time", entry.fork_time), ("exec_time", entry.exec_time), ("exit_time", entry.exit_time),
        ):  # fmt: skip
            if value is not None:  # 0 is the kernel's unset time
                store.update({name: self._state.clock.to_unix_ns(value) if value else None})

    def set_args(self, entry: ProcessCacheEntry) -> None:
        """Attach the arguments that arrived before the exec event; does nothing if their id is unknown."""
        taken = self._take("args", entry.args_id, entry.args_truncated)
        if taken is not None:
            args = ArgsEntry(*taken)
            if not entry.is_free:
                args = self.storable(args, None)[0] or args
            entry.set(args_entry=args, args_truncated=taken[1])

    def set_envs(self, entry: ProcessCacheEntry) -> None:
        """Attach the environment that arrived before the exec event, if environments are enabled."""
        if not self._state.opts.envs_resolution_enabled:
            return
        taken = self._take("envs", entry.envs_id, entry.envs_truncated)
        if taken is not None:
            envs = EnvsEntry(*taken)
            if not entry.is_free:
                envs = self.storable(None, envs)[1] or envs
            entry.set(envs_entry=envs, envs_truncated=taken[1])

    def _take(self, what: str, chunk_id: int, is_cut: bool) -> tuple[list[str], bool] | None:
        """Remove the chunks of an id and count them; None if there are none.

        Args:
            what: "args" or "envs".
            chunk_id: the id.
            is_cut: the exec event reports that the kernel had no room for further chunks.
        """
        taken = self.chunks.take(chunk_id) if chunk_id else None
        if taken is None:
            return None
        values, is_truncated = taken[0], taken[1] or is_cut
        if is_truncated:
            self._state.stats.add(f"{what}_truncated")
        self._state.stats.add(f"{what}_size", n=len(values))
        return values, is_truncated

    def set_tty(self, entry: ProcessCacheEntry) -> str:
        """Read a missing terminal from ``/proc``, if that is enabled; returns the terminal's name.

        The resolver's lock is released meanwhile.
        """
        if entry.tty_name or not self._state.opts.tty_fallback_enabled:
            return entry.tty_name
        with self._state.lock.put_down():
            name = procfs_tty(entry.pid)
        if not entry.tty_name:
            entry.tty_name = name
        return entry.tty_name

    def set_users_groups(self, entry: ProcessCacheEntry) -> None:
        """Set the names of the six ids, as the container of the process defines them; "" for an unknown id."""
        credentials = self._with_names(entry, entry.credentials)
        if credentials != entry.credentials:
            entry.credentials = credentials

    def set_symlink(self, entry: ProcessCacheEntry) -> None:
        """Set the names under which a busybox or a linked executable was invoked."""
        args = entry.args_entry
        argv0 = args.argv0 if args is not None else ""
        names = symlink_names(entry.file_event.pathname, argv0, entry.is_through_symlink)
        if names is not None:
            entry.set(symlink_paths=names.paths, symlink_basename=names.basename)

    def _with_names(self, entry: ProcessCacheEntry, credentials: Credentials) -> Credentials:
        if self._users is None:
            return credentials
        view = entry.mnt_ns if not entry.container.is_null else 0
        names: dict[str, str] = {}
        for name, resolve, number in (
            ("user", self._users.user, credentials.uid), ("euser", self._users.user, credentials.euid),
            ("fsuser", self._users.user, credentials.fsuid), ("group", self._users.group, credentials.gid),
            ("egroup", self._users.group, credentials.egid), ("fsgroup", self._users.group, credentials.fsgid),
        ):  # fmt: skip
            try:
                names[name] = resolve(number, entry.pid, view)
            except (LookupError, OSError):
                names[name] = ""
        return replace(credentials, **names)  # type: ignore[arg-type]  # all of these fields are texts

    def storable(self, args: ArgsEntry | None, envs: EnvsEntry | None) -> tuple[ArgsEntry | None, EnvsEntry | None]:
        """Return the form of arguments and environment that may be stored in the tables."""
        return args_views.kept(args, envs, self._scrubber, self._state.opts)

"""One image of one process as the resolver's interface sees it: fields of specification 1, operations of section 5.

An entry's fields live in a *store*. A new entry has a `FreeStore`, a plain dictionary; when the resolver inserts it, it
gets a `RowStore` (`entry_rows`), and from then on its fields are those of a row of the shared tables. The operations
here do not know the difference. Entries are compared by identity: there is one object for one row.

Differs from the baseline as specification 9 asks: no child lists are kept (the tables index children by their parent's
pid), an unset login uid is what is inherited over, and an exec parent sets `is_exec_exec` for the same pid only.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Protocol

from pipeline.procfs.info import UNSET
from pipeline.procfs.tracer_metadata import TracerMetadata
from pipeline.records.limits import LINEAGE_LIMIT
from pipeline.resolver.entries.model import (
    NO_FILE,
    AWSSecurityCredentials,
    CGroupContext,
    ContainerContext,
    Credentials,
    FileEvent,
    LineageError,
    PIDContext,
    Source,
    UserSessionContext,
)
from pipeline.secrets.argsenvs import ArgsEntry, EnvsEntry, equal_entries, equal_envs
from pipeline.shm.reader import lineage

#: Fields and what they are where nobody has set them.
DEFAULTS: dict[str, Any] = {
    "pid": 0, "tid": 0, "ppid": 0, "net_ns": 0, "mnt_ns": 0, "is_kworker": False, "sid": 0, "exec_inode": 0,
    "user_session_id": 0, "nsid": 0, "start_boot_ns": 0, "file_event": NO_FILE, "interpreter": NO_FILE,
    "cgroup": CGroupContext(), "container": ContainerContext(), "tty_name": "", "comm": "", "fork_time": None,
    "exec_time": None, "exit_time": None, "fork_flags": 0, "cookie": 0, "credentials": Credentials(),
    "caps_attempted": 0, "caps_used": 0, "user_session": UserSessionContext(), "aws_security_credentials": (),
    "tracer_metadata": None, "span_id": 0, "trace_id": 0, "args_id": 0, "envs_id": 0, "args_entry": None,
    "envs_entry": None, "args_truncated": False, "envs_truncated": False, "symlink_paths": (),
    "symlink_basename": "", "is_exec": False, "is_exec_exec": False, "is_parent_missing": False,
    "source": Source.UNKNOWN, "is_through_symlink": False, "ancestor": None,
}  # fmt: skip

#: What a forked process takes over from its parent (5.3).
_COPIED_AT_FORK = (
    "tty_name", "comm", "file_event", "exec_time", "credentials", "interpreter", "cookie", "tracer_metadata",
)  # fmt: skip


class Store(Protocol):
    """Where an entry's fields are."""

    def get(self, name: str) -> Any: ...

    def update(self, values: dict[str, Any]) -> None:
        """Set several fields at once."""
        ...


class FreeStore:
    """Fields of an entry that no table holds; `told` names those that somebody has set."""

    __slots__ = ("_values", "times_are_boot")

    def __init__(self, values: dict[str, Any]) -> None:
        self._values = values
        #: Times are still of the kernel's boot clock; `apply_boot_time` turns them into Unix time, once.
        self.times_are_boot = True

    def get(self, name: str) -> Any:
        value = self._values.get(name, self)
        return DEFAULTS[name] if value is self else value

    def update(self, values: dict[str, Any]) -> None:
        self._values.update(values)

    @property
    def told(self) -> dict[str, Any]:
        return self._values


class _Field:
    """A field of the entry, wherever it is stored."""

    __slots__ = ("_name",)

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, entry: ProcessCacheEntry | None, owner: type | None = None) -> Any:
        return self if entry is None else entry._store.get(self._name)

    def __set__(self, entry: ProcessCacheEntry, value: Any) -> None:
        entry._store.update({self._name: value})


class ProcessCacheEntry:
    """One image of one process: a fork makes one, an exec makes another one for the same pid.

    `ancestor` of an exec is the image that it replaced, of a fork an entry of the parent: compare pids to tell the two.
    Times are in ns since the Unix epoch or None; `exit_time` of an image that was replaced is the time of the exec.

    Raises (by any field): TooOldError: the entry was in the tables, and is not retained any more.
    """

    pid: int = _Field()  # type: ignore[assignment]
    tid: int = _Field()  # type: ignore[assignment]
    ppid: int = _Field()  # type: ignore[assignment]
    net_ns: int = _Field()  # type: ignore[assignment]
    mnt_ns: int = _Field()  # type: ignore[assignment]
    is_kworker: bool = _Field()  # type: ignore[assignment]
    sid: int = _Field()  # type: ignore[assignment]
    exec_inode: int = _Field()  # type: ignore[assignment]
    user_session_id: int = _Field()  # type: ignore[assignment]
    nsid: int = _Field()  # type: ignore[assignment]
    start_boot_ns: int = _Field()  # type: ignore[assignment]
    file_event: FileEvent = _Field()  # type: ignore[assignment]
    interpreter: FileEvent = _Field()  # type: ignore[assignment]
    cgroup: CGroupContext = _Field()  # type: ignore[assignment]
    container: ContainerContext = _Field()  # type: ignore[assignment]
    tty_name: str = _Field()  # type: ignore[assignment]
    comm: str = _Field()  # type: ignore[assignment]
    fork_time: int | None = _Field()  # type: ignore[assignment]
    exec_time: int | None = _Field()  # type: ignore[assignment]
    exit_time: int | None = _Field()  # type: ignore[assignment]
    fork_flags: int = _Field()  # type: ignore[assignment]
    cookie: int = _Field()  # type: ignore[assignment]
    credentials: Credentials = _Field()  # type: ignore[assignment]
    caps_attempted: int = _Field()  # type: ignore[assignment]
    caps_used: int = _Field()  # type: ignore[assignment]
    user_session: UserSessionContext = _Field()  # type: ignore[assignment]
    aws_security_credentials: tuple[AWSSecurityCredentials, ...] = _Field()  # type: ignore[assignment]
    tracer_metadata: TracerMetadata | None = _Field()  # type: ignore[assignment]
    span_id: int = _Field()  # type: ignore[assignment]
    trace_id: int = _Field()  # type: ignore[assignment]
    args_id: int = _Field()  # type: ignore[assignment]
    envs_id: int = _Field()  # type: ignore[assignment]
    args_entry: ArgsEntry | None = _Field()  # type: ignore[assignment]
    envs_entry: EnvsEntry | None = _Field()  # type: ignore[assignment]
    args_truncated: bool = _Field()  # type: ignore[assignment]
    envs_truncated: bool = _Field()  # type: ignore[assignment]
    symlink_paths: tuple[str, ...] = _Field()  # type: ignore[assignment]
    symlink_basename: str = _Field()  # type: ignore[assignment]
    is_exec: bool = _Field()  # type: ignore[assignment]
    is_exec_exec: bool = _Field()  # type: ignore[assignment]
    is_parent_missing: bool = _Field()  # type: ignore[assignment]
    source: Source = _Field()  # type: ignore[assignment]
    is_through_symlink: bool = _Field()  # type: ignore[assignment]
    ancestor: ProcessCacheEntry | None = _Field()  # type: ignore[assignment]

    def __init__(self, store: Store | None = None, **fields: Any) -> None:
        """An entry with these fields, in no table."""
        for name in fields:
            if name not in DEFAULTS:
                raise TypeError(f"an entry has no field {name!r}")
        self._store: Store = FreeStore(fields) if store is None else store
        #: Views of arguments and environment that were computed: name -> value (Argv0, Argv, Envs, Envp of 1.3).
        self._argv: dict[str, Any] = {}

    @classmethod
    def of_context(cls, context: PIDContext, **fields: Any) -> ProcessCacheEntry:
        """An entry of the process that made an event."""
        told = {
            name: value
            for name in _CONTEXT_FIELDS
            if (value := getattr(context, name))
        }  # fmt: skip
        return cls(**{**told, **fields})

    def __repr__(self) -> str:
        kind = "exec" if self.is_exec else "fork"
        return f"<ProcessCacheEntry {self.pid} {self.comm!r} {kind}{' exited' if self.exit_time else ''}>"

    @property
    def store(self) -> Store:
        """Where the fields are: a FreeStore, or the RowStore of an entry that is in the tables."""
        return self._store

    @property
    def is_free(self) -> bool:
        """No table holds this entry."""
        return isinstance(self._store, FreeStore)

    def set(self, **fields: Any) -> None:
        """Set several fields at once; in the tables they become visible together."""
        self._store.update(fields)

    def move_to(self, store: Store) -> None:
        """From now on the fields are those of `store`."""
        self._store = store

    # -- derived -------------------------------------------------------------------------------------------------------

    @property
    def pid_context(self) -> PIDContext:
        """The entry's process context."""
        return PIDContext(**{name: getattr(self, name) for name in _CONTEXT_FIELDS})

    @property
    def is_thread(self) -> bool:
        """Not an exec. (The reference's name for it.)"""
        return not self.is_exec

    @property
    def has_interpreter(self) -> bool:
        """It runs a script: there is an interpreter file."""
        return self.interpreter.inode != 0

    @property
    def is_not_kworker(self) -> bool:
        return not self.is_kworker

    @property
    def created_at(self) -> int:
        """When the image came to be: the later of fork and exec, ns since the Unix epoch; 0 unknown."""
        return max(self.exec_time or 0, self.fork_time or 0)

    @property
    def auid(self) -> int:
        """Login uid; 4294967295 is unset."""
        return self.credentials.auid

    @property
    def has_ended(self) -> bool:
        """Whether the process has ended: an image that an exec replaced has an exit time while its process lives."""
        store = self._store
        if not getattr(store, "is_replaced", False):
            return self.exit_time is not None
        head: ProcessCacheEntry | None = store.head()  # type: ignore[attr-defined]
        return head is None or head.exit_time is not None

    # -- lineage (5.1 to 5.7) ------------------------------------------------------------------------------------------

    def set_ancestor(self, parent: ProcessCacheEntry | None) -> None:
        """Link, and fill what is unknown from the parent; nothing when it is linked so already."""
        if self.ancestor is parent:
            return
        self.ancestor = parent
        if parent is not None:
            self.inherit_from(parent)

    def inherit_from(self, parent: ProcessCacheEntry) -> None:
        """Fill gaps from the parent (5.2): ssh session, login uid, cgroup, container, namespaces.

        In the same container or cgroup, also the parts of it that only the parent has (tags, version, times).
        """
        values: dict[str, Any] = {}
        session = parent.user_session
        if session.ssh.ssh_session_id and self.user_session.ssh != session.ssh:
            values["user_session"] = replace(self.user_session, ssh=session.ssh)
        credentials = self.credentials
        if credentials.auid == UNSET and parent.credentials.auid != UNSET:
            values["credentials"] = replace(credentials, auid=parent.credentials.auid)
        if self.cgroup.is_null and not parent.cgroup.path_key.is_null:
            values["cgroup"] = parent.cgroup
            # A container is known by its cgroup: that of another cgroup would be a guess.
            if self.container.is_null and not parent.container.is_null:
                values["container"] = parent.container
        elif (
            self.container.is_null
            and not parent.container.is_null
            and (self.cgroup.is_null or self.cgroup.equals(parent.cgroup))
        ):
            values["container"] = parent.container
        if not self.cgroup.is_null and self.cgroup.equals(parent.cgroup):
            _fill(values, "cgroup", self.cgroup, parent.cgroup, ("version", "created_at"))
        if not self.container.is_null and self.container.container_id == parent.container.container_id:
            _fill(values, "container", self.container, parent.container, ("created_at", "tags", "resolved"))
        if not self.net_ns and parent.net_ns:
            values["net_ns"] = parent.net_ns
        if not self.mnt_ns and parent.mnt_ns:
            values["mnt_ns"] = parent.mnt_ns
        if values:
            self.set(**values)

    def fork(self, child: ProcessCacheEntry) -> None:
        """`child` is a fork of this one."""
        child.set(ppid=self.pid, **{name: getattr(self, name) for name in _COPIED_AT_FORK})
        child.set_fork_parent(self)

    def set_fork_parent(self, parent: ProcessCacheEntry) -> None:
        """Link a fork to its parent; arguments and environment are the parent's own objects."""
        self.set_ancestor(parent)
        self.set(args_entry=parent.args_entry, envs_entry=parent.envs_entry)

    def exec(self, entry: ProcessCacheEntry) -> None:
        """`entry` is the image that replaces this one."""
        entry.set_exec_parent(self)
        if entry.exec_time is not None:
            self.exit(entry.exec_time)

    def set_exec_parent(self, parent: ProcessCacheEntry) -> None:
        """Link an exec to the image before, or to the parent where the image between is unknown."""
        self.set_ancestor(parent)
        self.set(is_exec=True, is_exec_exec=parent.is_exec and parent.pid == self.pid)

    def set_as_exec(self) -> None:
        """Mark as made by an exec."""
        self.is_exec = True

    def exit(self, time: int) -> None:
        """The image ended at `time`, ns since the Unix epoch. May be repeated with another time."""
        self.exit_time = time

    def reparent(self, parent: ProcessCacheEntry) -> bool:
        """`parent` is the parent now, and the lineage counts as whole again here.

        The edge that moves is that of the oldest image of this process (specification 9.2), so its exec history stays.

        Returns:
            False, with nothing changed, where the tables know that `parent` is younger than this process.
        """
        mover = getattr(self._store, "reparent", None)
        if mover is not None:
            if not mover(parent):
                return False
            self.inherit_from(parent)
            return True
        root = self.root
        self.set(ppid=parent.pid, is_parent_missing=False)
        if root is not self:
            root.set(ppid=parent.pid, is_parent_missing=False)
        root.set_ancestor(parent)
        return True

    def apply_exec_time_of(self, entry: ProcessCacheEntry) -> None:
        """Take the other one's exec time, nothing else."""
        self.exec_time = entry.exec_time

    @property
    def root(self) -> ProcessCacheEntry:
        """The oldest image of this process that is known: the one whose ancestor is the parent."""
        entry = self
        for _ in range(LINEAGE_LIMIT):
            before = entry.ancestor
            if before is None or before.pid != entry.pid:
                break
            entry = before
        return entry

    @property
    def children(self) -> list[ProcessCacheEntry]:
        """Live children in the tables; an entry that is in none, or no process' newest image, has none."""
        lister = getattr(self._store, "children", None)
        return [] if lister is None else lister()

    def remove_child(self, child: ProcessCacheEntry) -> None:
        """Take a child out of the index of children; nothing when it is not there."""
        remover = getattr(self._store, "remove_child", None)
        if remover is not None:
            remover(child)

    def chain(self) -> Iterator[ProcessCacheEntry]:
        """This entry and all that it descends from, newest first."""
        entry: ProcessCacheEntry | None = self
        for _ in range(LINEAGE_LIMIT):
            if entry is None:
                return
            yield entry
            entry = entry.ancestor

    # -- questions (5.9 to 5.11) ---------------------------------------------------------------------------------------

    def equals(self, other: ProcessCacheEntry) -> bool:
        """Same file, credentials, arguments and environment: what an exec of the same program again looks like.

        The tables have arguments and environment with secrets hidden. Where it is not known any more what they were, as
        after a restart, two that differ in these only are equal.
        """
        if not self.file_event.equals(other.file_event) or not self.credentials.equals(other.credentials):
            return False
        digests = getattr(self._store, "digest", 0), getattr(other._store, "digest", 0)
        if all(digests):
            return digests[0] == digests[1]
        return equal_entries(self.args_entry, other.args_entry) and equal_envs(self.envs_entry, other.envs_entry)

    def has_valid_lineage(self) -> tuple[bool, LineageError | None]:
        """Whether the chain leads to pid 1 without a gap, and if not, why. Computed each time."""
        fault = lineage.fault(self.chain(), _container)
        return fault is None, fault

    def has_complete_lineage(self) -> bool:
        """Whether pid 1 is on the chain."""
        return any(entry.pid == 1 for entry in self.chain())

    def get_ancestors_pids(self) -> list[int]:
        """Distinct pids of the whole chain, this one first."""
        return lineage.pids(self.chain())

    def get_container_pids(self) -> tuple[list[int], list[str]]:
        """Pids and executables up the chain as far as it is in a container, by the newest image of each."""
        return lineage.in_container(self.chain(), _container, lambda entry: entry.file_event.pathname)

    def is_container_root(self) -> bool:
        """In a container, and its ancestor is in none."""
        before = self.ancestor
        return not self.container.is_null and before is not None and before.container.is_null

    # -- computed views of arguments and environment (1.3), set by the functions of `args_views` -----------------------

    def view(self, name: str) -> Any:
        """A computed view ("argv0", "argv", "argv_scrubbed", "envs", "envp"), None when it was not computed."""
        return self._argv.get(name)

    def set_view(self, name: str, value: Any) -> None:
        """Keep a computed view."""
        self._argv[name] = value


def _fill[T: (CGroupContext, ContainerContext)](
    values: dict[str, Any], name: str, own: T, other: T, fields: tuple[str, ...]
) -> None:
    """Add `own` to `values` with those of `fields` that only `other` has."""
    missing = {field: getattr(other, field) for field in fields if not getattr(own, field) and getattr(other, field)}
    if missing:
        values[name] = replace(own, **missing)


def _container(entry: ProcessCacheEntry) -> str:
    return entry.container.container_id


#: The specification's name for what an entry is besides its place in the tree.
Process = ProcessCacheEntry

_CONTEXT_FIELDS = (
    "pid", "tid", "ppid", "net_ns", "mnt_ns", "is_kworker", "sid", "exec_inode", "user_session_id", "nsid",
    "start_boot_ns",
)  # fmt: skip


def placeholder(pid: int, tid: int, is_kworker: bool = False) -> ProcessCacheEntry:
    """What an event gets whose process cannot be resolved: an own one each time, with names resolved to empty."""
    empty = NO_FILE.with_names("", "")
    return ProcessCacheEntry(
        pid=pid, tid=tid, is_kworker=is_kworker, source=Source.PLACEHOLDER, file_event=empty, interpreter=empty
    )

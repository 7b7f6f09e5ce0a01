"""One image of one process as the resolver's interface shows it: fields of specification 1, operations of section 5.

A store holds an entry's fields. A new entry has a `FreeStore`, a plain dictionary. When the resolver inserts the entry,
it moves to a `RowStore` (`entry_rows`), and from then on its fields are those of a row of the shared tables. A row has
one entry object, so entries are compared by identity.

An entry differs from that of the reference as specification 9 asks. It holds no list of children, because the tables
index children by their parent's pid. It inherits an unset login uid from its parent. `is_exec_exec` is set only if both
images have the same pid.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import takewhile
from typing import TYPE_CHECKING, Generic, Literal, Protocol, Self, TypeAlias, TypeVar, cast, overload

from pipeline.procfs.info import UNSET
from pipeline.records.limits import LINEAGE_LIMIT
from pipeline.resolver.entries.model import (
    NO_FILE,
    AWSSecurityCredentials,
    CGroupContext,
    ContainerContext,
    Credentials,
    LineageError,
    PIDContext,
    Source,
    UserSessionContext,
)
from pipeline.secrets.argsenvs import ArgsEntry, EnvsEntry, equal_entries, equal_envs
from pipeline.shm.reader import lineage

if TYPE_CHECKING:
    from pipeline.procfs.tracer_metadata import TracerMetadata

#: Fields that a forked process copies from its parent (5.3).
_COPIED_AT_FORK = (
    "tty_name", "comm", "file_event", "exec_time", "credentials", "interpreter", "cookie", "tracer_metadata",
)  # fmt: skip

_IDS = ("uid", "gid", "euid", "egid", "fsuid", "fsgid")
_NAMES_OF_IDS = ("user", "group", "euser", "egroup", "fsuser", "fsgroup")

#: Views of arguments and environment that are lists of strings.
ListView: TypeAlias = Literal["argv", "argv_scrubbed", "envs", "envp"]

_T = TypeVar("_T")
_Context = TypeVar("_Context", CGroupContext, ContainerContext, Credentials)


class FreeStore:
    """Fields of an entry that is not in the tables.

    Attributes:
        values: the fields that a caller has set.
        times_are_boot: the times are still on the kernel's boot clock; `apply_boot_time` converts them once.
    """

    __slots__ = ("times_are_boot", "values")

    def __init__(self, values: dict[str, object]) -> None:
        self.values = values
        self.times_are_boot = True

    def get(self, name: str) -> object:
        """Return a field; its default if no caller has set it."""
        value = self.values.get(name, self)
        return DEFAULTS[name] if value is self else value

    def update(self, values: dict[str, object]) -> None:
        """Set several fields."""
        self.values.update(values)


class TableStore(Protocol):
    """Fields and relations of an entry that is a row of the shared tables; `entry_rows.RowStore` implements it."""

    def get(self, name: str) -> object:
        """Return a field."""

    def update(self, values: dict[str, object]) -> None:
        """Set several fields; readers see all of them or none."""

    @property
    def is_replaced(self) -> bool:
        """Whether a later image of the process has replaced this one."""

    @property
    def digest(self) -> int:
        """Digest of arguments and environment from before secrets were hidden; 0: unknown."""

    def head(self) -> ProcessCacheEntry | None:
        """Return the newest image of the process; None if another process has the pid now."""

    def reparent(self, parent: ProcessCacheEntry) -> bool:
        """Move the process below `parent`; False if `parent` is younger."""

    def children(self) -> list[ProcessCacheEntry]:
        """Return the live children."""

    def remove_child(self, child: ProcessCacheEntry) -> None:
        """Remove a child from the index of children."""


class Field(Generic[_T]):
    """A field of `ProcessCacheEntry`, read from and written to the entry's store.

    Args:
        default: the value in an entry where no caller has set the field.
    """

    __slots__ = ("_name", "default")

    def __init__(self, default: _T) -> None:
        self.default = default

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    @overload
    def __get__(self, entry: None, owner: type) -> Self: ...

    @overload
    def __get__(self, entry: ProcessCacheEntry, owner: type) -> _T: ...

    def __get__(self, entry: ProcessCacheEntry | None, owner: type) -> Self | _T:
        return self if entry is None else cast("_T", entry._store.get(self._name))

    def __set__(self, entry: ProcessCacheEntry, value: _T) -> None:
        entry._store.update({self._name: value})


class ProcessCacheEntry:
    """One image of one process: a fork creates an entry, and an exec creates another one for the same pid.

    The `ancestor` of an exec is the image that it replaced; the `ancestor` of a fork is an entry of the parent. Compare
    the pids to distinguish the two. Times are in ns since the Unix epoch, or None; the `exit_time` of a replaced image
    is the time of the exec.

    Raises:
        TooOldError: by any field, if the entry was in the tables and its row has been evicted.

    Example:
        >>> sh = ProcessCacheEntry(pid=8675, ppid=8674, comm="sh")
        >>> date = ProcessCacheEntry(pid=8675, ppid=8674, comm="date", is_exec=True, ancestor=sh)
        >>> [image.comm for image in date.chain()]
        ['date', 'sh']
    """

    pid = Field(0)
    tid = Field(0)
    ppid = Field(0)
    net_ns = Field(0)
    mnt_ns = Field(0)
    is_kworker = Field(False)
    sid = Field(0)
    exec_inode = Field(0)
    user_session_id = Field(0)
    nsid = Field(0)
    start_boot_ns = Field(0)
    file_event = Field(NO_FILE)
    interpreter = Field(NO_FILE)
    cgroup = Field(CGroupContext())
    container = Field(ContainerContext())
    tty_name = Field("")
    comm = Field("")
    fork_time = Field[int | None](None)
    exec_time = Field[int | None](None)
    exit_time = Field[int | None](None)
    fork_flags = Field(0)
    cookie = Field(0)
    credentials = Field(Credentials())
    caps_attempted = Field(0)
    caps_used = Field(0)
    user_session = Field(UserSessionContext())
    aws_security_credentials = Field[tuple[AWSSecurityCredentials, ...]](())
    tracer_metadata: Field[TracerMetadata | None] = Field(None)
    span_id = Field(0)
    trace_id = Field(0)
    args_id = Field(0)
    envs_id = Field(0)
    args_entry = Field[ArgsEntry | None](None)
    envs_entry = Field[EnvsEntry | None](None)
    args_truncated = Field(False)
    envs_truncated = Field(False)
    symlink_paths = Field[tuple[str, ...]](())
    symlink_basename = Field("")
    is_exec = Field(False)
    is_exec_exec = Field(False)
    is_parent_missing = Field(False)
    source = Field(Source.UNKNOWN)
    is_through_symlink = Field(False)
    ancestor: Field[ProcessCacheEntry | None] = Field(None)

    def __init__(self, store: TableStore | None = None, **fields: object) -> None:
        """Create an entry with these fields that is in no table; with a `store`, the entry of a row."""
        for name in fields:
            if name not in DEFAULTS:
                raise TypeError(f"an entry has no field {name!r}")
        self._store: FreeStore | TableStore = FreeStore(fields) if store is None else store
        #: Computed views of arguments and environment (Argv0, Argv, Envs, Envp of 1.3).
        self._argv0: str | None = None
        self._lists: dict[ListView, list[str] | None] = {}

    @classmethod
    def of_context(cls, context: PIDContext, **fields: object) -> ProcessCacheEntry:
        """Create an entry of the process that caused an event."""
        known = {name: value for name in _CONTEXT_FIELDS if (value := getattr(context, name))}
        return cls(**{**known, **fields})

    def __repr__(self) -> str:
        kind = "exec" if self.is_exec else "fork"
        return f"<ProcessCacheEntry {self.pid} {self.comm!r} {kind}{' exited' if self.exit_time else ''}>"

    @property
    def store(self) -> FreeStore | TableStore:
        """The object that holds the fields: a FreeStore, or the RowStore of an entry in the tables."""
        return self._store

    @property
    def is_free(self) -> bool:
        """Whether the entry is in no table."""
        return isinstance(self._store, FreeStore)

    def set(self, **fields: object) -> None:
        """Set several fields at once; in the tables they become visible together."""
        self._store.update(fields)

    def move_to(self, store: TableStore) -> None:
        """Make the entry show the fields of `store` from now on."""
        self._store = store

    # -- derived -------------------------------------------------------------------------------------------------------

    @property
    def pid_context(self) -> PIDContext:
        """The entry's process context."""
        return PIDContext(**{name: getattr(self, name) for name in _CONTEXT_FIELDS})

    @property
    def is_thread(self) -> bool:
        """Whether no exec created this image; the name is that of the reference."""
        return not self.is_exec

    @property
    def has_interpreter(self) -> bool:
        """Whether the process runs a script, so that there is an interpreter file."""
        return self.interpreter.inode != 0

    @property
    def is_not_kworker(self) -> bool:
        """The opposite of `is_kworker`."""
        return not self.is_kworker

    @property
    def created_at(self) -> int:
        """When the image was created: the later of fork and exec, ns since the Unix epoch; 0: unknown."""
        return max(self.exec_time or 0, self.fork_time or 0)

    @property
    def auid(self) -> int:
        """Login uid; 4294967295 is unset."""
        return self.credentials.auid

    @property
    def has_ended(self) -> bool:
        """Whether the process has ended. A replaced image has an exit time although its process lives."""
        store = self._store
        if isinstance(store, FreeStore) or not store.is_replaced:
            return self.exit_time is not None
        head = store.head()
        return head is None or head.exit_time is not None

    # -- lineage (5.1 to 5.7) ------------------------------------------------------------------------------------------

    def set_ancestor(self, parent: ProcessCacheEntry | None) -> None:
        """Link to `parent` and inherit unknown fields from it; does nothing if the link exists."""
        if self.ancestor is parent:
            return
        self.ancestor = parent
        if parent is not None:
            self.inherit_from(parent)

    def inherit_from(self, parent: ProcessCacheEntry) -> None:
        """Fill gaps from the parent (5.2): ssh session, login uid, cgroup, container, namespaces.

        If both are in the same container or cgroup, the parts that only the parent has are filled too (tags, version,
        times). If their ids are the same as well, the names of users and groups are.
        """
        values: dict[str, object] = {}
        session = parent.user_session
        if session.ssh.ssh_session_id and self.user_session.ssh != session.ssh:
            values["user_session"] = replace(self.user_session, ssh=session.ssh)
        credentials, others = self.credentials, parent.credentials
        if credentials.auid == UNSET and others.auid != UNSET:
            values["credentials"] = credentials = replace(credentials, auid=others.auid)
        is_same_place = self.container.container_id == parent.container.container_id
        if is_same_place and all(getattr(credentials, name) == getattr(others, name) for name in _IDS):
            _fill(values, "credentials", credentials, others, _NAMES_OF_IDS)
        if self.cgroup.is_null and not parent.cgroup.path_key.is_null:
            values["cgroup"] = parent.cgroup
            # The cgroup identifies the container: the container of another cgroup would be a guess.
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
        """Make `child` a fork of this entry."""
        child.set(ppid=self.pid, **{name: getattr(self, name) for name in _COPIED_AT_FORK})
        child.set_fork_parent(self)

    def set_fork_parent(self, parent: ProcessCacheEntry) -> None:
        """Link a fork to its parent; both share the objects of arguments and environment."""
        self.set_ancestor(parent)
        self.set(args_entry=parent.args_entry, envs_entry=parent.envs_entry)

    def exec(self, entry: ProcessCacheEntry) -> None:
        """Make `entry` the image that replaces this one."""
        entry.set_exec_parent(self)
        if entry.exec_time is not None:
            self.exit(entry.exec_time)

    def set_exec_parent(self, parent: ProcessCacheEntry) -> None:
        """Link an exec to the image before it, or to the parent if the image in between is unknown."""
        self.set_ancestor(parent)
        self.set(is_exec=True, is_exec_exec=parent.is_exec and parent.pid == self.pid)

    def set_as_exec(self) -> None:
        """Mark the image as created by an exec."""
        self.is_exec = True

    def exit(self, time: int) -> None:
        """Record that the image ended at `time`, ns since the Unix epoch. A later call may correct the time."""
        self.exit_time = time

    def reparent(self, parent: ProcessCacheEntry) -> bool:
        """Make `parent` the parent; the lineage counts as complete again here.

        The edge of the oldest image of this process moves (specification 9.2), so its exec history stays.

        Returns:
            Whether the process moved: False if the tables show that `parent` is younger than this process.
        """
        store = self._store
        if not isinstance(store, FreeStore):
            if not store.reparent(parent):
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
        """Copy the other entry's exec time, and no other field."""
        self.exec_time = entry.exec_time

    @property
    def root(self) -> ProcessCacheEntry:
        """The oldest known image of this process: the one that has the parent as its ancestor."""
        pid, root = self.pid, self
        for root in takewhile(lambda image: image.pid == pid, self.chain()):  # noqa: B007 - the last one is meant
            pass
        return root

    @property
    def children(self) -> list[ProcessCacheEntry]:
        """Live children in the tables. Only the newest image of a process has any."""
        store = self._store
        return [] if isinstance(store, FreeStore) else store.children()

    def remove_child(self, child: ProcessCacheEntry) -> None:
        """Remove a child from the index of children, if it is there."""
        store = self._store
        if not isinstance(store, FreeStore):
            store.remove_child(child)

    def chain(self) -> Iterator[ProcessCacheEntry]:
        """Yield this entry and all its ancestors, newest first."""
        entry: ProcessCacheEntry | None = self
        for _ in range(LINEAGE_LIMIT):
            if entry is None:
                return
            yield entry
            entry = entry.ancestor

    # -- questions (5.9 to 5.11) ---------------------------------------------------------------------------------------

    def equals(self, other: ProcessCacheEntry) -> bool:
        """Whether file, credentials, arguments and environment are the same, as after an exec of the same program.

        The tables store arguments and environment with secrets hidden, and a digest of the originals. If a digest is
        unknown, as after a restart, the stored strings are compared, so two images that differ only in a secret are
        equal.
        """
        if not self.file_event.equals(other.file_event) or not self.credentials.equals(other.credentials):
            return False
        own, others = _digest(self._store), _digest(other._store)
        if own and others:
            return own == others
        return equal_entries(self.args_entry, other.args_entry) and equal_envs(self.envs_entry, other.envs_entry)

    def has_valid_lineage(self) -> tuple[bool, LineageError | None]:
        """Whether the chain leads to pid 1 without a gap, and if not, why. Computed at each call."""
        fault = lineage.fault(self.chain(), _container)
        return fault is None, fault

    def has_complete_lineage(self) -> bool:
        """Whether pid 1 is on the chain."""
        return any(entry.pid == 1 for entry in self.chain())

    def get_ancestors_pids(self) -> list[int]:
        """Return the distinct pids of the whole chain, this one first."""
        return lineage.pids(self.chain())

    def get_container_pids(self) -> tuple[list[int], list[str]]:
        """Return pids and executables up the chain as far as it is in a container, by the newest image of each."""
        return lineage.in_container(self.chain(), _container, lambda entry: entry.file_event.pathname)

    def is_container_root(self) -> bool:
        """Whether the entry is in a container and its ancestor is not."""
        before = self.ancestor
        return not self.container.is_null and before is not None and before.container.is_null

    # -- computed views of arguments and environment (1.3), set by the functions of `args_views` -----------------------

    @overload
    def view(self, name: Literal["argv0"]) -> str | None: ...

    @overload
    def view(self, name: ListView) -> list[str] | None: ...

    def view(self, name: Literal["argv0"] | ListView) -> str | list[str] | None:
        """Return a computed view; None if it was not computed."""
        return self._argv0 if name == "argv0" else self._lists.get(name)

    @overload
    def set_view(self, name: Literal["argv0"], value: str) -> None: ...

    @overload
    def set_view(self, name: ListView, value: list[str] | None) -> None: ...

    def set_view(self, name: Literal["argv0"] | ListView, value: str | list[str] | None) -> None:
        """Store a computed view."""
        if name == "argv0":
            self._argv0 = cast("str", value)
        else:
            self._lists[name] = cast("list[str] | None", value)


#: Fields in the order of specification 1, with their values where no caller has set them.
DEFAULTS: dict[str, object] = {
    name: field.default for name, field in vars(ProcessCacheEntry).items() if isinstance(field, Field)
}


def _digest(store: FreeStore | TableStore) -> int:
    return 0 if isinstance(store, FreeStore) else store.digest


def _fill(values: dict[str, object], name: str, own: _Context, other: _Context, fields: tuple[str, ...]) -> None:
    """Add `own` to `values` with those of `fields` that only `other` has."""
    missing = {field: getattr(other, field) for field in fields if not getattr(own, field) and getattr(other, field)}
    if missing:
        values[name] = replace(own, **missing)


def _container(entry: ProcessCacheEntry) -> str:
    return entry.container.container_id


#: The specification's name for an entry apart from its place in the tree.
Process = ProcessCacheEntry

_CONTEXT_FIELDS = (
    "pid", "tid", "ppid", "net_ns", "mnt_ns", "is_kworker", "sid", "exec_inode", "user_session_id", "nsid",
    "start_boot_ns",
)  # fmt: skip


def placeholder(pid: int, tid: int, is_kworker: bool = False) -> ProcessCacheEntry:
    """Create the entry of an event with an unknown process: a new one each time, with names resolved to empty."""
    empty = NO_FILE.with_names("", "")
    return ProcessCacheEntry(
        pid=pid, tid=tid, is_kworker=is_kworker, source=Source.PLACEHOLDER, file_event=empty, interpreter=empty
    )

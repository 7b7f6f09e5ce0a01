"""Entries that are rows of the shared tables: read and write the fields of `cache_entry` on (row, generation).

Covers `Book`, which has one entry object for each row and knows which rows count as cached, and `RowStore`, the fields.
Fields without a column are in the row's `extra`, a msgpack map with the field names of specification 1.3; `entry_extra`
defines the form of its values. The applier decides what an event does to rows.

A write changes the row's sequence word, so that a reader in another process sees all of an update or nothing. A change
that an event would make too (credentials, end, parent) passes through the applier, which publishes it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from os import fsdecode, fsencode
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar
from weakref import WeakValueDictionary

import numpy as np

from pipeline.errors import TooOldError
from pipeline.host import boot
from pipeline.procfs.info import UNSET
from pipeline.records.limits import COMM_MAX, TTY_MAX
from pipeline.resolver.apply._applier import Applier
from pipeline.resolver.entries import entry_extra
from pipeline.resolver.entries.cache_entry import DEFAULTS, ProcessCacheEntry
from pipeline.resolver.entries.model import (
    NO_FILE,
    CGroupContext,
    ContainerContext,
    Credentials,
    FileEvent,
    PathKey,
    ResolverError,
    Source,
    UserSessionContext,
)
from pipeline.secrets.argsenvs import ArgsEntry, EnvsEntry
from pipeline.shm.layout import layout
from pipeline.shm.layout.entry_fields import FIELDS
from pipeline.shm.writer._writer import TableWriter

if TYPE_CHECKING:
    import numpy.typing as npt

_SHARED_ARGS = 1024
_READ_ONLY = ("pid", "start_boot_ns")
_HOT_NAMES = layout.HOT.names or ()
#: Columns and flags that describe another field: they do not change if there was no room for that field.
_BELONGS_TO = {"args_truncated": "args_entry", "envs_truncated": "envs_entry", "user_session_id": "extra"}
_NO_INTERPRETER = NO_FILE.with_names("", "")
_EXTRA_FIELDS = (
    "nsid", "aws_security_credentials", "tracer_metadata", "span_id", "trace_id", "args_id", "envs_id",
    "symlink_paths", "symlink_basename",
)  # fmt: skip


_Strings = TypeVar("_Strings", ArgsEntry, EnvsEntry)


class Book:
    """Entry objects of one writer's tables.

    Args:
        tables, applier: the tables and their applier.
        offset_ns: Unix time of boot-clock zero.
        now_boot_ns: the boot clock.

    Attributes:
        leaving: pid -> link of its row, of each process whose exit event was applied and that stays cached until it is
            deleted.
    """

    def __init__(
        self, tables: TableWriter, applier: Applier, offset_ns: int, now_boot_ns: Callable[[], int] = boot.now_boot_ns
    ) -> None:
        self.tables = tables
        self.applier = applier
        self.offset_ns = offset_ns
        self.now_boot_ns = now_boot_ns
        self.leaving: dict[int, int] = {}
        self._entries: WeakValueDictionary[int, ProcessCacheEntry] = WeakValueDictionary()
        self._shared: OrderedDict[tuple[type, bytes, bool], ArgsEntry | EnvsEntry] = OrderedDict()

    def store(self, link: int) -> RowStore:
        """Return the fields of the row that `link` names."""
        return RowStore(self, link)

    def index(self) -> npt.NDArray[np.uint32]:
        """Return the part of the index that this book covers: pids of the root pid namespace."""
        return self.tables.index_view()[: self.tables.root_pids]

    def entry(self, row: int) -> ProcessCacheEntry:
        """Return the entry object of a row that is in use."""
        link = self.tables.py_link(row)
        entry = self._entries.get(link)
        if entry is None:
            entry = ProcessCacheEntry(self.store(link))
            self._entries[link] = entry
        return entry

    def of_link(self, link: int) -> ProcessCacheEntry | None:
        """Return the entry of a link; None for no link, or if its row has been evicted."""
        row = self.tables.py_follow(link)
        return self.entry(row) if row else None

    def attach(self, entry: ProcessCacheEntry, row: int) -> ProcessCacheEntry:
        """Make a new entry the object of a row, and return it. If the row has an object already, return that one."""
        link = self.tables.py_link(row)
        known = self._entries.get(link)
        if known is not None:
            return known
        entry.move_to(self.store(link))
        self._entries[link] = entry
        return entry

    def is_cached(self, row: int) -> bool:
        """Whether the newest image of a process counts as cached: the process was not deleted."""
        hot = self.tables.hot_view()[row]
        if not int(hot["flags"]) & layout.ROW_DELETED:
            return True
        return self.leaving.get(int(hot["tgid"])) == self.tables.py_link(row)

    def head(self, pid: int) -> ProcessCacheEntry | None:
        """Return the newest image of a cached process; None: there is none, or no process can have this pid."""
        row = self.tables.py_head(pid) if is_number(pid) else 0
        return self.entry(row) if row and self.is_cached(row) else None

    def owner_at(self, pid: int, time_boot_ns: int) -> ProcessCacheEntry | None:
        """Return the newest image of the process that had a pid at a time: it is cached, or ended later.

        Args:
            pid: of the process; of a keyed process its slot in the index.
            time_boot_ns: the time, on the boot clock.
        """
        row = self.tables.py_head(pid) if is_number(pid) else 0
        while row and int(self.tables.hot_view()[row]["start_boot_ns"]) > time_boot_ns:
            row = self.tables.py_follow(int(self.tables.cold_view()[row]["previous_owner"]))
        if not row or not (self.is_cached(row) or int(self.tables.hot_view()[row]["exit_boot_ns"]) >= time_boot_ns):
            return None
        return self.entry(row)

    def of_identity(self, pid: int, start_boot_ns: int) -> ProcessCacheEntry | None:
        """Return the newest image of a process, even if it has ended or another process has its pid."""
        row = self.applier.py_find(pid, start_boot_ns) if is_number(pid) else 0
        return self.entry(row) if row else None

    def _newest_rows(self) -> npt.NDArray[np.uint32]:
        """Return the rows in the index, uint32, by pid."""
        index = self.index()
        return index[layout.used_positions(index)]

    def heads(self) -> Iterator[ProcessCacheEntry]:
        """Yield the newest images of the processes that are cached when the walk starts, by pid."""
        for row in self._newest_rows().tolist():
            if self.is_cached(row):
                yield self.entry(row)

    def with_extra(self) -> Iterator[ProcessCacheEntry]:
        """Yield the newest images of cached processes that have an `extra`."""
        # Not by the index: most of its pages were never written, and the kernel clears each of them when it is read.
        for row in self.tables.heads_with_extra():
            if self.is_cached(row):
                yield self.entry(row)

    def count(self) -> int:
        """Return how many processes are cached."""
        rows = self._newest_rows()
        deleted = self.tables.hot_view()["flags"][rows] & layout.ROW_DELETED != 0
        leaving = sum(self.tables.py_head(pid) == self.tables.py_follow(link) for pid, link in self.leaving.items())
        return len(rows) - int(deleted.sum()) + leaving

    def delete(self, pid: int, link: int) -> None:
        """Remove the process with this newest image from the cache; its row becomes history."""
        self.leaving.pop(pid, None)
        row = self.tables.py_follow(link)
        if row and not int(self.tables.hot_view()[row]["flags"]) & layout.ROW_DELETED:
            self.mark(row, layout.ROW_DELETED)

    def mark(self, row: int, flags: int) -> None:
        """Set ROW_* flags of a row."""
        if flags:
            self.tables.py_begin(row)
            hot = self.tables.hot_view()[row]
            hot["flags"] = int(hot["flags"]) | flags
            self.tables.py_end(row)

    def forget_exit_code(self, entry: ProcessCacheEntry) -> None:
        """Mark the exit code as unknown: the event did not report it."""
        row = row_of(entry)
        self.tables.py_begin(row)
        hot = self.tables.hot_view()[row]
        hot["flags"] = int(hot["flags"]) & ~layout.ROW_EXIT_KNOWN
        self.tables.py_end(row)

    def share(self, kind: type[_Strings], data: bytes, is_truncated: bool) -> _Strings:
        """Return the object of stored arguments or environment, which a process and its forks share."""
        key = (kind, data, is_truncated)
        entry = self._shared.get(key)
        if entry is None:
            # The u32 length of the whole area, then each string with a NUL behind it.
            values = [fsdecode(value) for value in data[4:].removesuffix(b"\0").split(b"\0")] if len(data) > 4 else []
            entry = kind(values, is_truncated)
            self._shared[key] = entry
            if len(self._shared) > _SHARED_ARGS:
                self._shared.popitem(last=False)
        else:
            self._shared.move_to_end(key)
        return entry  # type: ignore[return-value]

    def to_unix(self, boot_ns: int) -> int | None:
        """Convert a time of a row to Unix time; 0 is unset."""
        return boot_ns + self.offset_ns if boot_ns else None

    def to_boot(self, unix_ns: int | None) -> int:
        """Convert a time of an entry to the boot clock; None is unset."""
        return max(unix_ns - self.offset_ns, 1) if unix_ns is not None else 0


def is_number(pid: int) -> bool:
    """Whether a pid fits into its column: no process can have another one."""
    return 0 <= pid <= 0xFFFFFFFF


def area(values: list[str]) -> bytes:
    """Return strings with a NUL behind each. A string ends at its first NUL, as in the kernel (specification 1.12)."""
    return b"".join(fsencode(value).partition(b"\0")[0] + b"\0" for value in values)


class _NoRoomError(Exception):
    """An arena is full, so a field could not be stored."""


class RowStore:
    """Fields of an entry that is a row; `link` names the row and its owner."""

    __slots__ = ("book", "link")
    #: Bytes that are kept of a name that a caller sets; the NUL behind it is the kernel's.
    _COMM_CHARS = COMM_MAX

    def __init__(self, book: Book, link: int) -> None:
        self.book = book
        self.link = link

    @property
    def row(self) -> int:
        """The row.

        Raises:
            TooOldError: another process owns it by now.
        """
        row = self.book.tables.py_follow(self.link)
        if not row:
            raise TooOldError("this entry has been evicted from the tables: look the process up again")
        return row

    @property
    def hot(self) -> np.void:
        """The hot part of the row, as a view."""
        view: np.void = self.book.tables.hot_view()[self.row]
        return view

    @property
    def cold(self) -> np.void:
        """The cold part of the row, as a view."""
        view: np.void = self.book.tables.cold_view()[self.row]
        return view

    @property
    def is_replaced(self) -> bool:
        """Whether an exec has replaced this image; its exit time is the time of that exec."""
        return bool(int(self.hot["flags"]) & layout.ROW_REPLACED)

    def head(self) -> ProcessCacheEntry | None:
        """Return the newest image of this process; None if the pid has another owner by now."""
        head = self.book.applier.py_find(int(self.hot["tgid"]), int(self.hot["start_boot_ns"]))
        return self.book.entry(head) if head else None

    # -- reading -------------------------------------------------------------------------------------------------------

    def get(self, name: str) -> Any:
        """Return a field."""
        row = self.row
        if name in _COLUMNS:
            is_hot, column, _ = _COLUMNS[name]
            value = int((self.hot if is_hot else self.cold)[column])
            return Source(value) if name == "source" else value
        if name in _FLAGS:
            return bool(int(self.hot["flags"]) & _FLAGS[name])
        if name in _EXTRA_FIELDS:
            return entry_extra.get(self.extra(), name)
        return _GETTERS[name](self, row)

    def extra(self) -> dict[str, Any]:
        """Return the row's `extra` map."""
        ref = int(self.cold["extra_ref"])
        return entry_extra.unpack(self.book.tables.args.py_bytes(ref)) if ref else {}

    def _bytes(self, column: str) -> bytes:
        ref = int(self.cold[column])
        return self.book.tables.names.py_bytes(ref) if ref else b""

    def _text(self, column: str) -> str:
        return fsdecode(self._bytes(column))

    def _get_file_event(self, row: int) -> FileEvent:
        hot = self.hot
        ref = int(hot["file_ref"])
        file = entry_extra.file_of_record(self.book.tables.names.py_bytes(ref)) if ref else NO_FILE
        return entry_extra.with_extra(file, self.extra().get("file"), inode=int(hot["inode"]))

    def _get_interpreter(self, row: int) -> FileEvent:
        extra = self.extra()
        if "interpreter" not in extra and int(self.hot["flags"]) & layout.ROW_SCRIPT:
            # The image of a script is the program that runs: the interpreter.
            return self._get_file_event(row)
        return entry_extra.interpreter(extra, self._no_interpreter())

    def _no_interpreter(self) -> FileEvent:
        """Return the interpreter if no source reported one: none, if the image is known (1.3, 3.3.8)."""
        return _NO_INTERPRETER if int(self.hot["known"]) & layout.KNOWN_FILE else NO_FILE

    def _get_cgroup(self, row: int) -> CGroupContext:
        inode = int(self.hot["cgroup_id"])
        source = int(self.hot["cgroup_source"])
        made, path = entry_extra.cgroup_of_record(self._bytes("cgroup_ref"))
        context = CGroupContext(
            cgroup_id=path, path_key=PathKey(inode), source=source, created_at=self.book.to_unix(made) or 0
        )
        return entry_extra.with_extra(context, self.extra().get("cgroup"))

    def _get_container(self, row: int) -> ContainerContext:
        return entry_extra.with_extra(
            ContainerContext(container_id=self._text("container_ref")), self.extra().get("container")
        )

    def _get_credentials(self, row: int) -> Credentials:
        hot, cold = self.hot, self.cold
        ids: dict[str, Any] = {name: int(hot[name]) for name in ("uid", "gid")}
        ids |= {name: int(cold[name]) for name in ("euid", "egid", "fsuid", "fsgid", "cap_effective", "cap_permitted")}
        auid = int(cold["auid"]) if int(hot["known"]) & layout.KNOWN_AUID else UNSET
        return entry_extra.with_extra(Credentials(**ids, auid=auid), self.extra().get("names"))

    def _get_user_session(self, row: int) -> UserSessionContext:
        return entry_extra.session(self.extra())

    def _get_args_entry(self, row: int) -> ArgsEntry | None:
        ref = int(self.hot["args_ref"])
        if not ref:
            return None
        cut = bool(int(self.hot["flags"]) & layout.ROW_ARGS_TRUNCATED)
        return self.book.share(ArgsEntry, self.book.tables.args.py_bytes(ref), cut)

    def _get_envs_entry(self, row: int) -> EnvsEntry | None:
        ref = int(self.cold["envs_ref"])
        if not ref:
            return None
        cut = bool(int(self.hot["flags"]) & layout.ROW_ENVS_TRUNCATED)
        return self.book.share(EnvsEntry, self.book.tables.envs.py_bytes(ref), cut)

    def _get_exec_time(self, row: int) -> int | None:
        return self.book.to_unix(int(self.hot["exec_boot_ns"]))

    def _get_exit_time(self, row: int) -> int | None:
        return self.book.to_unix(int(self.hot["exit_boot_ns"]))

    def _get_comm(self, row: int) -> str:
        return fsdecode(bytes(self.hot["comm"]))

    def _get_tty_name(self, row: int) -> str:
        return fsdecode(bytes(self.cold["tty"]))

    def _get_ancestor(self, row: int) -> ProcessCacheEntry | None:
        return self.book.of_link(int(self.hot["ancestor"]))

    def _get_fork_time(self, row: int) -> int | None:
        return self.book.to_unix(int(self.cold["fork_boot_ns"]) or int(self.hot["start_boot_ns"]))

    # -- writing -------------------------------------------------------------------------------------------------------

    @contextmanager
    def _open(self) -> Iterator[int]:
        row = self.row
        self.book.tables.py_begin(row)
        try:
            yield row
        finally:
            self.book.tables.py_end(row)

    def update(self, values: dict[str, Any]) -> None:
        """Store fields. If there is no room for a value in its arena, the field keeps its former value as a whole.

        Each string that was not stored is counted in `arena_full`, and arguments and environments without a former
        value are marked as truncated. The row of a new image does not have the values of the image before: the applier
        has cleared them (`Images.put_image`).
        """
        changed_extra: dict[str, Any] = {}
        refused: set[str] = set()
        with self._open() as row:
            for name, value in values.items():
                if name in _EXTRA_FIELDS:
                    changed_extra[name] = entry_extra.plain(name, value)
                elif name in _SETTERS:
                    try:
                        changed_extra |= _SETTERS[name](self, row, value) or {}
                    except _NoRoomError:
                        refused.add(name)
            if changed_extra and not self._put_extra(row, changed_extra):
                refused.add("extra")
            for name, value in values.items():
                if _BELONGS_TO.get(name) in refused:
                    continue
                if name in _COLUMNS:
                    self._put_column(name, value)
                elif name in _FLAGS:
                    self._put_flag(_FLAGS[name], value)
            if "ancestor" in values:
                self._put_ancestor(row, values["ancestor"])
        if "exit_time" in values:
            self._end(values["exit_time"])

    def _put_column(self, name: str, value: Any) -> None:
        is_hot, column, known = _COLUMNS[name]
        if name in _READ_ONLY:
            if value != self.get(name):
                raise ResolverError(f"{name} cannot change: it identifies an entry of the tables. Create a new entry")
            return
        if name == "ppid":
            self._relist(value)
        (self.hot if is_hot else self.cold)[column] = value
        if known:
            self._know(known)

    def _relist(self, ppid: int) -> None:
        """Move the process from the list of children of its former ppid to the list of the new one."""
        tables, hot = self.book.tables, self.hot
        tgid, before = int(hot["tgid"]), int(hot["ppid"])
        if before not in (0, ppid) and tables.py_head(tgid) == self.row and tgid in tables.py_children(before):
            tables.py_adopt(tgid, ppid)

    def _put_flag(self, flag: int, value: object) -> None:
        hot = self.hot
        flags = int(hot["flags"])
        hot["flags"] = flags | flag if value else flags & ~flag

    def _know(self, groups: int) -> None:
        hot = self.hot
        hot["known"] = int(hot["known"]) | groups

    def _put_extra(self, row: int, changed: dict[str, Any]) -> bool:
        """Change keys of the map; a value of None removes its key. Returns False if there was no room."""
        before = self.extra()
        if self._store_extra(row, before | changed):
            return True
        # The map does not change, except for keys that complete columns which have just changed.
        stale = {name: None for name in entry_extra.OF_COLUMNS if name in before and name in changed}
        if stale and not self._store_extra(row, before | stale):
            # Release the row's own block first: it is large enough, unless other rows share it.
            self.book.tables.py_set_ref("extra", row, 0)
            self._store_extra(row, before | stale)
        return False

    def _store_extra(self, row: int, values: dict[str, Any]) -> bool:
        extra = {name: value for name, value in values.items() if value is not None}
        ref = self.book.tables.py_intern_args(entry_extra.pack(extra)) if extra else 0
        if extra and not ref:
            return False
        self.book.tables.py_set_ref("extra", row, ref)
        return True

    def _put_string(self, field: str, row: int, intern: Callable[[bytes], int], data: bytes) -> int:
        """Store a string in the column `field`_ref; empty: none. Returns its reference, 0 if there was no room.

        Raises:
            _NoRoomError: there was no room, and the row keeps its former string.
        """
        ref = intern(data) if data else 0
        column = f"{field}_ref"
        if data and not ref and int((self.hot if column in _HOT_NAMES else self.cold)[column]):
            raise _NoRoomError
        self.book.tables.py_set_ref(field, row, ref)
        return ref

    def _set_file_event(self, row: int, file: FileEvent) -> dict[str, Any]:
        tables = self.book.tables
        old = int(self.hot["file_ref"])
        record = entry_extra.record_of_file(file, tables.names.py_bytes(old) if old else b"")
        ref = self._put_string("file", row, tables.py_intern_names, record)
        self.hot["inode"] = file.inode
        if ref:
            self._know(layout.KNOWN_FILE)
        stored = entry_extra.file_of_record(record) if record else NO_FILE
        # If the caller left these out, readers derive them from the kernel's number and from the name.
        if not file.filesystem:
            stored = replace(stored, filesystem="")
        if not file.extension:
            stored = replace(stored, extension="")
        return {"file": entry_extra.extra_of(file, stored)}

    def _set_interpreter(self, row: int, file: FileEvent) -> dict[str, Any]:
        if not file.inode:
            self._put_flag(layout.ROW_SCRIPT, False)
        return entry_extra.plain_interpreter(file, self._no_interpreter())

    def _set_cgroup(self, row: int, cgroup: CGroupContext) -> dict[str, Any]:
        is_same = int(self.hot["cgroup_id"]) == cgroup.path_key.inode
        # The kernel reported when it was created; that time and its source stay.
        record = entry_extra.cgroup_record(cgroup.cgroup_id, self._bytes("cgroup_ref") if is_same else b"")
        self._put_string("cgroup", row, self.book.tables.py_intern_names, record)
        if cgroup.source or not is_same:
            self.hot["cgroup_source"] = cgroup.source
        self.hot["cgroup_id"] = cgroup.path_key.inode
        if cgroup.path_key.inode:
            self._know(layout.KNOWN_CGROUP)
        made = self.book.to_unix(entry_extra.cgroup_of_record(record)[0]) or 0
        stored = CGroupContext(
            cgroup_id=cgroup.cgroup_id, path_key=PathKey(cgroup.path_key.inode), source=cgroup.source,
            created_at=made if cgroup.created_at else 0,
        )  # fmt: skip
        return {"cgroup": entry_extra.extra_of(cgroup, stored)}

    def _set_container(self, row: int, container: ContainerContext) -> dict[str, Any]:
        name = fsencode(container.container_id)
        ref = self._put_string("container", row, self.book.tables.py_intern_names, name)
        if name and not ref:
            raise _NoRoomError  # the tags are useless without the id of their container
        return {"container": entry_extra.extra_of(container, ContainerContext(container_id=container.container_id))}

    def _set_credentials(self, row: int, credentials: Credentials) -> dict[str, Any]:
        hot, cold = self.hot, self.cold
        for name in ("uid", "gid"):
            hot[name] = getattr(credentials, name)
        for name in ("euid", "egid", "fsuid", "fsgid", "auid", "cap_effective", "cap_permitted"):
            cold[name] = getattr(credentials, name)
        self._know(layout.KNOWN_CREDS | layout.KNOWN_CAPS)
        if credentials.auid != UNSET:
            self._know(layout.KNOWN_AUID)
        names = ("user", "group", "euser", "egroup", "fsuser", "fsgroup")
        return {"names": {name: text for name in names if (text := getattr(credentials, name))} or None}

    def _set_user_session(self, row: int, session: UserSessionContext) -> dict[str, Any]:
        return entry_extra.plain_session(session)

    @property
    def digest(self) -> int:
        """Digest of arguments and environment from before secrets were hidden; 0: unknown."""
        return self.book.applier.py_digest(self.row)

    def _set_args_entry(self, row: int, entry: ArgsEntry | None) -> None:
        intern = self.book.tables.py_intern_args
        self._put_text("args", row, intern, entry, "argc", layout.KNOWN_ARGS, layout.ROW_ARGS_TRUNCATED)

    def _set_envs_entry(self, row: int, entry: EnvsEntry | None) -> None:
        intern = self.book.tables.py_intern_envs
        self._put_text("envs", row, intern, entry, "envc", layout.KNOWN_ENVS, layout.ROW_ENVS_TRUNCATED)

    def _put_text(
        self, field: str, row: int, intern: Callable[[bytes], int], entry: ArgsEntry | EnvsEntry | None,
        count: str, known: int, truncated: int,
    ) -> None:  # fmt: skip
        data = b"" if entry is None else entry_extra.blob(area(entry.values))
        ref = self._put_string(field, row, intern, data)
        self.book.applier.py_forget_digest(row)
        self._put_flag(truncated, entry is not None and (entry.is_truncated or not ref))
        self.cold[count] = min(len(entry.values), 0xFFFF) if entry is not None else 0
        if ref:
            self._know(known)
        elif entry is not None:
            raise _NoRoomError

    def _set_comm(self, row: int, comm: str) -> None:
        self.hot["comm"] = fsencode(comm)[: self._COMM_CHARS]
        self._know(layout.KNOWN_COMM)

    def _set_tty_name(self, row: int, tty: str) -> None:
        self.cold["tty"] = fsencode(tty)[:TTY_MAX]
        self._know(layout.KNOWN_TTY)

    def _set_exec_time(self, row: int, time: int | None) -> None:
        self.hot["exec_boot_ns"] = self.book.to_boot(time)
        self._know(layout.KNOWN_EXEC_TIME)
        if time is None:
            self.hot["known"] ^= layout.KNOWN_EXEC_TIME

    def _set_fork_time(self, row: int, time: int | None) -> None:
        self.cold["fork_boot_ns"] = self.book.to_boot(time)

    # -- lineage and end -----------------------------------------------------------------------------------------------

    def _put_ancestor(self, row: int, ancestor: ProcessCacheEntry | None) -> None:
        """Set the links of the row; the index of children changes as it would after an event."""
        tables, hot = self.book.tables, self.hot
        target = 0 if ancestor is None else row_of(ancestor)
        tables.py_set_link("ancestor", row, target)
        tgid, other = int(hot["tgid"]), int(tables.hot_view()[target]["tgid"]) if target else 0
        if other == tgid:
            return
        tables.py_set_link("parent", row, target)
        head = tables.py_head(tgid)
        if head != row:
            # Later images have followed: the newest one has the same parent.
            if not head or int(tables.hot_view()[head]["start_boot_ns"]) != int(hot["start_boot_ns"]):
                return
            tables.py_begin(head)
            tables.py_set_link("parent", head, target)
            if target:
                tables.hot_view()[head]["ppid"] = other
            tables.py_end(head)
        if int(tables.hot_view()[head]["exit_boot_ns"]):
            return
        if target:
            hot["ppid"] = other
            tables.py_adopt(tgid, other)
        else:
            tables.py_orphan(tgid)

    def _end(self, time: int | None) -> None:
        """Record the end of the image. Its row is history from now on, unless another row refers to it."""
        tables = self.book.tables
        if time is None:
            if int(self.hot["exit_boot_ns"]):
                raise ResolverError("an entry of the tables that has ended cannot become alive: create a new entry")
            return
        with self._open():
            self.hot["exit_boot_ns"] = max(self.book.to_boot(time), int(self.hot["start_boot_ns"]))
        row = self.row
        tables.py_retire(row)
        tgid = int(self.hot["tgid"])
        if tables.py_head(tgid) == row:
            tables.py_orphan(tgid)

    def reparent(self, parent: ProcessCacheEntry) -> bool:
        """Move the oldest image of the process below `parent`, by the code that applies events."""
        tables, tgid = self.book.tables, int(self.hot["tgid"])
        head, target = tables.py_head(tgid), row_of(parent)
        if not head or int(tables.hot_view()[head]["start_boot_ns"]) != int(self.hot["start_boot_ns"]):
            head = self.row  # of an earlier owner of the pid
        moved = self.book.applier.py_move(head, target, self.book.now_boot_ns())
        if moved:
            with self._open():
                self._put_flag(layout.ROW_PARENT_MISSING, False)
        return moved

    def children(self) -> list[ProcessCacheEntry]:
        """Return the live children of the process, if this is its newest image."""
        tables, tgid, row = self.book.tables, int(self.hot["tgid"]), self.row
        if tables.py_head(tgid) != row:
            return []
        # The index is by pid, so it also has children of a later owner that is not in the tables yet.
        heads = (tables.py_head(child) for child in tables.py_children(tgid))
        return [self.book.entry(head) for head in heads if head and self.book.applier.py_is_child_of(head, row)]

    def remove_child(self, child: ProcessCacheEntry) -> None:
        """Remove a child from the index of children, if it is there."""
        if child in self.children():
            self.book.tables.py_orphan(int(self.book.tables.hot_view()[row_of(child)]["tgid"]))


def row_of(entry: ProcessCacheEntry) -> int:
    """Return the row of an entry.

    Raises:
        ResolverError: it is in no table.
        TooOldError: its row has been evicted.
    """
    store = entry.store
    if not isinstance(store, RowStore):
        raise ResolverError(f"pid {entry.pid}: the entry is in no table: insert it before those that descend from it")
    return store.row


#: Methods by the field that they read or write.
_GETTERS: dict[str, Callable[[RowStore, int], Any]] = {
    name: getattr(RowStore, f"_get_{name}") for name in DEFAULTS if hasattr(RowStore, f"_get_{name}")
}
_SETTERS: dict[str, Callable[[RowStore, int, Any], dict[str, Any] | None]] = {
    name: getattr(RowStore, f"_set_{name}") for name in DEFAULTS if hasattr(RowStore, f"_set_{name}")
}


class _Column(NamedTuple):
    """Where a field is in a row.

    Attributes:
        is_hot: it is in the hot part.
        name: of the column.
        known: the KNOWN_* group that is known once the field was set; 0: none.
    """

    is_hot: bool
    name: str
    known: int


def _column(source: list[str]) -> _Column:
    """Return the column that a source in the table of entry fields names."""
    part, _, name = source[0].partition(".")
    # A field that is null if it is 0 is one of several in its group, or has none: it does not make a group known.
    is_group = "known" in source and "nonzero" not in source
    known = getattr(layout, f"KNOWN_{source[source.index('known') + 1]}") if is_group else 0
    return _Column(part == "hot", name, known)


#: Sources of fields that an entry of the tables computes, or has under another name.
_OTHER_SOURCES = {
    "pid": ["hot.tgid"], "ppid": ["hot.ppid"], "tid": ["cold.tid"], "user_session_id": ["cold.user_session"],
    "source": ["hot.source"],
}  # fmt: skip
_SOURCES = {field.name: field.value for field in FIELDS} | _OTHER_SOURCES
_PLAIN = {name: _SOURCES[name] for name in DEFAULTS if name in _SOURCES and name not in _GETTERS}
_COLUMNS = {name: _column(source) for name, source in _PLAIN.items() if source[0].startswith(("hot.", "cold."))}
_FLAGS = {name: getattr(layout, f"ROW_{source[1]}") for name, source in _PLAIN.items() if source[0] == "flag"}

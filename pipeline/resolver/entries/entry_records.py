"""Entries as the records that the BPF programs would have written, so that the same code applies both.

Covers HEADER, TASK, FORK, EXEC and EXIT of an entry that is in no table yet, and of a change to one that is. The
applier decides what a record does to the tables (`apply/_applier.pyx`). A record holds only the fields that a caller
has set; the applier copies the others from the parent or the image before.
"""

from __future__ import annotations

from os import fsencode
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from pipeline.procfs import filesystems
from pipeline.procfs.info import UNSET
from pipeline.records import declared, dtypes
from pipeline.records.limits import COMM_MAX, TTY_MAX
from pipeline.resolver.entries import mounts
from pipeline.resolver.entries.cache_entry import FreeStore, ProcessCacheEntry
from pipeline.resolver.entries.entry_rows import RowStore, area
from pipeline.resolver.entries.model import FILELESS_PREFIX, Credentials, FileEvent
from pipeline.secrets._conceal import digest
from pipeline.secrets.argsenvs import ArgsEntry, EnvsEntry, is_absent
from pipeline.shm.layout import layout

if TYPE_CHECKING:
    import numpy.typing as npt

    from pipeline.resolver.entries.event import Event

    Column = npt.NDArray[np.void]


class TaskRecord(NamedTuple):
    """A TASK and the KNOWN_* groups of it that hold a value."""

    task: Column
    known: int


def fields_of(entry: ProcessCacheEntry) -> dict[str, Any]:
    """Return the fields that were set on a new entry."""
    store = entry.store
    return store.values if isinstance(store, FreeStore) else {}


def header(
    kind: int, pid: int, tid: int, time_boot_ns: int, start_boot_ns: int, ppid: int = 0, parent_start_boot_ns: int = 0,
    var_bytes: int = 0,
) -> Column:  # fmt: skip
    """Return one HEADER. A `parent_start_boot_ns` of 0 is unknown: the current owner of the ppid is meant."""
    row = np.zeros(1, dtypes.HEADER)
    row["kind"], row["tgid"], row["tid"] = kind, pid, tid or pid
    row["time_boot_ns"], row["start_boot_ns"] = time_boot_ns, start_boot_ns
    row["ppid"], row["parent_start_boot_ns"], row["var_bytes"] = ppid, parent_start_boot_ns, var_bytes
    return row


def task(entry: ProcessCacheEntry, exe_inode: int = 0) -> TaskRecord:
    """Return the TASK of a new entry, with the fields that were set."""
    values = fields_of(entry)
    row = np.zeros(1, dtypes.TASK)
    row["auid"] = row["audit_session"] = UNSET
    known = 0
    if "credentials" in values:
        known |= _put_credentials(row, entry.credentials)
    if values.get("comm"):
        row["comm"] = fsencode(entry.comm)[:COMM_MAX]
        known |= layout.KNOWN_COMM
    if values.get("tty_name"):
        row["tty"] = fsencode(entry.tty_name)[:TTY_MAX]
        known |= layout.KNOWN_TTY
    if values.get("sid"):
        row["sid"] = entry.sid
        known |= layout.KNOWN_SID
    cgroup_id = entry.cgroup.path_key.inode
    if cgroup_id:
        row["cgroup_id"] = cgroup_id
        known |= layout.KNOWN_CGROUP
    row["exe_inode"] = exe_inode
    row["cookie"] = entry.cookie
    return TaskRecord(row, known)


def credentials_task(entry: ProcessCacheEntry, credentials: Credentials, only: int) -> TaskRecord:
    """Return the TASK of a change of credentials; `only` are the KNOWN_* groups that changed. The others stay."""
    row = np.zeros(1, dtypes.TASK)
    _put_credentials(row, credentials)
    if isinstance(entry.store, RowStore):
        for name in ("suid", "sgid", "audit_session"):
            row[name] = entry.store.cold[name]
    return TaskRecord(row, only)


def keep_names(entry: ProcessCacheEntry, credentials: Credentials) -> None:
    """Store the names of credentials, which a record does not carry, if the applier has stored its ids."""
    now = entry.credentials
    if now != credentials and now.equals(credentials) and now.auid == credentials.auid:
        entry.credentials = credentials


def cgroup_task(cgroup_id: int) -> TaskRecord:
    """Return the TASK of a move to another cgroup."""
    row = np.zeros(1, dtypes.TASK)
    row["cgroup_id"] = cgroup_id
    return TaskRecord(row, layout.KNOWN_CGROUP)


def _put_credentials(row: Column, credentials: Credentials) -> int:
    for name in ("uid", "gid", "euid", "egid", "fsuid", "fsgid", "auid", "cap_effective", "cap_permitted"):
        row[name] = getattr(credentials, name)
    # The specification has no saved ids; an exec sets them to the effective ones.
    row["suid"], row["sgid"] = credentials.euid, credentials.egid
    row["audit_session"] = UNSET
    known = layout.KNOWN_CREDS | layout.KNOWN_CAPS
    return known | layout.KNOWN_AUID if credentials.auid != UNSET else known


def fork(entry: ProcessCacheEntry, creator: int = 0, creator_start_boot_ns: int = 0) -> Column:
    """Return the FORK body; pid and start identify the creator. 0: unknown."""
    row = np.zeros(1, dtypes.FORK)
    row["clone_flags"] = entry.fork_flags
    if creator_start_boot_ns:
        row["creator_tgid"] = row["creator_tid"] = creator
        row["creator_start_boot_ns"] = creator_start_boot_ns
    return row


def image(
    entry: ProcessCacheEntry, args: ArgsEntry | None, envs: EnvsEntry | None, previous_inode: int = 0
) -> tuple[Column, bytes]:
    """Return the EXEC body and its strings, with these arguments and environment."""
    file = entry.file_event
    row = np.zeros(1, dtypes.EXEC)
    put_file(row, file)
    path = fsencode(file.pathname)
    flags = 0
    if not path and file.basename.startswith(FILELESS_PREFIX):
        path, flags = b"/" + fsencode(file.basename), declared.EXEC_MEMFD
    strings = [path, b"", b"", b""]
    if args is None:
        flags |= declared.EXEC_ARGS_UNREADABLE
    else:
        strings[2] = area(args.values)
        row["argc"] = len(args.values)
        flags |= declared.EXEC_ARGS_TRUNCATED if args.is_truncated or entry.args_truncated else 0
    if envs is None:
        flags |= declared.EXEC_ENVS_UNREADABLE
    else:
        strings[3] = area(envs.values)
        row["envc"] = len(envs.values)
        flags |= declared.EXEC_ENVS_TRUNCATED if envs.is_truncated or entry.envs_truncated else 0
    row["exec_flags"] = flags | (declared.EXEC_UPPER_LAYER if file.in_upper_layer else 0)
    row["exec_tid"] = row["prev_tid"] = entry.tid or entry.pid
    row["path_bytes"] = len(strings[0])
    # At least one byte of a truncated area is missing (survey.py sets the lengths in the same way).
    row["args_bytes"], row["envs_bytes"] = len(strings[2]), len(strings[3])
    row["args_full_bytes"] = len(strings[2]) + (flags & declared.EXEC_ARGS_TRUNCATED != 0)
    row["envs_full_bytes"] = len(strings[3]) + (flags & declared.EXEC_ENVS_TRUNCATED != 0)
    row["prev_inode"] = previous_inode
    return row, b"".join(strings)


def digest_of(args: ArgsEntry | None, envs: EnvsEntry | None) -> int:
    """Return the digest of arguments and environment from before secrets are hidden."""
    return digest(*(None if entry is None or is_absent(entry) else area(entry.values) for entry in (args, envs)))


def put_file(row: Column, file: FileEvent) -> None:
    """Store the facts about a file in an EXEC body."""
    row["inode"], row["mount_id"], row["device"] = file.inode, file.mount_id, file.device
    row["file_uid"], row["file_gid"], row["nlink"], row["mode"] = file.uid, file.gid, file.nlink, file.mode
    row["ctime_ns"], row["mtime_ns"] = file.ctime, file.mtime
    row["fs_magic"] = filesystems.magic_of(file.filesystem)
    row["mount_end"] = mounts.end_of(fsencode(file.pathname), file.mount_path)


def exit_body(event: Event) -> Column:
    """Return the EXIT body: wait status, and the reaper if the kernel named one."""
    row = np.zeros(1, dtypes.EXIT)
    row["exit_code"] = event.exit_status or 0
    row["reaper_tgid"], row["reaper_start_boot_ns"] = event.reaper_pid, event.reaper_start_boot_ns
    row["exit_flags"] = 0 if event.reaper_pid else declared.EXIT_NO_REAPER
    return row

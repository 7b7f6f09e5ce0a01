"""Values of an entry as bytes: the FILE record of the names arena, and the msgpack map in a row's `extra`.

The map holds the fields that few processes have or that have no column, under the names of `cache_entry.DEFAULTS`. A
value that is partly in columns ("file", "cgroup", "container") holds only the fields that the columns do not. Readers
find the map as `Entry.extra`. Unknown keys are preserved. An interpreter that a caller reported is stored in the form
that readers and the stream show (`interpreter`), and its other fields beside it (`interpreter_more`).

Keys that the applier finds and copies without Python come first: those that forks and execs inherit, and
`sampled_change`, which nothing inherits and which exists only with ROW_CHANGE_SAMPLED. Forks inherit `tracer_metadata`
(specification 5.3). Forks and execs inherit `ssh` (5.2), `container` and `cgroup` while the process stays in that
container or cgroup, and `names` while the ids and the container are the same. Processes share a map that is inherited
as a whole.
"""

from __future__ import annotations

import struct
from dataclasses import asdict, fields, replace
from os import fsdecode, fsencode
from typing import Any, TypeVar

import msgpack
import numpy as np

from pipeline.bus.stream.messages import wire
from pipeline.procfs import filesystems
from pipeline.records.declared import EXEC_MEMFD, EXEC_UPPER_LAYER
from pipeline.resolver.entries import mounts
from pipeline.resolver.entries.model import (
    FILELESS_PREFIX,
    NO_FILE,
    UPPER_LAYER,
    AWSSecurityCredentials,
    CGroupContext,
    ContainerContext,
    Credentials,
    FileEvent,
    K8SSessionContext,
    PathKey,
    SSHSessionContext,
    UserSessionContext,
    extension_of,
)
from pipeline.shm.layout import layout
from pipeline.shm.layout.declared import MOUNT_ORIGIN_NAMES, MOUNT_SOURCE_NAMES

_Stored = TypeVar("_Stored", FileEvent, CGroupContext, ContainerContext)
_Extended = TypeVar("_Extended", FileEvent, CGroupContext, ContainerContext, Credentials)

_FULL_BYTES = struct.Struct("<I")

# generated: file-model
#: Keys of `Entry.file` that the model has with the same values: their names there.
_SHOWN_SAME = {
    "inode": "inode", "device": "device", "mount_id": "mount_id", "mode": "mode", "uid": "uid", "gid": "gid",
    "nlink": "nlink",
}  # fmt: skip
#: Keys that are nil where the model has its empty value.
_SHOWN_OR_NIL = {
    "user": "user", "group": "group", "mtime_ns": "mtime", "ctime_ns": "ctime", "filesystem": "filesystem",
    "mount_path": "mount_path",
}  # fmt: skip
#: Numbers of a FILE record by their names in the model.
_RECORD_NUMBERS = {
    "inode": "file_inode", "device": "device", "mount_id": "mount_id", "mode": "mode", "uid": "file_uid",
    "gid": "file_gid", "nlink": "nlink", "mtime": "mtime_ns", "ctime": "ctime_ns",
}  # fmt: skip
# end of the generated part

#: Columns of a FILE record by the names that their values have in the model.
_RECORD_FIELDS = _RECORD_NUMBERS | {"mount_source": "mount_source", "mount_origin": "mount_origin"}
#: Keys that come first; the applier has the same list (`_NAMES` in apply/_extra.pyx).
FIRST = ("sampled_change", "ssh", "tracer_metadata", "container", "cgroup", "names")
#: Keys that complete columns, so that they become wrong when the columns change.
OF_COLUMNS = ("file", "cgroup", "container", "names")


def pack(extra: dict[str, Any]) -> bytes:
    """Encode a map in the form of events, so that the encoder can copy it (text that is not UTF-8 is bin)."""
    ordered = {name: extra[name] for name in FIRST if name in extra} | extra
    data: bytes = msgpack.packb(wire(ordered))
    return data


def unpack(data: bytes) -> dict[str, Any]:
    """Decode a map."""
    extra: dict[str, Any] = _text(msgpack.unpackb(data))
    return extra


def _text(value: Any) -> Any:
    if isinstance(value, bytes):
        return fsdecode(value)
    if isinstance(value, dict):
        return {key: _text(item) for key, item in value.items()}
    return [_text(item) for item in value] if isinstance(value, list) else value


def blob(strings: bytes) -> bytes:
    """Return arguments or environment in the form of the arenas: the whole length, then the strings."""
    return _FULL_BYTES.pack(len(strings)) + strings


# -- files -------------------------------------------------------------------------------------------------------------


def file_of_record(data: bytes) -> FileEvent:
    """Decode a FILE record and its path."""
    record = np.frombuffer(data, layout.FILE, 1)[0]
    raw = data[layout.FILE.itemsize :]
    path = fsdecode(raw)
    values: dict[str, Any] = {name: int(record[column]) for name, column in _RECORD_FIELDS.items()}
    values |= mounts.marks(int(record["mount_flags"]))
    flags = int(record["file_flags"])
    file = FileEvent(
        **values, flags=UPPER_LAYER if flags & EXEC_UPPER_LAYER else 0,
        filesystem=filesystems.name_of(int(record["fs_magic"])),
        mount_path=mounts.path_of(raw, int(record["mount_end"]), int(record["mount_flags"])),
    )  # fmt: skip
    if flags & EXEC_MEMFD:
        return file.as_memfd(path)
    return file.with_names(path, path.rpartition("/")[2]) if path else file


def record_of_file(file: FileEvent, old: bytes = b"") -> bytes:
    """Encode a FILE record with its path; b"" for no file.

    Fields that only the kernel reports are copied from `old`, an earlier record, if it has the same inode.
    """
    if not file.inode and not file.pathname:
        return b""
    record = np.zeros(1, layout.FILE)
    if old:
        before = np.frombuffer(old, layout.FILE, 1)
        if int(before["file_inode"][0]) == file.inode:
            record[:] = before
    for name, column in _RECORD_FIELDS.items():
        record[column] = getattr(file, name)
    if file.filesystem and file.filesystem != filesystems.name_of(int(record["fs_magic"][0])):
        record["fs_magic"] = filesystems.magic_of(file.filesystem)
    flags = int(record["file_flags"][0]) & ~(EXEC_MEMFD | EXEC_UPPER_LAYER)
    path = file.pathname
    if not path and file.basename.startswith(FILELESS_PREFIX):
        path, flags = "/" + file.basename, flags | EXEC_MEMFD
    record["file_flags"] = flags | (EXEC_UPPER_LAYER if file.in_upper_layer else 0)
    record["mount_flags"] = mounts.flags_of(file)
    record["mount_end"] = 0 if file.mount_detached else mounts.end_of(fsencode(path), file.mount_path)
    return record.tobytes() + fsencode(path)


def shown_file(file: FileEvent) -> dict[str, Any]:
    """Return a file in the form of `Entry.file`."""
    is_named = file.is_basename_resolved or bool(file.basename)
    is_memfd = file.is_fileless and file.basename.startswith(FILELESS_PREFIX)
    return {
        "path": file.pathname if file.is_pathname_resolved or file.pathname else None,
        "basename": file.basename if is_named else None,
        "extension": file.extension or extension_of(file.basename) if is_named else None,
        **{name: getattr(file, own) for name, own in _SHOWN_SAME.items()},
        **{name: getattr(file, own) or None for name, own in _SHOWN_OR_NIL.items()},
        "fs_magic": filesystems.magic_of(file.filesystem),
        "flags": (EXEC_MEMFD if is_memfd else 0) | (EXEC_UPPER_LAYER if file.in_upper_layer else 0),
        "in_upper_layer": file.in_upper_layer,
        "is_fileless": True if is_memfd else False if file.mount_id else None,
        "mount_source": MOUNT_SOURCE_NAMES[file.mount_source], "mount_origin": MOUNT_ORIGIN_NAMES[file.mount_origin],
        "mount_visible": file.mount_visible if file.mount_visibility_resolved else None,
        "mount_detached": file.mount_detached if file.mount_visibility_resolved else None,
    }  # fmt: skip


def file_of_shown(shown: dict[str, Any]) -> FileEvent:
    """Return the file of that form, with the fields that it has."""
    return FileEvent(
        **{own: shown[name] for name, own in _SHOWN_SAME.items()},
        **{own: shown[name] or getattr(NO_FILE, own) for name, own in _SHOWN_OR_NIL.items()},
        pathname=shown["path"] or "", is_pathname_resolved=shown["path"] is not None,
        basename=shown["basename"] or "", is_basename_resolved=shown["basename"] is not None,
        extension=shown["extension"] or "", flags=UPPER_LAYER if shown["in_upper_layer"] else 0,
        mount_source=MOUNT_SOURCE_NAMES.index(shown["mount_source"]),
        mount_origin=MOUNT_ORIGIN_NAMES.index(shown["mount_origin"]),
        mount_visible=bool(shown["mount_visible"]), mount_detached=bool(shown["mount_detached"]),
        mount_visibility_resolved=shown["mount_visible"] is not None,
    )  # fmt: skip


def plain_interpreter(file: FileEvent, stored: FileEvent) -> dict[str, Any]:
    """Return the two keys of the map for an interpreter; `stored` is the interpreter that a map without them means."""
    shown = shown_file(file) if file.inode else None
    return {"interpreter": shown, "interpreter_more": extra_of(file, stored if shown is None else file_of_shown(shown))}


def interpreter(extra: dict[str, Any], stored: FileEvent) -> FileEvent:
    """Return the interpreter of a map; `stored` as of `plain_interpreter`."""
    shown = extra.get("interpreter")
    return with_extra(stored if shown is None else file_of_shown(shown), extra.get("interpreter_more"))


def cgroup_of_record(data: bytes) -> tuple[int, str]:
    """Decode a CGROUP record: when the cgroup was created (boot clock, 0 unknown), and its path; of none 0 and ""."""
    if len(data) < layout.CGROUP.itemsize:
        return 0, ""
    made = int(np.frombuffer(data, layout.CGROUP, 1)["cgroup_made_boot_ns"][0])
    return made, fsdecode(data[layout.CGROUP.itemsize :])


def cgroup_record(path: str, old: bytes = b"") -> bytes:
    """Encode a CGROUP record with the times of `old`, an earlier record of the same cgroup; b"" for no path."""
    return (old or bytes(layout.CGROUP.itemsize))[: layout.CGROUP.itemsize] + fsencode(path) if path else b""


def extra_of(value: _Stored, stored: _Stored) -> dict[str, Any] | None:
    """Return the fields of a value that its columns do not hold; None: they hold all."""
    changed = {}
    for field in fields(value):
        own = getattr(value, field.name)
        if own != getattr(stored, field.name):
            changed[field.name] = own
    return changed or None


def with_extra(value: _Extended, extra: dict[str, Any] | None, **more: Any) -> _Extended:
    """Return the value with the fields that `extra_of` returned."""
    changes = {**more, **{name: _exact(name, own) for name, own in (extra or {}).items()}}
    return replace(value, **changes) if changes else value


def _exact(name: str, value: Any) -> Any:
    """Convert the lists of msgpack to the tuples of the model."""
    if name == "path_key":
        return PathKey(*value)
    return tuple(value) if isinstance(value, list) else value


# -- fields that are in `extra` as a whole -----------------------------------------------------------------------------


def plain(name: str, value: Any) -> Any:
    """Convert a field to a form that msgpack can hold; None if it is empty."""
    if not value:
        return None
    if name == "aws_security_credentials":
        return [asdict(one) for one in value]
    if name == "tracer_metadata":
        return asdict(value)
    if name == "trace_id":
        return f"{value:032x}"  # the usual form of trace ids; msgpack has no number of 128 bits
    if name == "symlink_paths":
        return list(value)
    return value


def get(extra: dict[str, Any], name: str) -> Any:
    """Return a field of the map in the form of the entry."""
    value = extra.get(name)
    if name == "aws_security_credentials":
        return tuple(AWSSecurityCredentials(**one) for one in value or ())
    if name == "tracer_metadata":
        if value is None:
            return None
        from pipeline.procfs.tracer_metadata import TracerMetadata  # deferred: few processes have any

        return TracerMetadata(**{**value, "threadlocal_attribute_keys": tuple(value["threadlocal_attribute_keys"])})
    if name == "trace_id" and isinstance(value, str):
        return int(value, 16)
    if name == "symlink_paths":
        return tuple(value or ())
    if name == "symlink_basename":
        return value or ""
    return value or 0


def plain_session(session: UserSessionContext) -> dict[str, Any]:
    """Convert a user session to the keys `session` and `ssh` of the map; None for an empty one."""
    values: dict[str, Any] = {}
    if session.id or session.session_type:
        values = {"id": session.id, "session_type": session.session_type}
    if session.k8s != K8SSessionContext():
        values |= {"k8s": asdict(session.k8s)}
    ssh = asdict(session.ssh) if session.ssh != SSHSessionContext() else None
    return {"session": values or None, "ssh": ssh}


def session(extra: dict[str, Any]) -> UserSessionContext:
    """Return the user session of a map."""
    values = extra.get("session") or {}
    ssh = SSHSessionContext(**(extra.get("ssh") or {}))
    k8s = dict(values.get("k8s", {}))
    if k8s:
        k8s["k8s_groups"] = tuple(k8s["k8s_groups"])
        k8s["k8s_extra"] = {key: tuple(texts) for key, texts in k8s["k8s_extra"].items()}
    return UserSessionContext(values.get("id", 0), values.get("session_type", 0), K8SSessionContext(**k8s), ssh)

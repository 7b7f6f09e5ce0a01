"""A row in which every field has a value, and the entry of a row."""

from __future__ import annotations

import struct

import msgpack

from pipeline.shm.layout import layout
from pipeline.shm.reader._reader import TableReader
from pipeline.shm.reader.table import Entry
from tests.shm.handmade import Tables

ALL_KNOWN = 0x7FFFF


def resolve(tables: Tables, pid: int) -> Entry:
    """Return the entry of a process, which must be there, as a new reader sees it."""
    entry = TableReader(tables.directory).resolve(pid)
    assert entry is not None
    return entry


def full_row(tables: Tables) -> int:
    """A row with a distinct value in every field."""
    parent = tables.row(3, start_boot_ns=500)
    creator = tables.row(4, start_boot_ns=600)
    number = iter(range(1000, 2000))
    fields: dict[str, object] = {
        name: next(number)
        for name in layout.HOT.names + layout.COLD.names
        if name not in ("row_seq", "generation", "tgid", "flags", "known", "source", "cgroup_source", "images", "check")
        and not name.endswith("_ref")
    }
    fields |= {"comm": b"tool\xff", "tty": b"pts3", "images": 2, "source": layout.SOURCE_EVENT, "known": ALL_KNOWN}
    fields["cgroup_source"] = layout.CGROUP_SOURCE_PROCFS
    fields |= {"exit_code": 3 << 8, "argc": 3, "envc": 1, "ppid": 3, "creator_tgid": 4}
    fields |= {"parent": tables.link(parent), "creator": tables.link(creator), "ancestor": 0, "previous_owner": 0}
    fields["flags"] = (
        layout.ROW_HEAD | layout.ROW_IS_EXEC | layout.ROW_SCRIPT | layout.ROW_EXIT_KNOWN | layout.ROW_NO_NEW_PRIVS
        | layout.ROW_SECCOMP_FILTER
    )  # fmt: skip
    fields["file_ref"] = tables.file(
        b"/chroot/usr/bin/python3", file_inode=7, device=8, mount_id=9, mode=0o100755, file_uid=10, file_gid=11,
        nlink=1, mtime_ns=12, ctime_ns=13, fs_magic=0x9123683E, file_flags=1, root_offset=7,
        mount_end=8, mount_source=layout.MOUNT_SOURCE_ID, mount_origin=layout.MOUNT_ORIGIN_EVENT,
        mount_flags=layout.MOUNT_RESOLVED | layout.MOUNT_VISIBLE,
    )  # fmt: skip
    fields["args_ref"] = tables.strings("args", b"python3", b"", b"\xfe.py")
    fields["envs_ref"] = tables.strings("envs", b"A=1")
    fields["name_ref"] = tables.intern("names", b"./run.py\0/srv/w\xc3\xb6rk")
    fields["cgroup_ref"] = tables.intern("names", struct.pack("<QQ", 7000, 6000) + b"/system.slice")
    fields["container_ref"] = tables.intern("names", b"c0ffee")
    fields["extra_ref"] = tables.intern("args", msgpack.packb({"user": "root"}))
    return tables.row(7, **fields)

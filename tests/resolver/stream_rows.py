"""Rows for tests of the encoder, and its slow twin: the contents of an event about a row, in plain Python."""

from __future__ import annotations

import random
import shutil
import struct
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgpack
import numpy as np

from pipeline.host import boot
from pipeline.records import declared
from pipeline.records.declared import KIND_NAMES
from pipeline.shm.layout import layout
from pipeline.shm.names.symlinks import symlink_names
from pipeline.shm.writer._opening import open_tables
from pipeline.shm.writer._writer import TableWriter
from pipeline.software._container_paths import container_trust
from tests.shm import _inside

BOOT = bytes(range(16))
BOOT_UNIX_NS = 1_700_000_000_000_000_000

FORK, EXEC, EXIT, CRED, CONTEXT, REPARENT, LOSS, STATS = range(8)

#: Some values for which the encoder has a name; each number used here has only one name.
FILESYSTEMS = {0xEF53: "ext4", 0x794C7630: "overlay", 0x01021994: "tmpfs", 0x01021997: "9p", 0xFF534D42: "cifs"}


@contextmanager
def tables(**changes: Any) -> Iterator[TableWriter]:
    """Small tables of their own."""
    directory = Path(tempfile.mkdtemp(prefix="procline-test-", dir="/dev/shm"))
    with tables_in(directory, **changes) as writer:
        yield writer


@contextmanager
def tables_in(directory: Path, **changes: Any) -> Iterator[TableWriter]:
    """Small tables in a directory on tmpfs, which is removed at the end."""
    settings: dict[str, Any] = {
        "boot_id": BOOT, "capture_id": 1, "ring_count": 1, "row_capacity": 4096, "chunk_rows": 256,
        "pid_capacity": 4096, "names_bytes": 1 << 22, "args_bytes": 1 << 22, "envs_bytes": 1 << 22,
        "key_capacity": 1024, "boot_unix_ns": BOOT_UNIX_NS, "retention_ns": 10**9,
    }  # fmt: skip
    writer = open_tables(directory, **(settings | changes))
    try:
        yield writer
    finally:
        writer.close(remove=True)
        shutil.rmtree(directory, ignore_errors=True)


def blob(strings: list[bytes]) -> bytes:
    """Arguments or environment as the segments store them."""
    data = b"".join(string + b"\0" for string in strings)
    return len(data).to_bytes(4, "little") + data


class Row:
    """One row: its fields by name, and its strings by reference name."""

    def __init__(self, writer: TableWriter, **fields: Any) -> None:
        self.writer = writer
        self.links: dict[str, Row] = {}
        self.strings: dict[str, bytes] = {}
        self.number = _inside.new_row(writer)
        for name, value in fields.items():
            if name in ("ancestor", "parent", "creator"):
                if value is not None:
                    self.links[name] = value
                    writer.py_set_link(name, self.number, value.number)
            elif name in ("file", "args", "envs", "name", "cgroup", "container", "extra"):
                self.strings[name] = value
                arena = {"args": "args", "extra": "args", "envs": "envs"}.get(name, "names")
                writer.py_set_ref(name, self.number, getattr(writer, f"py_intern_{arena}")(value))
            else:
                self._view(name)[name][self.number] = value
        writer.py_end(self.number)
        _inside.set_head(writer, self["tgid"], self.number)

    def __getitem__(self, name: str) -> Any:
        return self._view(name)[name][self.number].item()

    def _view(self, name: str) -> np.ndarray[Any, Any]:
        if name in layout.HOT.names:
            return self.writer.hot_view()
        return self.writer.cold_view() if name in layout.COLD.names else self.writer.costs_view()


def text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def field_text(data: bytes) -> str:
    return text(data.split(b"\0")[0])


def strings_of(data: bytes | None) -> list[str] | None:
    if data is None:
        return None
    body = data[4:]
    return [text(part) for part in body.removesuffix(b"\0").split(b"\0")] if body else []


def unix(boot_ns: int) -> int | None:
    return boot_ns + BOOT_UNIX_NS if boot_ns else None


def identity(row: Row | None) -> str | None:
    if row is None or not row["start_boot_ns"]:
        return None
    return f"{BOOT.hex()}-{row['tgid']:x}-{row['start_boot_ns']:x}"


def ancestor(row: Row) -> dict[str, Any]:
    known = row["known"]
    return {
        "pid": row["tgid"],
        "start_time_ns": unix(row["start_boot_ns"]),
        "comm": field_text(row["comm"]) if known & layout.KNOWN_COMM else None,
        "path": text(row.strings["file"][64:]) if known & layout.KNOWN_FILE and "file" in row.strings else None,
        "entity_id": identity(row),
    }


def is_whole(chain: list[Row]) -> bool | None:
    """Whether a chain of rows leads to pid 1 without a gap (specification 5.10)."""
    for at, row in enumerate(chain[:256]):
        below = chain[at - 1] if at else None
        if below is not None and below["tgid"] == 1 and (row["tgid"] != 1 or not below["flags"] & layout.ROW_IS_EXEC):
            return False
        if row["flags"] & layout.ROW_PARENT_MISSING:
            return False
    return None if len(chain) > 256 else chain[-1]["tgid"] == 1


def chain_of(row: Row) -> list[Row]:
    """The ancestors of a row, nearest first."""
    chain: list[Row] = []
    at = row.links.get("ancestor")
    while at is not None:
        chain.append(at)
        at = at.links.get("ancestor")
    return chain


def end_of(row: Row) -> dict[str, Any]:
    """How a process ended."""
    if not row["flags"] & layout.ROW_EXIT_KNOWN:
        return {"exit_code": None, "exit_cause": None, "exit_cause_code": None}
    status = row["exit_code"] & 0xFFFFFFFF
    signal = status & 0x7F
    return {
        "exit_code": row["exit_code"],
        "exit_cause": "exited" if not signal else "coredumped" if status & 0x80 else "signaled",
        "exit_cause_code": signal or status >> 8 & 0xFF,
    }


def facts_of(file: bytes, names: dict[str, dict[int, str]] | None) -> dict[str, Any]:
    """The facts of an executable, from its record and path."""
    record = np.frombuffer(file[:64], layout.FILE)[0]
    return {
        **path_of(record, file[64:]),
        "inode": record["file_inode"].item(), "device": record["device"].item(),
        "mount_id": record["mount_id"].item(), "mode": record["mode"].item(), "uid": record["file_uid"].item(),
        "gid": record["file_gid"].item(), **owner(record, names), "nlink": record["nlink"].item(),
        "mtime_ns": record["mtime_ns"].item() or None, "ctime_ns": record["ctime_ns"].item() or None,
        "fs_magic": record["fs_magic"].item(), "filesystem": FILESYSTEMS.get(record["fs_magic"].item()),
        "flags": record["file_flags"].item(),
        "in_upper_layer": bool(record["file_flags"] & declared.EXEC_UPPER_LAYER),
        "is_fileless": True if record["file_flags"] & declared.EXEC_MEMFD else False if record["mount_id"] else None,
        **mount(record, file[64:]),
    }  # fmt: skip


def if_known(row: Row, mask: int, *names: str) -> dict[str, Any]:
    """Fields of a row; nil without the bits `mask` of HOT.known."""
    return {name: row[name] if row["known"] & mask else None for name in names}


def expected(
    row: Row,
    *,
    topic: int,
    kind: int,
    seq: int,
    order: int,
    time: int,
    depth: int = 8,
    envs: bool = False,
    names: dict[str, dict[int, str]] | None = None,
    file_form: str = "exec",
    details: dict[str, Any] | None = None,
    package: dict[str, Any] | None = None,
    sha256: str | None = None,
    changed_after: int = 0,
) -> dict[str, Any]:
    """The twin of Encoder.event. `names` are the users and groups that apply to the row, `details` its container's,
    `package` and `sha256` its executable's."""
    event = {
        "event": "reparent" if topic == REPARENT else KIND_NAMES[kind], "seq": seq, "order": order,
        "time_ns": unix(time),
        **identities_of(row),
        **program_of(row, envs),
        **times_of(row),
        **end_of(row),
        **credentials_of(row, names),
        **session_of(row),
        **executable_of(row, names, topic == EXEC or file_form == "all"),
        "file_package": package, "file_sha256": sha256,
        **cgroup_of(row),
        **container_of(row), "container_details": details,
        **namespaces_of(row),
        **state_of(row),
        **lineage_of(row, depth),
    }  # fmt: skip
    if topic == EXIT:
        event |= costs_of(row)
    if event["event"] in ("cred", "sid"):
        event["changed_after_ns"] = unix(changed_after)
    return event


def identities_of(row: Row) -> dict[str, Any]:
    """The process, its parent and its creator."""
    start, spaces = row["start_boot_ns"], row["known"] & layout.KNOWN_NS
    return {
        "pid": row["tgid"], "tid": row["tid"] or row["tgid"], "ppid": row["ppid"], "entity_id": identity(row),
        "cpid": boot.cpid(BOOT, row["pid_ns"], boot.ticks_of(start), row["ns_pid"]) if spaces and start else None,
        "parent_entity_id": identity(row.links.get("parent")), "creator_pid": row["creator_tgid"] or None,
        "creator_entity_id": identity(row.links.get("creator")),
        "fork_flags": row["fork_flags"] or None, "cookie": row["cookie"] or None,
        "source": layout.SOURCE_NAMES[row["source"]],
    }  # fmt: skip


def program_of(row: Row, envs: bool) -> dict[str, Any]:
    """Names, arguments and environment; the environment only with `envs`."""
    known, flags = row["known"], row["flags"]
    file = row.strings.get("file") if known & layout.KNOWN_FILE else None
    args = row.strings.get("args") if known & layout.KNOWN_ARGS else None
    name, *directories = row.strings.get("name", b"").split(b"\0")
    return {
        "comm": field_text(row["comm"]) if known & layout.KNOWN_COMM else None,
        "path": text(file[64:]) if file is not None else None,
        "script_path": text(name) if name and flags & layout.ROW_SCRIPT else None,
        "name": text(name) if name else None,
        **{
            directory.name: text(directories[at]) if len(directories) > at and directories[at] else None
            for at, directory in enumerate(declared.DIRECTORIES)
        },
        **symlink(file, args, flags),
        "argv": strings_of(args),
        **if_known(row, layout.KNOWN_ARGS, "argc"), "args_truncated": bool(flags & layout.ROW_ARGS_TRUNCATED),
        "envs": strings_of(row.strings.get("envs")) if envs and known & layout.KNOWN_ENVS else None,
        **if_known(row, layout.KNOWN_ENVS, "envc"), "envs_truncated": bool(flags & layout.ROW_ENVS_TRUNCATED),
    }  # fmt: skip


def times_of(row: Row) -> dict[str, Any]:
    """When the process started, and when its events happened."""
    start = row["start_boot_ns"]
    return {
        "start_time_ns": unix(start), "fork_time_ns": unix(row["fork_boot_ns"]),
        "exec_time_ns": unix(row["exec_boot_ns"]), "exit_time_ns": unix(row["exit_boot_ns"]),
        "created_at_ns": unix(max(row["exec_boot_ns"], row["fork_boot_ns"] or start)),
    }  # fmt: skip


def credentials_of(row: Row, names: dict[str, dict[int, str]] | None) -> dict[str, Any]:
    """Users, groups and what limits the process."""
    known, flags = row["known"], row["flags"]
    return {
        **if_known(row, layout.KNOWN_CREDS, "uid", "gid", "euid", "egid", "suid", "sgid", "fsuid", "fsgid"),
        **{
            name: (names or {}).get(kind, {}).get(row[number]) if known & layout.KNOWN_CREDS else None
            for name, kind, number in NAMES
        },
        **{
            name: None if value == 0xFFFFFFFF else value
            for name, value in if_known(row, layout.KNOWN_AUID, "auid", "audit_session").items()
        },
        **if_known(row, layout.KNOWN_CAPS, "cap_effective", "cap_permitted"),
        "caps_attempted": row["cap_attempted"], "caps_used": row["cap_used"],
        "no_new_privs": bool(flags & layout.ROW_NO_NEW_PRIVS) if known & layout.KNOWN_NO_NEW_PRIVS else None,
        "seccomp_mode": SECCOMP[flags >> 24 & 3] if known & layout.KNOWN_SECCOMP else None,
    }  # fmt: skip


def session_of(row: Row) -> dict[str, Any]:
    """The terminal and the sessions."""
    return {
        "tty": field_text(row["tty"]) if row["known"] & layout.KNOWN_TTY else None,
        **if_known(row, layout.KNOWN_SID, "sid", "pgid"),
        "user_session": row["user_session"] or None,
    }


def executable_of(row: Row, names: dict[str, dict[int, str]] | None, has_files: bool) -> dict[str, Any]:
    """The executable and the interpreter; their facts only with `has_files`."""
    file = row.strings.get("file") if row["known"] & layout.KNOWN_FILE else None
    facts = facts_of(file, names) if file is not None and has_files else None
    extra = EXTRAS.get(row.strings.get("extra", b""))
    interpreter = facts if row["flags"] & layout.ROW_SCRIPT and row["inode"] else None
    if has_files and extra and "interpreter" in extra:
        interpreter = extra["interpreter"]
    return {
        **if_known(row, layout.KNOWN_FILE, "inode"), "file": facts, "interpreter": interpreter,
        "exec_inode": row["exec_inode"] or None, "extra": extra,
    }  # fmt: skip


def cgroup_of(row: Row) -> dict[str, Any]:
    """The cgroup."""
    number, source = row["cgroup_id"], row["cgroup_source"]
    known = row["known"] & layout.KNOWN_CGROUP
    cgroup = row.strings.get("cgroup")
    return {
        "cgroup": text(cgroup[16:]) if cgroup else None,
        "cgroup_created_at_ns": unix(struct.unpack_from("<Q", cgroup)[0]) if cgroup else None,
        "cgroup_id": number or None if known else None,
        "cgroup_version": 2 if known and number else None,
        "cgroup_source": {1: "event", 2: "procfs", 3: "inherited"}.get(source)
        if known and (number or source == 3) else None,
    }  # fmt: skip


def container_of(row: Row) -> dict[str, Any]:
    """The container, which the cgroup names."""
    container, cgroup = row.strings.get("container"), row.strings.get("cgroup")
    made = struct.unpack_from("<Q", cgroup, 8)[0] if cgroup else 0
    return {
        "container_id": text(container) if container is not None else None,
        "container_created_at_ns": unix(made) if container is not None else None,
        "container_trust": container_trust(text(cgroup[16:]), text(container))
        if cgroup and container is not None else None,
    }  # fmt: skip


def namespaces_of(row: Row) -> dict[str, Any]:
    """The namespaces, and the pid in the innermost one."""
    return {
        name: value or None
        for name, value in if_known(row, layout.KNOWN_NS, "ns_pid", "pid_ns", "mnt_ns", "net_ns", "user_ns").items()
    }


def state_of(row: Row) -> dict[str, Any]:
    """The flags, and what follows from them."""
    flags = row["flags"]
    return {
        "images": row["images"], "is_thread": not flags & layout.ROW_IS_EXEC,
        "is_exec": bool(flags & layout.ROW_IS_EXEC),
        "is_exec_exec": bool(flags & layout.ROW_IS_EXEC_EXEC),
        "is_parent_missing": bool(flags & layout.ROW_PARENT_MISSING), "is_adopted": bool(flags & layout.ROW_ADOPTED),
        "is_kworker": bool(flags & layout.ROW_KTHREAD),
        "is_through_symlink": bool(flags & layout.ROW_THROUGH_SYMLINK),
        "is_exited": bool(row["exit_boot_ns"]) and not flags & layout.ROW_REPLACED, "flags": flags,
        "marks": [mark for mark, flag in MARKS if flags & flag],
    }  # fmt: skip


def lineage_of(row: Row, depth: int) -> dict[str, Any]:
    """The nearest `depth` ancestors, and whether these are all."""
    chain = chain_of(row)
    return {
        "lineage": [ancestor(each) for each in chain[:depth]], "lineage_truncated": len(chain) > depth,
        "lineage_complete": None if row["flags"] & layout.ROW_KTHREAD else is_whole([row, *chain]),
    }  # fmt: skip


def costs_of(row: Row) -> dict[str, Any]:
    """The resources that a process that has ended has used."""
    return if_known(
        row, layout.KNOWN_COST, "cpu_user_ns", "cpu_system_ns", "children_cpu_ns", "max_rss_bytes", "minor_faults",
        "major_faults", "voluntary_switches", "involuntary_switches",
    ) | if_known(row, layout.KNOWN_IO, "read_bytes", "write_bytes")  # fmt: skip


def path_of(record: np.void, path: bytes) -> dict[str, str | None]:
    """The names of a file (specification 1.4); nil if no source reported them."""
    if not path:
        return {"path": None, "basename": None, "extension": None}
    whole, base = text(path), text(path.rpartition(b"/")[2])
    if record["file_flags"] & declared.EXEC_MEMFD:
        name = text(path.removeprefix(b"/"))
        whole, base = "", name if name.startswith("memfd:") else "memfd:" + name
    _, dot, end = base.rpartition(".")
    return {"path": whole, "basename": base, "extension": dot + end if dot else ""}


def mount(record: np.void, path: bytes) -> dict[str, Any]:
    """The event's fields about the mount of a file."""
    end, flags = record["mount_end"].item(), record["mount_flags"].item()
    is_known = 0 < end <= len(path) + 1 and not flags & layout.MOUNT_DETACHED
    resolved = bool(flags & layout.MOUNT_RESOLVED)
    return {
        "mount_path": text(path[: end - 1]) or "/" if is_known else None,
        "mount_source": {1: "mount_id", 2: "device", 3: "snapshot"}.get(record["mount_source"].item()),
        "mount_origin": {1: "procfs", 2: "event", 3: "unshare"}.get(record["mount_origin"].item()),
        "mount_visible": bool(flags & layout.MOUNT_VISIBLE) if resolved else None,
        "mount_detached": bool(flags & layout.MOUNT_DETACHED) if resolved else None,
    }


def owner(record: np.void, names: dict[str, dict[int, str]] | None) -> dict[str, str | None]:
    """Names of the file's owner; without names if no source read the file's metadata."""
    if names is None or not record["file_inode"]:
        return {"user": None, "group": None}
    return {kind: names[kind].get(record[f"file_{kind[0]}id"].item()) for kind in ("user", "group")}


def symlink(file: bytes | None, args: bytes | None, flags: int) -> dict[str, Any]:
    root_offset = int(np.frombuffer(file[:64], layout.FILE)["root_offset"][0]) if file is not None else 0
    path = text(file[64 + root_offset :]) if file is not None else ""
    argv = strings_of(args)
    names = symlink_names(path, argv[0], bool(flags & layout.ROW_THROUGH_SYMLINK)) if argv else None
    return {
        "symlink_paths": list(names.paths) if names else None,
        "symlink_basename": names.basename if names else None,
    }


NAMES = (
    ("user", "user", "uid"), ("group", "group", "gid"), ("euser", "user", "euid"), ("egroup", "group", "egid"),
    ("fsuser", "user", "fsuid"), ("fsgroup", "group", "fsgid"),
)  # fmt: skip
MARKS = (
    ("adopted", layout.ROW_ADOPTED), ("adoption_predicted", layout.ROW_ADOPTION_PREDICTED),
    ("exit_unseen", layout.ROW_EXIT_UNSEEN), ("before_capture", layout.ROW_BEFORE_CAPTURE), ("gap", layout.ROW_GAP),
    ("ns_init", layout.ROW_NS_INIT), ("start_ticks", layout.ROW_START_TICKS), ("head_only", layout.ROW_HEAD_ONLY),
    ("elided", layout.ROW_ELIDED), ("foreign", layout.ROW_FOREIGN), ("change_sampled", layout.ROW_CHANGE_SAMPLED),
)  # fmt: skip
EXTRA = b"\x81\xa3ssh\x81\xa4user\xc4\x01\xff"
#: What is stored in a row's `extra`, and what the encoder reads from it.
EXTRAS = {
    EXTRA: {"ssh": {"user": "\udcff"}},
    b"\x83\xa3ssh\xc0\xabinterpreter\x81\xa4path\xc4\x01\xff\xa7span_id\xcd\x01\x00": {
        "ssh": None, "interpreter": {"path": "\udcff"}, "span_id": 256,
    },
    b"\xde\x00\x02\xb0interpreter_more\x91\xa1x\xabinterpreter\x80": {"interpreter_more": ["x"], "interpreter": {}},
    b"\x81\xb0interpreter_more\x80": {"interpreter_more": {}},
}  # fmt: skip

#: Byte strings as the kernel has them: plain, not ASCII, not UTF-8 in every possible way, long.
WORDS = (
    b"a", b"sh", b"/usr/bin/python3.13", "gr\u00fc\u00df".encode(), "\U0001f600".encode(), b"\xff", b"ok\xc3",
    b"\xc0\xaf", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xe2\x82", b"x" * 31, b"x" * 32, b"y" * 255, b"y" * 256,
    b"\x80" * 255,
    b"\xfe" * 256, b"z" * 4000, b"\x80" * 4000, b"z" * 70_000, b"\xff" * 70_000, "\ufffd\u4e16".encode() * 3,
    b"-" * 7 + b"\xe9", b"/memfd:x.tar.gz", b"memfd:", b"/usr/lib/x.d/.so", b"/opt/a/", b".", b"/a.b/" + b"\xff" * 300,
    b"memfd:/" + b"." * 300,
)  # fmt: skip


SECCOMP = ("disabled", "strict", "filter", "filter")


def random_row(random: random.Random, writer: TableWriter, tgid: int, relatives: list[Row]) -> Row:
    """A row with random but possible contents."""

    def number(bits: int) -> int:
        return random.choice((0, 1, 127, 128, 255, 256, (1 << bits) - 1, random.getrandbits(bits)))

    fields: dict[str, Any] = {"tgid": tgid}
    for dtype in (layout.HOT, layout.COLD):
        for name in dtype.names or ():
            kind = dtype[name]
            if name in ("row_seq", "generation", "tgid", "check") or name.endswith("_ref"):
                continue
            if name in ("ancestor", "parent", "creator", "previous_owner"):
                continue
            if kind.kind == "S":
                fields[name] = random.choice(WORDS)[: random.choice((15, 16))]
            elif name == "source":
                fields[name] = random.randrange(6)
            elif name == "cgroup_source":
                fields[name] = random.choice((0, 1, 2, 3, 4, 255))
            elif name in ("auid", "audit_session"):
                fields[name] = random.choice((0, 1000, 0xFFFFFFFF))
            elif name in ("start_boot_ns", "exec_boot_ns", "exit_boot_ns", "fork_boot_ns"):
                fields[name] = random.choice((0, 1, random.getrandbits(50)))
            elif name == "exit_code":
                fields[name] = random.choice((0, 256, 9, 139, 0x7F00, -1, random.getrandbits(16)))
            else:
                # Numbers from the kernel have their full width; flags and masks too: unknown bits must not matter.
                fields[name] = number(kind.itemsize * 8 - (kind.kind == "i"))
    fields["flags"] = random.getrandbits(21) | random.getrandbits(1) << 23 | random.randrange(4) << 24
    fields["known"] = random.choice((0, 0xFFFFFFFF, random.getrandbits(19)))
    for name in ("name", "cgroup", "container"):
        if random.random() < 0.5:
            fields[name] = random.choice(WORDS)
    for _ in range(random.choice((0, 0, 1, 1, 2, 3))):
        fields["name"] = fields.get("name", b"") + b"\0" + random.choice((b"", *WORDS))
    if "cgroup" in fields:
        times = [random.choice((0, 1, random.getrandbits(50))) for _ in range(2)]
        fields["cgroup"] = struct.pack("<QQ", *times) + fields["cgroup"]
    if random.random() < 0.7:
        record = np.frombuffer(random.randbytes(64), layout.FILE).copy()
        record["fs_magic"] = random.choice((0, *FILESYSTEMS))
        record["mount_end"] = random.choice((0, 1, 2, 3, 32, number(32)))
        record["mount_source"], record["mount_origin"] = random.choice((0, 1, 2, 3, 4, 255)), random.randrange(6)
        record["file_inode"], record["file_uid"], record["file_gid"] = number(64), number(32), number(32)
        fields["file"] = record.tobytes() + random.choice((b"", *WORDS))
    for name in ("args", "envs"):
        if random.random() < 0.7:
            strings = [random.choice((b"", *WORDS)) for _ in range(random.choice((0, 1, 2, 15, 16, 40)))]
            data = blob(strings)
            fields[name] = data[:-1] if strings and strings[-1] and random.random() < 0.3 else data
    if random.random() < 0.2:
        fields["extra"] = random.choice(list(EXTRAS))
    for link in ("ancestor", "parent", "creator"):
        fields[link] = random.choice([None, *relatives[-12:]])
    return Row(writer, **fields)


def file_facts(inode: int, mtime_ns: int, ctime_ns: int, device: int) -> bytes:
    """Return what a row has about the file of its executable, without the path."""
    record = np.zeros(1, layout.FILE)
    record["file_inode"], record["mtime_ns"], record["ctime_ns"], record["device"] = inode, mtime_ns, ctime_ns, device
    return record.tobytes()


def take(made):
    """Take all pending events in their order, after checking the rules of groups."""
    events, group = [], []
    for message in made.take():
        group.append(message)
        events += unpack(message)
        if message.rest == 0:
            topics = [each.topic for each in group]
            assert topics == sorted(set(topics)), "one message of each topic in a group"
            for at, each in enumerate(group):
                assert each.rest == sum(1 << later for later in topics[at + 1 :])
            group = []
    assert not group, "the last message of a group says that nothing follows"
    return sorted(events, key=lambda event: event["order"])


def unpack(message):
    """Read a body with the general msgpack library; bin values become text as this stream defines it."""
    unpacker = msgpack.Unpacker(
        raw=False, max_buffer_size=1 << 28,
        object_hook=lambda found: {key: text(item) if type(item) is bytes else item for key, item in found.items()},
        list_hook=lambda found: [text(item) if type(item) is bytes else item for item in found],
    )  # fmt: skip
    unpacker.feed(bytes(message.body))
    events = list(unpacker)
    assert len(events) == message.count
    assert [event["seq"] for event in events] == list(range(message.first, message.first + message.count))
    return events

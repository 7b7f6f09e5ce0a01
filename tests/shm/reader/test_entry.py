"""The values that an entry shows, and the moment that they belong to."""

from __future__ import annotations

import json
import os
import pickle
import re
import struct
from pathlib import Path

import msgpack
import pytest

from pipeline.errors import TooOldError
from pipeline.export.json import document, dumps
from pipeline.host import boot
from pipeline.records import declared
from pipeline.shm.layout import layout
from pipeline.shm.layout.file_fields import FIELDS as FILE_FIELDS
from pipeline.shm.reader import _entry
from pipeline.shm.reader._reader import TableReader
from pipeline.shm.reader.table import FIELDS, Entry, ProcessTable
from pipeline.shm.writer._segment import filesystem_type
from tests.shm.full_row import ALL_KNOWN, full_row, resolve
from tests.shm.handmade import BOOT_ID, BOOT_UNIX_NS, Tables


@pytest.fixture
def tables(shm_dir: Path) -> Tables:
    return Tables(shm_dir)


def test_every_field_is_shown(tables: Tables) -> None:
    row = full_row(tables)
    hot, cold, costs = tables.hot[row], tables.cold[row], tables.costs[row]
    shown = resolve(tables, 7).to_dict()
    assert tuple(shown) == FIELDS
    same = {
        "ppid", "uid", "gid", "inode", "cgroup_id", "images", "euid", "egid", "suid", "sgid", "fsuid", "fsgid", "auid",
        "audit_session", "sid", "pgid", "tid", "ns_pid", "pid_ns", "mnt_ns", "net_ns", "user_ns", "cap_effective",
        "cap_permitted", "cookie", "fork_flags", "user_session", "exit_code", "argc", "envc", "exec_inode",
        "cpu_user_ns", "cpu_system_ns", "children_cpu_ns", "max_rss_bytes", "minor_faults", "major_faults",
        "voluntary_switches", "involuntary_switches", "read_bytes", "write_bytes",
    }  # fmt: skip
    for name in same:
        part = hot if name in layout.HOT.names else cold if name in layout.COLD.names else costs
        assert shown.pop(name) == part[name], name
    for name in ("start", "exec", "exit"):
        assert shown.pop(f"{name}_time_ns") == BOOT_UNIX_NS + hot[f"{name}_boot_ns"]
    assert shown.pop("cpid") == boot.cpid(BOOT_ID, cold["pid_ns"].item(), boot.ticks_of(hot["start_boot_ns"].item()),
                                          cold["ns_pid"].item())  # fmt: skip
    boot_hex = BOOT_ID.hex()
    assert shown == {
        "pid": 7, "fork_time_ns": BOOT_UNIX_NS + int(cold["fork_boot_ns"]), "exit_cause": "exited",
        "exit_cause_code": 3, "comm": "tool\udcff", "path": "/chroot/usr/bin/python3", "script_path": "./run.py",
        "name": "./run.py", "cwd": "/srv/w\u00f6rk", "no_new_privs": True, "seccomp_mode": "filter",
        "argv": ["python3", "", "\udcfe.py"], "args_truncated": False, "envs": ["A=1"],
        "envs_truncated": False, "caps_attempted": cold["cap_attempted"], "caps_used": cold["cap_used"], "tty": "pts3",
        "file": (file := {
            "path": "/chroot/usr/bin/python3", "basename": "python3", "extension": "", "is_fileless": False,
            "inode": 7, "device": 8, "mount_id": 9, "mode": 0o100755, "uid": 10, "gid": 11, "user": None,
            "group": None, "nlink": 1, "mtime_ns": 12, "ctime_ns": 13, "fs_magic": 0x9123683E,
            "filesystem": "btrfs", "flags": 1, "in_upper_layer": False, "mount_path": "/chroot",
            "mount_source": "mount_id",
            "mount_origin": "event", "mount_visible": True, "mount_detached": False,
        }),
        "interpreter": file,  # the executable is a script
        "cgroup": "/system.slice", "cgroup_version": 2, "cgroup_source": "procfs",
        "cgroup_created_at_ns": BOOT_UNIX_NS + 7000, "container_id": "c0ffee",
        "container_created_at_ns": BOOT_UNIX_NS + 6000, "container_trust": None,
        "entity_id": boot.entity_id(BOOT_ID, 7, int(hot["start_boot_ns"])), "parent_entity_id": f"{boot_hex}-3-1f4",
        "creator_pid": 4, "creator_entity_id": f"{boot_hex}-4-258", "source": "event", "is_exec": True,
        "created_at_ns": BOOT_UNIX_NS + int(max(hot["exec_boot_ns"], cold["fork_boot_ns"])), "is_thread": False,
        "is_exec_exec": False, "is_parent_missing": False, "is_adopted": False, "is_kworker": False,
        "is_through_symlink": False, "is_head": True, "is_exited": True, "marks": [], "flags": hot["flags"],
        "row": row, "generation": 1, "extra": {"user": "root"},
        "symlink_paths": None, "symlink_basename": None, "user": None, "group": None, "euser": None, "egroup": None,
        "fsuser": None, "fsgroup": None, "ssh_session": None, "container_details": None,
            "file_package": None, "file_sha256": None,
    }  # fmt: skip
    assert list(resolve(tables, 7).file or ()) == [field.name for field in FILE_FIELDS]
    assert resolve(tables, 7).path_in_root == "/usr/bin/python3"


def test_a_projection_has_the_asked_fields_in_their_order(tables: Tables) -> None:
    full_row(tables)
    whole = resolve(tables, 7).to_dict()
    for names in (("argv", "pid"), FIELDS[::-1], ()):
        assert list(resolve(tables, 7).to_dict(names).items()) == [(name, whole[name]) for name in names]
    for wrong in ("nonesuch", "load", "path_in_root"):  # the last two are attributes, but no fields
        with pytest.raises(ValueError, match=wrong):
            resolve(tables, 7).to_dict(("pid", wrong))


def test_a_projection_is_of_one_moment(tables: Tables) -> None:
    """The hot fields were copied before the row changed; the cold ones can only be read after it."""
    row = tables.row(7, known=ALL_KNOWN, uid=1, euid=1)
    entry = resolve(tables, 7)
    tables.change(row, uid=2, euid=2)
    assert entry.to_dict(("uid",)) == {"uid": 1}
    assert entry.to_dict(("uid", "euid")) == {"uid": 2, "euid": 2}


def test_a_projection_of_an_evicted_entry_raises(tables: Tables) -> None:
    row = tables.row(7, known=ALL_KNOWN, uid=1, args_ref=tables.strings("args", b"a"))
    entry = resolve(tables, 7)
    tables.free(row)
    tables.reuse(row, 8)
    assert entry.to_dict(("pid", "uid")) == {"pid": 7, "uid": 1}
    with pytest.raises(TooOldError, match="pid 7"):
        entry.to_dict(("pid", "argv"))


def test_unknown_values_are_none(tables: Tables) -> None:
    tables.row(7, known=0, start_boot_ns=0, ppid=0, source=layout.SOURCE_PLACEHOLDER)
    shown = resolve(tables, 7).to_dict()
    values = {
        "pid": 7, "tid": 7, "ppid": 0, "args_truncated": False, "envs_truncated": False, "caps_attempted": 0,
        "caps_used": 0, "source": "placeholder", "images": 1, "marks": [], "flags": 1, "row": 1, "generation": 1,
        "is_exec": False, "is_exec_exec": False, "is_parent_missing": False, "is_adopted": False, "is_kworker": False,
        "is_through_symlink": False, "is_head": True, "is_exited": False, "is_thread": True,
    }  # fmt: skip
    assert shown == dict.fromkeys(FIELDS) | values


@pytest.mark.parametrize(
    ("flags", "known", "shown"),
    [
        (0, 0, (None, None)),
        (layout.ROW_NO_NEW_PRIVS | layout.ROW_SECCOMP_FILTER, 0, (None, None)),
        (0, layout.KNOWN_NO_NEW_PRIVS | layout.KNOWN_SECCOMP, (False, "disabled")),
        (layout.ROW_NO_NEW_PRIVS, layout.KNOWN_NO_NEW_PRIVS, (True, None)),
        (layout.ROW_SECCOMP_STRICT, layout.KNOWN_SECCOMP, (None, "strict")),
        (layout.ROW_SECCOMP_FILTER, layout.KNOWN_SECCOMP, (None, "filter")),
    ],
)
def test_states_are_shown_where_they_are_known(
    tables: Tables, flags: int, known: int, shown: tuple[bool | None, str | None]
) -> None:
    tables.row(7, known=known, flags=layout.ROW_HEAD | flags)
    entry = resolve(tables, 7)
    assert (entry.no_new_privs, entry.seccomp_mode) == shown


@pytest.mark.parametrize(
    ("stored", "name", "cwd"),
    [
        (b"./a", "./a", None),
        (b"./a\0/", "./a", "/"),
        (b"./a\0", "./a", None),
        (b"./a\0\0/later", "./a", None),
        (b"./a\0/srv\0/later", "./a", "/srv"),
        (b"\0/srv/\xff\n", None, "/srv/\udcff\n"),
        (b"./a\0/" + b"d" * 4094, "./a", "/" + "d" * 4094),
    ],
)
def test_the_working_directory_follows_the_name(
    tables: Tables, stored: bytes, name: str | None, cwd: str | None
) -> None:
    tables.row(7, flags=layout.ROW_HEAD | layout.ROW_SCRIPT, name_ref=tables.intern("names", stored))
    entry = resolve(tables, 7)
    for _ in range(2):
        assert (entry.name, entry.script_path, entry.cwd) == (name, name, cwd)


@pytest.mark.parametrize(
    ("known", "number", "version", "source"),
    [(layout.KNOWN_CGROUP, 1, 2, "event"), (layout.KNOWN_CGROUP, 0, None, None), (0, 1, None, None)],
)
def test_a_cgroup_that_is_not_known_has_no_version_and_no_source(
    tables: Tables, known: int, number: int, version: int | None, source: str | None
) -> None:
    # Where only version 1 is mounted, a container may be known without a cgroup.
    told = layout.CGROUP_SOURCE_EVENT
    tables.row(
        7, known=known, cgroup_id=number, cgroup_source=told, container_ref=tables.intern("names", b"c0ffee")
    )  # fmt: skip
    entry = resolve(tables, 7)
    assert (entry.cgroup_version, entry.cgroup_source, entry.container_id) == (version, source, "c0ffee")
    assert entry.container_trust is None


@pytest.mark.parametrize(
    ("cgroup", "trust"),
    [
        (f"/system.slice/docker-{'5e' * 32}.scope", "root"),
        (f"/user.slice/user-7.slice/user@7.service/docker-{'5e' * 32}.scope", "user"),
        ("/", None),
    ],
)
def test_who_could_have_named_the_container(tables: Tables, cgroup: str, trust: str | None) -> None:
    path = struct.pack("<QQ", 0, 0) + cgroup.encode()
    cgroup_ref, container_ref = tables.intern("names", path), tables.intern("names", b"5e" * 32)
    tables.row(7, known=layout.KNOWN_CGROUP, cgroup_id=9, cgroup_ref=cgroup_ref, container_ref=container_ref)
    tables.row(8, known=layout.KNOWN_CGROUP, cgroup_id=9, cgroup_ref=cgroup_ref)
    assert resolve(tables, 7).container_trust == pickle.loads(pickle.dumps(resolve(tables, 7))).container_trust == trust
    assert resolve(tables, 8).container_trust is None


def filesystems(tables: Tables, *magics: int) -> list[str | None]:
    """The names that entries show for file systems with these numbers."""
    for pid, magic in enumerate(magics, 100):
        tables.row(pid, known=layout.KNOWN_FILE, file_ref=tables.file(b"/bin/true", fs_magic=magic))
    reader = TableReader(tables.directory)
    found = [reader.resolve(pid) for pid in range(100, 100 + len(magics))]
    return [None if entry is None or entry.file is None else entry.file["filesystem"] for entry in found]


def test_file_systems_have_names(tables: Tables) -> None:
    known = {
        0xEF53: "ext4", 0x58465342: "xfs", 0x9123683E: "btrfs", 0x2FC12FC1: "zfs", 0xF2F52010: "f2fs",
        0xE0F5E1E2: "erofs", 0x73717368: "squashfs", 0x9660: "iso9660", 0x4D44: "vfat", 0x794C7630: "overlay",
        0x65735546: "fuse", 0x6969: "nfs", 0x01021997: "9p", 0xFF534D42: "cifs", 0xFE534D42: "cifs",
        0x01021994: "tmpfs", 0x858458F6: "ramfs", 0x9FA0: "proc", 0x62656572: "sysfs", 0x27E0EB: "cgroup",
        0x63677270: "cgroup2",
    }  # fmt: skip
    assert filesystems(tables, *known) == list(known.values())


def test_a_file_system_that_is_not_known_has_no_name(tables: Tables) -> None:
    assert filesystems(tables, 0, 14, 0xEF54, 0xFFFFFFFF) == [None] * 4


#: File system types that share the number of another type.
SHARED = {
    "ext2": "ext4", "ext3": "ext4", "devtmpfs": "tmpfs", "nfs4": "nfs", "fuseblk": "fuse", "virtiofs": "fuse",
    "smb3": "cifs", "msdos": "vfat",
}  # fmt: skip


def test_file_systems_have_the_names_of_this_kernel(tables: Tables) -> None:
    kinds: dict[int, set[str]] = {}
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields, _, tail = line.partition(" - ")
        device, place = fields.split()[2], fields.split()[4]
        kind = tail.split()[0].partition(".")[0]  # "fuse.sshfs"
        if kind == "autofs":
            continue  # reading it would mount the file system behind it
        try:
            there, magic = Path(place).stat().st_dev, filesystem_type(place)
        except OSError:
            continue
        if f"{os.major(there)}:{os.minor(there)}" == device:  # otherwise another one is mounted over it
            kinds.setdefault(magic, set()).add(SHARED.get(kind, kind))
    names = filesystems(tables, *kinds)
    assert "proc" in names
    for name, known in zip(names, kinds.values(), strict=True):
        assert name is None or known == {name}


@pytest.mark.parametrize(
    ("status", "cause", "code"), [(0, "exited", 0), (256, "exited", 1), (9, "signaled", 9), (139, "coredumped", 11)]
)
def test_how_it_ended(tables: Tables, status: int, cause: str, code: int) -> None:
    tables.row(7, exit_boot_ns=9, flags=layout.ROW_EXIT_KNOWN | layout.ROW_HEAD, exit_code=status)
    entry = resolve(tables, 7)
    assert (entry.exit_code, entry.exit_cause, entry.exit_cause_code) == (status, cause, code)


@pytest.mark.parametrize(
    ("path", "facts", "names"),
    [
        (b"/usr/lib/x.d/tool.tar.gz", {"mount_id": 3}, ("/usr/lib/x.d/tool.tar.gz", "tool.tar.gz", ".gz", False)),
        (b"/bin/sh", {"mount_id": 3}, ("/bin/sh", "sh", "", False)),
        (b"/home/a.b/.profile", {"mount_id": 3}, ("/home/a.b/.profile", ".profile", ".profile", False)),
        (b"/memfd:x.so", {"mount_id": 3, "file_flags": declared.EXEC_MEMFD}, ("", "memfd:x.so", ".so", True)),
        (b"x/y", {"file_flags": declared.EXEC_MEMFD}, ("", "memfd:x/y", "", True)),
        (b"/opt/\xff.\xfe", {}, ("/opt/\udcff.\udcfe", "\udcff.\udcfe", ".\udcfe", None)),  # mount not reported
        (b"", {"mount_id": 3}, (None, None, None, False)),
    ],
)
def test_a_file_has_its_names(tables: Tables, path: bytes, facts: dict[str, int], names: tuple[object, ...]) -> None:
    """Specification 1.4: basename and extension, also of a file in memory, which has no path."""
    tables.row(7, known=layout.KNOWN_FILE, file_ref=tables.file(path, **facts))
    file = resolve(tables, 7).file
    assert file is not None
    assert tuple(file[name] for name in ("path", "basename", "extension", "is_fileless")) == names


def test_only_scripts_have_an_interpreter(tables: Tables) -> None:
    """HasInterpreter of specification 1.3: there is an interpreter if its inode is not 0."""
    ref = tables.file(b"/usr/bin/python3", file_inode=7, mount_id=3)
    script = layout.ROW_HEAD | layout.ROW_SCRIPT
    tables.row(7, known=layout.KNOWN_FILE, inode=7, file_ref=ref, flags=script)
    entry = resolve(tables, 7)
    assert entry.interpreter == entry.file and entry.interpreter["path"] == "/usr/bin/python3"
    tables.row(8, known=layout.KNOWN_FILE, inode=7, file_ref=ref, flags=layout.ROW_HEAD)
    tables.row(9, known=layout.KNOWN_FILE, inode=0, file_ref=ref, flags=script)
    tables.row(10, known=0, inode=7, flags=script)
    assert [resolve(tables, pid).interpreter for pid in (8, 9, 10)] == [None] * 3
    told = {"path": "/bin/sh", "inode": 5}
    tables.row(
        11, known=layout.KNOWN_FILE, inode=7, file_ref=ref, flags=script,
        extra_ref=tables.intern("args", msgpack.packb({"interpreter": told})),
    )  # fmt: skip
    assert resolve(tables, 11).interpreter == told


def test_text_of_extra_that_is_not_utf8_has_surrogate_escapes(tables: Tables) -> None:
    extra = {"names": {"user": b"\xff"}, "list": [b"a\xfe", 1], "text": "x"}
    tables.row(7, extra_ref=tables.intern("args", msgpack.packb(extra)))
    entry = resolve(tables, 7)
    assert entry.extra == {"names": {"user": "\udcff"}, "list": ["a\udcfe", 1], "text": "x"}
    assert json.loads(dumps(entry.to_dict()))["extra"] == entry.extra


def test_unset_login_uid_is_none(tables: Tables) -> None:
    tables.row(7, known=layout.KNOWN_AUID, auid=2**32 - 1, audit_session=2**32 - 1)
    assert (resolve(tables, 7).auid, resolve(tables, 7).audit_session) == (None, None)


@pytest.mark.parametrize(
    ("flags", "deleted", "memfd"),
    [(0, False, False), (declared.EXEC_DELETED, True, False), (declared.EXEC_MEMFD, False, True)],
)
def test_an_executable_without_a_name(tables: Tables, flags: int, deleted: bool, memfd: bool) -> None:
    tables.row(7, known=layout.KNOWN_FILE, file_ref=tables.file(b"/x", file_flags=flags))
    entry = resolve(tables, 7)
    assert (entry.is_exe_deleted, entry.is_memfd) == (deleted, memfd)


@pytest.mark.parametrize(
    ("values", "cut", "shown"),
    [((), b"", []), ((b"",), b"", [""]), ((b"a", b"b"), b"", ["a", "b"]), ((b"a",), b"bc", ["a", "bc"])],
)
def test_argv(tables: Tables, values: tuple[bytes, ...], cut: bytes, shown: list[str]) -> None:
    tables.row(7, known=layout.KNOWN_ARGS, args_ref=tables.strings("args", *values, cut=cut))
    assert resolve(tables, 7).argv == shown
    assert resolve(tables, 7).args_full_bytes == sum(len(value) + 1 for value in values) + len(cut)
    tables.row(8, known=0, args_ref=tables.strings("args", b"x"))
    assert resolve(tables, 8).argv is None


def test_marks_name_the_uncertain_facts(tables: Tables) -> None:
    flags = layout.ROW_HEAD | layout.ROW_GAP | layout.ROW_BEFORE_CAPTURE | layout.ROW_ADOPTED
    tables.row(7, flags=flags)
    entry = resolve(tables, 7)
    assert entry.marks == ["adopted", "before_capture", "gap"] and entry.is_adopted


def test_the_flags_of_marks_and_statements_are_those_of_the_layout(tables: Tables) -> None:
    """Each ROW_ flag has an attribute or a mark, so that readers can see all of them."""
    flags = {name: value for name, value in vars(layout).items() if re.fullmatch(r"ROW_[A-Z_]+", name)}
    tables.row(7, flags=0, known=ALL_KNOWN)
    plain = resolve(tables, 7)
    seen = ["marks", "no_new_privs", "seccomp_mode"] + [
        name for name in dir(Entry) if name.startswith("is_") or name.endswith("_truncated")
    ]
    for name, flag in flags.items():
        # script_path, exit_code; exit_time_ns; and flags that only the writer needs
        if name in ("ROW_SCRIPT", "ROW_EXIT_KNOWN", "ROW_DELETED", "ROW_STAT_INODE"):
            continue
        tables.hot["flags"][1], tables.hot["known"][1] = flag, ALL_KNOWN
        entry = resolve(tables, 7)
        assert any(getattr(entry, attribute) != getattr(plain, attribute) for attribute in seen), name


def test_fields_belong_to_one_moment(tables: Tables) -> None:
    """An entry moves to a newer moment as a whole when it must read a field that it has not read yet."""
    row = tables.row(7, known=ALL_KNOWN, uid=1, euid=1, args_ref=tables.strings("args", b"first"))
    entry = resolve(tables, 7)
    assert (entry.uid, entry.argv) == (1, ["first"])
    tables.change(row, uid=2, euid=2, args_ref=tables.strings("args", b"second"))
    assert (entry.uid, entry.argv) == (1, ["first"])  # was read before
    assert entry.euid == 2  # read now, so ...
    assert (entry.uid, entry.argv) == (2, ["second"])
    tables.change(row, args_ref=tables.strings("args", b"third"))
    assert resolve(tables, 7).argv == ["third"]


def test_an_attribute_of_an_evicted_entry_raises(tables: Tables) -> None:
    row = tables.row(7, known=ALL_KNOWN, uid=1, args_ref=tables.strings("args", b"a"))
    entry, loaded = resolve(tables, 7), resolve(tables, 7)
    assert loaded.load() is loaded
    tables.free(row)
    tables.reuse(row, 8, uid=99, args_ref=tables.strings("args", b"other"))
    assert entry.uid == 1
    for name in ("euid", "argv", "cgroup"):
        with pytest.raises(TooOldError, match="pid 7"):
            getattr(entry, name)
    with pytest.raises(TooOldError):
        entry.to_dict()
    assert loaded.to_dict()["argv"] == ["a"] and loaded.euid == 0 and loaded.cgroup is None


def test_entries_are_equal_by_image(tables: Tables) -> None:
    row = tables.row(7)
    reader = TableReader(tables.directory)
    first = reader.resolve(7)
    tables.change(row, uid=9)
    second = reader.resolve(7)
    assert first == second and hash(first) == hash(second) and first != 7
    tables.free(row)
    tables.reuse(row, 7)
    assert reader.resolve(7) != first
    with pytest.raises(TypeError):
        Entry()


def test_entries_of_two_instances_are_not_equal(shm_dir: Path) -> None:
    """The same row, generation, epoch and boot, and not even the same process."""
    instances = Tables(shm_dir / "a"), Tables(shm_dir / "b")
    for tables in instances:
        tables.row(7)
    one, other = (resolve(tables, 7) for tables in instances)
    assert one.row == other.row and one.generation == other.generation
    assert one != other and len({one, other}) == 2
    for entry in (one, other):
        assert pickle.loads(pickle.dumps(entry)) == entry
    assert pickle.loads(pickle.dumps(one)) != other


def test_a_long_string_is_whole(tables: Tables) -> None:
    value = bytes(range(1, 256)) * 1000
    tables.row(7, known=ALL_KNOWN, args_ref=tables.strings("args", value))
    assert resolve(tables, 7).argv == [value.decode("utf-8", "surrogateescape")]


def test_a_reference_beyond_the_arena_is_not_followed(tables: Tables) -> None:
    """A torn or damaged reference must not cause a SIGBUS; it never validates, so the read ends in an error."""
    tables.row(7, known=ALL_KNOWN, args_ref=2**32 - 1)
    with pytest.raises(Exception, match=r"half-written|longer than a reader waits"):
        _ = resolve(tables, 7).argv


# -- JSON --------------------------------------------------------------------------------------------------------------


def test_json_is_ascii_with_escaped_bytes(tables: Tables) -> None:
    full_row(tables)
    entry = resolve(tables, 7)
    line = dumps(entry.to_dict())
    assert line.isascii() and "\n" not in line and r'"comm": "tool\udcff"' in line
    assert json.loads(line) == entry.to_dict()
    assert dumps({"a": "\udc80"}) == r'{"a": "\udc80"}'


@pytest.mark.parametrize("head", [{}, {"instance": "default", "epoch": 1}])
def test_a_document_is_made_piece_by_piece(tables: Tables, head: dict[str, object]) -> None:
    full_row(tables)
    with ProcessTable.attach(path=tables.directory) as table:
        text = b"".join(document(table.batches(FIELDS, size=2), **head)).decode("ascii")
        lines = [dumps(entry.to_dict()) for entry in table.walk()]
    assert text.splitlines()[1:-1] == [f"{line}," for line in lines[:-1]] + lines[-1:]
    whole = json.loads(text)
    assert [entry["pid"] for entry in whole["entries"]] == [3, 4, 7]
    assert {key: value for key, value in whole.items() if key != "entries"} == head
    assert json.loads(b"".join(document([], **head)))["entries"] == []


def test_the_stub_has_every_name() -> None:
    """mypy checks callers against _entry.pyi, so it must list the attributes of the compiled class."""
    stub = Path(_entry.__file__).with_name("_entry.pyi").read_text()
    listed = set(re.findall(r"def (\w+)\(self", stub))
    public = {name for name in dir(Entry) if not name.startswith("_")}
    assert public == {name for name in listed if not name.startswith("_")}
    assert set(FIELDS) <= public


# -- cached strings ----------------------------------------------------------------------------------------------------


def test_a_string_that_many_share_is_one_object_and_lists_are_everybodys_own(tables: Tables) -> None:
    shared = {
        "known": ALL_KNOWN, "flags": layout.ROW_HEAD, "file_ref": tables.file(b"/usr/bin/shared"),
        "args_ref": tables.strings("args", b"shared", b"-x"),
        "cgroup_ref": tables.intern("names", bytes(16) + b"/shared.slice"),
    }  # fmt: skip
    tables.row(7, **shared)
    tables.row(8, **shared)
    one, other = resolve(tables, 7), resolve(tables, 8)
    assert one.path == "/usr/bin/shared" and one.path is other.path
    assert one.cgroup == "/shared.slice" and one.cgroup is other.cgroup
    assert one.argv is not None and one.argv == other.argv == ["shared", "-x"]
    one.argv.append("no")
    one.argv.clear()
    assert one.argv == other.argv == ["shared", "-x"] == resolve(tables, 7).argv


def test_a_cached_value_is_used_only_for_the_same_bytes(tables: Tables, shm_dir: Path) -> None:
    """The same reference means another string in another table, and in the same table later."""
    for number in range(3):
        directory = shm_dir / f"other-{number}"
        directory.mkdir()
        there = Tables(directory)
        path, args = b"/bin/number-%d" % number, (b"x" * (1 + 300 * number), b"y")
        there.row(
            7, known=ALL_KNOWN, flags=layout.ROW_HEAD, file_ref=there.file(path), args_ref=there.strings("args", *args)
        )
        entry = resolve(there, 7)
        assert (entry.path, entry.argv) == (path.decode(), [one.decode() for one in args])
        assert entry.path_in_root == path.decode()


def test_places_are_taken_again_and_nothing_is_mixed_up(tables: Tables) -> None:
    """Cached references of both arenas share slots, and there are more references than slots."""
    for number in range(5000):
        text = b"t-%d" % number
        refs = {"name_ref": tables.intern("names", text), "args_ref": tables.strings("args", text, b"")}
        if number % 25:
            continue
        tables.row(9 + number % 4000, known=ALL_KNOWN, flags=layout.ROW_HEAD, **refs)
        for _ in range(2):
            entry = resolve(tables, 9 + number % 4000)
            assert (entry.name, entry.argv) == (text.decode(), [text.decode(), ""])


# -- cached rows -------------------------------------------------------------------------------------------------------

EIGHT = ("pid", "ppid", "comm", "path", "argv", "uid", "gid", "start_time_ns")


def shown(entry: Entry) -> tuple[object, ...]:
    return tuple(getattr(entry, name) for name in EIGHT)


def look_up(reader: TableReader, pid: int) -> Entry:
    """Use one reader for all look-ups, because the cache of rows belongs to one mapping of the table."""
    entry = reader.resolve(pid)
    assert entry is not None
    return entry


def test_an_unchanged_row_makes_no_new_strings(tables: Tables) -> None:
    full_row(tables)
    reader = TableReader(tables.directory)
    one, other = look_up(reader, 7), look_up(reader, 7)
    for name in ("comm", "path", "start_time_ns"):
        assert getattr(one, name) is not None and getattr(one, name) == getattr(other, name)
    assert one.comm is other.comm and one.path is other.path
    assert one.argv == other.argv and one.argv is not other.argv


def test_the_next_look_up_sees_a_change_of_the_row_and_an_earlier_entry_does_not(tables: Tables) -> None:
    """A change may concern values that are not cached, or only cached ones."""
    row = full_row(tables)
    reader = TableReader(tables.directory)
    changes: list[dict[str, object]] = [
        {"comm": b"second"}, {"file_ref": tables.file(b"/bin/second")}, {"uid": 77},
        {"args_ref": tables.strings("args", b"second")}, {"start_boot_ns": 4711}, {"comm": b"third", "ppid": 4},
        {"args_ref": 0}, {"args_ref": tables.strings("args", b"fourth", b"")},
    ]  # fmt: skip
    for change in changes:
        entries = [look_up(reader, 7) for _ in range(2)]
        before = shown(entries[0])
        tables.change(row, **change)
        assert shown(entries[0]) == shown(entries[1]) == before  # the second had read nothing: the cache serves it
        now = look_up(reader, 7)
        assert now.comm == bytes(tables.hot["comm"][row]).decode(errors="surrogateescape")
        assert shown(now) == shown(look_up(reader, 7)) == shown(resolve(tables, 7).load()) != before


def test_the_next_owner_of_a_row_has_nothing_of_the_former(tables: Tables) -> None:
    row = tables.row(7, known=ALL_KNOWN, file_ref=tables.file(b"/bin/a"), args_ref=tables.strings("args", b"a"))
    reader = TableReader(tables.directory)
    assert (look_up(reader, 7).path, look_up(reader, 7).argv, look_up(reader, 7).comm) == ("/bin/a", ["a"], "p7")
    tables.free(row)
    tables.reuse(row, 8, comm=b"b", args_ref=tables.strings("args", b"b"), file_ref=tables.file(b"/bin/b"))
    assert (look_up(reader, 8).path, look_up(reader, 8).argv, look_up(reader, 8).comm) == ("/bin/b", ["b"], "b")


def test_the_beginning_of_the_boot_clock_is_not_the_rows(tables: Tables) -> None:
    """A successor may know it more exactly, without a change of the row."""
    tables.row(7, known=ALL_KNOWN, start_boot_ns=1000)
    reader = TableReader(tables.directory)
    entry = look_up(reader, 7)
    assert (entry.comm, entry.start_time_ns, entry.start_time_ns) == ("p7", BOOT_UNIX_NS + 1000, BOOT_UNIX_NS + 1000)
    tables.control["boot_unix_ns"] = BOOT_UNIX_NS + 5
    assert entry.start_time_ns == look_up(reader, 7).start_time_ns == BOOT_UNIX_NS + 1005


def test_more_rows_than_are_kept(shm_dir: Path) -> None:
    """Rows that share a slot of the cache, in turns."""
    tables = Tables(shm_dir, rows=2048 * 3, pids=2048 * 4)
    for number in range(2048 * 2 + 50):
        tables.row(10 + number, comm=b"c%d" % number, args_ref=0, known=ALL_KNOWN)
    reader = TableReader(tables.directory)
    for number in (0, 2048, 4096, 1, 0, 4096, 2048, 0):
        for _ in range(2):
            entry = reader.resolve(10 + number)
            assert (entry.comm, entry.argv, entry.pid) == (f"c{number}", [], 10 + number)


# -- attributes --------------------------------------------------------------------------------------------------------


def test_an_attribute_is_that_of_the_class(tables: Tables) -> None:
    full_row(tables)
    entry = resolve(tables, 7).load()
    for name in dir(entry):
        if name in {"age", "age_ns"}:
            continue  # differs from moment to moment
        value, descriptor = getattr(entry, name), vars(Entry).get(name)
        # names in code are interned objects; a name that was just concatenated is another object
        assert callable(value) or value == getattr(entry, "".join(list(name))) == object.__getattribute__(entry, name)
        if type(descriptor).__name__ == "getset_descriptor":
            assert value == descriptor.__get__(entry), name
    for name in ("load", "verify", "__class__", "__doc__"):
        assert getattr(entry, name) is not None
    with pytest.raises(AttributeError, match="nothing_of_the_kind"):
        entry.nothing_of_the_kind  # noqa: B018
    with pytest.raises(AttributeError):
        entry.pid = 8
    assert not hasattr(entry, "__dict__") and Entry.pid.__get__(entry) == 7

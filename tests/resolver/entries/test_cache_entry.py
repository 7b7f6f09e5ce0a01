"""Entries: the operations of specification 5 on entries in no table and on rows, and the fields that a row returns."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from pipeline.errors import TooOldError
from pipeline.procfs.tracer_metadata import TracerMetadata
from pipeline.resolver.entries.cache_entry import DEFAULTS, ProcessCacheEntry, placeholder
from pipeline.resolver.entries.entry_rows import row_of
from pipeline.resolver.entries.model import (
    NO_FILE,
    AWSSecurityCredentials,
    CGroupContext,
    ContainerContext,
    Credentials,
    FileEvent,
    K8SSessionContext,
    PathKey,
    ResolverError,
    Source,
    SSHSessionContext,
    UserSessionContext,
)
from pipeline.secrets.argsenvs import ArgsEntry, EnvsEntry
from tests.resolver.resolver_world import World, high, world


@pytest.fixture
def w() -> Iterator[World]:
    with world() as made:
        yield made


# -- operations --------------------------------------------------------------------------------------------------------


def test_a_fork_copies_only_the_shared_fields() -> None:
    args = ArgsEntry(["a", "b"])
    parent = ProcessCacheEntry(
        pid=5, comm="bash", tty_name="pts0", cookie=9, exec_time=7, fork_time=3, is_exec=True, span_id=4,
        file_event=FileEvent(inode=1, pathname="/bin/bash"), args_entry=args, is_parent_missing=True,
        credentials=Credentials(uid=1000), source=Source.PROCFS_SNAPSHOT, symlink_basename="x",
        aws_security_credentials=(AWSSecurityCredentials(access_key_id="k"),),
        tracer_metadata=TracerMetadata(1),
    )  # fmt: skip
    child = ProcessCacheEntry(pid=6, comm="told", fork_time=11)
    parent.fork(child)
    assert (child.ppid, child.comm, child.tty_name, child.cookie, child.exec_time) == (5, "bash", "pts0", 9, 7)
    assert child.args_entry is args and child.credentials.uid == 1000 and child.file_event == parent.file_event
    assert child.tracer_metadata is parent.tracer_metadata
    assert (child.fork_time, child.is_exec, child.is_parent_missing, child.span_id) == (11, False, False, 0)
    assert child.source == Source.UNKNOWN and child.symlink_basename == "" and not child.aws_security_credentials


def test_exec_ends_the_image_before() -> None:
    first = ProcessCacheEntry(pid=5, fork_time=1)
    second = ProcessCacheEntry(pid=5, exec_time=10)
    first.exec(second)
    assert first.exit_time == 10 and second.ancestor is first
    assert (second.is_exec, second.is_exec_exec) == (True, False)
    third = ProcessCacheEntry(pid=5, exec_time=20)
    second.exec(third)
    assert (third.is_exec, third.is_exec_exec) == (True, True)
    assert third.root is first and third.created_at == 20 and not third.is_thread and first.is_thread
    assert list(third.chain()) == [third, second, first]


def test_an_exec_below_the_parent_process_is_no_exec_on_exec() -> None:
    """Specification 9.3.12: the fork between them is unknown."""
    parent = ProcessCacheEntry(pid=4, is_exec=True)
    child = ProcessCacheEntry(pid=5)
    child.set_exec_parent(parent)
    assert (child.is_exec, child.is_exec_exec) == (True, False)


def test_reparent_moves_the_first_image_and_mends_the_lineage() -> None:
    """Specification 9.2: the exec history survives."""
    init, old = ProcessCacheEntry(pid=1), ProcessCacheEntry(pid=4)
    fork = ProcessCacheEntry(pid=5, ppid=4, is_parent_missing=True)
    fork.set_fork_parent(old)
    image = ProcessCacheEntry(pid=5, ppid=4, exec_time=3)
    fork.exec(image)
    assert image.reparent(init)
    assert list(image.chain()) == [image, fork, init] and image.ppid == fork.ppid == 1
    assert image.has_valid_lineage() == (True, None)


def test_an_init_that_calls_exec_has_a_valid_lineage() -> None:
    """Every host has such an init: its initramfs ends with an exec."""
    first, second = ProcessCacheEntry(pid=1), ProcessCacheEntry(pid=1, exec_time=3)
    first.exec(second)
    assert second.has_valid_lineage() == (True, None) and second.has_complete_lineage()


def test_ancestor_lists() -> None:
    host = ProcessCacheEntry(pid=1)
    shim = ProcessCacheEntry(pid=2)
    shim.set_fork_parent(host)
    box = ContainerContext("abc")
    root = ProcessCacheEntry(pid=3, container=box, file_event=FileEvent(pathname="/sbin/tini"))
    root.set_fork_parent(shim)
    sh = ProcessCacheEntry(pid=4, container=box, file_event=FileEvent(pathname="/bin/sh"))
    sh.set_fork_parent(root)
    ls = ProcessCacheEntry(pid=4, container=box, file_event=FileEvent(pathname="/bin/ls"), exec_time=1)
    sh.exec(ls)
    assert ls.get_ancestors_pids() == [4, 3, 2, 1]
    assert ls.get_container_pids() == ([4, 3], ["/bin/ls", "/sbin/tini"])
    assert root.is_container_root() and not ls.is_container_root() and not host.is_container_root()
    assert ls.has_complete_lineage() and not ProcessCacheEntry(pid=3).has_complete_lineage()


def test_small_operations() -> None:
    a, b = ProcessCacheEntry(pid=1, exec_time=5, fork_time=2, exit_time=9), ProcessCacheEntry(pid=2)
    b.apply_exec_time_of(a)
    assert (b.exec_time, b.fork_time, b.exit_time) == (5, None, None)
    b.set_as_exec()
    assert b.is_exec and b.is_not_kworker and not b.has_interpreter
    b.exit(7)
    b.exit(8)
    assert b.exit_time == 8
    b.remove_child(a)
    assert b.children == []
    with pytest.raises(TypeError):
        ProcessCacheEntry(colour="red")


def test_a_placeholder_is_allocated_and_has_no_names() -> None:
    one, other = placeholder(5, 6), placeholder(5, 6, is_kworker=True)
    assert one is not other and one.source == Source.PLACEHOLDER and other.is_kworker
    assert one.is_not_kworker and not other.is_not_kworker
    assert (one.pid_context.pid, one.pid_context.tid, other.pid_context.is_kworker) == (5, 6, True)
    assert repr(one) == "<ProcessCacheEntry 5 '' fork>"
    assert (one.pid, one.tid) == (5, 6) and one.file_event.is_pathname_resolved and one.interpreter.is_basename_resolved


def test_a_ring_of_ancestors_ends() -> None:
    a, b = ProcessCacheEntry(pid=2), ProcessCacheEntry(pid=3)
    a.ancestor, b.ancestor = b, a
    assert a.has_valid_lineage()[0] is False and a.get_ancestors_pids() == [2, 3]


# -- rows --------------------------------------------------------------------------------------------------------------

#: A value for every field, different from the field's default.
VALUES: dict[str, object] = {
    "tid": 78, "ppid": high(9), "net_ns": 4026531840, "mnt_ns": 4026531841, "is_kworker": True, "sid": 12,
    "exec_inode": 1 << 40, "user_session_id": 1 << 50, "nsid": 4026531836,
    "file_event": FileEvent(
        inode=77, mount_id=5, path_id=3, uid=1, gid=2, user="daemon", group="bin", mode=0o100755, ctime=11, mtime=12,
        device=8 << 20 | 1, nlink=2, flags=1, pathname="/usr/bin/\udcffx", basename="\udcffx", filesystem="ext4",
        mount_path="/usr", mount_source=1, mount_origin=2, mount_visible=True, hashes=("sha256:00",),
        package_name="coreutils", package_epoch=1, is_pathname_resolved=True, is_basename_resolved=True,
    ),
    "interpreter": FileEvent(inode=88, mount_id=5, pathname="/bin/sh", basename="sh"),
    "cgroup": CGroupContext("/docker/abc", PathKey(4242, 7, 1), 2, 1, 99),
    "container": ContainerContext("abc", 98, ("image:x",), True),
    "tty_name": "pts3", "comm": "bash", "fork_time": 1_800_000_000_000_000_000,
    "exec_time": 1_800_000_001_000_000_000, "fork_flags": 17, "cookie": (1 << 64) - 1,
    "credentials": Credentials(1, 2, 3, 4, 5, 6, "a", "b", "c", "d", "e", "f", 1000, 1 << 40, 3),
    "caps_attempted": 5, "caps_used": 4,
    "user_session": UserSessionContext(
        7, 1, K8SSessionContext(8, "u", "uid", ("g",), {"k": ("v",)}),
        SSHSessionContext(9, "alice", 22, "::1", "key", "k"),
    ),
    "aws_security_credentials": (AWSSecurityCredentials("Success", "AWS-HMAC", "AKIA", "now", 5, "later"),),
    "tracer_metadata": TracerMetadata(1, "id", "python", threadlocal_attribute_keys=("a",)),
    "span_id": 3, "trace_id": 1 << 100, "args_id": 4, "envs_id": 5,
    "args_entry": ArgsEntry(["bash", "", "-c"], True), "envs_entry": EnvsEntry(["A=1", "B="], False),
    "args_truncated": True, "envs_truncated": False, "symlink_paths": ("/bin/ls", "/usr/bin/ls"),
    "symlink_basename": "ls", "is_exec": True, "is_exec_exec": True, "is_parent_missing": True,
    "source": Source.PROCFS_FALLBACK, "is_through_symlink": True,
}  # fmt: skip


def test_setting_ppid_removes_the_child_from_its_old_list(w: World) -> None:
    child = w.fork(500, 55, 10).entry
    assert child is not None
    for ppid in (1, high(501), 0):
        child.ppid = ppid
        w.check()
        assert child.ppid == ppid


def test_a_row_returns_every_stored_field(w: World) -> None:
    entry = w.put(ProcessCacheEntry(pid=high(5), tid=high(5)))
    assert set(VALUES) | {"pid", "start_boot_ns", "exit_time", "ancestor"} == set(DEFAULTS)
    entry.set(**VALUES)
    w.check()
    for name, value in VALUES.items():
        found = getattr(entry, name)
        if isinstance(value, ArgsEntry | EnvsEntry):
            assert (found.values, found.is_truncated) == (value.values, value.is_truncated)
        else:
            assert found == value, name
    # A value can be removed again, which also frees its place in the arenas.
    used = w.tables.args.used_bytes
    entry.set(**{name: DEFAULTS[name] for name in VALUES if name != "fork_time"})
    assert w.tables.args.used_bytes < used
    for name in VALUES:
        if name != "fork_time":
            assert getattr(entry, name) == DEFAULTS[name], name


def test_each_field_of_a_row_alone(w: World) -> None:
    entry = w.put(ProcessCacheEntry(pid=high(5), tid=high(5)))
    for name, value in VALUES.items():
        setattr(entry, name, value)
        w.check()
        found = getattr(entry, name)
        if isinstance(value, ArgsEntry | EnvsEntry):
            assert found.equals(value)
        elif name != "args_truncated":
            assert found == value, name


def test_fields_of_a_row_are_seen_by_readers(w: World) -> None:
    from pipeline.shm.layout import layout
    from pipeline.shm.reader.table import ProcessTable

    entry = w.put(ProcessCacheEntry(pid=high(5), tid=high(5)))
    entry.set(**VALUES)
    w.tables.set_state(layout.STATE_READY)
    w.tables.heartbeat(w.resolver.book.now_boot_ns())
    with ProcessTable.attach(path=w.tables.directory) as table:
        seen = table.resolve(high(5))
        assert seen is not None
        assert (seen.comm, seen.path, seen.uid, seen.auid, seen.tty) == ("bash", "/usr/bin/\udcffx", 1, 1000, "pts3")
        assert (seen.argv, seen.envs) == (["bash", "", "-c"], ["A=1", "B="])
        assert seen.extra["symlink_basename"] == "ls" and seen.container_id == "abc"
        assert (seen.exec_inode, seen.created_at_ns, seen.is_thread) == (1 << 40, entry.created_at, False)
        # A field without a column and without a property of its own is in `extra`, under its name.
        for name in (
            "file",
            "interpreter",
            "cgroup",
            "container",
            "names",
            "session",
            "ssh",
            "aws_security_credentials",
            "tracer_metadata",
            "span_id",
            "trace_id",
            "args_id",
            "envs_id",
            "symlink_paths",
        ):
            assert seen.extra[name], name


def test_readers_and_subscribers_see_the_fields_of_an_entry(w: World) -> None:
    """Readers and subscribers see every field of specification 1 that an entry has: as a field, or in `extra`."""
    from pipeline.bus.stream.messages import Decoder, unpack_events
    from pipeline.export.json import dumps
    from pipeline.resolver.stream._encoder import Encoder
    from pipeline.shm.layout import layout
    from pipeline.shm.reader.table import ProcessTable

    entry = w.put(ProcessCacheEntry(pid=high(5), tid=high(5)))
    hostile = TracerMetadata(1, "id", "python", service_name="\udcff")  # such a name can be in a container's memfd
    session = UserSessionContext(7, 1, K8SSessionContext(8, "\udcfe", "uid", ("\udcfd",), {"\udcfc": ("v",)}))
    entry.set(**{**VALUES, "tracer_metadata": hostile, "user_session": session})
    assert (entry.tracer_metadata, entry.trace_id) == (hostile, 1 << 100)
    encoder = Encoder(bytes(16), file="all", envs="stored")
    encoder.topics_mask = 0xFF
    for topic, kind in ((0, 1), (1, 2), (2, 3)):
        encoder.add(w.tables, topic, kind, row_of(entry), w.clock())
    told = [unpack_events(Decoder(), bytes(message.body), 1)[0] for message in encoder.take()]
    w.tables.set_state(layout.STATE_READY)
    w.tables.heartbeat(w.resolver.book.now_boot_ns())
    with ProcessTable.attach(path=w.tables.directory) as table:
        seen = table.resolve(high(5))
        assert seen is not None
        shown = seen.to_dict()
    for each in (shown, *told):
        dumps(each)
        assert (each["file"]["basename"], each["file"]["path"]) == ("\udcffx", "/usr/bin/\udcffx")
        assert (each["interpreter"]["inode"], each["interpreter"]["path"]) == (88, "/bin/sh")
        assert set(each["interpreter"]) == set(each["file"])
        extra = each["extra"]
        assert (extra["file"]["package_name"], extra["file"]["hashes"]) == ("coreutils", ["sha256:00"])
        assert extra["container"]["tags"] == ["image:x"] and extra["tracer_metadata"]["service_name"] == "\udcff"
        assert (extra["span_id"], extra["trace_id"]) == (3, f"{1 << 100:032x}")
        assert (extra["args_id"], extra["envs_id"], extra["nsid"]) == (4, 5, 4026531836)
        assert extra["aws_security_credentials"][0]["access_key_id"] == "AKIA"
        k8s = extra["session"]["k8s"]
        assert (k8s["k8s_username"], k8s["k8s_groups"], k8s["k8s_extra"]) == (
            "\udcfe", ["\udcfd"], {"\\udcfc": ["v"]},
        )  # fmt: skip


def test_an_image_without_interpreter_is_marked_so(w: World) -> None:
    """Specification 1.3 and 3.3.8: its names are resolved, and empty. The row does not store this."""
    w.fork(0, 5, 10)
    entry = w.exec(0, 5, 11).entry
    assert entry is not None
    assert not entry.has_interpreter and entry.interpreter.is_pathname_resolved and entry.interpreter.pathname == ""
    assert not {"interpreter", "interpreter_more"} & set(entry.store.extra())  # type: ignore[attr-defined]


def test_the_interpreter_of_a_script_is_the_running_file_by_default(w: World) -> None:
    from pipeline.records import declared
    from pipeline.shm.layout import layout
    from pipeline.shm.reader.table import ProcessTable
    from tests.resolver.story import Story

    parent = w.fork(0, 3, 10).entry
    assert parent is not None
    story = Story(now=w.clock())
    story.begin(high(3), inode=10, start=parent.start_boot_ns)
    story.fork(high(3), high(4)).apply(w.applier)
    story.exec(high(4), b"/bin/dash", name=b"/opt/x.sh", flags=declared.EXEC_SCRIPT).apply(w.applier)
    script = w.resolver.get(high(4))
    assert script is not None and script.has_interpreter and script.interpreter == script.file_event
    w.tables.set_state(layout.STATE_READY)
    w.tables.heartbeat(w.resolver.book.now_boot_ns())
    with ProcessTable.attach(path=w.tables.directory) as table:

        def shown() -> tuple[str | None, str | None]:
            seen = table.resolve(high(4))
            assert seen is not None
            return seen.script_path, None if seen.interpreter is None else seen.interpreter["path"]

        assert shown() == ("/opt/x.sh", "/bin/dash")
        # A value that /proc shows under a guess does not replace the kernel's value.
        w.proc.add(
            high(4), high(3), exe=b"/bin/dash", exe_inode=script.file_event.inode, comm=b"renamed",
            start_boot_ns=script.start_boot_ns,
        )  # fmt: skip
        assert w.resolver.resolve_from_procfs(high(4), script.file_event.inode, None) is script
        assert script.has_interpreter and shown() == ("/opt/x.sh", "/bin/dash")
        other = FileEvent(inode=88, mount_id=5, hashes=("sha256:0",)).with_pathname("/bin/busybox")
        script.interpreter = other
        assert script.interpreter == other and shown() == ("/opt/x.sh", "/bin/busybox")
        script.interpreter = NO_FILE
        assert not script.has_interpreter and shown() == (None, None)
    w.check()


def test_an_evicted_entry_raises(w: World) -> None:
    entry = w.put(ProcessCacheEntry(pid=high(5), tid=high(5)))
    link = entry.store.link  # type: ignore[attr-defined]
    w.resolver.delete_entry(high(5), w.clock() + w.offset)
    w.clock.now += 120_000_000_000
    w.tables.evict_exited(w.clock(), 10)
    assert w.tables.py_follow(link) == 0
    with pytest.raises(TooOldError):
        _ = entry.comm
    with pytest.raises(TooOldError):
        entry.comm = "x"


def test_rows_refuse_invalid_values(w: World) -> None:
    entry = w.put(ProcessCacheEntry(pid=high(5), tid=high(5)))
    with pytest.raises(ResolverError):
        entry.pid = 7
    with pytest.raises(ResolverError):
        entry.set_ancestor(ProcessCacheEntry(pid=1))
    entry.exit(w.clock() + w.offset)
    with pytest.raises(ResolverError):
        entry.exit_time = None
    w.check()


def test_a_row_does_not_move_below_a_younger_process(w: World) -> None:
    old, young = w.put(ProcessCacheEntry(pid=high(5))), w.put(ProcessCacheEntry(pid=high(6)))
    assert not old.reparent(young) and old.ancestor is None
    assert young.reparent(old) and young.ancestor is old and old.children == [young]
    old.remove_child(young)
    assert old.children == [] and young.ancestor is old
    w.tables.py_adopt(young.pid, old.pid)


def test_linking_the_first_image_moves_the_whole_process(w: World) -> None:
    parent, first, image = w.fork(0, 1).entry, w.fork(55, 3).entry, w.exec(55, 3, 11).entry
    assert first is not None and image is not None and parent is not None
    first.ancestor = parent
    assert parent.children == [image] and image.ppid == 1
    w.check()
    first.ancestor = None
    assert parent.children == [] and image.root.ancestor is None
    w.check()


def test_arguments_are_one_object_for_a_process_and_its_fork(w: World) -> None:
    event = w.fork(0, 3, 10)
    assert event.entry is not None
    w.exec(0, 3, 11, args_entry=ArgsEntry(["a", "b"]))
    child = w.fork(3, 4, 11).entry
    assert child is not None and child.args_entry is not None
    parent = w.resolver.get(high(3))
    assert parent is not None and child.args_entry is parent.args_entry
    assert child.args_entry.values == ["a", "b"]


def test_files_know_when_their_name_is_no_answer() -> None:
    memfd = FileEvent(inode=5).with_pathname("/memfd:run")
    assert (memfd.pathname, memfd.basename, memfd.is_fileless) == ("", "memfd:run", True)
    assert FileEvent(inode=5).with_pathname("/x/run").basename == "memfd:run"
    on_disk = FileEvent(inode=5, mount_id=1).with_pathname("/x/run")
    assert (on_disk.pathname, on_disk.basename) == ("/x/run", "run")
    assert replace(on_disk, mtime=4).equals(on_disk) is False and str(on_disk.key) == "1/5"

"""D1 to D27: the scenarios of specification 8.4, which follow from its sections 3 to 5."""

from __future__ import annotations

from pipeline.resolver.api.stats import DO_EXIT
from pipeline.resolver.entries.model import (
    Credentials,
    FileEvent,
    InvalidKeyPathError,
    PathResolutionError,
    ResolverError,
    Source,
)
from pipeline.resolver.entries.opts import ResolverOpts
from tests.resolver.api import keyed
from tests.resolver.api.keyed import ebpfless
from tests.resolver.api.scenario_checks import (
    ancestor,
    args,
    argv_scrubbed,
    cache,
    chain,
    children,
    count,
    credentials,
    ends_at_fork_of,
    ends_with_its_event,
    envp,
    envs,
    error,
    file,
    has,
    has_ended,
    head,
    interpreter,
    lineage,
    no_entry,
    path_error,
    ppid,
    procfs_reads,
    result,
    same,
    shares_scrubbed_argv,
    stored_nowhere,
    told,
    uncounted,
)
from tests.resolver.api.scenario_happens import (
    Stars,
    apply_exit,
    apply_exit_of_unknown,
    args_chunk,
    args_of_ids,
    change,
    delete_at_exit,
    dequeue_exited,
    ebpf,
    entry_fork,
    exec_,
    fetch_aws,
    flush_tick,
    fork,
    fork_of_exactly,
    free,
    from_cache,
    from_maps,
    from_procfs,
    imds,
    in_procfs,
    in_procfs_below,
    kernel_maps,
    paths_fail,
    refused,
    resolve,
    resolver,
    scrub,
    set_args,
    set_symlink,
    snapshotted,
    take_args,
    time_passes,
    update,
)
from tests.resolver.api.scenario_steps import given, then, when
from tests.resolver.resolver_world import high

INIT = fork("I", 0, 1, 100)

#: The resolver reads environments and shows A with its value.
SHOWING_A = ResolverOpts().with_envs_resolution_enabled().with_envs_value(["A"])

CREDENTIALS = Credentials(uid=1, gid=1, auid=5, cap_effective=3)

DERIVED = {
    "D1 only the cache is asked while snapshotting": ebpf(
        given(in_procfs(9, 0), kernel_maps((9, 99, 10))),
        when(resolve("E", 9)), then(result("E", None), uncounted(), procfs_reads(), cache()),
    ),
    "D2 procfs is asked once in 30 seconds": ebpf(
        given(snapshotted()),
        when(resolve("E", 9)), then(result("E", None), count("miss", 1), procfs_reads(9)),
        when(resolve("E", 9)),
        then(result("E", None), count("miss", 2), count("limiter_drop", 1), procfs_reads(9)),
        when(time_passes(31), resolve("E", 9)),
        then(result("E", None), count("miss", 3), count("limiter_drop", 1), procfs_reads(9, 9)),
    ),
    "D3 without procfs the limiter is left alone": ebpf(
        given(snapshotted()),
        when(resolve("E", 9, use_procfs=False)),
        then(result("E", None), count("miss", 1), count("limiter_drop", 0), procfs_reads()),
        when(resolve("E", 9)), then(result("E", None), count("limiter_drop", 0), procfs_reads(9)),
    ),
    "D4 the inode must be the expected one": ebpf(
        given(fork("P", 0, 3, 10)),
        when(from_cache("E1", 3, inode=11, tid=78)), then(result("E1", None), has("P", tid=high(3))),
        when(from_cache("E2", 3, inode=0, tid=77)), then(same("E2", "P"), has("P", tid=77)),
        when(from_cache("E3", 3, inode=10, tid=79)), then(same("E3", "P"), has("P", tid=79)),
    ),
    "D5 kernel maps, the inode is the expected one": ebpf(
        given(kernel_maps((7, 99, 10))),
        when(from_maps("E", 7, inode=10)),
        then(
            head(7, "E"), told("E"), has("E", source=Source.MAP, cookie=99, comm="x", is_exec=False),
            file("E", inode=10, pathname="/bin/x"), credentials("E", uid=1000), count("added", 1, "kernel_maps"),
            count("added", 0, "event"),
        ),
    ),
    "D5b kernel maps, another inode is expected": ebpf(
        given(kernel_maps((7, 99, 10))),
        when(from_maps("E", 7, inode=11)), then(result("E", None), told(), cache(), uncounted()),
    ),
    # Any value is accepted (9.3.2).
    "D5c kernel maps, no inode is expected": ebpf(
        given(kernel_maps((7, 99, 10))),
        when(from_maps("E", 7, inode=0)),
        then(
            head(7, "E"), told("E"), has("E", source=Source.MAP, cookie=99, comm="x", is_exec=False),
            file("E", inode=10, pathname="/bin/x"), credentials("E", uid=1000), count("added", 1, "kernel_maps"),
            count("added", 0, "event"),
        ),
    ),
    "D6 chunks of arguments": ebpf(
        given(args_chunk(5, b"a", b"b"), args_chunk(5, b"c" * 252)),
        when(exec_("X", 0, 3, 10, args_id=5)),
        then(
            args("X", ["a", "b", "c" * 252 + "..."]), has("X", args_truncated=True), count("args_truncated", 1),
            count("args_size", 3),
        ),
        when(take_args("left", 5)), then(result("left", None)),
    ),
    "D7 the oldest arguments leave": ebpf(
        given(args_of_ids(1, 513), free("E1", args_id=1), free("E2", args_id=2)),
        when(set_args("E1")), then(args("E1", None), count("args_size", 0)),
        when(set_args("E2")), then(args("E2", ["a"]), count("args_size", 1)),
    ),
    # The dropped values are in a list of their own (9.3.5).
    "D8 scrubbed arguments are shared": ebpf(
        given(resolver(scrubber=Stars()), free("P", 5, args=["x", "--key=secret"]), free("C", 6), entry_fork("P", "C")),
        when(scrub("C")),
        then(argv_scrubbed("C", "***"), argv_scrubbed("P", "***"), shares_scrubbed_argv("P", "C")),
    ),
    "D8b the tables hold what was scrubbed": ebpf(
        given(resolver(scrubber=Stars())),
        when(exec_("X", 0, 3, 10, args=["x", "--key=secret"])),
        then(head(3, "X"), args("X", ["x", "***"]), stored_nowhere(b"secret")),
    ),
    "D9 shown variables": ebpf(
        given(resolver(opts=SHOWING_A)),
        when(free("E", envs=["A=1", "B=2", "C"])),
        then(envs("E", ["A=1", "B", "C"]), envp("E", ["A=1", "B=2", "C"])),
    ),
    "D10 environments are off": ebpf(
        given(args_chunk(6, b"A=1")),
        when(exec_("X", 0, 3, 10, envs_id=6)),
        then(has("X", envs_entry=None), envs("X", None), count("envs_size", 0)),
    ),
    "D11 kernel threads and pid 0 are refused": ebpf(
        when(refused(fork_of_exactly("E1", 2, 7))), then(error(ResolverError), cache()),
        when(refused(fork_of_exactly("E2", 1, 2))), then(error(ResolverError), cache()),
        when(refused(fork_of_exactly("E3", 1, 0))), then(error(ResolverError), cache(), uncounted()),
    ),
    "D12 an exec with an unknown path is reported and changes nothing": ebpf(
        given(fork("P", 0, 3, 10), paths_fail(True)),
        when(refused(exec_("X", 0, 3, 11))),
        then(error(PathResolutionError), path_error("X", "no path today"), head(3, "P"), count("path_error", 1)),
        when(paths_fail(False), refused(exec_("X2", 0, 3, 0))),
        then(
            error(PathResolutionError, InvalidKeyPathError), path_error("X2", "no inode"), head(3, "P"),
            count("path_error", 2), count("added", 1, "event"),
        ),
    ),
    "D13 an old process that procfs does not list is flushed": ebpf(
        given(fork("F", 0, 3, 10, ago=600), exec_("X", 0, 3, 11, ago=30)),
        when(flush_tick("queued")), then(result("queued", 1), head(3, "X"), has("X", exit_time=None)),
        when(dequeue_exited()), then(cache(), count("flushed", 1), has_ended("X")),
    ),
    # The kernel has not relinked the second child yet.
    "D13b children of a flushed process move to the parent that procfs names": ebpf(
        given(
            fork("I", 0, 1, 10, ago=900), fork("G", 0, 3, 10, ago=600), exec_("X", 0, 3, 11, ago=300),
            fork("M", 3, 4, 11, ago=200), fork("S", 3, 5, 11, ago=200), fork("E", 3, 6, 11, ago=200),
            in_procfs_below(1, 0), in_procfs_below(4, 1), in_procfs_below(5, 3),
        ),
        when(flush_tick("queued"), dequeue_exited()),
        then(
            has_ended("X"), has_ended("E"), count("flushed", 2), ppid("M", 1), ancestor("M", "I"),
            ppid("S", 3), ancestor("S", "X"),
            count("reparent_success", 1, "dequeue_exited"), count("reparent_failed", 1, "dequeue_exited"),
        ),
    ),
    "D14 a young one is kept and queued again": ebpf(
        given(fork("F", 0, 3, 10, ago=31), exec_("X", 0, 3, 11, ago=30)),
        when(flush_tick("queued"), dequeue_exited()), then(result("queued", 1), head(3, "X"), count("flushed", 0)),
        # The queue is empty, so age alone deletes no entry.
        when(dequeue_exited(), time_passes(60), dequeue_exited()), then(head(3, "X"), count("flushed", 0)),
        when(flush_tick("again"), dequeue_exited()), then(result("again", 1), cache(), count("flushed", 1)),
    ),
    # The pid was used again, or the listing raced with the fork (9.3.14).
    "D14b a queued pid that lives again is kept": ebpf(
        given(fork("F", 0, 3, 10, ago=600), exec_("X", 0, 3, 11, ago=300)),
        when(flush_tick("queued"), fork("Y", 0, 3, 10), dequeue_exited()), then(head(3, "Y"), count("flushed", 0)),
        when(time_passes(90), flush_tick("again"), in_procfs(3, 0, same_as="Y"), dequeue_exited()),
        then(head(3, "Y"), count("flushed", 0)),
    ),
    "D15 a thread does not change its process": ebpf(
        given(fork("P", 0, 3, 10, credentials=CREDENTIALS)),
        when(
            update("uid", 3, tid=4, uid=7), update("gid", 3, tid=4, gid=7), update("capset", 3, tid=4, cap_effective=7),
            update("login_uid", 3, tid=4, auid=7),
        ),
        then(has("P", credentials=CREDENTIALS)),
        when(update("uid", 99, tid=99, uid=7)), then(cache(3), has("P", credentials=CREDENTIALS)),
    ),
    # The known key is refreshed (9.3.17).
    "D16 a known access key is refreshed": ebpf(
        given(fork("P", 0, 3, 10)),
        when(imds(3, "A", 1000), imds(3, "A", 2000), fetch_aws("found", 3)), then(result("found", [("A", 2000)])),
        when(imds(3, "", 3000), fetch_aws("found", 3)), then(result("found", [("A", 2000)])),
    ),
    "D17 expired credentials are gone for good": ebpf(
        given(fork("P", 0, 3, 10), imds(3, "A", 1000), imds(3, "B", -1)),
        when(fetch_aws("found", 3)), then(result("found", [("A", 1000)])),
        when(fetch_aws("found", 3, at_ns=1)), then(result("found", [("A", 1000)])),
        when(fetch_aws("found", 77)), then(result("found", [])),
    ),
    "D18 a reused pid ends its former owner": ebpf(
        given(fork("A", 0, 3, 10), fork("B", 0, 4, 10), fork("old", 3, 5, 10)), then(children("A", "old")),
        when(fork("new", 4, 5, 10)),
        then(
            ends_at_fork_of("old", "new"), children("A"), children("B", "new"), head(5, "new"), chain("new", "B"),
            chain("old", "A"),
        ),
    ),
    "D19 an executable that may not be looked at": ebpf(
        given(
            in_procfs(1, 0, exe=b"/sbin/init", exe_inode=7),
            in_procfs(8, 1, exe=b"/secret/tool", exe_inode=0, mount_id=0),
        ),
        when(from_procfs("E", 8)),
        then(head(8, "E"), file("E", pathname="/secret/tool", inode=0, mode=0, mtime=0), lineage("E", None)),
    ),
    "D20 the interpreter of a script": ebpf(
        given(
            in_procfs(8, 0, exe=b"/usr/bin/python3.13", exe_inode=77, comm=b"x.py", argv=b"/usr/bin/python3\0./x.py\0"),
            in_procfs(9, 0, exe=b"/usr/bin/x.py", exe_inode=78, comm=b"x.py", argv=b"/usr/bin/x.py\0a\0"),
        ),
        when(from_procfs("E", 8)),
        then(has("E", has_interpreter=True), interpreter("E", inode=77), file("E", inode=77)),
        when(from_procfs("N", 9)),
        then(has("N", has_interpreter=False), interpreter("N", is_pathname_resolved=True, pathname="")),
    ),
    "D21 names of a symlink": ebpf(
        given(free("E", file_event=FileEvent(pathname="/bin/busybox"), args=["/bin/ls"])),
        when(set_symlink("E")), then(has("E", symlink_paths=("/bin/ls", "/usr/bin/ls"), symlink_basename="ls")),
    ),
    "D21b names of a symlink only where one was followed": ebpf(
        given(free("E", file_event=FileEvent(pathname="/bin/bash"), args=["/bin/sh"])),
        when(set_symlink("E")), then(has("E", symlink_paths=(), symlink_basename="")),
        when(change("E", is_through_symlink=True), set_symlink("E")), then(has("E", symlink_basename="sh")),
    ),
    "D21c names of a symlink in the tables": ebpf(
        when(
            exec_(
                "X", 0, 3, 10, args=["/bin/ls"], is_through_symlink=True,
                file_event=FileEvent(inode=10, mount_id=1, pathname="/opt/tool"),
            ),
        ),
        then(head(3, "X"), has("X", symlink_basename="ls", is_through_symlink=True)),
    ),
    "D22 a pid is of its namespace": ebpfless(
        when(keyed.fork("A", (7, 1), 1, ts=10), keyed.fork("B", (7, 2), 1, ts=11)),
        then(
            keyed.cache((7, 1), (7, 2)), keyed.head((7, 1), "A"), keyed.head((7, 2), "B"), keyed.head((7, 3), None),
            has("A", nsid=1, fork_time=10), has("B", nsid=2, fork_time=11),
        ),
        when(keyed.delete((7, 1), ts=20)),
        then(has("A", exit_time=20), has("B", exit_time=None), keyed.head((7, 1), None), keyed.cache((7, 2))),
        when(keyed.delete((7, 1), ts=21)), then(has("A", exit_time=20), keyed.head((7, 2), "B"), keyed.cache((7, 2))),
    ),
    "D23 an exec keeps parent and credentials": ebpfless(
        given(keyed.fork("F", (7, 1), 3, ts=10), change("F", credentials=Credentials(uid=1000))),
        when(keyed.exec_("X", (7, 1), 0, ts=50)),
        then(
            keyed.head((7, 1), "X"), has("X", ppid=3, is_exec=True, is_exec_exec=False), credentials("X", uid=1000),
            chain("X", "F"), has("F", exit_time=50),
        ),
        # No exec-bomb test: the same again is a new image.
        when(keyed.exec_("Y", (7, 1), 0, ts=51)), then(chain("Y", "X", "F"), has("Y", is_exec_exec=True)),
        # Without a previous image, the entry is placed below its parent and marked.
        when(keyed.exec_("Z", (8, 1), 7, ts=60)),
        then(
            chain("Z", "Y", "X", "F"), has("Z", is_exec=True, is_parent_missing=True), children("Y", "Z"),
            keyed.cache((7, 1), (8, 1)),
        ),
    ),
    "D24 an id of -1 is unchanged": ebpfless(
        given(keyed.fork("F", (7, 1), 3, ts=10), change("F", credentials=Credentials(uid=5, user="five", gid=6))),
        when(keyed.update_user((7, 1), -1, 0, "ignored", "root")),
        then(credentials("F", uid=5, user="five", euid=0, euser="root", gid=6)),
        when(keyed.update_group((7, 1), 9, -1, "nine", "ignored")),
        then(credentials("F", gid=9, group="nine", egid=0, egroup="", uid=5)),
        when(keyed.update_user((7, 1), -2, -1, "nobody", "")),
        then(credentials("F", uid=0xFFFFFFFE, user="nobody", euid=0, euser="root", fsuid=0)),
        when(keyed.update_group((99, 1), 1, 1, "", "")), then(keyed.cache((7, 1)), credentials("F", gid=9)),
    ),
    "D25 a memfd has no path": ebpfless(
        when(keyed.new_entry("E", (7, 1), "memfd:x")),
        then(file("E", pathname="", basename="memfd:x"), has("E", comm=""), keyed.argv0("E", ""), keyed.cache()),
    ),
    "D26 the exit of an unknown process": ebpf(
        when(apply_exit_of_unknown("E", 9)), then(result("E", False), no_entry("E"), cache()),
    ),
    # The entry stays cached until it is deleted, so that its exit event can be inspected.
    "D27 children of an exited process": ebpf(
        given(
            INIT, fork("P", 1, 3, 100), fork("C1", 3, 4, 100), fork("C2", 3, 5, 100), in_procfs_below(4, 1),
        ),
        when(apply_exit("P")),
        then(
            result("P", True), chain("C1", "I"), ppid("C1", 1), chain("C2", "P", "I"), cache(1, 3, 4, 5), head(3, "P"),
            ends_with_its_event("P"), count("reparent_success", 1, DO_EXIT), count("reparent_failed", 0, DO_EXIT),
        ),
        when(delete_at_exit("P")), then(cache(1, 4, 5), chain("C2", "P", "I"), ends_with_its_event("P")),
    ),
}  # fmt: skip

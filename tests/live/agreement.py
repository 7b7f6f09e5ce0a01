"""Compare the table with /proc, pid by pid, in both directions."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.errors import TooOldError
from pipeline.host.boot import TICK_NS
from pipeline.procfs import proc_reader
from pipeline.procfs.containers import container_of_cgroups
from pipeline.procfs.info import UNSET, ProcInfo
from tests.hierarchy import cgroup_v2_root
from tests.live.harness import patience

#: The tables agree with /proc within this time after the last fault, on an idle host: see docs/reliability.md.
AGREES_S = 2.0
#: Differences that a message has at most.
SHOWN = 40


class Difference(NamedTuple):
    """A difference between the table and /proc."""

    pid: int
    fact: str  #: name of the fact, as in `differences`
    text: str


def agrees_s(idle_s: float = AGREES_S) -> float:
    """Return the time within which the tables must agree with /proc now; on an idle host it is `idle_s`."""
    return idle_s * patience()


def read_all() -> dict[int, ProcInfo]:
    """Return every live process except kernel threads."""
    infos = {}
    root = cgroup_v2_root()
    with proc_reader.ProcReader(cgroup_root=None if root is None else str(root)) as reader:
        for tgid in reader.list_pids().tolist():
            info = reader.read(tgid)
            if info is not None and not info.is_kthread and not info.is_zombie:
                infos[tgid] = info
    return infos


def assert_agrees(
    table: Any, complete: bool = True, groups: bool = True, arguments: bool = True, elsewhere: bool = True
) -> int:
    """Fail with the differences; returns the number of compared processes. The arguments are those of `differences`."""
    found, compared = differences(table, complete, groups, arguments, elsewhere)
    texts = [one.text for one in found[:SHOWN]] + [f"and {len(found) - SHOWN} more"] * (len(found) > SHOWN)
    assert not found, "\n".join(texts)
    return compared


def differences(
    table: Any, complete: bool = True, groups: bool = True, arguments: bool = True, elsewhere: bool = True
) -> tuple[list[Difference], int]:
    """Return all differences and the number of compared processes.

    /proc is read before the table and after it. A process is skipped if it began or ended in between: its start time
    differs, or it is in only one of the reads. A fact that changed in between may be as in either.
    `complete`: every image must be known. `groups`: also compare process groups. `arguments`: also compare arguments.
    `elsewhere`: also compare processes of other pid namespaces. Hosts that are booted beside a test have some that
    write other arguments over their own, and logins all the time.
    """
    here = Path("/proc/self/ns/pid").stat().st_ino
    began_ns = time.time_ns()
    before = read_all()
    entries = {entry.pid: entry for entry in table.walk() if entry.exit_time_ns is None}
    after = read_all()
    stable = {
        tgid: info
        for tgid, info in before.items()
        if tgid in after and after[tgid].start_ticks == info.start_ticks and (elsewhere or info.pid_ns == here)
    }
    boot_unix_ns = table.boot_unix_ns
    found = []
    for tgid, info in stable.items():
        entry = entries.get(tgid)
        if entry is None:
            found.append(Difference(tgid, "life", f"{tgid} ({info.comm!r}): lives, but is not in the table"))
            continue
        try:
            facts = facts_of(entry, info, boot_unix_ns, complete, groups, arguments)
            later = {name: b for name, _, b in facts_of(entry, after[tgid], boot_unix_ns, complete, groups, arguments)}
        except TooOldError:
            # It has executed a program since, and its former image was evicted; or it was itself evicted alive.
            if table.resolve(tgid) is None:
                found.append(Difference(tgid, "life", f"{tgid} ({info.comm!r}): lives, but was evicted"))
            continue
        found += [
            Difference(tgid, name, f"{tgid} ({info.comm!r}) {name}: table {a!r}, /proc {b!r}")
            for name, a, b in facts
            if a not in (b, later.get(name, b))
        ]
    found += [
        Difference(tgid, "life", f"{tgid} ({entry.comm!r}): in the table as live, but gone")
        for tgid, entry in entries.items()
        if tgid not in before
        and tgid not in after
        and entry.start_time_ns < began_ns - 2 * TICK_NS
        # It may have ended just before the first read, and its exit may not have been applied when the table was read.
        and is_live(table, entry)
    ]
    return found, len(stable)


def is_live(table: Any, entry: Any) -> bool:
    """Return whether the process of an entry is alive, according to the table as it is now."""
    now = table.resolve(entry.pid)
    return now is not None and now.start_time_ns == entry.start_time_ns and now.exit_time_ns is None


def facts_of(
    entry: Any, info: Any, boot_unix_ns: int, complete: bool, groups: bool, arguments: bool
) -> list[tuple[str, object, object]]:
    """Return (name, value in the table, value in /proc) of what is compared."""
    facts: list[tuple[str, object, object]] = [
        ("ppid", entry.ppid, info.ppid),
        ("start", (entry.start_time_ns - boot_unix_ns) // TICK_NS, info.start_ticks),
        ("comm", entry.comm, os.fsdecode(info.comm)),
        ("uid", entry.uid, info.uids[0]),
        ("euid", entry.euid, info.uids[1]),
        ("gid", entry.gid, info.gids[0]),
        ("egid", entry.egid, info.gids[1]),
        ("suid, fsuid", (entry.suid, entry.fsuid), info.uids[2:]),
        ("sgid, fsgid", (entry.sgid, entry.fsgid), info.gids[2:]),
        ("capabilities", (entry.cap_effective, entry.cap_permitted), (info.cap_effective, info.cap_permitted)),
        ("login uid", entry.auid, info.auid if info.auid != UNSET else None),
        ("sid", entry.sid, info.sid),
        ("tty", entry.tty or "", os.fsdecode(info.tty)),
    ]
    if groups:
        facts.append(("pgid", entry.pgid, info.pgid))
    if info.mnt_ns:
        spaces = (info.ns_pid, info.pid_ns, info.mnt_ns, info.net_ns, info.user_ns or None)
        facts.append(("ns", (entry.ns_pid, entry.pid_ns, entry.mnt_ns, entry.net_ns, entry.user_ns), spaces))
    if info.cgroup is not None:
        container = container_of_cgroups(info.cgroup)
        facts.append(("container", entry.container_id, container.container_id if container else None))
    if info.cgroup_id:
        facts.append(("cgroup_id", entry.cgroup_id, info.cgroup_id))
    if info.cgroup_path is not None and info.cgroup_id:
        facts.append(("cgroup", entry.cgroup, os.fsdecode(info.cgroup_path)))
    if info.exe is not None and (complete or entry.path is not None):
        facts.append(("path", entry.path, os.fsdecode(info.exe)))
    has_title = len(info.args) == 1 < len(entry.argv or ())  # written over the arguments, after the exec
    is_comparable = arguments and info.argv is not None and not info.is_args_truncated and not has_title
    if is_comparable and (complete or entry.argv is not None):
        facts.append(("argv", entry.argv, [os.fsdecode(a) for a in info.args]))
    return facts

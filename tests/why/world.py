"""Lineages made of dictionaries, in the form in which entries become JSON."""

from __future__ import annotations

from typing import Any

from pipeline.software._container_paths import container_trust
from pipeline.why.facts import Facts, Link, Process
from pipeline.why.findings import find
from pipeline.why.host import Host, NoHost
from pipeline.why.proof import Finding, Unknown
from pipeline.why.summary import summary

BOOT_NS = 1_795_000_000_000_000_000
HOST_MNT = 4026531832
_NAMES = {0: "root", 1000: "alice", 1001: "bob", 33: "www-data"}


def image(pid: int, path: str | None = "/usr/bin/bash", **changes: Any) -> dict[str, Any]:
    """Return an image of a process that started `pid` seconds after the boot, as root's program of the host."""
    uid = changes.get("uid", 0)
    euid = changes.get("euid", uid)
    gid = changes.get("gid", uid)
    name = (path or "").rpartition("/")[2]
    made: dict[str, Any] = {
        "pid": pid, "ppid": 1, "entity_id": f"boot-{pid}", "start_time_ns": BOOT_NS + pid * 10**9, "path": path,
        "exec_time_ns": BOOT_NS + pid * 10**9 + 1_000_000, "exit_time_ns": None, "comm": name or "?", "argv": [name],
        "script_path": None, "uid": uid, "euid": euid, "suid": euid, "gid": gid, "egid": gid, "user": _NAMES.get(uid),
        "euser": _NAMES.get(euid), "group": _NAMES.get(gid), "egroup": _NAMES.get(gid), "auid": None,
        "mnt_ns": HOST_MNT, "container_id": None, "cgroup": "/", "cgroup_source": "event", "inode": 7,
        "file": {"inode": 7, "uid": 0, "mode": 0o100755, "flags": 0, "filesystem": "ext4", "is_fileless": False},
        "cap_effective": 0x1FFFFFFFFFF if euid == 0 else 0, "is_exec": True, "is_exited": False, "is_head": True,
        "is_adopted": False, "marks": [], "creator_pid": None, "ssh_session": None, "tty": None, "cwd": "/",
    }  # fmt: skip
    if "mode" in changes:
        made["file"]["mode"] = changes.pop("mode")
    made |= changes
    return {"container_trust": container_trust(made["cgroup"], made["container_id"])} | made


def forked(pid: int, path: str | None = "/usr/bin/bash", **changes: Any) -> dict[str, Any]:
    """Return the first image of a process that executed nothing yet."""
    return image(pid, path, **{"is_exec": False} | changes)


def lineage(*processes: list[dict[str, Any]], links: str = "", **changes: Any) -> Facts:
    """Return facts about the last of the processes; each list has the images of one, oldest first.

    Args:
        processes: oldest first; pid 1 comes before them without being named.
        links: a letter for each process above the subject, oldest first: c, creator, or p, parent.
        changes: attributes of the facts. The instance sees each change of credentials, if they do not say otherwise.
    """
    init = image(1, "/usr/lib/systemd/systemd", marks=["before_capture"])
    chain = [[init], *processes]
    made = []
    for number, images in enumerate(chain):
        is_subject = number == len(chain) - 1
        is_parent = number < len(links) and links[number] == "p"
        link = None if is_subject else Link.PARENT if is_parent else Link.CREATOR
        newest_first: list[Any] = images[::-1]
        made.append(Process(newest_first, link, newest_first[0]))
    facts = Facts(made[-1], made[-2::-1], init=init, now_ns=BOOT_NS + 10**13)  # type: ignore[arg-type]
    for name, value in ({"sees_each_change": True} | changes).items():
        setattr(facts, name, value)
    return facts


def told(facts: Facts, host: Host | None = None) -> dict[str, list[Finding]]:
    """Return the findings by kind."""
    by_kind: dict[str, list[Finding]] = {}
    for finding in find(facts, host or NoHost())[0]:
        by_kind.setdefault(finding.kind, []).append(finding)
    return by_kind


def missing(facts: Facts, host: Host | None = None) -> dict[str, Unknown]:
    """Return what is unknown, by kind."""
    return {each.kind: each for each in find(facts, host or NoHost())[1]}


def summary_of(facts: Facts) -> str:
    """Return the summary."""
    return summary(facts, find(facts, NoHost())[0])

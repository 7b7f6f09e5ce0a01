"""Suggest the right name for a wrong one: a similar name, or that of the same thing in psutil or elsewhere."""

from __future__ import annotations

from pipeline.spelling import similar

TYPE_CHECKING = False  # see paths.py
if TYPE_CHECKING:
    from collections.abc import Iterable

#: Names of psutil, and what has the same fact here; of several names, the first one that is known.
_PSUTIL = {
    "AccessDenied": "AccessError", "Error": "ProclineError", "TimeoutExpired": "WaitTimeoutError",
    "children": "descendants", "cmdline": "argv", "cpu_times": "cpu_user_ns",
    "create_time": "start_time start_time_ns", "environ": "envs", "exe": "path", "gids": "gid",
    "io_counters": "read_bytes", "is_running": "is_exited", "memory_full_info": "max_rss_bytes",
    "memory_info": "max_rss_bytes", "num_ctx_switches": "voluntary_switches", "parent": "ppid",
    "parents": "ancestors", "returncode": "exit_status", "status": "is_running is_exited", "terminal": "tty",
    "uids": "uid user", "username": "user",
}  # fmt: skip
#: Other names that people try, likewise.
_OTHERS = {
    "cgroup": "unit", "cgroup_path": "cgroup unit", "comm": "name", "creator": "creator_pid", "ended": "is_exited",
    "euid": "user", "is_alive": "is_running is_exited", "life_time": "duration", "lifetime": "duration",
    "service": "cgroup unit", "uid": "user", "unit": "cgroup",
}  # fmt: skip
#: What to add to the suggestion of a name, by the wrong name and the suggested one.
_NOTES = {
    ("creator", "creator_pid"): "'creator_entity_id' is its identity",
    ("ended", "is_exited"): "'exit_time' says when, 'exit_status' and 'exit_signal' say how",
    ("is_alive", "is_exited"): "it has the opposite meaning",
    ("is_running", "is_exited"): "it has the opposite meaning",
    ("parent", "ppid"): "'parent_entity_id' is its identity",
    ("parents", "ancestors"): 'with by="parent" as in psutil',
    ("returncode", "exit_status"): "'exit_code' is a wait status: os.waitstatus_to_exitcode(entry.exit_code) is the "
    "number that subprocess has",
    ("status", "is_exited"): "it is true if the process has ended",
} | {(name, "cgroup"): "table.find(unit=...) selects by unit" for name in ("cgroup_path", "service", "unit")}
#: What psutil knows of a running process and of the host, and does with a process. Procline has nothing like it.
_ONLY_PSUTIL = frozenset({
    "connections", "cpu_affinity", "cpu_num", "cpu_percent", "ionice", "kill", "memory_maps", "memory_percent",
    "net_connections", "nice", "num_fds", "num_threads", "oneshot", "open_files", "resume", "rlimit", "send_signal",
    "suspend", "terminate", "threads",
    "Popen", "cpu_count", "cpu_freq", "cpu_stats", "cpu_times", "cpu_times_percent", "disk_io_counters",
    "disk_partitions", "disk_usage", "getloadavg", "net_if_addrs", "net_if_stats", "net_io_counters",
    "sensors_battery", "sensors_fans", "sensors_temperatures", "swap_memory", "users", "virtual_memory",
})  # fmt: skip

#: What may lack a name; see `suggestion`.
FIELDS, ENTRY, TABLE, MODULE, FIND = "fields", "entry", "table", "module", "find"

_PROGRAM = "`os.path.basename(script_path or path)`; `table.find(name=...)` finds the processes of a program"
_SENDER = '`extra["exit_signal_sender"]`; extra is None if nothing is known'
_CHANGE = '`extra["sampled_change"]`; without it, the time is exact or unknown'
_OF_PROCESSES = {
    "basename": '`file["basename"]`, or the last part of path', "changed_after_ns": _CHANGE,
    "changed_before_ns": _CHANGE, "exit_signal_sender": _SENDER, "killed_by": _SENDER, "program": _PROGRAM,
    "sampled_change": _CHANGE,
}  # fmt: skip
_OF_TABLES = {
    "NoSuchProcess": "`table.resolve(pid)`, which returns None", "Process": "`table.resolve(pid)`",
    "ZombieProcess": "`table.resolve(pid)`, which also returns ended processes",
    "boot_time": "`table.boot_unix_ns`", "descendants": "`table.resolve(pid).descendants()`",
    "parents": '`table.ancestors(pid, by="parent")`', "pid_exists": "`pid in table`",
    "pids": "`[entry.pid for entry in table]`", "process_iter": "`for entry in table`",
    "wait": "`table.wait_exit(process, timeout)`",
    "wait_procs": "`table.wait_exit(process, timeout)` or `table.wait_tree(process, timeout)`",
}  # fmt: skip
#: What to write instead of a name that no other name replaces, by the object that lacks the name.
_INSTEAD = {
    FIELDS: _OF_PROCESSES,
    ENTRY: _OF_PROCESSES
    | {
        "wait": "`table.wait_exit(entry, timeout)`",
        "wait_exit": "`table.wait_exit(entry, timeout)`",
        "wait_tree": "`table.wait_tree(entry, timeout)`",
    },
    TABLE: _OF_TABLES,
    MODULE: _OF_TABLES,
    FIND: {"pid": "`table.resolve(pid)`", "program": "`name=...`", "running": "`exited=True` to find ended ones too"},
}


def suggestion(name: str, known: Iterable[str], *, of: str = FIELDS, otherwise: str = "") -> str:
    """Return the end of a message about an unknown name, with a colon: the name that is probably meant, or `otherwise`.

    Args:
        name: the unknown name.
        known: the names that there are.
        of: what lacks the name: FIELDS of processes, an ENTRY, a TABLE, the MODULE, or the arguments of FIND.
        otherwise: what to say if none of them is similar.
    """
    known = list(known)
    instead = _INSTEAD[of].get(name)
    if instead is None and of == MODULE and name.startswith("STATUS_"):
        instead = "`entry.is_running`"
    if instead is not None:
        return f": {'with a ProcessTable, ' if of == MODULE else ''}write {instead}"
    for names, owner in ((_PSUTIL, f"psutil calls it {name!r}"), (_OTHERS, "")):
        for same in names.get(name, "").split():
            if same in known:
                note = _NOTES.get((name, same), owner)
                return f": did you mean {same!r}?{f' ({note})' if note else ''}"
    if name in _ONLY_PSUTIL:
        return ": Procline has nothing like it, so use psutil"
    close = similar(name, known) or (f"{name}_ns" if f"{name}_ns" in known else "")
    return f": did you mean {close!r}?" if close else f": {otherwise}" if otherwise else ""

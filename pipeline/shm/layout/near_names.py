"""Suggest the right name for a wrong one: a similar name, or that of the same thing in psutil."""

from __future__ import annotations

TYPE_CHECKING = False  # see paths.py
if TYPE_CHECKING:
    from collections.abc import Iterable

#: Names of psutil, and what has the same fact here; of several names, the first one that is known.
_PSUTIL = {
    "children": "descendants", "cmdline": "argv", "cpu_times": "cpu_user_ns",
    "create_time": "start_time", "environ": "envs", "exe": "path", "gids": "gid", "io_counters": "read_bytes",
    "is_running": "is_exited", "memory_full_info": "max_rss_bytes", "memory_info": "max_rss_bytes",
    "num_ctx_switches": "voluntary_switches", "parents": "ancestors", "returncode": "exit_status",
    "status": "is_running is_exited", "terminal": "tty", "uids": "uid", "username": "user",
}  # fmt: skip
#: What psutil knows of a process that runs, and what it does with one. Procline has nothing like it.
_ONLY_PSUTIL = frozenset({
    "connections", "cpu_affinity", "cpu_num", "cpu_percent", "ionice", "kill", "memory_maps", "memory_percent",
    "net_connections", "nice", "num_fds", "num_threads", "oneshot", "open_files", "resume", "rlimit", "send_signal",
    "suspend", "terminate", "threads",
})  # fmt: skip
#: Functions of psutil, and what to write instead.
_FUNCTIONS = {
    "Process": "table.resolve(pid)", "pid_exists": "pid in table", "pids": "[entry.pid for entry in table]",
    "process_iter": "for entry in table",
    "wait_procs": "table.wait_exit(process, timeout) or table.wait_tree(process, timeout)",
}  # fmt: skip


def instead_of(name: str) -> str:
    """Return the end of a message that the package lacks a function of psutil: what to write instead."""
    return f": with a ProcessTable, write `{_FUNCTIONS[name]}`"


def suggestion(name: str, known: Iterable[str], *, otherwise: str = "") -> str:
    """Return the end of a message about an unknown name, with a colon: the name that is probably meant, or `otherwise`.

    Args:
        name: the unknown name.
        known: the names that there are.
        otherwise: what to say if none of them is similar.
    """
    import difflib  # only for a mistake

    known = list(known)
    for same in _PSUTIL.get(name, "").split():
        if same in known:
            return f": did you mean {same!r}? (psutil calls it {name!r})"
    if name in _ONLY_PSUTIL:
        return ": Procline has nothing like it, so use psutil"
    close = difflib.get_close_matches(name, known, 1)
    if not close and f"{name}_ns" in known:
        close = [f"{name}_ns"]
    return f": did you mean {close[0]!r}?" if close else f": {otherwise}" if otherwise else ""

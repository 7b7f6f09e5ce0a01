"""Suggest the right name of a field for a wrong one: a similar name, or that of the same fact in psutil."""

from __future__ import annotations

TYPE_CHECKING = False  # see paths.py
if TYPE_CHECKING:
    from collections.abc import Iterable

#: Names of psutil, and what has the same fact here.
_PSUTIL = {
    "children": "descendants", "cmdline": "argv", "cpu_percent": "cpu_user_ns", "cpu_times": "cpu_user_ns",
    "create_time": "start_time", "environ": "envs", "exe": "path", "gids": "gid", "io_counters": "read_bytes",
    "is_running": "is_exited", "memory_full_info": "max_rss_bytes", "memory_info": "max_rss_bytes",
    "num_ctx_switches": "voluntary_switches", "parents": "ancestors", "returncode": "exit_status",
    "status": "is_exited", "terminal": "tty", "uids": "uid", "username": "user",
}  # fmt: skip


def suggestion(name: str, known: Iterable[str], *, otherwise: str = "") -> str:
    """Return the end of a message about an unknown name, with a colon: the name that is probably meant, or `otherwise`.

    Args:
        name: the unknown name.
        known: the names that there are.
        otherwise: what to say if none of them is similar.
    """
    import difflib  # only for a mistake

    known = list(known)
    same = _PSUTIL.get(name)
    if same in known:
        return f": did you mean {same!r}? (psutil calls it {name!r})"
    close = difflib.get_close_matches(name, known, 1)
    if not close and f"{name}_ns" in known:
        close = [f"{name}_ns"]
    return f": did you mean {close[0]!r}?" if close else f": {otherwise}" if otherwise else ""

"""One event of the stream as a line: when, what, which process, how it ended, and its ancestors."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from pipeline.screen.lineage import above, name
from pipeline.screen.lines import Line
from pipeline.screen.processes import command, ending, ending_style
from pipeline.screen.styles import Style
from pipeline.screen.times import clock, duration, moment

#: On a narrower screen, the line omits milliseconds, the words for kinds with a sign, and the program before an exec.
_WIDE = 70
_SIGNS = {"fork": "+", "exec": ">", "exit": "-"}
_STYLES = {
    "fork": Style.BORN, "exec": Style.CHANGED, "exit": Style.EXITED, "loss": Style.FAILED, "missed": Style.FAILED,
    "unwatched": Style.WARNING,
}  # fmt: skip
_KIND_WIDTH, _PID_WIDTH = 4, 7
#: Cells that remain for the nearest ancestor if the command line is cut.
_PARENT_WIDTH = 16
#: Fewer cells of a command line are of no use; the rest of the line is then cut.
_COMMAND_WIDTH_MIN = 12
#: Fewer cells of a lineage say nothing.
_ABOVE_WIDTH_MIN = 8
_ELSEWHERE = {"event", "time_ns", "seq", "order"}
#: What changed, by the kind of event: the fields that are shown before the command line.
_CHANGES = {
    "cred": ("user", "euser"), "comm": ("comm",), "cgroup": ("cgroup",), "sid": ("sid",), "reparent": ("ppid",),
}  # fmt: skip


def event_line(event: Mapping[str, Any], width: int | None) -> Line:
    """Return an event as a line.

    Args:
        event: of any topic, or a special event.
        width: cells; None: no limit. The command line is cut first, so that the end of a process and its parent stay
            visible. The caller cuts the whole line.
    """
    kind = event.get("event") or "?"
    is_wide = width is None or width >= _WIDE
    time = clock(event.get("time_ns"))
    line = Line((time if is_wide else time[:8], Style.TIME)).join(_kind(kind, is_wide))
    pid = event.get("pid")
    if pid is None:
        return line.add(_facts(event), _STYLES.get(kind, Style.CHANGED))
    line.add(f"{pid:>{_PID_WIDTH}}  " if is_wide else f"{pid} ", Style.PID)
    entry: Any = event
    behind = Line()
    if kind == "fork":
        # A child has its parent's image until it calls exec, so its name is sufficient: the same as in a lineage.
        what = name({"comm": event.get("comm"), "path": event.get("path")})
    elif kind == "exit":
        what = command(entry, shows_end=False) if is_wide else name(event)
        behind = _end(event, is_wide=is_wide)
    else:
        what = command(entry, shows_end=False)
        if kind != "exec":
            _changes(line, event, kind)
            if is_wide:
                _uncertainty(line, event)
        elif is_wide:
            behind = _former(event)
    least = _COMMAND_WIDTH_MIN if is_wide else _COMMAND_WIDTH_MIN // 2
    lineage = above(event)
    if width is not None:
        room = width - line.width - behind.width - (min(lineage.width, _PARENT_WIDTH) if is_wide else 0)
        what = what.cut(max(room, least))
    line.join(what).join(behind)
    if width is not None and width - line.width < min(lineage.width, _ABOVE_WIDTH_MIN):
        return line
    return line.join(lineage)


@functools.lru_cache(maxsize=64)
def _kind(kind: str, is_wide: bool) -> Line:
    """Return what says the kind of an event, for `Line.join` only."""
    word = f"{kind:{_KIND_WIDTH}} " if is_wide or kind not in _SIGNS else ""
    return Line((f" {_SIGNS.get(kind, '*')} {word}", _STYLES.get(kind, Style.CHANGED)))


def _end(event: Mapping[str, Any], *, is_wide: bool) -> Line:
    """Return how a process ended, and after which time."""
    started_ns, ended_ns = event.get("start_time_ns"), event.get("exit_time_ns")
    entry: Any = event
    how, space, after = ending(entry) or "ended", "  ", " after "
    if not is_wide:
        how, space, after = how.partition(" (")[0], " ", " "
    lived = f"{after}{duration(max(0, ended_ns - started_ns))}" if started_ns and ended_ns else ""
    return Line((f"{space}[{how}{lived}]", ending_style(entry)))


def _former(event: Mapping[str, Any]) -> Line:
    """Return what the process ran before its exec; empty if that is unknown."""
    image = next(iter(event.get("lineage") or ()), None)
    if image is None or image.get("pid") != event.get("pid"):
        return Line()
    return Line(("  (was ", Style.FAINT)).join(name(image)).add(")", Style.FAINT)


def _changes(line: Line, event: Mapping[str, Any], kind: str) -> None:
    """Add what an event of changed credentials, name, cgroup, session or parent says."""
    for field in _CHANGES.get(kind, ()):
        value = event.get(field)
        if field == "euser" and value == event.get("user"):
            continue
        if value is not None:
            line.add(f"{field}={value} ", Style.CHANGED)


def _uncertainty(line: Line, event: Mapping[str, Any]) -> None:
    """Add how much earlier than its time a change can have happened, if a comparison found it."""
    time_ns, after_ns = event.get("time_ns"), event.get("changed_after_ns")
    if time_ns and after_ns:
        line.add(f"(up to {duration(max(0, time_ns - after_ns))} earlier) ", Style.FAINT)


def _facts(event: Mapping[str, Any]) -> str:
    """Return the fields of an event that is about no process."""
    return " ".join(
        f"{key}={moment(value) if key.endswith('_ns') and isinstance(value, int) else value}"
        for key, value in event.items()
        if key not in _ELSEWHERE and value is not None
    )

"""The main facts about one process, on a dozen lines: its state, user, lineage, unit, container and session."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pipeline.records.limits import ID_UNSET
from pipeline.screen import lineage as lineages
from pipeline.screen.lines import Line
from pipeline.screen.processes import change_limits, command, container, ending, ending_style, sender_of
from pipeline.screen.processes import user as user_of
from pipeline.screen.styles import Style
from pipeline.screen.times import between, duration, moment
from pipeline.select.capabilities import names_of
from pipeline.select.units import readable, unit_of, user_unit_of

if TYPE_CHECKING:
    from pipeline.shm.layout.entry_types import EntryFields

#: Width of the labels, with the spaces around them: the indent of continued lines.
INDENT = 12
#: Capabilities that are named.
_RIGHTS_MAX = 6

#: What the marks of an entry mean.
MARKS = {
    "adopted": "adopted: its present parent did not create it",
    "adoption_predicted": "its present parent is predicted, not confirmed",
    "exit_unseen": "its end was not seen: it ended at this time or earlier",
    "before_capture": "older than the capture: its creator and earlier images are unknown",
    "gap": "events of it were lost",
    "start_ticks": "its start is known to 10 ms only",
    "head_only": "only its identity is known",
    "elided": "earlier images or ancestors are no longer retained",
    "foreign": "its pid belongs to another pid namespace",
    "change_sampled": "its last change of credentials or session was found by a comparison; it happened earlier",
}


def meaning(mark: str, extra: Mapping[str, Any] | None) -> str:
    """Return what a mark of an entry means; `extra` is that of the entry."""
    limits = change_limits(extra) if mark == "change_sampled" else None
    if limits is None:
        return MARKS.get(mark, mark)
    return f"its last change of credentials or session happened {between(*limits)} (found by a comparison)"


def labelled(label: str, value: Line | str) -> Line:
    """Return a line of a card; continue it with an indent of `INDENT`."""
    line = Line((f"  {label}", Style.FAINT)).pad(INDENT)
    return line.join(value) if isinstance(value, Line) else line.add(value)


def card(entry: EntryFields, lineage: Sequence[EntryFields], now_ns: int, container_names: str = "") -> Iterator[Line]:
    """Yield the lines about a process; what is unknown, or as usual, is omitted.

    Args:
        entry: the process, or one of its images.
        lineage: its earlier images and ancestors, nearest first; empty: unknown.
        now_ns: the present time, to which ages refer, ns since the Unix epoch.
        container_names: what is known of its container besides the id.
    """
    yield Line((str(entry["pid"]), Style.PID), "  ").join(command(entry))
    yield state(entry, now_ns)
    path = entry.get("script_path") or entry.get("path")
    argv = entry.get("argv")
    if path and (not argv or argv[0] != path):
        yield labelled("program", Line().add(entry.get("path") or path, Style.PATH))
    if entry.get("script_path"):
        yield labelled("script", Line().add(entry.get("script_path"), Style.PATH))
    if entry.get("cwd"):
        yield labelled("directory", Line().add(entry.get("cwd"), Style.PATH))
    yield labelled("user", users(entry))
    if entry.get("uid") and entry.get("cap_effective"):
        rights = names_of(entry.get("cap_effective") or 0)
        more = f" and {len(rights) - _RIGHTS_MAX} more" if len(rights) > _RIGHTS_MAX else ""
        yield labelled("rights", " ".join(rights[:_RIGHTS_MAX]) + more)
    above = lineages.chain(lineage, entry["pid"])
    if above.pieces:
        yield labelled("from", above)
    elif entry.get("ppid"):
        yield labelled("parent", Line((str(entry.get("ppid")), Style.PID)))
    yield from _place(entry, container_names)
    session = _session(entry)
    if session.pieces:
        yield labelled("session", session)
    notes = [meaning(mark, entry.get("extra")) for mark in entry.get("marks") or () if mark in MARKS]
    if entry.get("is_parent_missing"):
        notes.append("its parent, or its image before, is not the expected one")
    if notes:
        yield labelled("note", Line(("; ".join(notes), Style.WARNING)))


def state(entry: EntryFields, now_ns: int) -> Line:
    """Return how long a process has been running, or how and when it ended."""
    start_ns, end_ns = entry.get("start_time_ns"), entry.get("exit_time_ns")
    if end_ns is None:
        if start_ns is None:
            return labelled("running", "since an unknown time")
        line = labelled("running", f"for {duration(max(0, now_ns - start_ns))}")
        return line.add(f"  since {moment(start_ns)}", Style.TIME)
    lived = "" if start_ns is None else f", after {duration(max(0, end_ns - start_ns))}"
    if not entry.get("is_exited", True):
        line = labelled("replaced", f"by another program {duration(max(0, now_ns - end_ns))} ago{lived}")
    else:
        how = ending(entry) or "in an unknown way"
        line = labelled("ended", Line((how, ending_style(entry))))
        if (sender := sender_of(entry)) is not None:
            line.add(f" from pid {sender.get('pid') or '?'} ({sender.get('comm')}, user {sender.get('uid')})")
        line.add(f", {duration(max(0, now_ns - end_ns))} ago{lived}")
    return line.add(f"  at {moment(end_ns)}", Style.TIME)


def users(entry: EntryFields) -> Line:
    """Return the user and the group, and every other id that differs from them."""
    uid, gid = entry.get("uid"), entry.get("gid")
    line = user_of(entry)
    if uid is not None and entry.get("user"):
        line.add(f" ({uid})", Style.FAINT)
    group = entry.get("group")
    if gid is not None and (gid, group or "") != (uid, entry.get("user") or ""):
        line.add(", group ").add(group or gid).add(f" ({gid})" if group else "", Style.FAINT)
    for label, key, name, usual in (
        ("effective", "euid", "euser", uid), ("saved", "suid", None, entry.get("euid")),
        ("files as", "fsuid", "fsuser", entry.get("euid")), ("effective group", "egid", "egroup", gid),
    ):  # fmt: skip
        number = entry.get(key)
        if number is not None and usual is not None and number != usual:
            shown = (entry.get(name) if name else None) or number
            line.add(f", {label} ").add(shown, Style.ROOT if number == 0 and key != "egid" else Style.CHANGED)
            line.add(f" ({number})" if shown != number else "", Style.FAINT)
    auid = entry.get("auid")
    if isinstance(auid, int) and auid not in {uid, ID_UNSET}:
        line.add(", logged in as ").add(auid, Style.CHANGED)
    return line


def _place(entry: EntryFields, container_names: str) -> Iterator[Line]:
    """Yield the unit and the container; a cgroup only if it names neither."""
    cgroup = entry.get("cgroup")
    unit = unit_of(cgroup)
    if unit:
        line = Line(readable(unit))
        if own := user_unit_of(cgroup):
            line.add(f", {readable(own)}")
        yield labelled("unit", line)
    inside = container(entry)
    if inside is not None:
        yield labelled("container", inside.add(f"  {container_names}" if container_names else ""))
    if cgroup and cgroup != "/" and not unit and inside is None:
        yield labelled("cgroup", Line((cgroup, Style.PATH)))


def _session(entry: EntryFields) -> Line:
    line = Line()
    if entry.get("tty"):
        line.add(f"terminal {entry.get('tty')}")
    ssh = entry.get("ssh_session") or {}
    if ssh.get("client_ip"):
        name = f"{ssh['username']} " if ssh.get("username") else ""
        line.add(", " if line.pieces else "").add(f"ssh {name}from {ssh['client_ip']}")
    return line

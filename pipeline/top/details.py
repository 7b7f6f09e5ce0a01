"""Everything that the tables contain about one process, as lines."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from typing import TYPE_CHECKING

from pipeline.screen import processes as shown
from pipeline.screen.card import meaning
from pipeline.screen.lines import Line
from pipeline.screen.sizes import size
from pipeline.screen.styles import Style
from pipeline.screen.times import clock, duration
from pipeline.select.capabilities import described
from pipeline.select.units import shown_unit
from pipeline.top.columns import Subject
from pipeline.top.facts import Facts, fields_of
from pipeline.top.model import Model
from pipeline.top.widgets import Scroller

if TYPE_CHECKING:
    from pipeline.shm.reader._entry import Entry

_LABEL = 10
#: Ancestors of each lineage that are shown.
_ANCESTORS = 40


def describe(model: Model, subject: Subject, width: int) -> Iterator[Line]:
    """Yield the lines about a process.

    Args:
        model: where its ancestors are read.
        subject: the process.
        width: of the lines.
    """
    processes, position = subject.processes, subject.position
    entry = model.feed.image(processes.link_list[position])
    if entry is None:
        yield Line(("The tables do not retain this process any more.", Style.WARNING))
        return
    now_ns, boot_unix_ns = processes.now_boot_ns, subject.boot_unix_ns
    # All arguments, not only those that a line of the list could show.
    facts = Facts(fields_of(entry, model.arguments, whole=True))
    yield from _field("command", shown.command(facts.fields), width)
    yield from _field("program", Line((entry.path or "unknown", Style.PLAIN if entry.path else Style.FAINT)), width)
    if entry.script_path:
        yield from _field("script", Line(entry.script_path), width)
    if entry.cwd:
        yield from _field("directory", Line(entry.cwd), width)
    yield from _field("process", _life(subject, entry), width)
    if entry.cpu_user_ns is not None and entry.cpu_system_ns is not None:
        used = f"{duration(entry.cpu_user_ns + entry.cpu_system_ns)} of CPU"
        memory = f", at most {size(entry.max_rss_bytes)} of memory" if entry.max_rss_bytes else ""
        yield from _field("cost", Line(used + memory), width)
    yield from _field("user", _credentials(entry), width)
    yield from _field("where", _place(entry), width)
    yield from _field("source", _source(entry), width)
    argv = facts.fields.get("argv")
    if argv is None:
        yield from _field("argv", Line(("hidden or unknown", Style.FAINT)), width)
    else:
        for number, word in enumerate(argv):
            yield from _field(f"argv[{number}]", Line(shlex.quote(word)), width)
    yield Line()
    yield Line(("Images, newest first", Style.HEADING))
    chain = model.feed.lineage(entry, "ancestor")
    own = [entry] + [image for image in chain if _is_same(image, entry)]
    for image in own:
        yield from _image(image, now_ns, boot_unix_ns).wrapped(width, _LABEL + 2)
    above = [image for image in chain if not _is_same(image, entry)]
    yield Line()
    yield Line(("Lineage: the images that led here, nearest first", Style.HEADING))
    yield from _ancestors(above, width)
    yield Line()
    yield Line(("Current parents, nearest first", Style.HEADING))
    yield from _ancestors(model.feed.lineage(entry, "parent"), width)


def _field(label: str, value: Line, width: int) -> Iterator[Line]:
    yield from Line((f"{label:{_LABEL}} ", Style.FAINT)).join(value).wrapped(width, _LABEL + 1)


def _life(subject: Subject, entry: Entry) -> Line:
    line = Line((str(entry.pid), Style.PID), f", parent {entry.ppid}")
    if entry.creator_pid and entry.creator_pid != entry.ppid:
        line.add(f" (created by {entry.creator_pid})", Style.CHANGED)
    line.add(f", started {clock(entry.start_time_ns)}")
    fields = fields_of(entry)
    if subject.ended_ns:
        line.add(f", ended {clock(subject.ended_ns + subject.boot_unix_ns)} after {duration(subject.lifetime_ns)}")
        end = shown.ending(fields)
        line.add(f": {end}" if end else "", shown.ending_style(fields))
    else:
        line.add(f", alive for {duration(subject.lifetime_ns)}")
    return line


def _credentials(entry: Entry) -> Line:
    line = shown.user(fields_of(entry))
    line.add(f" uid {_known(entry.uid)} gid {_known(entry.gid)}")
    if (entry.euid, entry.egid) != (entry.uid, entry.gid):
        line.add(f", effective {_known(entry.euid)}:{_known(entry.egid)}", Style.WARNING)
    if (entry.suid, entry.sgid) != (entry.euid, entry.egid):
        line.add(f", saved {_known(entry.suid)}:{_known(entry.sgid)}")
    if entry.auid is not None:
        line.add(f", login uid {entry.auid}")
    if entry.cap_effective:
        line.add(f", {described(entry.cap_effective)}")
    if entry.no_new_privs:
        line.add(", no_new_privs")
    if entry.seccomp_mode not in (None, "disabled"):
        line.add(f", seccomp {entry.seccomp_mode}")
    return line


def _place(entry: Entry) -> Line:
    line = Line()
    unit = shown_unit(entry.cgroup)
    line.add(f"unit {unit}, " if unit else "")
    line.add(f"cgroup {entry.cgroup or '?'}")
    if entry.container_id:
        line.add(", container ").add(entry.container_id, Style.CONTAINER)
        line.add(f" {shown.NAMED_BY_USER}" if entry.container_trust == "user" else "", Style.WARNING)
    if entry.tty:
        line.add(f", terminal {entry.tty}")
    line.add(f", session {_known(entry.sid)}, group {_known(entry.pgid)}")
    if entry.ns_pid and entry.ns_pid != entry.pid:
        line.add(f", pid {entry.ns_pid} in its namespace")
    return line


def _source(entry: Entry) -> Line:
    line = Line(entry.source)
    marks = entry.marks
    extra = entry.extra if "change_sampled" in marks else None
    notes = [meaning(mark, extra) for mark in marks]
    if entry.args_truncated:
        notes.append(f"arguments cut: {len(entry.argv or ())} of {_known(entry.argc)} are known")
    if entry.envs_truncated:
        notes.append("environment cut")
    if entry.is_exe_deleted:
        notes.append("executable deleted")
    if entry.is_memfd:
        notes.append("executable in memory")
    for note in notes:
        line.add("; ").add(note, Style.WARNING)
    return line


def _image(image: Entry, now_ns: int, boot_unix_ns: int) -> Line:
    began = image.exec_time_ns if image.is_exec else image.start_time_ns
    line = Line((f"{clock(began):12}  ", Style.TIME))
    line.add("exec  " if image.is_exec else "fork  ", Style.CHANGED if image.is_exec else Style.BORN)
    line.join(shown.command(fields_of(image)))
    if began is not None:
        end = image.exit_time_ns or now_ns + boot_unix_ns
        line.add(f"  {duration(max(0, end - began))}", Style.TIME)
    return line


def _ancestors(chain: list[Entry], width: int) -> Iterator[Line]:
    if not chain:
        yield Line(("  none known", Style.FAINT))
    last = None
    for image in chain[:_ANCESTORS]:
        is_earlier = last is not None and _is_same(image, last)
        line = Line((f"{image.pid:>8}  ", Style.FAINT if is_earlier else Style.PID))
        line.add(f"{clock(image.exec_time_ns if image.is_exec else image.start_time_ns):12}  ", Style.TIME)
        line.join(shown.command(fields_of(image)))
        if is_earlier:
            line.add("  earlier image", Style.FAINT)
        yield from line.wrapped(width, 24)
        last = image
    if len(chain) > _ANCESTORS:
        yield Line((f"  and {len(chain) - _ANCESTORS} more", Style.FAINT))
    if chain and chain[-1].is_elided:
        yield Line(("  the chain leads out of the tables here", Style.WARNING))


def _is_same(one: Entry, other: Entry) -> bool:
    return (one.pid, one.start_boot_ns) == (other.pid, other.start_boot_ns)


def _known(value: object) -> str:
    return "?" if value is None else str(value)


class Details(Scroller):
    """The lines about the selected process."""

    def __init__(self, **options: str) -> None:
        super().__init__(**options)
        self._lines: list[Line] = []

    @property
    def is_marked(self) -> bool:
        """No line is selected."""
        return False

    def fill(self, lines: list[Line]) -> None:
        """Show other lines."""
        self._lines = lines
        self.update()

    def count(self) -> int:
        """Return the number of lines."""
        return len(self._lines)

    def line(self, number: int, width: int) -> Line:
        """Return a line."""
        return self._lines[number]

    def move(self, lines: int) -> None:
        """Scroll."""
        self.scroll_lines(lines)

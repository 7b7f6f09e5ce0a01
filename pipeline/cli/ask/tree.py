"""`procline tree`: processes as a tree of parents and children."""

from __future__ import annotations

import sys
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pipeline.cli import common
from pipeline.cli.ask import naming
from pipeline.cli.ask.selecting import select_options
from pipeline.errors import TooOldError, UnsupportedError
from pipeline.export.forest import Node, find, forest, is_called, nested, nodes_of, pruned
from pipeline.screen import processes, times, trees
from pipeline.screen.lines import Line
from pipeline.screen.sizes import counted
from pipeline.screen.styles import OF_KIND, Style
from pipeline.screen.terminal import Screen
from pipeline.select.programs import Kind, Program, program_of
from pipeline.select.selection import Selection
from pipeline.shm.layout.entry_fields import ENTRY_FIELDS

if TYPE_CHECKING:
    from pipeline import ProcessTable
    from pipeline.shm.layout.entry_types import EntryFields
    from pipeline.shm.reader.values import Batch

#: How many lines `--exited` prints without `--all`.
LINES_MAX = 1000
#: Threads are counted for this many processes, because each is a file of /proc.
COUNTED_MAX = 1000
#: Fields that decide where a process stands, and those that are read only of processes that are shown.
_PLACE = ("pid", "entity_id", "parent_entity_id", "exit_time_ns", "start_time_ns")
_SHOWN = (
    "comm", "path", "script_path", "argv", "is_kworker", "uid", "user", *processes.CONTAINER_NEEDS, "exit_code",
    "exit_cause", "exit_cause_code",
)  # fmt: skip
_DRAWN = (
    "pid", "comm", "path", "argv", "entity_id", "parent_entity_id", "creator_entity_id", "start_time_ns",
    "exec_time_ns", "exit_time_ns", "is_parent_missing",
)  # fmt: skip


@dataclass(frozen=True)
class _Asked:
    """The arguments and options of the command."""

    pid: int | None
    pid_ns: int | None
    selection: Selection
    has_exited: bool
    by_creator: bool
    depth: int | None
    is_folded: bool
    lines_max: int | None


@click.command(
    epilog="""\b
Examples:
  procline tree                      all live processes
  procline tree make                 what the only process that runs make has below it
  procline tree $$ --exited          this shell and its descendants, including exited ones
  procline tree $$ --by creator      what this shell has started, also daemons that left it
  procline tree --unit 'nginx*'      the processes of a unit, and where they come from
  procline tree --svg tree.svg       a drawing (needs Graphviz)
"""
)
@click.argument("process", metavar="[PID|NAME]", type=common.Process(), required=False)
@click.option("--exited", is_flag=True, help="Also show exited processes that are retained.")
@click.option("--all", "is_whole", is_flag=True, help=f"With --exited, print more than {LINES_MAX} lines.")
@click.option(
    "--by", type=common.OneOf(["parent", "creator"]), default="parent", show_default=True,
    help="Arrange by current parent, or by creator: the process that forked.",
)  # fmt: skip
@click.option("--depth", type=click.IntRange(min=0), metavar="N", help="Show only N generations below the first.")
@click.option("-v", "--no-fold", "is_unfolded", is_flag=True, help="Show each of similar children on its own line.")
@select_options("user", "unit", "container", "path", "failed")
@click.option("--dot", "as_dot", is_flag=True, help="Print a graph in the DOT language of Graphviz.")
@click.option(
    "--svg", "svg", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE",
    help="Write a drawing to FILE (needs Graphviz).",
)  # fmt: skip
@common.pid_ns_option
@common.name_option
@common.json_option
def command(
    process: int | str | None,
    exited: bool,
    is_whole: bool,
    by: str,
    depth: int | None,
    is_unfolded: bool,
    selection: Selection,
    as_dot: bool,
    svg: Path | None,
    pid_ns: int | None,
    name: str,
    as_json: bool,
) -> int:
    """Show the tree of live processes, or only one process and its descendants.

    Several similar children share one line, which shows their number. The user and the container are shown where they
    differ from the parent's. Filters show the matching processes and, dimmed, their ancestors.

    Exits with 1 if the process is unknown, or if no process matches.
    """
    context = click.get_current_context()
    if pid_ns is not None and not isinstance(process, int):
        raise click.UsageError("--pid-ns needs a PID: add one", context)
    if as_json + as_dot + (svg is not None) > 1:
        raise click.UsageError("use only one of --json, --dot and --svg", context)
    exited = exited or selection.is_failed
    if is_whole and not exited:
        raise click.UsageError("--all is about exited processes: use --exited too", context)
    common.keep_objects()
    with common.attached(name) as table:
        pid = naming.one(table, process, name) if isinstance(process, str) else process
        if process is not None and pid is None:
            return 1
        asked = _Asked(
            pid, pid_ns, selection, exited, by == "creator", depth, not is_unfolded,
            LINES_MAX if exited and not is_whole else None,
        )  # fmt: skip
        reading = _Reading(table, asked, None if as_json else _DRAWN if as_dot or svg else _PLACE)
        roots = reading.roots()
        if pid is not None and not roots:
            return common.not_found(pid, name, pid_ns)
        if selection:
            roots = pruned(roots, selection.matches)
            if not roots:
                return common.no_match()
        if not (as_json or as_dot or svg):
            _print(roots, asked, reading)
            return 0
    if depth is not None:
        _limit(roots, depth)
    if as_json:
        _write_json(roots, is_one=pid is not None)
        return 0
    title = name if pid is None else f"{name} {pid}"
    _write_graph([node.entry for node in nodes_of(roots)], title, svg, by_creator=asked.by_creator)
    return 0


def _write_graph(entries: list[EntryFields], title: str, svg: Path | None, *, by_creator: bool) -> None:
    """Print the graph in the DOT language, or draw it."""
    from pipeline.export.dot import graph

    if by_creator:
        for entry in entries:
            entry["parent_entity_id"] = entry.get("creator_entity_id") or entry.get("parent_entity_id")
    text = "\n".join(graph(entries, title=title)) + "\n"
    if svg:
        draw(text, svg)
    else:
        sys.stdout.write(text)


class _Reading:
    """Reads what is needed to arrange the processes, and later the rest of those that are shown.

    Args:
        table: the tables.
        asked: what the user asked for.
        fields: what is read of each process at first; None: all.
    """

    def __init__(self, table: ProcessTable, asked: _Asked, fields: tuple[str, ...] | None) -> None:
        self._table = table
        self._asked = asked
        self._fields = fields
        if fields is not None:
            more = [*asked.selection.fields, *(("creator_entity_id",) if asked.by_creator else ())]
            more += ["marks", "pid_ns", "ns_pid"] if asked.pid is not None else []
            self._fields = tuple(dict.fromkeys([*fields, *more]))
        self._read: Batch | None = None
        self._unread: dict[int, int] = {}  # places in what was read, by the id of an entry's dict
        self.now_ns = common.now_ns()

    def roots(self) -> list[Node]:
        """Return the trees that the user asked for, without regard to the selection; empty if the pid is unknown."""
        asked = self._asked
        needs_exited = asked.has_exited or asked.by_creator or asked.pid is not None
        fields = ENTRY_FIELDS if self._fields is None else self._fields
        self._read, found = common.batch(self._table, fields, running=not needs_exited)
        entries = []
        for place, entry in enumerate(found):
            is_shown = asked.has_exited or not entry["exit_time_ns"] or is_called(entry, asked.pid, asked.pid_ns)
            if is_shown or asked.by_creator:
                entries.append(entry)
                self._unread[id(entry)] = place
        roots = forest(entries, by_creator=asked.by_creator)
        if asked.pid is not None:
            node = find(roots, asked.pid, asked.pid_ns)
            if node is None:
                return []
            roots = [node]
        if asked.by_creator and not asked.has_exited:
            # An exited process stays if what it started still lives. The one that was asked for stays in any case.
            kept = pruned(roots, lambda entry: not entry["exit_time_ns"])
            roots = kept or roots if asked.pid is not None else kept
            for node in nodes_of(roots):
                node.is_wanted = True
        return roots

    def complete(self, node: Node) -> EntryFields:
        """Return the entry of a node with the fields of `_SHOWN`; without them if it is not retained any more."""
        place = self._unread.pop(id(node.entry), None)
        if place is not None and self._read is not None:
            try:
                node.entry.update(common.fields_of(self._read.entry(place), _SHOWN))
            except TooOldError:
                node.entry["exit_time_ns"] = node.entry["exit_time_ns"] or self.now_ns  # only ended ones are evicted
        return node.entry

    def thread_count(self, entry: EntryFields) -> int | None:
        """Return how many threads a live process has; None if that is unknown."""
        from pipeline.host.processes import thread_count

        started_ns = entry.get("start_time_ns")
        if entry.get("exit_time_ns") or started_ns is None or not self._table.view.pids_are_ours:
            return None
        return thread_count(entry["pid"], started_ns - self._table.boot_unix_ns)


@dataclass
class _Labels:
    """Makes the lines of a tree."""

    reading: _Reading
    width: int | None
    counts_threads: bool
    _programs: dict[int, Program] = field(default_factory=dict)

    def shape(self, node: Node) -> Hashable:
        """Return what folded children have in common."""
        entry = self.reading.complete(node)
        program = self._programs[id(entry)] = program_of(entry)
        name = program.name.partition("/")[0] if program.kind is Kind.KERNEL else program.name
        return (
            name, program.kind, entry.get("uid"), processes.container_key(entry), entry.get("exit_code"),
            bool(entry.get("exit_time_ns")),
        )  # fmt: skip

    def line(self, row: trees.Row) -> Line:
        """Return a line for one process, or for several that are folded."""
        entries = [self.reading.complete(node) for node in row.nodes]
        first = entries[0]
        what = processes.command(first)
        label = str(first["pid"])
        if len(entries) > 1:
            label = f"{len(entries)} ×"
            line = processes.command_line(first)
            if any(processes.command_line(entry) != line for entry in entries[1:]):
                what = self._program(first)
        facts = self._facts(entries, None if row.parent is None else row.parent.entry, row.hidden)
        made = trees.line(row, label, what, facts, self.width)
        return made if row.nodes[0].is_wanted else made.restyled(Style.FAINT)

    def _program(self, entry: EntryFields) -> Line:
        program = program_of(entry)
        name = program.name.partition("/")[0] if program.kind is Kind.KERNEL else program.name
        return Line((name, Style.EXITED if entry.get("exit_time_ns") else OF_KIND[program.kind]))

    def _facts(self, entries: list[EntryFields], parent: EntryFields | None, hidden: int) -> list[Line]:
        """Return what else is known, the most important first."""
        first = entries[0]
        facts = []
        if first.get("exit_time_ns"):
            end = processes.ending(first) if first.get("exit_code") else ""
            facts.append(Line((f"exited, {end}" if end else "exited", processes.ending_style(first))))
        if parent is None or first.get("uid") != parent.get("uid"):
            facts.append(Line(("user ", Style.FAINT)).join(processes.user(first)))
        if processes.container_key(first) != processes.container_key(parent or {}):
            container = processes.container(first)
            label = Line(("container ", Style.FAINT))
            facts.append(label.join(container) if container else Line(("not in the container", Style.CONTAINER)))
        if len(entries) > 1:
            facts.append(Line((f"pids {entries[0]['pid']} … {entries[-1]['pid']}", Style.FAINT)))
        elif self.counts_threads and (count := self.reading.thread_count(first) or 0) > 1:
            facts.append(Line((f"{count} threads", Style.FAINT)))
        if hidden:
            facts.append(Line((f"{hidden} below", Style.FAINT)))
        if age := self._age(entries):
            facts.append(Line((age, Style.TIME)))
        return facts

    def _age(self, entries: list[EntryFields]) -> str:
        """Return how long a process has lived, or how long ago the youngest and the oldest of several started."""
        first = entries[0]
        ended_ns = first.get("exit_time_ns")
        starts = [start for entry in entries if (start := entry.get("start_time_ns"))]
        if not starts:
            return ""
        if ended_ns and len(entries) == 1:
            return f"lived {times.duration(max(0, ended_ns - starts[0]))}"
        ages = [times.age(self.reading.now_ns - start) for start in (max(starts), min(starts))]
        return ages[0] if ages[0] == ages[1] else " … ".join(ages)


def _print(roots: list[Node], asked: _Asked, reading: _Reading) -> None:
    screen = Screen()
    whole = nodes_of(roots)
    labels = _Labels(reading, screen.width, counts_threads=len(whole) <= COUNTED_MAX)
    shape: Callable[[Node], Hashable] | None = labels.shape if asked.is_folded else None
    shown = 0
    for number, row in enumerate(trees.rows(roots, depth=asked.depth, shape=shape)):
        if asked.lines_max is not None and number >= asked.lines_max:
            text = f"… {counted(len(whole) - shown, 'more process')}: --all shows them"
            screen.cut([Line((text, Style.FAINT))])
            break
        screen.cut([labels.line(row)])
        shown += len(row.nodes) + row.hidden


def _limit(roots: list[Node], depth: int) -> None:
    """Drop everything that is more than `depth` generations below the roots."""
    level = roots
    for _ in range(depth):
        level = [child for node in level for child in node.children]
    for node in level:
        node.children = []


def draw(graph: str, file: Path) -> None:
    """Draw a graph with Graphviz.

    Args:
        graph: the graph in the DOT language.
        file: the SVG file to write.

    Raises:
        UnsupportedError: Graphviz is not installed, or failed.
    """
    import shutil  # deferred, as the next one: only a drawing needs them
    import subprocess

    program = shutil.which("dot")
    hint = "install Graphviz (apt-get install graphviz), or use --dot and draw the graph on another host"
    if program is None:
        raise UnsupportedError(
            "--svg needs the program `dot` of Graphviz", feature="--svg", needs="graphviz", hint=hint
        )
    from pipeline.screen.progress import Progress

    with Progress("drawing", ticks=True):
        done = subprocess.run(
            [program, "-Tsvg"], input=graph.encode("utf-8", "replace"), capture_output=True, check=False
        )
    if done.returncode != 0:
        reason = done.stderr.decode(errors="replace").strip().splitlines() or ["no reason given"]
        raise UnsupportedError(
            f"dot failed: {reason[-1]}", feature="--svg", needs="graphviz",
            hint="write the graph with --dot, and draw it with another version of Graphviz",
        )  # fmt: skip
    try:
        file.write_bytes(done.stdout)
    except OSError as error:
        raise click.UsageError(
            f"cannot write {file}: {error.strerror}; choose another file", click.get_current_context()
        ) from None


def _write_json(roots: list[Node], *, is_one: bool) -> None:
    write = sys.stdout.write
    if not is_one:
        write("[")
    for number, root in enumerate(roots):
        if number:
            write(", ")
        for piece in nested(root):
            write(piece)
    write("\n" if is_one else "]\n")

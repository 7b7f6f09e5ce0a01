"""`procline cost`: what processes have used, summed up."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from pipeline.account.folded import folded
from pipeline.account.sums import Coverage, Sum, capture_time_ns, rests, sums_by
from pipeline.account.usage import FIELDS, Usage, usage_of
from pipeline.cli import common
from pipeline.cli.ask.selecting import is_unknown, select_options, since_option, since_time_ns
from pipeline.cli.horizon import sentence
from pipeline.export.json import dumps
from pipeline.screen import tables, times
from pipeline.screen.lines import Line
from pipeline.screen.progress import Progress
from pipeline.screen.sizes import counted, size
from pipeline.screen.styles import Style
from pipeline.screen.terminal import Screen
from pipeline.select.selection import Selection, descendants
from pipeline.select.units import unit_of
from pipeline.shm.layout import layout
from pipeline.shm.names.usernames import names_of
from pipeline.shm.reader.horizon import BEGIN, Horizon, horizon

if TYPE_CHECKING:
    from pipeline import ProcessTable
    from pipeline.shm.layout.entry_types import EntryFields
    from pipeline.shm.reader.entry_dict import EntryAttributes
    from pipeline.shm.reader.values import Batch

#: How many rows the table has without `--all`.
ROWS_MAX = 20
#: Fields that the keys of `--by` need.
_KEYS = {
    "path": ("path", "script_path", "comm"), "unit": ("cgroup",), "user": ("uid", "user", "container_id"),
    "container": ("container_id",), "spawner": (),
}  # fmt: skip
#: Values of `--sort`.
_ORDERS: dict[str, Callable[[Sum], int]] = {
    "cpu": lambda each: each.cpu_ns, "memory": lambda each: each.max_rss_bytes,
    "read": lambda each: each.read_bytes, "written": lambda each: each.write_bytes,
    "processes": lambda each: each.processes, "lived": lambda each: each.life_ns,
}  # fmt: skip
#: A note explains CPU time that is in no record, if it is at least this much. For the ends of a few processes there is
#: no note.
_REST_NS, _REST_SHARE = 100_000_000, 0.1
#: A process that ended while it was read gets this long to show up as exited in the tables.
_SETTLE_S = 0.1


@click.command(
    epilog="""\b
Examples:
  procline cost --under 4711                       a build, with everything that it started
  procline cost --path make --since 5m             the builds of the last five minutes
  procline cost --by unit                          which unit uses the most
  procline cost --by spawner --sort processes      which program has started the most processes
  procline cost --under 4711 --folded - | flamegraph.pl > build.svg
"""
)
@select_options("under", "unit", "container", "user", "path")
@since_option("Only processes that began after this time")
@click.option(
    "--by", type=common.OneOf(tuple(_KEYS)), default="path", metavar="KEY",
    help=f"Sum up by {', '.join(tuple(_KEYS)[:-1])} or {tuple(_KEYS)[-1]} (the program that forked the process).  "
    "[default: path]",
)  # fmt: skip
@click.option(
    "--sort", type=common.OneOf(tuple(_ORDERS)), default="cpu", metavar="COLUMN",
    help=f"Largest of this first: {', '.join(_ORDERS)}.",
)  # fmt: skip
@click.option("--all", "is_whole", is_flag=True, help=f"Print all rows, not only the first {ROWS_MAX}.")
@click.option(
    "--folded", "folded_file", type=click.Path(path_type=Path, dir_okay=False, allow_dash=True), metavar="FILE",
    help="Write CPU time in µs by lineage, for flame graphs; - for standard output.",
)  # fmt: skip
@common.name_option
@common.json_option
def command(
    selection: Selection,
    since: str | None,
    by: str,
    sort: str,
    is_whole: bool,
    folded_file: Path | None,
    name: str,
    as_json: bool,
) -> int:
    """Add up what processes have used: CPU time, memory, storage, number of processes and life time.

    The sums include live processes, and exited ones that are retained (see tables.retention_s), each with what it has
    used itself. --under and --path also include all descendants of the matching processes. --user, --unit and
    --container then choose among all of these. Unlike that of ps, --since leaves out processes that began earlier.

    Exits with 1 if no process matches.
    """
    if as_json and str(folded_file) == "-":
        raise click.UsageError("--folded - and --json both print: write one of them to a file")
    now_ns = common.now_ns()
    begun_ns = since_time_ns(since, now_ns)
    with common.attached(name, shows_arguments=False) as table:
        reading = _Reading(table, selection, by, now_ns)
        usages = reading.usages(begun_ns)
        coverage, missing = reading.coverage, reading.missing(begun_ns)
        if not usages and is_unknown(table, selection, name):
            return 1
    if not usages:
        return common.no_match(missing)
    rest_ns = rests(usages, reading.parents_of_others, reading.captured_ns)
    if folded_file is not None:
        _write(folded(usages, rest_ns), folded_file)
        if str(folded_file) == "-":
            return 0
    host_name = names_of(reading.directory).host_name
    if by == "spawner":
        groups = sums_by(usages, lambda usage: reading.spawners.get(usage.entry.get("entity_id")), now_ns, rest_ns)
    else:
        groups = sums_by(usages, lambda usage: _key(usage.entry, by, host_name), now_ns, rest_ns)
    ordered = sorted(groups.items(), key=lambda each: (-_ORDERS[sort](each[1]), each[0] or ""))
    total = Sum()
    for each in groups.values():
        total.merge(each)
    if as_json:
        click.echo(dumps({
            "by": by, "since_ns": begun_ns, "total": _shown(total),
            "groups": [{"key": key, **_shown(each)} for key, each in ordered], "coverage": asdict(coverage),
        }))  # fmt: skip
        return 0
    screen = Screen()
    shown = ordered if is_whole else ordered[:ROWS_MAX]
    screen.cut(_table(shown, total, by, screen.width))
    if len(shown) < len(ordered):
        screen.cut([Line((f"… {len(ordered) - len(shown)} more: --all shows them", Style.FAINT))])
    screen.wrap(_notes(total, coverage, since is not None, missing))
    return 0


def _write(lines: Iterator[str], file: Path) -> None:
    """Write lines to a file, or to standard output."""
    if str(file) == "-":
        sys.stdout.writelines(f"{line}\n" for line in lines)
        return
    try:
        with file.open("w", encoding="utf-8", errors="backslashreplace") as output:
            output.writelines(f"{line}\n" for line in lines)
    except OSError as error:
        raise click.UsageError(f"--folded: cannot write {file}: {error.strerror}; choose another file") from None


def _program(entry: EntryFields | EntryAttributes) -> str | None:
    return entry.get("script_path") or entry.get("path") or (f"[{entry['comm']}]" if entry.get("comm") else None)


def _key(entry: EntryFields, by: str, host_name: Callable[[str, int], str | None]) -> str | None:
    """Return the key of a process; None: it has none, or it is unknown.

    If no name was read in the namespaces of the process, the host's name of the user's number is the key, so that each
    number has one row. In a container the number can be another user, so there it stays a number.
    """
    if by == "path":
        return _program(entry)
    if by == "unit":
        return unit_of(entry.get("cgroup"))
    if by == "container":
        return entry.get("container_id")
    uid = entry.get("uid")
    if entry.get("user") or uid is None:
        return entry.get("user")
    return (None if entry.get("container_id") else host_name("user", uid)) or str(uid)


class _Reading:
    """Reads what the selected processes have used.

    Attributes:
        directory: of the instance.
        coverage: what the result contains, after `usages`.
        captured_ns: start of the youngest process that is older than the capture, after `usages`.
        horizon, memory: how far back the tables reach, and how full they are, after `usages`.
        spawners: by identity of a process: the program of the image that forked it, after `usages`, if they are asked
            for.
        parents_of_others: identities of the parents of processes that are not selected, after `usages`.
    """

    def __init__(self, table: ProcessTable, selection: Selection, by: str, now_ns: int) -> None:
        self._table = table
        self.directory = table.directory
        self._selection = selection
        self._by = by
        self._fields = tuple(dict.fromkeys([*FIELDS, *_KEYS[by], *_KEYS["path"], *selection.fields]))
        self._now_ns = now_ns
        self.coverage = Coverage()
        self.captured_ns = 0
        self.horizon: Horizon | None = None
        self.memory: Mapping[str, int] = {}
        self.spawners: dict[str | None, str | None] = {}
        self.parents_of_others: set[str | None] = set()

    def usages(self, since_ns: int | None) -> list[Usage]:
        """Return the selected processes that began at or after `since_ns`."""
        entries = self._entries()
        self.captured_ns = capture_time_ns(entries)
        chosen = self._chosen(entries)
        identities = {entry.get("entity_id") for entry in chosen}
        self.parents_of_others = {
            entry.get("parent_entity_id") for entry in entries if entry.get("entity_id") not in identities
        }
        if since_ns is not None:
            earlier = [entry for entry in chosen if not _began(entry, since_ns)]
            chosen = [entry for entry in chosen if _began(entry, since_ns)]
            lived = [entry for entry in earlier if (entry.get("exit_time_ns") or self._now_ns) >= since_ns]
            used = self._measured(lived)
            self.coverage.began_earlier = len(used)
            self.coverage.began_earlier_cpu_ns = sum(usage.cpu_ns for usage in used)
        measured = self._measured(chosen)
        self.coverage.before_capture = sum(
            (usage.entry.get("start_time_ns") or 0) <= self.captured_ns and bool(usage.children_cpu_ns)
            for usage in measured
        )
        return measured

    def _entries(self) -> list[EntryFields]:
        """Return all retained processes, the earlier ones of a pid among them."""
        read, found = common.batch(self._table, self._fields)
        if self._by == "spawner":
            self.spawners = self._spawners(read, found)
        for entry in found:
            if entry.get("is_exited") is False:
                entry["exit_time_ns"] = None  # that of an image that was replaced meanwhile
        stats = common.patiently(self._table.stats)
        self.coverage.evicted = stats["evictions"]
        self.coverage.lost_exits = stats["lost"]["exit"]
        self.memory = stats["memory"]
        self.horizon = horizon(self._table.directory)
        if self.horizon is not None and self.horizon.cause != BEGIN:
            self.coverage.complete_from_ns = self.horizon.time_ns
        return found

    def _spawners(self, read: Batch, found: list[EntryFields]) -> dict[str | None, str | None]:
        """Return the program that forked each process; a process that is older than the capture has none."""
        creators = np.frombuffer(read.rows.hot, layout.HOT)[: len(read)]["creator"]
        fields = ("row", "generation", *_KEYS["path"])
        images = common.patiently(lambda: self._table.batch(fields, links=np.unique(creators[creators != 0])))
        programs = {image["row"] | image["generation"] << 32: _program(image) for image in images.dicts()}
        return {
            entry.get("entity_id"): programs.get(creator)
            for entry, creator in zip(found, creators.tolist(), strict=True)
        }

    def missing(self, since_ns: int | None) -> str:
        """Return which of the wanted processes are not in the tables, and why; empty: all are there."""
        at = self.horizon
        if at is None or (since_ns is None and at.cause == BEGIN) or (since_ns is not None and since_ns >= at.time_ns):
            return ""
        return sentence(at, self.memory)

    def _chosen(self, entries: list[EntryFields]) -> list[EntryFields]:
        """Return the selected processes; with a path, out of those that match it and their descendants."""
        asked = self._selection
        if not asked.paths:
            return asked.of(entries)
        tops = Selection(paths=asked.paths, under=asked.under).of(entries)
        wanted = descendants(entries, identities=[each for entry in tops if (each := entry.get("entity_id"))])
        own = replace(asked, paths=(), under=())
        return [entry for entry in entries if entry.get("entity_id") in wanted and own.matches(entry)]

    def _measured(self, entries: list[EntryFields]) -> list[Usage]:
        used = self._used if self._table.view.pids_are_ours else None
        # Parents first: of a child that ends meanwhile, the time must not count again with the parent that waited.
        entries = sorted(entries, key=lambda entry: entry.get("start_time_ns") or 0)
        with Progress("adding up", ticks=True):
            found = [usage_of(entry, used) for entry in entries]
        gone = [number for number, usage in enumerate(found) if usage.is_live and usage.cpu_user_ns is None]
        if gone and used is not None:
            time.sleep(_SETTLE_S)
            for number in gone:
                pid, start_ns = found[number].entry["pid"], found[number].entry.get("start_time_ns")
                for entry in common.retained(filter(None, [self._table.resolve(pid)]), self._fields):
                    if entry.get("start_time_ns") == start_ns and entry.get("exit_time_ns"):
                        found[number] = usage_of(entry, used)
        return found

    def _used(self, pid: int, start_ns: int) -> dict[str, int | None] | None:
        from pipeline.host.processes import used

        return used(pid, start_ns - self._table.boot_unix_ns)


def _began(entry: EntryFields, since_ns: int) -> bool:
    return (entry.get("start_time_ns") or 0) >= since_ns


def _shown(total: Sum) -> dict[str, Any]:
    """Return the JSON form of a sum."""
    return {**asdict(total), "cpu_ns": total.cpu_ns}


#: Columns of the table: title, how much it is worth on a narrow screen, and its text.
_COLUMNS = (
    ("CPU", 9, lambda each: times.duration(each.cpu_ns)),
    ("USER", 5, lambda each: times.duration(each.cpu_user_ns)),
    ("SYSTEM", 5, lambda each: times.duration(each.cpu_system_ns)),
    ("PEAK MEM", 8, lambda each: size(each.max_rss_bytes)),
    ("READ", 6, lambda each: "?" if each.unknown_io == each.processes else size(each.read_bytes)),
    ("WRITTEN", 6, lambda each: "?" if each.unknown_io == each.processes else size(each.write_bytes)),
    ("PROCESSES", 7, lambda each: str(each.processes)),
    ("LIVED", 4, lambda each: times.duration(each.life_ns)),
)
#: The spawner of processes that began before the capture, or whose creator was evicted.
_NO_SPAWNER = "not known: started before the capture, or no longer kept"
_WIDTHS = 11  #: about the cells of a column


def _table(groups: Sequence[tuple[str | None, Sum]], total: Sum, by: str, width: int | None) -> Iterator[Line]:
    """Yield the table; on a narrow screen columns are left out, so that the key has room."""
    room = len(_COLUMNS) if width is None else max(2, (width - 16) // _WIDTHS)
    kept = sorted(_COLUMNS, key=lambda column: -column[1])[:room]
    columns = [column for column in _COLUMNS if column in kept]
    rows: list[list[Line | str]] = []
    for key, each in [*groups, ("total", total)]:
        is_total = each is total
        style = Style.HEADING if is_total else Style.PLAIN
        row: list[Line | str] = [Line((text(each), style)) for _, _, text in columns]
        name = (
            Line((key, style))
            if key is not None
            else Line((_NO_SPAWNER if by == "spawner" else f"no {by}", Style.FAINT))
        )
        if each.live and not is_total:
            name.add(f"  {each.live} live", Style.FAINT)
        rows.append([*row, name])
    headings = [tables.Column(title, is_right=True) for title, _, _ in columns]
    yield from tables.table([*headings, tables.Column(by.upper())], rows)


def _notes(total: Sum, coverage: Coverage, has_since: bool, missing: str) -> Iterator[Line]:
    """Yield sentences about what the numbers contain and what they lack.

    Args:
        total: the sum over all rows.
        coverage: what it contains.
        has_since: whether processes that began earlier are left out.
        missing: which of the wanted processes are not in the tables, and why; empty: all are there.
    """

    def note(text: str) -> Line:
        return Line((text, Style.FAINT))

    if total.rest_cpu_ns >= max(_REST_NS, total.cpu_ns * _REST_SHARE):
        yield note(
            f"CPU has {times.duration(total.rest_cpu_ns)} more than USER and SYSTEM. When a parent waits for a child, "
            "the kernel adds the time of the child to the parent. This includes the time that the child needed to end, "
            "and children that are not retained any more. It counts in the row of that parent."
        )
    if coverage.before_capture:
        yield note(
            f"{counted(coverage.before_capture, 'process')} began before the capture: what the kernel counts for their "
            "ended children is left out, because a part of it is older."
        )
    if total.live:
        they = "runs; it counts with what it has" if total.live == 1 else "run; they count with what they have"
        yield note(f"{total.live:,} of {counted(total.processes, 'process')} {they} used so far.")
    if total.unknown:
        yield note(f"What {counted(total.unknown, 'process')} used is not known.")
    if total.unknown_io > total.unknown:
        hint = "" if os.geteuid() == 0 else ": to read that of live processes of other users, run the command as root"
        yield note(f"What {counted(total.unknown_io - total.unknown, 'process')} read and wrote is not known{hint}.")
    if has_since and coverage.began_earlier:
        began = "that began earlier is" if coverage.began_earlier == 1 else "that began earlier are"
        yield note(
            f"{counted(coverage.began_earlier, 'process')} {began} left out; "
            f"CPU time in their whole life: {times.duration(coverage.began_earlier_cpu_ns)}."
        )
    if missing:
        yield note(f"Some may be missing: {missing}.")
    if coverage.lost_exits:
        yield note(f"{counted(coverage.lost_exits, 'exit')} lost; what these processes used is not known.")

"""`procline stat`: counters, sizes and costs of an instance."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from pipeline import paths
from pipeline.cli import common
from pipeline.export.json import dumps
from pipeline.host import instances, tiers
from pipeline.screen.card import INDENT, labelled
from pipeline.screen.lines import Line
from pipeline.screen.progress import Progress
from pipeline.screen.sizes import counted, size
from pipeline.screen.styles import Style
from pipeline.screen.tables import Column, table
from pipeline.screen.terminal import Screen
from pipeline.screen.times import duration, period
from pipeline.shm.reader import control_fields

if TYPE_CHECKING:
    from pipeline.shm.reader.statistics import Stats

#: Columns of a terminal from which on the table of the daemon's processes has all columns.
_WIDE = 52
#: Counters that say that something was lost, rejected or wrong; each is shown if it is not 0.
_PROBLEMS = (
    "frames_refused", "frames_gap", "malformed", "table_full", "arena_full", "growth_refused", "publish_unsent",
    "requests_refused", "requests_dropped", "context_dropped", "keys_refused", "names_refused", "maps_full",
    "sessions_unread", "stream_refused", "stream_rejected", "curve_refused", "curve_revoked", "journal_failed",
    "journal_refused",
)  # fmt: skip


@click.command(
    epilog="""\b
Examples:
  procline stat
  procline stat --seconds 5                    measure rates and CPU use for five seconds
  procline stat -v                             with all counters
  procline stat --json | jq .lost              the events lost so far, by kind
"""
)
@click.option(
    "--seconds", type=common.Seconds(), metavar="S", help="Also measure the rates and the CPU use for S seconds."
)
@common.verbose_option
@common.name_option
@common.json_option
def command(seconds: float | None, is_verbose: bool, name: str, as_json: bool) -> int:
    """Show whether an instance keeps up, what it holds, and what its processes cost.

    Rates and CPU use are averages since the start of the instance, or with --seconds over S seconds from now.
    """
    if as_json and seconds is not None:
        raise click.UsageError("--seconds cannot be combined with --json: compare the counters of two calls instead")
    with common.attached(name, shows_arguments=False) as processes:
        stats = common.patiently(processes.stats)
        before: Stats | None = None
        period_s = None
        if seconds:
            before, begin = stats, time.monotonic()
            with Progress("measuring") as progress:
                while time.monotonic() < begin + seconds:
                    progress.show(f"{time.monotonic() - begin:.0f} of {seconds:g} s")
                    time.sleep(min(0.1, max(0.0, begin + seconds - time.monotonic())))
            stats = common.patiently(processes.stats)
            period_s = time.monotonic() - begin
    if stats.get("behind_ns"):
        common.warn_about_delay(name, stats["behind_ns"])
    if as_json:
        click.echo(dumps(stats))
        return 0
    if period_s is None:
        running = instances.find(name)
        if running is not None and running.since_ns is not None:
            period_s = max(0.001, (time.time_ns() - running.since_ns) / 1e9)
    screen = Screen()
    is_completed = tiers.is_completed(tiers.read(paths.instance_dir(name)))
    screen.wrap(_summary(stats, before, period_s, is_completed=is_completed), INDENT)
    step_s = round((control_fields.clock_step_ns(name) or 0) / 1e9)
    if step_s:
        how_far = f"{'forward' if step_s > 0 else 'back'} by {duration(abs(step_s) * 10**9)}"
        text = f"set {how_far} since the start; times are shown as before until a restart"
        screen.wrap([labelled("clock", Line((text, Style.WARNING)))], INDENT)
    screen.cut(_processes(stats, before, period_s, screen.width))
    if is_verbose:
        screen.wrap(_everything(stats), 21)
    return 0


def _summary(
    stats: Mapping[str, Any], before: Mapping[str, Any] | None, period_s: float | None, *, is_completed: bool
) -> Iterator[Line]:
    """Yield what an operator asks first: does it keep up, did it lose anything, what does it hold.

    Args:
        stats: the counters.
        before: those of the beginning of the period; None: it is the time since the start.
        period_s: its length, if that is known.
        is_completed: comparisons find some changes only, and the others are seen at once.
    """
    yield _state(stats, before, period_s)
    lost = _nonzero(stats.get("lost", {}))
    if lost:
        yield labelled("lost", Line((f"{sum(lost.values()):,} events: {_listed(lost)}", Style.FAILED)))
    else:
        yield labelled("lost", Line(("nothing", Style.BORN)))
    late = stats.get("late") or 0
    if late:
        yield labelled("late", Line((f"{late:,} events came too late to be put in order", Style.WARNING)))
    events = dict(stats.get("events", {}))
    total = sum(events.values())
    line = Line(f"{total:,}")
    if period_s:
        earlier = sum((before or {}).get("events", {}).values())
        line.add(f", {(total - earlier) / period_s:,.0f} a second")
        line.add(" on average" if before is None else f" in the last {period_s:.3g} s", Style.FAINT)
    if shown := _nonzero(events):
        line.add(f"  {_listed(shown)}", Style.FAINT)
    yield labelled("events", line)
    entries = stats.get("entries")
    if entries:
        yield labelled(
            "holds",
            Line(f"{entries['live']:,} live and {entries['exited']:,} exited processes", (
                f", {entries['images']:,} images", Style.FAINT)),
        )  # fmt: skip
    if memory := stats.get("memory"):
        yield labelled("tables", _tables(memory))
    if found_within_s := stats.get("sampling_interval_s"):
        some, others = ("some ", "; the others are seen at once") if is_completed else ("", "")
        how = (f", by comparison{others}", Style.FAINT)
        yield labelled("changes", Line(f"{some}found within {period(found_within_s)}", how))
    readers = stats.get("readers")
    if readers is not None:
        at_least = "" if stats.get("readers_complete", True) else "at least "
        yield labelled("readers", f"{at_least}{readers:,}")
    repairs, evictions = stats.get("repairs") or 0, stats.get("evictions") or 0
    if repairs or evictions:
        yield labelled("upkeep", f"{counted(repairs, 'repair')}, {counted(evictions, 'exited image')} evicted")
    counters = stats.get("counters", {})
    problems = _nonzero({name: counters.get(name, 0) for name in _PROBLEMS})
    if problems:
        yield labelled("problems", Line((_listed(problems), Style.WARNING)))


def _state(stats: Mapping[str, Any], before: Mapping[str, Any] | None, period_s: float | None) -> Line:
    state, behind_ns = str(stats.get("state", "?")), stats.get("behind_ns") or 0
    line = Line((str(stats.get("instance", "?")), Style.HEADING), ": ")
    if behind_ns:
        line.add(f"behind by {duration(behind_ns)}", Style.WARNING)
    else:
        line.add(state, Style.BORN if state == "ready" else Style.WARNING)
        lag_ns = stats.get("watermark_lag_ns")
        if lag_ns is not None:
            line.add(f", lag {duration(lag_ns)}", Style.FAINT)
    if before is None and period_s:
        line.add(f", running for {duration(int(period_s * 1e9))}", Style.FAINT)
    if stats.get("takeovers"):
        line.add(f", resolver replaced {counted(stats['takeovers'], 'time')}", Style.CHANGED)
    return line


def _tables(memory: Mapping[str, int]) -> Line:
    """Return how full the tables are; one that is nearly full stands out."""
    line = Line()
    for name, used, most, is_bytes in (
        ("rows", memory["rows_used"], memory["rows_capacity"], False),
        *(
            (each, memory[f"{each}_used_bytes"], memory[f"{each}_capacity_bytes"], True)
            for each in ("names", "args", "envs")
        ),
    ):
        if not used and name == "envs":
            continue
        share = used / most if most else 0.0
        shown = f"{size(used)} of {size(most)}" if is_bytes else f"{used:,} of {most:,}"
        line.add(", " if line.pieces else "").add(f"{name} ")
        line.add(f"{share:.1%}" if share < 0.1 else f"{share:.0%}", Style.WARNING if share > 0.9 else Style.PLAIN)
        line.add(f" ({shown})", Style.FAINT)
    return line


def _processes(
    stats: Mapping[str, Any], before: Mapping[str, Any] | None, period_s: float | None, width: int | None
) -> Iterator[Line]:
    """Yield a table of the daemon's own processes, and their sum; a narrow screen has no room for their pids."""
    is_narrow = width is not None and width < _WIDE
    found = stats.get("processes") or ()
    if not found:
        return
    earlier = {row["pid"]: row["cpu_seconds"] for row in (before or {}).get("processes", ())}
    rows: list[Sequence[Line | str]] = []
    total_s = total_bytes = total_share = 0.0
    for row in found:
        spent_s = row["cpu_seconds"] - earlier.get(row["pid"], 0.0)
        share = spent_s / period_s if period_s else None
        total_s, total_bytes = total_s + row["cpu_seconds"], total_bytes + (row["pss_bytes"] or 0)
        total_share += share or 0.0
        rows.append(_usage(row["role"], str(row["pid"]), row["cpu_seconds"], share, row["pss_bytes"]))
    is_known = all(row["pss_bytes"] is not None for row in found)
    if len(rows) > 1:
        rows.append(
            _usage("all", "", total_s, total_share if period_s else None, int(total_bytes) if is_known else None)
        )
    columns = [Column("PROCESS"), *(Column(title, is_right=True) for title in ("PID", "CPU", "OF A CPU", "MEMORY"))]
    if is_narrow:
        columns, rows = [columns[0], *columns[2:]], [[row[0], *row[2:]] for row in rows]
    yield Line()
    yield from (Line("" if is_narrow else "  ").join(line) for line in table(columns, rows, gap=1 if is_narrow else 2))


def _usage(role: str, pid: str, cpu_s: float, share: float | None, pss_bytes: int | None) -> list[Line | str]:
    return [
        role,
        Line((pid, Style.PID)),
        f"{cpu_s:,.2f} s",
        "-" if share is None else f"{share:.2%}" if share < 0.1 else f"{share:.0%}",
        "-" if pss_bytes is None else size(pss_bytes),
    ]


def _everything(stats: Mapping[str, Any]) -> Iterator[Line]:
    """Yield every value that is not 0, by its name in JSON."""
    for key, value in stats.items():
        if key == "processes":
            continue
        if isinstance(value, Mapping):
            parts = _nonzero(value)
            if parts:
                yield Line()
                yield Line((key, Style.HEADING))
                for name, number in parts.items():
                    yield Line((f"  {name:26}", Style.FAINT), f"{number:>16,}")
    yield Line()
    for key, value in stats.items():
        if not isinstance(value, Mapping | list):
            yield Line((f"{key:28}", Style.FAINT), f"{value:>16,}" if isinstance(value, int) else f"{value!s:>16}")


def _nonzero(values: Mapping[str, int]) -> dict[str, int]:
    return {name: number for name, number in values.items() if number}


def _listed(values: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {number:,}" for name, number in values.items())

"""`procline bench-read`: what a look-up costs on this host."""

from __future__ import annotations

import importlib.util
import itertools
import os
import statistics
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TypedDict

import click

from pipeline.cli import common
from pipeline.errors import BusyError, StaleError
from pipeline.screen.lines import Line
from pipeline.screen.progress import Progress
from pipeline.screen.styles import Style
from pipeline.screen.tables import Column, table
from pipeline.screen.terminal import Screen

if TYPE_CHECKING:
    from pipeline import ProcessTable

#: Rounds of each case; the median counts.
_ROUNDS = 5
#: Calls between two readings of the clock; a slower call is timed alone.
_CALLS = 256
_SECONDS_MAX = 86_400
#: A narrower screen has no column for the best round.
_WIDE = 60
#: Pids of one bulk call.
_BULK_PIDS = 1000


class Cost(TypedDict):
    """The cost of a case: the median, best and worst round, ns for each item."""

    case: str
    what: str
    per: str
    ns: float
    best_ns: float
    worst_ns: float


@click.command(
    epilog="""\b
Examples:
  procline bench-read
  procline bench-read --seconds 10 --json | jq '.costs[] | {case, what, ns}'
"""
)
@click.option(
    "--seconds", type=common.Seconds(), metavar="S", default=3.0, show_default=True,
    help="How long to measure, over all cases.",
)  # fmt: skip
@common.name_option
@common.json_option
def command(seconds: float, name: str, as_json: bool) -> int:
    """Measure what a look-up costs on this host, from Python, in a running instance.

    One thread looks up the live processes in turn. If psutil is installed, the same look-ups are measured with it.
    Other work on the host makes the figures higher; the best round shows by how much. The cost of the loop is
    subtracted.
    """
    if seconds > _SECONDS_MAX:
        raise click.UsageError(f"--seconds: a measurement must end: use at most {_SECONDS_MAX:,}")
    with common.attached(name, shows_arguments=False) as processes, Progress("measuring look-ups") as progress:
        pids = common.patiently(lambda: [entry.pid for entry in processes.walk(exited=False)])
        if not pids:
            raise click.UsageError(
                f"instance {name!r} has no live processes to look up: measure one that records this host"
            )
        cases = [*_own(processes, pids), *_psutil(pids)]
        turn = itertools.cycle(pids).__next__
        nothing_ns = min(_measure(lambda: turn(), seconds / 20, 1))
        costs = []
        for case, what, per, items, call in cases:
            progress.show(f"{case} {what}")
            rounds = [max(0.0, ns - nothing_ns / items) for ns in _measure(call, seconds / len(cases), items)]
            costs.append(
                Cost(
                    case=case,
                    what=what,
                    per=per,
                    ns=round(statistics.median(rounds), 1),
                    best_ns=round(min(rounds), 1),
                    worst_ns=round(max(rounds), 1),
                )
            )
    if as_json:
        from pipeline.export.json import dumps

        click.echo(dumps({"instance": name, "processes": len(pids), "cpus": os.cpu_count(), "costs": costs}))
        return 0
    _show(costs, len(pids))
    return 0


#: Name of the tool, the question, its unit, items of a call, and the call.
_Case = tuple[str, str, str, int, Callable[[], Any]]


def _own(processes: ProcessTable, pids: list[int]) -> Iterator[_Case]:
    turn = itertools.cycle(pids).__next__

    def fields() -> object:
        entry = processes.resolve(turn())
        return entry and (entry.pid, entry.ppid, entry.comm, entry.path, entry.argv, entry.uid, entry.gid,
                          entry.start_time_ns)  # fmt: skip

    tool = "procline"
    yield tool, "one process", "look-up", 1, lambda: processes.resolve(turn())
    yield tool, "one process, eight fields", "look-up", 1, fields
    yield tool, "all its ancestors", "look-up", 1, lambda: processes.ancestors(turn())
    if importlib.util.find_spec("numpy") is None:
        return
    import numpy as np

    many = np.resize(np.array(pids, np.uint32), _BULK_PIDS)
    out = processes.resolve_many(many)
    yield tool, f"{_BULK_PIDS:,} processes at once", "process", _BULK_PIDS, lambda: processes.resolve_many(many, out)
    yield tool, f"ancestors of {_BULK_PIDS:,} at once", "process", _BULK_PIDS, lambda: processes.ancestors_many(many)


def _psutil(pids: list[int]) -> Iterator[_Case]:
    """Yield the same questions for psutil; nothing if it is not installed."""
    try:
        import psutil  # type: ignore[import-untyped]
    except ImportError:
        return
    turn = itertools.cycle(pids).__next__
    names = ["pid", "ppid", "name", "exe", "cmdline", "uids", "gids", "create_time"]

    def fields() -> object:
        try:
            return psutil.Process(turn()).as_dict(names)
        except psutil.Error:  # it has ended
            return None

    def parents() -> object:
        try:
            return psutil.Process(turn()).parents()
        except psutil.Error:
            return None

    yield "psutil", "one process, eight fields", "look-up", 1, fields
    yield "psutil", "all its ancestors", "look-up", 1, parents


def _measure(call: Callable[[], Any], seconds: float, items: int) -> list[float]:
    """Return the time of a call for each item in several rounds, ns, with the loop around it."""
    common.patiently(call)
    begin = time.perf_counter_ns()
    call()
    calls = 1 if time.perf_counter_ns() - begin > 100_000 else _CALLS
    rounds = []
    for _ in range(_ROUNDS):
        deadline = time.perf_counter_ns() + int(seconds * 1e9 / _ROUNDS)
        done = spent = 0
        while not done or time.perf_counter_ns() < deadline:
            try:
                begin = time.perf_counter_ns()
                for _ in range(calls):
                    call()
                spent += time.perf_counter_ns() - begin
                done += calls
            except (StaleError, BusyError):
                common.patiently(call)
        rounds.append(spent / done / items)
    return rounds


def _show(costs: list[Cost], count: int) -> None:
    screen = Screen()
    is_wide = screen.width is None or screen.width >= _WIDE
    rows: list[list[Line | str]] = []
    for cost in costs:
        name = Line((cost["case"], Style.PROGRAM if cost["case"] == "procline" else Style.PLAIN))
        row: list[Line | str] = [_time(cost["ns"]), Line((_time(cost["best_ns"]), Style.TIME)), name, cost["what"]]
        rows.append(row if is_wide else [row[0], *row[2:]])
    columns = [Column("MEDIAN", is_right=True), Column("BEST", is_right=True), Column("TOOL"), Column("QUESTION")]
    screen.cut(table(columns if is_wide else [columns[0], *columns[2:]], rows))
    notes = [f"{count} live processes in turn, one thread of Python; of {_BULK_PIDS:,} at once: the time for each"]
    by_what = {(cost["case"], cost["what"]): cost["ns"] for cost in costs}
    for what in dict.fromkeys(cost["what"] for cost in costs):
        own, other = by_what.get(("procline", what)), by_what.get(("psutil", what))
        if own and other:
            notes.append(f"{what}: {other / own:,.0f} times as fast as psutil")
    screen.wrap(Line((note, Style.FAINT)) for note in notes)


def _time(ns: float) -> str:
    if ns < 1000:
        return f"{ns:.0f} ns"
    return f"{ns / 1000:.3g} µs" if ns < 1e6 else f"{ns / 1e6:.3g} ms"

"""`procline load`: make processes on this host, and compare what an instance reported with what was made."""

from __future__ import annotations

import math
import os
import shutil
import signal
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from pipeline import paths
from pipeline.cli import common
from pipeline.export.text import printable
from pipeline.load import scenarios
from pipeline.screen.lines import Line
from pipeline.screen.progress import Progress, Show
from pipeline.screen.terminal import Screen

if TYPE_CHECKING:
    from types import FrameType

    from pipeline.load.summary import Table

_EXIT_NOT_EXACT = 1
_EXIT_TERMINATED = 128 + signal.SIGTERM
#: Durations of a round, if none is given.
_PAIRED_S, _FIND_LIMIT_S = 2.0, 3.0
_OWN_NAME = "load"


class Rate(click.ParamType[float]):
    """Events a second, or ``max``, which is `math.inf`."""

    name = "rate"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the rate, or fail if it is out of range."""
        try:
            number = math.inf if value == "max" else float(str(value))
        except ValueError:
            number = math.nan
        if not (1 <= number <= scenarios.RATE_MAX or value == "max"):
            self.fail(
                f"{value!r} is not a rate: use events a second from 1 to {scenarios.RATE_MAX:,}, or max", param, ctx
            )
        return number


class Cpus(click.ParamType[tuple[int, ...]]):
    """CPUs as a list such as ``0,2-5``."""

    name = "cpus"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        """Return the CPUs, or fail if it is not such a list."""
        if isinstance(value, tuple):
            return value
        try:
            return scenarios.parse_cpus(str(value))
        except ValueError:
            self.fail(f"{value!r} is not a list of CPUs: use one such as 0,2-5", param, ctx)


@click.command(
    epilog="""\b
Examples:
  procline load mix --rate 5000 --duration 30
  procline load build --own --paired --report build.html     measure the slowdown
  procline load forks --own --find-limit --json > host1.json
  procline load --compare host1.json host2.json --report hosts.html
"""
)
@click.argument("arguments", nargs=-1, metavar="SCENARIO | --compare FILE FILE...")
@click.option(
    "--rate",
    type=Rate(),
    metavar="R",
    help="Events a second of all workers together, or max.  [default: 2000; max with --paired]",
)
@click.option(
    "--duration",
    type=click.FloatRange(0.1, scenarios.DURATION_MAX_S),
    metavar="S",
    help="Seconds of each round.  [default: 10; --paired 2; --find-limit 3]",
)
@click.option(
    "--concurrency",
    type=click.IntRange(1, scenarios.CONCURRENCY_MAX),
    metavar="N",
    help="Workers.  [default: one for each CPU]",
)
@click.option("--cpus", type=Cpus(), metavar="LIST", help="CPUs of the load, such as 0,2-5.  [default: all]")
@click.option("--own", is_flag=True, help="Start an instance for the test (as root).")
@click.option("--paired", is_flag=True, help="Measure the slowdown: rounds with and without an instance; needs --own.")
@click.option(
    "--pairs",
    type=click.IntRange(1, 1000),
    default=10,
    show_default=True,
    metavar="N",
    help="Pairs of rounds for --paired.",
)
@click.option("--find-limit", is_flag=True, help="Search for the highest rate without loss, from --rate on.")
@click.option("--compare", is_flag=True, help="Compare two or more files that --json wrote.")
@click.option(
    "--report", "page", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", help="Also write an HTML page."
)
@click.option(
    "--set", "changes", multiple=True, metavar="KEY=VALUE", help="A setting of the instance that --own starts."
)
@common.name_option
@common.json_option
def command(
    arguments: tuple[str, ...], rate: float | None, duration: float | None, concurrency: int | None,
    cpus: tuple[int, ...] | None, own: bool, paired: bool, pairs: int, find_limit: bool, compare: bool,
    page: Path | None, changes: tuple[str, ...], name: str, as_json: bool,
) -> int:  # fmt: skip
    """Make processes on this host, and compare what an instance reported with what was made.

    Scenarios: forks, execs, build, deep, daemons, threads, mix; as root also namespaces, pid-reuse, credentials.
    Exits with 1 if events were lost or wrong.
    """
    if page is not None:
        _check_writable(page)
    if compare:
        return _compare([Path(each) for each in arguments], page, as_json)
    _check_use(arguments, rate, own, paired, find_limit, changes)
    settings = _settings(arguments[0], rate, duration, concurrency, cpus or (), paired, find_limit)
    scenarios.check(settings)
    with _terminated(), Progress() as progress:
        report = _test(settings, name, own, changes, pairs if paired else 0, find_limit, progress.show)
    _show(report, page, as_json)
    return 0 if _is_success(report, find_limit) else _EXIT_NOT_EXACT


def _check_use(
    arguments: tuple[str, ...], rate: float | None, own: bool, paired: bool, find_limit: bool, changes: tuple[str, ...]
) -> None:
    """Fail if the scenario is not one, or options contradict each other."""
    context = click.get_current_context()
    if len(arguments) != 1 or arguments[0] not in scenarios.SCENARIOS:
        near = common.guess(arguments[0], scenarios.SCENARIOS) if arguments else ""
        raise click.UsageError(
            f"use one scenario of {', '.join(scenarios.SCENARIOS)}, or --compare with two or more files{near}", context
        )
    if paired and find_limit:
        raise click.UsageError("use only one of --paired and --find-limit", context)
    if (paired or changes) and not own:
        what = "--paired stops and starts the instance" if paired else "--set changes the settings of a new instance"
        raise click.UsageError(f"{what}, so it needs --own", context)
    if rate == math.inf and find_limit:
        raise click.UsageError("--find-limit begins at a rate: use a number, not max", context)


def _settings(
    scenario: str, rate: float | None, duration: float | None, concurrency: int | None, cpus: tuple[int, ...],
    paired: bool, find_limit: bool,
) -> scenarios.Settings:  # fmt: skip
    """Return the settings of a round, with defaults for those that are not given."""
    if rate is None:
        rate = math.inf if paired else scenarios.RATE_DEFAULT
    if duration is None:
        duration = _PAIRED_S if paired else _FIND_LIMIT_S if find_limit else scenarios.DURATION_DEFAULT_S
    return scenarios.Settings(
        scenario=scenario,
        rate_events_per_s=None if rate == math.inf else rate,
        duration_s=duration,
        concurrency=concurrency or min(len(cpus or os.sched_getaffinity(0)), scenarios.CONCURRENCY_MAX),
        cpus=cpus,
    )


def _show(report: dict[str, Any], page: Path | None, as_json: bool) -> None:
    """Write the page, if one is wanted, and print the report."""
    if page is not None:
        from pipeline.load.page import of_report

        _write(page, of_report(report))
    if as_json:
        from pipeline.export.json import dumps

        click.echo(dumps(report))
        return
    from pipeline.load import summary

    Screen().cut([Line(summary.title(report)), Line()])
    _print(summary.tables(report))
    click.echo(printable(summary.verdict(report)))


def _is_success(report: dict[str, Any], find_limit: bool) -> bool:
    from pipeline.load.run import is_exact

    return report["limit"]["events_per_s"] is not None if find_limit else is_exact(report)


def _test(
    settings: scenarios.Settings, name: str, own: bool, changes: tuple[str, ...], pairs: int, find_limit: bool,
    progress: Show,
) -> dict[str, Any]:  # fmt: skip
    """Run the test; return its report."""
    from contextlib import ExitStack

    from pipeline.load import limit, paired, run
    from pipeline.load.instance import OwnInstance

    with ExitStack() as stack:
        directory = paths.instance_dir(name)
        instance = None
        if own:
            if name == paths.DEFAULT_INSTANCE:
                name = _OWN_NAME
            instance = stack.enter_context(OwnInstance(name, changes))
            directory = instance.directory
            instance.start(lambda: progress("starting an instance"))

        def measure(wanted: scenarios.Settings) -> dict[str, Any]:
            return run.measure(name, directory, wanted, is_own=own, progress=progress)

        if find_limit:
            return limit.find(settings, measure, progress)
        report = measure(settings)
        if pairs:
            assert instance is not None
            report["paired"] = paired.measure(instance, settings, pairs, progress)
        return report


def _compare(given: Sequence[Path], page: Path | None, as_json: bool) -> int:
    from pipeline.load import compare, fields

    if len(given) < 2:
        raise click.UsageError("--compare needs two or more files that --json wrote", click.get_current_context())
    reports = [fields.read(path) for path in given]
    names = [path.name for path in given]
    if page is not None:
        from pipeline.load.page import of_reports

        _write(page, of_reports(reports, names))
    if as_json:
        from pipeline.export.json import dumps

        click.echo(dumps(compare.document(reports, names)))
        return 0
    _print([compare.differences(reports, names), compare.figures(reports, names)])
    return 0


def _print(tables: Iterable[Table]) -> None:
    """Print tables; on a terminal, a table that does not fit is divided."""
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 0
    screen = Screen()
    for table in tables:
        rows = [[printable(cell) for cell in row] for row in table.rows]
        screen.cut([Line(table.title)])
        for part in _parts(rows, width):
            screen.cut([*map(Line, _aligned(part)), Line()])


def _parts(rows: list[list[str]], width: int) -> Iterator[list[list[str]]]:
    """Divide a table if its columns do not fit into `width` (0: they do); each part begins with the first column."""
    columns = list(zip(*rows, strict=True))
    widths = [max(map(len, column)) + 2 for column in columns]
    kept = [0]
    for number in range(1, len(columns)):
        if width and len(kept) > 1 and sum(widths[i] for i in kept) + widths[number] > width:
            yield [[row[i] for i in kept] for row in rows]
            kept = [0]
        kept.append(number)
    yield [[row[i] for i in kept] for row in rows]


def _aligned(rows: list[list[str]]) -> Iterator[str]:
    """Yield the lines of a table: the first column to the left, figures to the right, and no heading over prose."""
    is_prose = rows[0][1:] == ["value"]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows[1:] if is_prose else rows:
        cells = [
            cell.ljust(width) if number == 0 or is_prose else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        yield f"  {'  '.join(cells)}".rstrip()


def _check_writable(page: Path) -> None:
    """Fail before a long test, not after it."""
    if not page.parent.is_dir() or not os.access(page.parent, os.W_OK):
        raise click.UsageError(
            f"--report {page}: you cannot write to the directory {page.parent}; choose another",
            click.get_current_context(),
        )


def _write(page: Path, text: str) -> None:
    try:
        page.write_bytes(text.encode("utf-8", "backslashreplace"))
    except OSError as error:
        raise click.UsageError(
            f"--report: cannot write {page}: {error.strerror}; choose another file", click.get_current_context()
        ) from None


@contextmanager
def _terminated() -> Iterator[None]:
    """Clean up at SIGTERM as at Ctrl-C."""

    def end(number: int, frame: FrameType | None) -> NoReturn:
        raise SystemExit(_EXIT_TERMINATED)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)

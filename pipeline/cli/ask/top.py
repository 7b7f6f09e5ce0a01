"""`procline top`: the processes of a host on the screen, as they start, change and end."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import signal
import sys
import termios
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pipeline.cli import common
from pipeline.cli.ask.selecting import select_options
from pipeline.errors import UnsupportedError
from pipeline.top.groupings import GROUPINGS

if TYPE_CHECKING:
    from types import FrameType

    from pipeline.select.selection import Selection
    from pipeline.top.feed import Feed

#: Limits of the time between two readings, in seconds.
_INTERVAL_S = (0.1, 60.0)
_KEEP_S = (0.0, 300.0)
#: Leave the second screen, show the cursor, and end the reports of the mouse and of pasted text.
_RESET = b"\x1b[?1049l\x1b[?25h\x1b[?1000l\x1b[?1003l\x1b[?1015l\x1b[?1006l\x1b[?1004l\x1b[?2004l\x1b[?7h"


class Names(click.ParamType[tuple[str, ...]]):
    """Names of columns, separated by commas."""

    name = "columns"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        """Return the names, or fail if one is unknown."""
        from pipeline.top.columns import COLUMNS

        chosen = tuple(part for part in str(value).split(",") if part)
        for each in chosen:
            if each not in COLUMNS:
                self.fail(_no_column(each, COLUMNS), param, ctx)
        return chosen


def _no_column(name: str, columns: Collection[str]) -> str:
    return f"there is no column {name!r}: choose from {', '.join(columns)}{common.guess(name, columns)}"


@click.command(
    epilog="""\b
Examples:
  procline top                              the whole host; press ? for the keys
  procline top --under $$ --unit 'nginx*'   only some of it
  procline top --rates                      begin with: who is spawning all this?
  procline top --rates --by unit            which unit spawns most?
  procline top --replay storm.rec           what `procline record` wrote, with pause and a time line
  procline top --columns pid,age,unit --sort age

\b
Columns: pid ppid user unit container tty session started age image images children end source marks program
command, which is always last
"""
)
@click.option(
    "--replay",
    "recording",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Show the recording FILE instead of an instance.",
)
@click.option(
    "--columns", type=Names(), default="", metavar="NAMES", help="Columns to show, separated by commas; see below."
)
@click.option("--sort", metavar="COLUMN", default="", help="Sort by this column, even if it is not shown.")
@click.option("--list", "as_list", is_flag=True, help="Begin with a list instead of a tree.")
@click.option("--rates", is_flag=True, help="Begin with the rates: who is spawning all this?")
@click.option(
    "--by",
    "grouping",
    type=common.OneOf(GROUPINGS),
    metavar="KEY",
    help=f"Rates by {', '.join(GROUPINGS[:-1])} or {GROUPINGS[-1]}.",
)
@click.option(
    "--keep",
    "keep_s",
    type=click.FloatRange(*_KEEP_S),
    default=3.0,
    show_default=True,
    metavar="S",
    help="Seconds for which ended processes stay.",
)
@click.option(
    "--interval",
    "interval_s",
    type=click.FloatRange(*_INTERVAL_S),
    default=0.5,
    show_default=True,
    metavar="S",
    help="Seconds between two readings.",
)
@select_options()
@common.name_option
def command(
    recording: Path | None,
    columns: tuple[str, ...],
    sort: str,
    as_list: bool,
    rates: bool,
    grouping: str | None,
    keep_s: float,
    interval_s: float,
    selection: Selection,
    name: str,
) -> int:
    """Show the processes of this host as they start, execute programs and end.

    New processes and new programs are marked, and ended processes stay for a moment. Press ? for the keys.
    """
    _check_terminal()
    _check_installed()
    from pipeline.top.columns import COLUMNS
    from pipeline.top.filters import Filter
    from pipeline.top.model import Model, Settings

    if sort and sort not in COLUMNS:
        raise click.UsageError(f"--sort: {_no_column(sort, COLUMNS)}", click.get_current_context())
    settings = Settings(is_tree=not as_list, sort=sort, keep_s=keep_s, filter=Filter(selection), columns=columns)
    with contextlib.ExitStack() as stack:
        _end_cleanly(stack)
        feed = _open(name, recording, stack)
        hidden = None
        if recording is None:
            common.warn_about_namespace(name)
            hidden = common.hidden_arguments(name)
        if not _has_colour():
            os.environ["NO_COLOR"] = "1"  # textual reads it
        from pipeline.top.app import Top

        note = f"arguments hidden: {hidden}; only those of your own processes are shown" if hidden else ""
        model = Model(feed, settings, common.own_arguments if hidden and feed.pids_are_ours else None)
        app = Top(model, interval_s, rates_by=grouping or (GROUPINGS[0] if rates else None), note=note)
        app.run()
    return app.return_code or 0


def _end_cleanly(stack: contextlib.ExitStack) -> None:
    """Let SIGTERM, and SIGHUP when the terminal is closed, restore the terminal and end what was started.

    This does not leave it to the loop of the screen, which waits forever for a terminal that is gone. Under nohup, too,
    a screen without a terminal has nothing left to do.
    """
    terminal, output = sys.stdin.fileno(), sys.stderr.fileno()  # textual replaces sys.stderr
    settings = termios.tcgetattr(terminal)

    def end(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_IGN)
        with contextlib.suppress(OSError, termios.error):
            termios.tcsetattr(terminal, termios.TCSANOW, settings)
            os.write(output, _RESET)
        stack.close()
        os._exit(128 + number)

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, end)


def _check_terminal() -> None:
    if not (sys.stdin.isatty() and sys.stdout.isatty() and sys.stderr.isatty()):
        raise click.UsageError(
            "it needs a terminal for input and output; in a script or a pipe use `procline tree`, `procline ps`, or "
            "`procline cost --sort processes`",
            click.get_current_context(),
        )
    if os.environ.get("TERM", "") in {"", "dumb"}:
        raise click.UsageError(
            "this terminal cannot move the cursor (TERM is dumb or not set); use `procline tree` or `procline ps`",
            click.get_current_context(),
        )


def _has_colour() -> bool:
    """Whether the terminal can show colours; one that the terminal database does not know can."""
    import curses

    try:
        curses.setupterm()
        return curses.tigetnum("colors") > 2
    except curses.error:
        return True


def _check_installed() -> None:
    if importlib.util.find_spec("textual") is None:
        raise UnsupportedError(
            "procline top needs the package textual, which is not installed; install it with: "
            "pip install 'procline[top]'",
            feature="top",
            needs="textual",
        )


def _open(name: str, recording: Path | None, stack: contextlib.ExitStack) -> Feed:
    """Open the tables of an instance; for a recording, those of an instance that this command starts."""
    from pipeline.top.feed import Feed

    if recording is None:
        return stack.enter_context(contextlib.closing(Feed(name)))
    from pipeline.cli.operate.run import daemon_parts, require_packages
    from pipeline.screen.progress import Progress

    require_packages()
    with daemon_parts():
        from pipeline.cli.ask.replayed import replayed
        from pipeline.sources.recording.file import Recording

    began_unix_ns = Recording(recording).created_unix_ns
    with Progress() as progress:
        directory, _ = stack.enter_context(replayed(recording, progress))
    return stack.enter_context(contextlib.closing(Feed(recording.name, directory, recorded_unix_ns=began_unix_ns)))

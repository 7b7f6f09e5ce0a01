"""`procline subscribe`: events as they happen."""

from __future__ import annotations

import contextlib
import functools
import io
import json
import os
import select
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Self

import click

from pipeline import files
from pipeline.cli import common
from pipeline.cli.ask.selecting import select_options
from pipeline.errors import ClosedError, ConfigError, NoProcessError, NotRunningError
from pipeline.screen.terminal import Screen

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from pipeline import Subscriber
    from pipeline.bus.stream.event_dict import Event
    from pipeline.bus.stream.position import StreamPosition
    from pipeline.select.selection import Selection

#: How long to wait for the reader until an incomplete line is written, and how often to check for a signal.
_LAST_LINE_S = 1.0
_POLL_MS = 50
#: How long after --timeout events that have arrived already are still printed.
_DRAIN_S = 1.0


#: How often --resume stores the position while events arrive, and how long its file may be.
_STORE_S = 0.2
_POSITION_MAX_BYTES = 4096


class _EndedError(Exception):
    """A signal asked the command to end."""


class Topic(click.ParamType[str]):
    """The name of a topic or of a family; the subscriber checks it."""

    name = "topic"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the name."""
        return str(value)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Return the topics."""
        from pipeline.cli.completing import topics

        return topics(incomplete)


@click.command(
    epilog="""\b
Examples:
  procline subscribe                                             all events of processes
  procline subscribe exec --json | jq -r '[.pid, .path] | @tsv'  pid and path of each exec
  procline subscribe --failed                                    processes that end with an error
  procline subscribe exec --under 4711                           what a process and its descendants execute
  procline subscribe exec --unit nginx --user www-data           execs of a service as a user
  procline subscribe --snapshot --count 100                      begin with the live processes
  procline subscribe exec --json --resume position.json          continue where the last run stopped

\b
Topics: proc.fork proc.exec proc.exit proc.cred proc.context proc.reparent sys.loss sys.stats
"""
)
@click.argument("topics", nargs=-1, metavar="[TOPIC]...", type=Topic())
@click.option("--snapshot", is_flag=True, help="Begin with an event for each live process.")
@click.option(
    "--resume",
    "resume_file",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Continue after the position in FILE, and update it.",
)
@click.option("--follow", is_flag=True, help="If the instance ends, wait for the next one.")
@click.option("--count", type=click.IntRange(min=1), metavar="N", help="Exit after N events.")
@click.option("--timeout", type=common.Seconds(), metavar="S", help="Exit after S seconds.")
@click.option(
    "--format",
    "form",
    type=common.OneOf(["native", "otel", "ecs", "ocsf"]),
    default="native",
    metavar="FORMAT",
    help="Names of fields: native, or in JSON otel, ecs or ocsf.",
)
@select_options()
@common.name_option
@common.json_option
def command(
    topics: tuple[str, ...],
    snapshot: bool,
    resume_file: Path | None,
    follow: bool,
    count: int | None,
    timeout: float | None,
    form: str,
    selection: Selection,
    name: str,
    as_json: bool,
) -> int:
    """Print events as they happen, one a line.

    TOPIC is a topic (proc.exec or exec) or a family (proc). The default is all of proc and sys.loss. On a terminal,
    lines are cut to its width. In a pipe or with --json, each is a JSON object.

    Ctrl-C, --count and --timeout end the command with exit code 0. With both options, the command exits with 1 if fewer
    than N events arrive in S seconds. It exits with 3 if the instance ends, unless --follow is given.
    """
    deadline = None if timeout is None else time.monotonic() + timeout
    with contextlib.suppress(_EndedError), _Ending() as ending:
        from pipeline import Subscriber

        stored = None if resume_file is None else PositionFile(resume_file)
        try:
            subscriber = Subscriber(
                name, topics, select=selection, snapshot=snapshot, follow=follow,
                resume=None if stored is None else stored.read(),
            )  # fmt: skip
        except NoProcessError as error:
            for pid in error.pids:
                common.not_found(pid, name)
            return 1
        with contextlib.closing(subscriber):
            ending.subscriber = subscriber
            if stored is not None:
                stored.write(subscriber.position)
            common.warn_about_namespace(name)
            text_of = _printer(form, subscriber.host, as_json=as_json)
            shown = _show(subscriber, ending, text_of, count=count, deadline=deadline, stored=stored)
        if shown == count:
            return 0
        if deadline is None or time.monotonic() < deadline:
            raise NotRunningError(f"instance {name!r} has ended: start it, then subscribe again", instance=name)
        if not shown:
            click.echo(f"procline: no events in {timeout:g} s", err=True)
        return 0 if count is None else 1
    return 0


def _show(
    subscriber: Subscriber,
    ending: _Ending,
    text_of: Callable[[list[Event]], str],
    *,
    count: int | None,
    deadline: float | None,
    stored: PositionFile | None,
) -> int:
    """Write events, and store the position behind them, until one of the limits; returns how many were written."""
    shown = 0
    is_warned = False
    written = subscriber.position
    with contextlib.ExitStack() as stack:
        if stored is not None:
            stack.callback(lambda: stored.write(written))
        while count is None or shown < count:
            wait_s = None if deadline is None else max(0.0, deadline - time.monotonic())
            try:
                events = subscriber.read(wait_s, limit=None if count is None else count - shown)
            except ClosedError:  # by a signal
                raise _EndedError from None
            if subscriber.is_incomplete and not is_warned:
                is_warned = True
                click.echo("procline: --under has too many descendants: some events are not shown", err=True)
            if not events:
                break
            # Write all events that have arrived at once, so that no line waits for the next event.
            ending.write(text_of(events))
            written = subscriber.position
            if stored is not None:
                stored.write_sometimes(written)
            shown += len(events)
            if deadline is not None and time.monotonic() > deadline + _DRAIN_S:
                break  # during a storm there is always another event
    return shown


class PositionFile:
    """The file of --resume: a position of the stream as JSON."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._written_s = 0.0

    def read(self) -> StreamPosition | None:
        """Return the stored position; None: there is no such file yet.

        Raises:
            ConfigError: the file is not a position, or cannot be read.
        """
        from pipeline import StreamPosition

        try:
            with self._path.open("rb") as file:
                data = file.read(_POSITION_MAX_BYTES)
            return StreamPosition.from_dict(json.loads(data))
        except FileNotFoundError:
            return None
        except OSError as error:
            reason = error.strerror or "it cannot be read"
        except (json.JSONDecodeError, UnicodeDecodeError, RecursionError):
            reason = "it is no JSON"
        except ValueError as error:
            reason = str(error)
        raise ConfigError(
            f"--resume {self._path}: {reason}: name a file that an earlier --resume has written, or a new one",
            key="resume",
            value=str(self._path),
        )

    def write(self, position: StreamPosition) -> None:
        """Replace the file.

        Raises:
            ConfigError: it cannot be written.
        """
        from pipeline.export.json import dumps

        self._written_s = time.monotonic()
        try:
            files.replace(self._path, dumps(position.as_dict()).encode() + b"\n", 0o600)
        except OSError as error:
            raise ConfigError(
                f"--resume {self._path}: cannot write it: {error.strerror}; choose another directory",
                key="resume",
                value=str(self._path),
            ) from None

    def write_sometimes(self, position: StreamPosition) -> None:
        """Do the same, a few times a second at most."""
        if time.monotonic() - self._written_s >= _STORE_S:
            self.write(position)


def _printer(form: str, host: str, *, as_json: bool) -> Callable[[list[Event]], str]:
    """Return the function that makes the lines of events."""
    if form != "native":
        return functools.partial(_documents, form=form, host=host)
    return _lines if Screen().is_terminal and not as_json else _json


def _json(events: list[Event]) -> str:
    from pipeline.export.json import dumps

    return "".join(dumps(event) + "\n" for event in events)


def _documents(events: list[Event], *, form: str, host: str) -> str:
    from pipeline.export.json import dumps
    from pipeline.formats.convert import convert_event

    return "".join(dumps(convert_event(event, form, host=host)) + "\n" for event in events)


def _lines(events: list[Event]) -> str:
    from pipeline.screen.events import event_line

    screen = Screen()  # again for each batch: the window may have another width
    return "".join(f"{screen.text(event_line(event, screen.width).cut(screen.width))}\n" for event in events)


class _Ending:
    """Lets SIGINT and SIGTERM end the body, but not in the middle of a line.

    A signal closes the subscriber, so that reading ends. If a line is being written, it is completed first, as long as
    the reader of the output accepts bytes within _LAST_LINE_S. A reader that has stopped must not keep the command from
    ending.

    Attributes:
        subscriber: what a signal closes. Until it is set, a signal raises an exception instead. An exception is not
            enough later: Python ignores it if the signal arrives while it frees an object, and then nothing would end
            the wait for the next event.
    """

    def __init__(self) -> None:
        self.subscriber: Subscriber | None = None
        self._is_asked = False
        self._is_writing = False

    def __enter__(self) -> Self:
        self._previous = {number: signal.signal(number, self._end) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _end(self, number: int, frame: FrameType | None) -> None:
        self._is_asked = True
        if self.subscriber is not None:
            self.subscriber.close()
        elif not self._is_writing:
            raise _EndedError

    def write(self, text: str) -> None:
        """Write complete lines to standard output, without buffering.

        Raises:
            _EndedError: a signal asked the command to end; the current line is complete.
            BrokenPipeError: the reader of the output has closed it.
        """
        self._is_writing = True
        try:
            try:
                output = sys.stdout.fileno()
            except io.UnsupportedOperation:  # not a file, so writing cannot block
                sys.stdout.write(text)
            else:
                self._write(output, text.encode(sys.stdout.encoding, sys.stdout.errors or "strict"))
        finally:
            self._is_writing = False
        if self._is_asked:
            raise _EndedError

    def _write(self, output: int, data: bytes) -> None:
        # If poll reports a pipe as writable, a write of up to PIPE_BUF bytes does not block.
        poll = select.poll()
        poll.register(output, select.POLLOUT)
        done = 0
        moved = time.monotonic()
        while done < len(data):
            if self._is_asked:
                is_between = done == 0 or data[done - 1 : done] == b"\n"
                if is_between or time.monotonic() - moved > _LAST_LINE_S:
                    return
                data = data[: data.index(b"\n", done) + 1]
            if poll.poll(_POLL_MS):
                done += os.write(output, data[done : done + select.PIPE_BUF])
                moved = time.monotonic()

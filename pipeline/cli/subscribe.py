"""`procline subscribe`: events as they happen."""

from __future__ import annotations

import contextlib
import io
import os
import select
import signal
import sys
import time
from collections.abc import Mapping
from types import FrameType, TracebackType
from typing import Any, Self

import click

from pipeline.cli import common
from pipeline.errors import NotRunningError

#: How long a line that was begun is waited for, and how often that is looked at.
_LAST_LINE_S = 1.0
_POLL_MS = 50


class _EndedError(Exception):
    """Somebody asked for an end while we were waiting."""


@click.command(
    epilog="""\b
Examples:
  procline subscribe                            all of them
  procline subscribe exec --json | jq -r '[.pid, .path] | @tsv'
  procline subscribe --snapshot --count 100     first what is there already

\b
Topics: proc.fork proc.exec proc.exit proc.cred proc.context proc.reparent sys.loss sys.stats
"""
)
@click.argument("topics", nargs=-1, metavar="[TOPIC]...")
@click.option("--snapshot", is_flag=True, help="Begin with an event for each process that lives already.")
@click.option("--follow", is_flag=True, help="When the instance ends, wait for the next one.")
@click.option("--count", type=click.IntRange(min=1), metavar="N", help="End after this many events.")
@click.option("--timeout", type=common.Seconds(), metavar="S", help="End after this many seconds.")
@common.name_option
@common.json_option
def command(
    topics: tuple[str, ...],
    snapshot: bool,
    follow: bool,
    count: int | None,
    timeout: float | None,
    name: str,
    as_json: bool,
) -> int:
    """Print events as they happen, one a line: a JSON object, or at a terminal without --json a line to read.

    Ctrl-C ends it with 0, as do --count and --timeout; with both, too few events in time end it with 1.
    """
    deadline = None if timeout is None else time.monotonic() + timeout
    left = count
    with contextlib.suppress(_EndedError), _Ending() as ending:
        from pipeline import Subscriber
        from pipeline.export.json import dumps

        form = readable if sys.stdout.isatty() and not as_json else dumps
        with contextlib.closing(Subscriber(name, topics, snapshot=snapshot, follow=follow)) as subscriber:
            common.tell_namespace(name)
            while left is None or left > 0:
                wait_s = None if deadline is None else max(0.0, deadline - time.monotonic())
                events = subscriber.read(wait_s)[:left]
                if not events:
                    break
                # One call for all that has come: a line never waits for the next event.
                ending.write("".join(form(event) + "\n" for event in events))
                left = None if left is None else left - len(events)
            if not left and left is not None:
                return 0
        if deadline is None or time.monotonic() < deadline:
            raise NotRunningError(f"instance {name!r} has ended", instance=name)
        return 1 if left else 0
    return 0


def readable(event: Mapping[str, Any]) -> str:
    """Return one line about an event: when, what, who, how it ended, from where."""
    time_of_day = common.moment(event.get("time_ns"))[11:23]
    kind = event.get("event") or "?"
    pid = event.get("pid")
    if pid is None:
        facts = " ".join(
            f"{key}={common.moment(value) if key.endswith('_ns') else value}"
            for key, value in event.items()
            if key not in _ELSEWHERE and value is not None
        )
        return f"{time_of_day}   {kind:8} {common.printable(facts)}"
    # A child has its parent's image until it execs: its name says enough.
    what = common.printable(event.get("comm") or "?") if kind == "fork" else common.command_line(event)
    return f"{time_of_day} {_SIGNS.get(kind, ' ')} {kind:8} {pid:>7}  {what}{_end(event)}{lineage(event)}"


_SIGNS = {"fork": "+", "exec": ">", "exit": "-"}
_ELSEWHERE = {"event", "time_ns", "seq", "order"}


def _end(event: Mapping[str, Any]) -> str:
    """Return how a process ended and how long it lived; empty for other events."""
    if event.get("event") != "exit":
        return ""
    started_ns, ended_ns = event.get("start_time_ns"), event.get("exit_time_ns")
    lived = f" after {common.duration(ended_ns - started_ns)}" if started_ns and ended_ns else ""
    cause = event.get("exit_cause")
    if cause is None:
        return f"  [ended{lived}]"
    number = event.get("exit_cause_code", event.get("exit_code"))
    return f"  [{'code' if cause == 'exited' else 'signal'} {number}{lived}]"


def lineage(event: Mapping[str, Any]) -> str:
    """Return where a process came from, as ``  (was sh) < bash(400) < sshd(1)``; empty if the event does not tell.

    The ancestors in an event are images, so one process can be among them several times; here it is named once.
    """
    parts: list[str] = []
    last = event.get("pid")
    for image in event.get("lineage") or ():
        name, pid = common.printable(image.get("comm") or "?"), image.get("pid")
        if pid == event.get("pid"):
            # For a fork that is never so, for an exit it would be said a second time.
            if event.get("event") == "exec" and not parts:
                parts.append(f"  (was {name})")
        elif pid != last:
            parts.append(f" < {name}({pid})")
        last = pid
    return "".join(parts)


class _Ending:
    """Lets SIGINT and SIGTERM end the body, but never in the middle of a line.

    What waits for events is interrupted. What writes them goes on to the end of the line, for as long as whoever reads
    takes something within _LAST_LINE_S: a reader that has stopped must not keep the command from ending.
    """

    def __init__(self) -> None:
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
        if not self._is_writing:
            raise _EndedError

    def write(self, text: str) -> None:
        """Write whole lines to standard output, at once.

        Raises:
            _EndedError: somebody asked for an end; the last line that was begun is complete.
            BrokenPipeError: whoever read has gone.
        """
        self._is_writing = True
        try:
            try:
                output = sys.stdout.fileno()
            except io.UnsupportedOperation:  # not a file: nothing can wait
                sys.stdout.write(text)
            else:
                self._write(output, text.encode(sys.stdout.encoding, sys.stdout.errors or "strict"))
        finally:
            self._is_writing = False
        if self._is_asked:
            raise _EndedError

    def _write(self, output: int, data: bytes) -> None:
        # What poll says is writable takes so many bytes of a pipe without waiting.
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

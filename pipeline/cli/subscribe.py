"""`procline subscribe`: events as they happen."""

from __future__ import annotations

import contextlib
import io
import os
import select
import signal
import sys
import time
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Self

import click

from pipeline.cli import common
from pipeline.errors import NotRunningError

if TYPE_CHECKING:
    from pipeline.bus.stream.event import Event

#: How long to wait for the reader until an incomplete line is written, and how often to check for a signal.
_LAST_LINE_S = 1.0
_POLL_MS = 50


class _EndedError(Exception):
    """A signal asked the command to end."""


@click.command(
    epilog="""\b
Examples:
  procline subscribe                                             all events of processes
  procline subscribe exec --json | jq -r '[.pid, .path] | @tsv'  pid and path of each exec
  procline subscribe --snapshot --count 100                      begin with the live processes

\b
Topics: proc.fork proc.exec proc.exit proc.cred proc.context proc.reparent sys.loss sys.stats
"""
)
@click.argument("topics", nargs=-1, metavar="[TOPIC]...")
@click.option("--snapshot", is_flag=True, help="Begin with an event for each live process.")
@click.option("--follow", is_flag=True, help="If the instance ends, wait for the next one.")
@click.option("--count", type=click.IntRange(min=1), metavar="N", help="Exit after N events.")
@click.option("--timeout", type=common.Seconds(), metavar="S", help="Exit after S seconds.")
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
    """Print events as they happen, one a line.

    TOPIC is the name of a topic, with or without its family (proc.exec or exec), or a family (proc). The default is all
    of proc and sys.loss. On a terminal each line is readable text, otherwise or with --json a JSON object.

    Ctrl-C, --count and --timeout end the command with exit code 0. With both options, the command exits with 1 if fewer
    than N events arrive in S seconds. It exits with 3 if the instance ends, unless --follow is given.
    """
    deadline = None if timeout is None else time.monotonic() + timeout
    left = count
    with contextlib.suppress(_EndedError), _Ending() as ending:
        from pipeline import Subscriber
        from pipeline.export.json import dumps

        form = readable if sys.stdout.isatty() and not as_json else dumps
        with contextlib.closing(Subscriber(name, topics, snapshot=snapshot, follow=follow)) as subscriber:
            common.warn_about_namespace(name)
            while left is None or left > 0:
                wait_s = None if deadline is None else max(0.0, deadline - time.monotonic())
                events = subscriber.read(wait_s)[:left]
                if not events:
                    break
                # Write all events that have arrived at once, so that no line waits for the next event.
                ending.write("".join(form(event) + "\n" for event in events))
                left = None if left is None else left - len(events)
            if not left and left is not None:
                return 0
        if deadline is None or time.monotonic() < deadline:
            raise NotRunningError(f"instance {name!r} has ended", instance=name)
        return 1 if left else 0
    return 0


def readable(event: Event) -> str:
    """Return one line about an event: its time, kind, pid, command, exit status and lineage."""
    time_of_day = common.moment(event.get("time_ns"))[11:23]
    kind = event.get("event") or "?"
    pid = event.get("pid")
    if pid is None:
        facts = " ".join(
            f"{key}={common.moment(value) if key.endswith('_ns') and isinstance(value, int) else value}"
            for key, value in event.items()
            if key not in _ELSEWHERE and value is not None
        )
        return f"{time_of_day}   {kind:8} {common.printable(facts)}"
    # A child has its parent's image until it calls exec, so its name is sufficient.
    what = common.printable(event.get("comm") or "?") if kind == "fork" else common.command_line(event)
    return f"{time_of_day} {_SIGNS.get(kind, ' ')} {kind:8} {pid:>7}  {what}{_end(event)}{lineage(event)}"


_SIGNS = {"fork": "+", "exec": ">", "exit": "-"}
_ELSEWHERE = {"event", "time_ns", "seq", "order"}


def _end(event: Event) -> str:
    """Return the exit status and the lifetime of a process; empty for other events."""
    if event.get("event") != "exit":
        return ""
    started_ns, ended_ns = event.get("start_time_ns"), event.get("exit_time_ns")
    lived = f" after {common.duration(ended_ns - started_ns)}" if started_ns and ended_ns else ""
    cause = event.get("exit_cause")
    if cause is None:
        return f"  [ended{lived}]"
    number = event.get("exit_cause_code", event.get("exit_code"))
    return f"  [{'code' if cause == 'exited' else 'signal'} {number}{lived}]"


def lineage(event: Event) -> str:
    """Return the lineage of an event as ``  (was sh) < bash(400) < sshd(1)``; empty if it is unknown.

    The ancestors in an event are images, so one process can occur several times; the text names it once.
    """
    parts: list[str] = []
    last = event.get("pid")
    for image in event.get("lineage") or ():
        name, pid = common.printable(image.get("comm") or "?"), image.get("pid")
        if pid == event.get("pid"):
            # A fork has no earlier images, and for an exit the name is already in the line.
            if event.get("event") == "exec" and not parts:
                parts.append(f"  (was {name})")
        elif pid != last:
            parts.append(f" < {name}({pid})")
        last = pid
    return "".join(parts)


class _Ending:
    """Lets SIGINT and SIGTERM end the body, but not in the middle of a line.

    A signal interrupts waiting for events. If a line is being written, it is completed first, as long as the reader of
    the output accepts bytes within _LAST_LINE_S. A reader that has stopped must not keep the command from ending.
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

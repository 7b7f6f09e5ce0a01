"""`procline subscribe`: events as they happen."""

from __future__ import annotations

import contextlib
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from types import FrameType
from typing import Any

import click

from pipeline.cli import common
from pipeline.errors import NotRunningError


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
@click.option("--count", type=click.IntRange(min=1), help="End after this many events.")
@click.option("--timeout", type=click.FloatRange(min=0), help="End after this many seconds.")
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
    with contextlib.suppress(_EndedError, KeyboardInterrupt), _ended_by_sigterm():
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
                # One write for all that has come: a line never waits for the next event.
                sys.stdout.write("".join(form(event) + "\n" for event in events))
                sys.stdout.flush()
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
            f"{key}={value}" for key, value in event.items() if key not in _ELSEWHERE and value is not None
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


@contextlib.contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """Let SIGTERM end the body as Ctrl-C does."""

    def end(number: int, frame: FrameType | None) -> None:
        raise _EndedError

    previous = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)

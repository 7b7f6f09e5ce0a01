"""Run an instance, and show this host's processes live, each with its ancestors. script/run calls this.

If the instance already runs, it is used and left running. A small workload ensures that there is something to see. On a
terminal the view continues until Ctrl-C, elsewhere for ``--seconds``.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from types import FrameType
from typing import Any

from pipeline import ProcessTable, Subscriber, paths
from pipeline.cli.operate.wait import is_ready
from pipeline.errors import NotRunningError, ProclineError, UntrustedError
from pipeline.screen.events import event_line
from pipeline.screen.terminal import Screen

READY_S = 60.0

#: The commands of the workload, one each round: a pipeline, a script in a script, an orphan that init adopts.
WORKLOAD = (
    "ls / | sort | tail -n 1 > /dev/null",
    "sh -c 'sh -c \"date > /dev/null; exit 3\"; true'",
    "(sleep 0.4 &) ; true",
)


def main() -> int:
    arguments = parse()
    try:
        with instance(arguments.name) as started:
            introduce(arguments.name, started)
            with ended_by_signals(), workload(not arguments.quiet):
                watch(arguments)
            summarise(arguments.name)
    except ProclineError as error:
        print(f"run: {error}", file=sys.stderr)
        return 2
    return 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="script/run", description="Show this host's processes, live.")
    parser.add_argument("--seconds", type=float, help="end after this time (default: 20, at a terminal never)")
    parser.add_argument("--name", default=paths.DEFAULT_INSTANCE, help="instance to use or to start")
    parser.add_argument("--quiet", action="store_true", help="do not start the workload")
    arguments = parser.parse_args()
    if arguments.seconds is None and not sys.stdout.isatty():
        arguments.seconds = 20.0
    return arguments


@contextlib.contextmanager
def instance(name: str) -> Iterator[subprocess.Popen[bytes] | None]:
    """Provide the instance `name` to the body: the running one, or one that ends with the body."""
    if is_running(name):
        yield None
        return
    with tempfile.TemporaryFile() as log:
        # A separate process group, so that Ctrl-C reaches only this program, which ends the instance afterwards.
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "pipeline.cli.main", "run", "--name", name],
            stdin=subprocess.DEVNULL,
            stderr=log,
            process_group=0,
        )
        try:
            wait(name, process, log)
            yield process
        finally:
            process.terminate()
            process.wait()


def is_running(name: str) -> bool:
    """Return whether the instance `name` is ready. The daemon's start renames a directory that another user made."""
    try:
        return is_ready(paths.instance_dir(name))
    except UntrustedError:
        return False


def wait(name: str, process: subprocess.Popen[bytes], log: Any) -> None:
    deadline = time.monotonic() + READY_S
    while not is_running(name):
        if process.poll() is not None or time.monotonic() > deadline:
            log.seek(0)
            sys.stderr.write(log.read().decode(errors="replace"))
            raise NotRunningError("the instance did not become ready; its log is above", instance=name)
        time.sleep(0.02)


def introduce(name: str, started: subprocess.Popen[bytes] | None) -> None:
    with ProcessTable.attach(name) as table:
        stats = table.stats()
        me = table.resolve(os.getpid(), wait_ms=500)
        lineage = table.ancestors(os.getpid())
    state = "started" if started else "running already"
    print(f"Procline is {state} and knows {stats['entries']['live']} processes; kernel threads are left out.")
    chain = " < ".join(f"{each.comm}({each.pid})" for each in ([me] if me else []) + lineage)
    print(f"This view itself: {chain}")
    print()
    print("Below: + a process starts, > it executes a program, - it ends. Its ancestors follow after <.")
    option = "" if name == paths.DEFAULT_INSTANCE else f" --name {name}"
    print(f"In another terminal, as root: .venv/bin/procline tree{option}")
    print(".venv/bin/procline --help lists what you can ask.")
    if sys.stdout.isatty():
        print("Ctrl-C ends it.")
    print(flush=True)


def watch(arguments: argparse.Namespace) -> None:
    deadline = None if arguments.seconds is None else time.monotonic() + arguments.seconds
    with contextlib.closing(Subscriber(arguments.name, ("fork", "exec", "exit"))) as subscriber:
        while deadline is None or time.monotonic() < deadline:
            events = subscriber.read(None if deadline is None else max(0.0, deadline - time.monotonic()))
            screen = Screen()
            screen.cut(event_line(event, screen.width) for event in events)
            sys.stdout.flush()
            if not events:
                break


@contextlib.contextmanager
def ended_by_signals() -> Iterator[None]:
    """Let Ctrl-C and SIGTERM end the body, and nothing else."""

    def end(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, end)
    with contextlib.suppress(KeyboardInterrupt):
        yield


@contextlib.contextmanager
def workload(is_wanted: bool) -> Iterator[None]:
    """Keep a small workload going while the body runs."""
    over = threading.Event()

    def work() -> None:
        turn = 0
        while not over.wait(0.7):
            subprocess.run(["sh", "-c", WORKLOAD[turn % len(WORKLOAD)]], stdin=subprocess.DEVNULL, check=False)
            turn += 1

    thread = threading.Thread(target=work, daemon=True)
    if is_wanted:
        thread.start()
    try:
        yield
    finally:
        over.set()
        if is_wanted:
            thread.join(5)


def summarise(name: str) -> None:
    with ProcessTable.attach(name) as table:
        stats = table.stats()
    seen = Counter(stats["events"])
    cost = sum(row["cpu_seconds"] for row in stats["processes"])
    print()
    print(
        f"Seen: {seen['fork']} forks, {seen['exec']} execs, {seen['exit']} exits; lost: {sum(stats['lost'].values())}; "
        f"late: {stats['late']}. All of Procline used {cost:.2f} s of CPU."
    )


if __name__ == "__main__":
    sys.exit(main())

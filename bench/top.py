#!/usr/bin/env python3
"""What does `procline top` cost, and how many frames a second does it draw?

Method
    Start a crowd of `--sleepers` sleeping processes, each with its own arguments, and a daemon with default settings.
    Run the screen in a pseudo-terminal that this script reads, once for each case, and measure its process for
    `--seconds` after `--warm-up`. In all cases but the first, `procline load mix` makes at least `--rate` events a
    second.
    A frame is a reading of the tables that was drawn. CPU time is that of all threads of the screen's process, from the
    scheduler's clock (CLOCK_PROCESS_CPUTIME_ID).
Command
    python bench/top.py [--sleepers N] [--rate R] [--seconds S] [--case TEXT] [--json]     (root)
How to read it
    `% of a core` is the CPU time of the screen; `ms/frame` is the same divided by the frames. `longest` is the longest
    time from the start of a reading to the end of drawing, and includes the waiting for a core. `events/s` is what the
    instance reported meanwhile, and `lines` how many lines the list had at the end. `KiB/s` went to the terminal.
What it does not show
    What the terminal or ssh needs to draw it. What readers cost the daemon: bench/live_cost.py and bench/everyday.py.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import pty
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import common
import live

#: Size of the terminal, keys that are pressed first, and whether there is load.
CASES = {
    "idle, 80x24": (80, 24, "", False),
    "tree, 80x24": (80, 24, "", True),
    "tree, 200x50": (200, 50, "", True),
    "list by user, 200x50": (200, 50, "list", True),
    "filter, 80x24": (80, 24, "filter", True),
    "rates, 80x24": (80, 24, "rates", True),
    "details, 80x24": (80, 24, "details", True),
}
SMALL = {"sleepers": 50, "rate": 200.0, "seconds": 1.2, "warm_up": 0.6, "case": "80x24"}
#: How long the load runs before the screen is measured.
_WARM_UP_S = 2.0
#: Some of the events that `load mix` makes are threads, which are no events of the instance.
_MADE_FOR_EACH = 1.15
_INTERVAL_S = 0.5


def draw(directory: Path, view: str, warm_up_s: float, seconds: float, output: Path) -> None:
    """Show the screen, measure this process for some seconds, and write what was measured."""
    from pipeline.top.app import Top
    from pipeline.top.feed import Feed
    from pipeline.top.filters import parse
    from pipeline.top.groupings import GROUPINGS
    from pipeline.top.model import Model, Settings

    settings = Settings(is_tree=view != "list", sort="user" if view == "list" else "")
    if view == "filter":
        settings.filter = parse("user=root path=*/*")
    model = Model(Feed("bench", directory), settings)

    class Measured(Top):
        longest_s = 0.0

        def on_mount(self) -> None:
            # textual calls the method of each class itself.
            if view == "details":
                self.set_timer(1.0, self._show_details)
            self.set_timer(warm_up_s, self.begin)

        def step(self) -> None:
            began = time.perf_counter()
            super().step()
            self.longest_s = max(self.longest_s, time.perf_counter() - began)

        def begin(self) -> None:
            self.longest_s = 0.0
            self.began = time.perf_counter(), time.process_time(), self.frames, self.events()
            self.set_timer(seconds, self.end)

        def events(self) -> int:
            table = model.feed._table
            assert table is not None
            return sum(live.event_counts(table.stats()).values())

        def end(self) -> None:
            took = time.perf_counter() - self.began[0]
            cpu_s, frames = time.process_time() - self.began[1], self.frames - self.began[2]
            events = self.events() - self.began[3]
            output.write_text(json.dumps({
                "% of a core": 100 * cpu_s / took, "frames/s": frames / took, "ms/frame": 1000 * cpu_s / frames,
                "longest ms": 1000 * self.longest_s, "events/s": events / took, "live": model.reading.figures.live,
                "lines": len(model.lines),
            }))  # fmt: skip
            self.exit()

    Measured(model, _INTERVAL_S, rates_by=GROUPINGS[0] if view == "rates" else None).run()


def measure(daemon: live.Daemon, size: tuple[int, int], view: str, options: argparse.Namespace) -> dict[str, Any]:
    """Run the screen in a pseudo-terminal; returns what it measured."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", size[1], size[0], 0, 0))
    output = daemon.root / "measured"
    output.unlink(missing_ok=True)
    arguments = [sys.executable, __file__, "--draw", str(daemon.directory), "--view", view, "--output", str(output)]
    process = subprocess.Popen(
        [*arguments, "--seconds", str(options.seconds), "--warm-up", str(options.warm_up)],
        stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
        env={**daemon.environment, "TERM": "xterm-256color", "COLUMNS": str(size[0]), "LINES": str(size[1])},
    )  # fmt: skip
    os.close(theirs)
    drawn = 0
    begin = time.perf_counter()
    said = b""
    while True:
        try:
            data = os.read(ours, 65536)
        except OSError:  # the process has ended
            break
        if not data:
            break
        drawn += len(data)
        said = (said + data)[-2000:]
    took = time.perf_counter() - begin
    os.close(ours)
    process.wait()
    if not output.exists():
        raise SystemExit(f"the screen failed:\n{said.decode(errors='replace')}")
    return {**json.loads(output.read_text()), "KiB/s": drawn / 1024 / took}


@contextmanager
def load(daemon: live.Daemon, options: argparse.Namespace) -> Iterator[None]:
    """Make events at a rate, until the end of the block."""
    ended = threading.Event()
    process: subprocess.Popen[bytes] | None = None

    def repeat() -> None:
        nonlocal process
        while not ended.is_set():
            process = subprocess.Popen(
                [sys.executable, "-m", "pipeline.cli.main", "load", "mix", "--name", daemon.name,
                 "--rate", str(options.rate * _MADE_FOR_EACH), "--duration", "30", "--concurrency", "16", "--json"],
                env=daemon.environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )  # fmt: skip
            process.wait()

    thread = threading.Thread(target=repeat)
    thread.start()
    common.settle(options, _WARM_UP_S)
    try:
        yield
    finally:
        ended.set()
        if process is not None:
            process.terminate()
        thread.join()


def main() -> int:
    """Run the bench."""
    made = common.parser(__doc__)
    made.add_argument("--sleepers", type=int, default=5000)
    made.add_argument("--rate", type=float, default=5000.0, help="events a second, at least")
    made.add_argument("--seconds", type=float, default=15.0)
    made.add_argument("--warm-up", type=float, default=3.0, metavar="S", help="before the screen is measured")
    made.add_argument("--case", default="", help="only cases that contain this text")
    made.add_argument("--draw", type=Path, help=argparse.SUPPRESS)
    made.add_argument("--view", default="", help=argparse.SUPPRESS)
    made.add_argument("--output", type=Path, help=argparse.SUPPRESS)
    options = common.parse(made, None, SMALL)
    if options.draw:
        draw(options.draw, options.view, options.warm_up, options.seconds, options.output)
        return 0
    report = common.begin(__file__, __doc__, options)
    with live.crowd(options.sleepers), live.Daemon() as daemon:
        for case, (width, height, view, is_loaded) in CASES.items():
            if options.case not in case:
                continue
            if is_loaded:
                with load(daemon, options):
                    row = measure(daemon, (width, height), view, options)
            else:
                row = measure(daemon, (width, height), view, options)
            report.rows.append({"case": case, **row})
            report.target(f"CPU, {case}", row["% of a core"], 15.0, "% of a core")
            report.target(f"frames, {case}", row["frames/s"], 1.9, "a second", is_upper_bound=False)
            if is_loaded:
                report.target(f"load, {case}", row["events/s"], options.rate, "events a second", is_upper_bound=False)
    return common.finish(report, as_json=options.json)


if __name__ == "__main__":
    sys.exit(main())

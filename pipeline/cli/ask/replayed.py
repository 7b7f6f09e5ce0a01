"""Read a recording through an instance that replays it, and end the instance when its tables have been read.

`ProcessTable.open` runs this module as a program (``python -m pipeline.cli.ask.replayed FILE``), because it is below
all packages that replay. The program prints one line of JSON when the tables are complete, or with the reason why they
are not. It ends when its standard input is closed.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import click

from pipeline.bus.frames.frame import decode_frames
from pipeline.errors import FrameError, ProclineError
from pipeline.export.json import dumps
from pipeline.load.instance import OwnInstance
from pipeline.screen.progress import Progress, Show, silent
from pipeline.shm.reader.table import ProcessTable
from pipeline.sources.recording.file import Recording

#: Without any new event for this time, the replay is regarded as complete.
_IDLE_S = 5
#: How often the number of events is read.
_COUNT_S = 0.05


@dataclass
class Extent:
    """The contents of a recording.

    Attributes:
        events: number of events, those of a frame that was recorded twice once.
        last_boot_ns: time of the last one, ns on the boot clock of the recording.
        error: why the rest of the file cannot be read; None: it can.
    """

    events: int = 0
    last_boot_ns: int = 0
    error: FrameError | None = None


def extent(file: Path, progress: Show = silent) -> Extent:
    """Return what a recording contains.

    Args:
        file: the recording.
        progress: called after each message.

    Raises:
        ConfigError: the file cannot be read.
        FrameError: it is not a recording, or has no event.
    """
    found = Extent()
    ends: dict[int, int] = {}
    try:
        for message in Recording(file):
            for frame in decode_frames(message):
                part = frame.since(ends.get(frame.ring, 0))
                ends[frame.ring] = max(ends.get(frame.ring, 0), frame.to_pos)
                if part.count:
                    found.events += part.count
                    found.last_boot_ns = max(found.last_boot_ns, int(part.header["time_boot_ns"].max()))
            progress(f"reading the recording: {found.events:,} events")
    except FrameError as error:
        found.error = error
    if not found.events:
        raise found.error or FrameError(f"{file}: the recording is empty", peer=str(file), reason="it is empty")
    return found


def _warn(error: FrameError) -> None:
    click.echo(f"procline: {error}; only what is before that is shown", err=True)


@contextmanager
def replayed(
    file: Path, progress: Progress, on_cut: Callable[[FrameError], None] = _warn
) -> Iterator[tuple[Path, int]]:
    """Replay a recording; yield the directory of the instance that has read it, and the time of the last event.

    The time is in ns on the boot clock of the recording. The memory of the instance has the ceilings of every instance.
    If a recording does not fit, its oldest processes are left out.

    Args:
        file: the recording.
        progress: shows what happens.
        on_cut: called if a part of the file cannot be read, before the rest is replayed.

    Raises:
        ConfigError, FrameError: the file cannot be replayed.
        ProclineError: the instance did not start.
    """
    progress.show("reading the recording")
    found = extent(file, progress.show)
    if found.error is not None:
        progress.clear()
        on_cut(found.error)
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with (
        tempfile.TemporaryDirectory(prefix=f"procline-replay-{os.getpid()}-", dir=memory) as root,
        OwnInstance("replay", recording=file, root=Path(root)) as instance,
    ):
        instance.start(lambda: progress.show("replaying the recording"))
        with ProcessTable.attach(instance.name, path=instance.directory) as table:
            _complete(table, found.events, progress.show)
        yield instance.directory, found.last_boot_ns


def _complete(table: ProcessTable, events: int, progress: Show) -> None:
    """Wait until every event is applied. An instance is ready earlier, if a recording is long."""
    last, changed_s = -1, time.monotonic()
    while (applied := sum(table.stats()["events"].values())) < events:
        progress(f"replaying: {applied:,} of {events:,} events")
        if applied != last:
            last, changed_s = applied, time.monotonic()
        elif time.monotonic() - changed_s > _IDLE_S:
            return
        time.sleep(_COUNT_S)


def _refuse(error: FrameError) -> None:
    raise error


def _serve(file: Path, *, partial: bool) -> int:
    """Replay a recording until standard input is closed; return the exit code."""

    def end(*ignored: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one would interrupt the clean-up
        raise SystemExit(0)

    def watch() -> None:
        while os.read(sys.stdin.fileno(), 64):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    signal.signal(signal.SIGTERM, end)
    threading.Thread(target=watch, daemon=True).start()
    try:
        with (
            Progress() as progress,
            replayed(file, progress, (lambda error: None) if partial else _refuse) as (directory, last_boot_ns),
        ):
            print(dumps({"directory": str(directory), "last_boot_ns": last_boot_ns}), flush=True)
            while True:  # not signal.pause(): a signal just before it would be noticed only after the next one
                time.sleep(1)
    except (ProclineError, OSError) as error:
        print(dumps({"error": type(error).__name__, "message": str(error)}), flush=True)
        return 1


if __name__ == "__main__":
    sys.exit(_serve(Path(sys.argv[1]), partial="--partial" in sys.argv[2:]))

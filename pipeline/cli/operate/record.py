"""`procline record`: write the events of this host to a file."""

from __future__ import annotations

import signal
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Self

import click

from pipeline.cli import common
from pipeline.cli.operate.run import daemon_parts
from pipeline.errors import ConfigError
from pipeline.screen.progress import Progress
from pipeline.screen.sizes import size

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

    from pipeline.config.schema import Config
    from pipeline.supervisor.feed import Feed


class Interrupts:
    """Postpones an interrupt (SIGINT) until `check`, because a start forks.

    A KeyboardInterrupt in a callback that runs after fork(), such as that of the module logging, is printed with its
    traceback and dropped. A second interrupt is not postponed.
    """

    def __init__(self) -> None:
        self._has_come = False

    def __enter__(self) -> Self:
        self._previous = signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(self, *exc_info: object) -> None:
        signal.signal(signal.SIGINT, self._previous)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.check()
        self._has_come = True

    def check(self) -> None:
        """Raise KeyboardInterrupt if there was an interrupt."""
        if self._has_come:
            raise KeyboardInterrupt


@click.command(
    epilog="""\b
Examples:
  procline record storm.rec --seconds 10               record for 10 seconds
  procline record boot.rec --source proc-connector     without eBPF
  procline record job.rec --seconds 60 --json | jq .lost
  procline replay storm.rec --name then &
  procline tree --name then --exited
"""
)
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--seconds", type=common.Seconds(), metavar="S", help="Stop after S seconds.  [default: on Ctrl-C]")
@click.option("--source", type=common.OneOf(["ebpf", "proc-connector"]), help="Source of the events.  [default: ebpf]")
@click.option(
    "--raw",
    is_flag=True,
    help="Record arguments and environments (if captured) with all values, including secrets.",
)
@common.config_options
@common.json_option
def command(
    file: Path, seconds: float | None, source: str | None, raw: bool, config_file: Path | None,
    changes: tuple[str, ...], as_json: bool,
) -> int:  # fmt: skip
    """Record the processes of this host and their events into FILE.

    A recording needs the privileges of an instance, but no running instance. FILE must not exist yet; only its owner
    can read it. If the recording cannot start, FILE is removed. If it is interrupted later, FILE can still be replayed.

    Without --raw, secrets are hidden as in the tables of an instance with these settings (args.show, envs.show).

    At the end, standard error says how many events were recorded and lost; with --json, standard output does.
    """
    with daemon_parts():
        from pipeline.cli.operate.settings import load
        from pipeline.host import boot, pid_namespace
        from pipeline.secrets.conceal import Concealer, scrubber_of
        from pipeline.sources.recording.file import RecordingWriter
        from pipeline.sources.recording.recorder import ConcealedFrames
        from pipeline.supervisor.feed import open_feed

    settings, _ = load(config_file, changes, {"source": source})
    if settings.source.startswith("replay:"):
        raise ConfigError(
            "source: a recording cannot be recorded again; use ebpf or proc-connector",
            key="source",
            value=settings.source,
        )
    pid_namespace.require(settings.source, settings.capture.scope)
    concealer = None if raw else Concealer.of(settings, scrubber_of(settings))
    began_unix_ns = boot.BootClock.read().offset_ns
    with (
        Interrupts() as interrupts,
        RecordingWriter(file, boot_id=boot.boot_id(), boot_unix_ns=began_unix_ns, is_draft=True) as writer,
    ):

        def begin() -> None:
            interrupts.check()
            writer.keep()

        write = writer.write if concealer is None else ConcealedFrames(concealer.sieve.frame, writer.write).write
        feed = open_feed(settings)
        try:
            interrupts.check()
            records, lost = _record(feed, settings, write, begin, seconds)
        finally:
            feed.close()
    file_bytes = file.stat().st_size
    if as_json:
        from pipeline.export.json import dumps

        shown = {"file": str(file), "events": records, "frames": writer.frames, "bytes": file_bytes, "lost": lost}
        click.echo(dumps(shown))
        return 0
    losses = ", ".join(f"{count} {kind}" for kind, count in lost.items()) or "none"
    click.echo(f"{file}: {records} events in {writer.frames} frames, {file_bytes} bytes; lost: {losses}", err=True)
    return 0


def _record(
    feed: Feed, settings: Config, write: Callable[[bytes], None], begin: Callable[[], None], seconds: float | None
) -> tuple[int, dict[str, int]]:
    """Record until the end, and call `begin` when all is ready; return the number of records and the losses by kind."""
    from pipeline.host import boot
    from pipeline.procfs.proc_reader import ProcReader
    from pipeline.sources.proc_connector.source import open_connector
    from pipeline.sources.recording.recorder import WrittenAcks, follow, lost_in, snapshot_frame
    from pipeline.sources.shard._pacing import RingWaiter
    from pipeline.sources.shard._shard import Shard
    from pipeline.sources.shard.process import open_parts
    from pipeline.sources.shard.source import open_shard

    began_ns = boot.now_boot_ns()
    capture = settings.capture
    with_envs = capture.envs_bytes > 0

    written_bytes = 0

    def send(frame: bytes) -> bool:
        nonlocal written_bytes
        write(frame)
        written_bytes += len(frame)
        return True

    with ExitStack() as stack:
        reader = stack.enter_context(ProcReader.of(capture))
        write(
            snapshot_frame(
                reader, boot_id=boot.boot_id(), ring=feed.ring_count, before_boot_ns=began_ns, with_envs=with_envs
            )
        )
        parts = open_parts(
            feed.fds, source=feed.source, ring_count=feed.ring_count, ring_bytes=feed.ring_bytes, acks_of=WrittenAcks,
            send=send, boot_id=boot.boot_id(), frame_max_bytes=settings.frames.max_bytes,
        )  # fmt: skip
        shard: Shard
        if feed.source == "ebpf":
            shard = open_shard(parts, stack)
        else:
            _, shard = open_connector(parts, reader, stack, with_envs=with_envs)
        waiter = RingWaiter(())
        stack.callback(waiter.close)
        begin()
        click.echo(f"recording from {feed.source}" + ("; Ctrl-C ends it" if seconds is None else ""), err=True)
        with Progress("recording" if seconds is None else f"recording for {seconds:g} s") as progress:

            def between() -> None:
                with suppress(OSError):  # tried again after the interval
                    feed.sample()
                progress.show(size(written_bytes))

            records = follow(shard, waiter, seconds, between)
        feed.update_counts()
        assert parts.states is not None  # both sources count
        return records, lost_in(parts.states.lost(range(parts.states.count)))

"""`Lines`: what a `Reader` reads, as JSON lines on standard output or in a file that is rotated."""

from __future__ import annotations

import contextlib
import json
import os
import select
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pipeline import files, log
from pipeline.bus.stream.position import StreamPosition
from pipeline.errors import ConfigError, WriteError
from pipeline.export.json import dumps
from pipeline.forward.batches import topic_of
from pipeline.forward.figures import Figures

#: How often the position is stored. After a kill, the events since then are written again.
_POSITION_S = 1.0
#: How often a signal is noticed while the reader of a pipe does not read.
_POLL_MS = 50


class Lines:
    """Writes an object for each event, gap and live process.

    Gaps are `missed` and `unwatched` events, as `procline subscribe --json` prints them.

    Args:
        path: the file; None: standard output.
        file_max_bytes: size at which the file is renamed to `NAME.1`, that one to `NAME.2`, and so on.
        files_max: renamed files that are kept.
        figures: counters.
        is_ending: whether the forwarder was asked to end, so that it must not wait for the reader of a pipe.
        convert: makes the object of an event; None: its own fields.

    Raises:
        ConfigError: the file cannot be written.
    """

    def __init__(
        self,
        path: Path | None,
        *,
        file_max_bytes: int,
        files_max: int,
        figures: Figures,
        is_ending: Callable[[], bool],
        convert: Callable[[Mapping[str, Any]], Mapping[str, Any]] | None = None,
    ) -> None:
        self._path = path
        self._file_max_bytes = file_max_bytes
        self._files_max = files_max
        self._figures = figures
        self._is_ending = is_ending
        self._convert = convert
        self._log = log.get_logger("lines")
        self._stream = 0
        self._next: dict[str, int] = {}
        self._last_ns = 0
        self._stored_s = 0.0
        self._text: list[str] = []
        self._descriptor = -1
        if path is None:
            self._descriptor = sys.stdout.fileno()
        else:
            self._open(path)

    def _open(self, path: Path) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            self._descriptor = os.open(path, flags, 0o600)
        except OSError as error:
            raise ConfigError(
                f"forward.to: cannot write {path}: {error.strerror}; choose a file that this user can write",
                key="forward.to",
                value=str(path),
            ) from None

    @property
    def _position_path(self) -> Path | None:
        return None if self._path is None else self._path.with_name(self._path.name + ".position")

    def position(self) -> StreamPosition | None:
        """Return where the file ends; None: it is new, or this is standard output."""
        path = self._position_path
        if path is None:
            return None
        try:
            return StreamPosition.from_dict(json.loads(path.read_text()))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            self._log.warning("the stored position cannot be read; starting with new events", reason=str(error))
            return None

    def begin(self, boot: str, stream: int, from_ns: int, reason: str, numbers: Mapping[str, int]) -> None:
        """Begin a stream."""
        self.resume(boot, stream)
        self._next = dict(numbers)
        if reason != "begin":
            self._missed(None, None, None, from_ns, time.time_ns(), reason)

    def resume(self, boot: str, stream: int) -> None:
        """Continue a stream."""
        self._stream = stream
        position = self.position()
        self._next = dict(position.next) if position is not None and position.stream == stream else {}

    def event(self, event: Mapping[str, Any]) -> None:
        """Write an event."""
        self._next[topic_of(event)] = event["seq"] + 1
        self._last_ns = event["time_ns"]
        self._write(event)
        self._figures.counts["events"] += 1

    def missed(self, topic: str, first: int, count: int, from_ns: int, to_ns: int, reason: str) -> None:
        """Write a gap."""
        self._next[topic] = first + count
        self._missed(topic, first, count, from_ns, to_ns, reason)
        self._figures.counts["gap_events"] += count

    def _missed(
        self, topic: str | None, first: int | None, count: int | None, from_ns: int, to_ns: int, reason: str
    ) -> None:
        self._figures.counts["gaps"] += 1
        self._write(
            {
                "event": "missed", "topic": topic, "first": first,
                "last": None if first is None or count is None else first + count - 1, "count": count,
                "reason": reason, "from_ns": from_ns or None, "to_ns": to_ns, "seq": None, "time_ns": to_ns,
            }
        )  # fmt: skip

    def unwatched(self, from_ns: int, to_ns: int) -> None:
        """Write a time without a daemon."""
        self._figures.counts["gaps"] += 1
        self._write(
            {
                "event": "unwatched", "unwatched_from_ns": from_ns, "unwatched_to_ns": to_ns, "seq": None,
                "time_ns": to_ns,
            }
        )  # fmt: skip

    def snapshot(self, event: Mapping[str, Any], number: int) -> None:
        """Write a live process."""
        self._write(event)

    def _write(self, event: Mapping[str, Any]) -> None:
        self._text.append(dumps(event if self._convert is None else self._convert(event)) + "\n")

    def left_s(self) -> float | None:
        """Return None: all is written at once."""
        return None

    def tick(self) -> None:
        """Write what was read, and store the position sometimes."""
        if self._text:
            text, self._text = "".join(self._text).encode(), []
            self._send(text)
            self._figures.counts["bytes"] += len(text)
            self._figures.confirmed_ns = self._last_ns
        now_s = time.monotonic()
        if now_s >= self._stored_s + _POSITION_S:
            self._stored_s = now_s
            self._store_position()

    def _send(self, text: bytes) -> None:
        left = memoryview(text)
        poll = select.poll()
        poll.register(self._descriptor, select.POLLOUT)
        while left:
            # If poll reports a pipe as writable, a write of up to PIPE_BUF bytes does not block.
            if poll.poll(_POLL_MS):
                part = left[: select.PIPE_BUF if self._path is None else None]
                try:
                    left = left[os.write(self._descriptor, part) :]
                except OSError as error:
                    if self._path is None:
                        raise
                    raise WriteError(f"cannot write {self._path}: {error.strerror}", path=str(self._path)) from None
            elif self._is_ending():
                return
        if self._path is not None and os.fstat(self._descriptor).st_size >= self._file_max_bytes:
            self._rotate(self._path)

    def _rotate(self, path: Path) -> None:
        os.close(self._descriptor)
        self._descriptor = -1
        for number in range(self._files_max, 0, -1):
            older = path.with_name(f"{path.name}.{number}")
            newer = path if number == 1 else path.with_name(f"{path.name}.{number - 1}")
            with contextlib.suppress(FileNotFoundError):
                newer.replace(older)
        if not self._files_max:
            path.unlink()
        self._open(path)

    def _store_position(self) -> None:
        path = self._position_path
        if path is not None and self._next:
            position = StreamPosition(self._stream, self._next, self._last_ns or None)
            files.replace(path, dumps(position.as_dict()).encode(), 0o600)

    def close(self) -> None:
        """Write what is left, and close the file."""
        self.tick()
        self._store_position()
        if self._path is not None and self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

"""Know when nobody watched: the times between the end of one daemon of an instance and the start of the next.

Every start publishes these times (`unwatched` in docs/wire-schema.md), because subscribers that stay over a restart see
neither a gap in the numbers nor a loss. The former daemon watched up to the watermark in its
tables: a killed daemon leaves them, and a stopped one notes the watermark before it removes them. The
note, ``.NAME~watched`` beside the instance's directory, also keeps the last few such times, for subscribers that were
away for longer. No instance can have a name with ``~``.

Times are of the boot clock, so a note of another boot is ignored. So is one that somebody else could have written.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pipeline import files, paths, trust
from pipeline.errors import UntrustedError
from pipeline.log import get_logger
from pipeline.shm.layout import head

#: Times that are kept; of more, the oldest are forgotten.
HOLES_MAX = 8
_NOTE_MAX_BYTES = 4096
_TIME_MAX_NS = 1 << 63

Hole = tuple[int, int]


@dataclass(frozen=True, slots=True)
class _Note:
    """What the last daemon knew; times in boot ns, 0: unknown.

    Attributes:
        began: when its watch began.
        until: up to when the watch before that one lasted, or, after a stop in order, its own.
        holes: (from, to) of the times without a watch.
    """

    began: int = 0
    until: int = 0
    holes: tuple[Hole, ...] = ()


class WatchRecord:
    """The note of one instance. Belongs to the supervisor that holds the instance's directory.

    Args:
        directory: of the instance.
        boot_id: of this boot, 16 bytes.
    """

    def __init__(self, directory: Path, boot_id: bytes) -> None:
        self._control = directory / paths.CONTROL
        self._path = directory.parent / f".{directory.name}~watched"
        self._boot_id = boot_id
        self._note = self._read()
        self._until = self._watched_until(self._note)

    def begin(self, now_boot_ns: int) -> tuple[Hole, ...]:
        """Take note that a watch has begun; returns the times without one, oldest first.

        Args:
            now_boot_ns: from when on the new capture sees everything.
        """
        # A daemon that died before it had applied anything has not ended the hole that it found.
        holes = [hole for hole in self._note.holes if hole[0] != self._until]
        if 0 < self._until < now_boot_ns:
            holes.append((self._until, now_boot_ns))
        self._note = _Note(now_boot_ns, self._until, tuple(holes[-HOLES_MAX:]))
        self._write()
        return self._note.holes

    def end(self) -> None:
        """Take note that the watch has ended; call while the tables are still there."""
        self._note = _Note(self._note.began, self._watched_until(self._note), self._note.holes)
        if self._note.began or self._note.until:  # else nobody has watched, neither this time nor before
            self._write()

    def _watched_until(self, note: _Note) -> int:
        """The end of the last watch: the watermark of the tables, if anything was applied since that watch began."""
        watermark = self._watermark()
        return watermark if watermark > note.began else note.until

    def _watermark(self) -> int:
        with _opened(self._control) as fd:
            data = b"" if fd is None else os.pread(fd, head.CONTROL_BYTES, 0)
            place = head.find_commit(data, self._boot_id)
            if fd is None or place is None:
                return 0
            return head.read_watermark(os.pread(fd, head.COMMIT_HEAD_BYTES, place))

    def _read(self) -> _Note:
        with _opened(self._path) as fd:
            if fd is None:
                return _Note()
            try:
                note = json.loads(os.read(fd, _NOTE_MAX_BYTES))
                if note["boot_id"] != self._boot_id.hex():
                    return _Note()
                holes = tuple((_time(begin), _time(end)) for begin, end in note["holes"])
                return _Note(_time(note["began_boot_ns"]), _time(note["until_boot_ns"]), holes[-HOLES_MAX:])
            except (ValueError, TypeError, KeyError, RecursionError):
                return _Note()

    def _write(self) -> None:
        """Replace the note whole. Without it only these times are lost."""
        note = self._note
        text = json.dumps(
            {"boot_id": self._boot_id.hex(), "began_boot_ns": note.began, "until_boot_ns": note.until,
             "holes": note.holes}
        )  # fmt: skip
        try:
            files.replace(self._path, text.encode("ascii"), 0o600)
        except OSError as error:
            get_logger().warning(f"{self._path}: {error.strerror}: subscribers will not learn when nobody watched")


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[int | None]:
    """Open a file; yields None where there is none that can be trusted."""
    try:
        fd = trust.open_file(path)
    except (OSError, UntrustedError):
        yield None
        return
    try:
        yield fd
    finally:
        os.close(fd)


def _time(value: object) -> int:
    if type(value) is not int or not 0 <= value < _TIME_MAX_NS:
        raise ValueError("no time")
    return value

"""The unwatched times of an instance: from the end of one daemon to the start of the next.

Every start publishes these times (`unwatched` in docs/wire-schema.md), because subscribers that stay connected over a
restart see neither a gap in the numbers nor a loss. The previous daemon watched up to the watermark in its tables. A
killed daemon leaves its tables; a daemon that is stopped saves the watermark, as it may remove them. It is saved in the
file ``.NAME~watched`` beside the instance's directory, with the last few such times for subscribers that were absent
for longer. No instance name can contain ``~``.

Times are of the boot clock, so a file of another boot is ignored. A file that another user could have written is
ignored too.
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
from pipeline.shm.layout import control_header

#: How many times are kept; older ones are dropped.
HOLES_MAX = 8
_NOTE_MAX_BYTES = 4096
_TIME_MAX_NS = 1 << 63

Hole = tuple[int, int]


@dataclass(frozen=True, slots=True)
class _Note:
    """The state that the last daemon saved; times in boot ns, 0 if unknown.

    Attributes:
        began: when its watch began.
        until: end of the watch before that one; after a regular stop, end of its own watch.
        holes: (from, to) of the unwatched times.
    """

    began: int = 0
    until: int = 0
    holes: tuple[Hole, ...] = ()


class WatchRecord:
    """The saved times of one instance. The supervisor that holds the instance's directory owns it.

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
        """Save that a watch has begun; return the unwatched times, oldest first.

        Args:
            now_boot_ns: the time from which the new capture sees everything.
        """
        # A daemon that died before it applied anything has not ended the hole before it.
        holes = [hole for hole in self._note.holes if hole[0] != self._until]
        if 0 < self._until < now_boot_ns:
            holes.append((self._until, now_boot_ns))
        self._note = _Note(now_boot_ns, self._until, tuple(holes[-HOLES_MAX:]))
        self._write()
        return self._note.holes

    def end(self) -> None:
        """Save that the watch has ended; call this while the tables exist."""
        self._note = _Note(self._note.began, self._watched_until(self._note), self._note.holes)
        if self._note.began or self._note.until:  # else no daemon has ever watched
            self._write()

    def _watched_until(self, note: _Note) -> int:
        """Return the end of the last watch: the watermark of the tables, if anything was applied since it began."""
        watermark = self._watermark()
        return watermark if watermark > note.began else note.until

    def _watermark(self) -> int:
        with _opened(self._control) as fd:
            data = b"" if fd is None else os.pread(fd, control_header.CONTROL_BYTES, 0)
            place = control_header.find_commit(data, self._boot_id)
            if fd is None or place is None:
                return 0
            return control_header.read_watermark(os.pread(fd, control_header.WATERMARK_BYTES, place))

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
        """Replace the file as a whole. A failure loses only these times."""
        note = self._note
        text = json.dumps(
            {"boot_id": self._boot_id.hex(), "began_boot_ns": note.began, "until_boot_ns": note.until,
             "holes": note.holes}
        )  # fmt: skip
        try:
            files.replace(self._path, text.encode("ascii"), 0o600)
        except OSError as error:
            get_logger().warning(
                f"cannot write {self._path}: {error.strerror}; subscribers will not see the unwatched times"
            )


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[int | None]:
    """Open a file; yield None if there is none, or if another user could have written it."""
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
        raise ValueError("not a time in boot ns")
    return value

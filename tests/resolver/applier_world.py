"""A story, and tables to which an applier brings each event at once."""

from __future__ import annotations

import numpy as np

from pipeline.records import dtypes
from pipeline.resolver.apply._applier import Applier
from pipeline.shm.layout import layout
from tests.resolver.story import Reading, Story, make_tables, task_of


class World:
    """A story, tables, and an applier that receives each event at once."""

    def __init__(self, directory, **settings) -> None:
        self.tables = make_tables(directory, **settings)
        self.applier = Applier(self.tables)
        self.story = Story()
        self.read = Reading(self.tables)

    def __getattr__(self, name):
        """fork, exec, exit, change: make the event and apply it."""
        make = getattr(self.story, name)

        def both(*args, **kwargs):
            event = make(*args, **kwargs)
            event.apply(self.applier)
            return event

        return both if name in ("fork", "exec", "exit", "change") else make

    def snapshot(self, tgid: int, path: bytes = b"/sbin/init", *, ticks: bool = False, args=(b"init",), **more) -> int:
        """Read /proc for a process now."""
        process = self.story.processes[tgid]
        header = np.zeros(1, dtypes.HEADER)
        header["tgid"] = header["tid"] = tgid
        header["start_boot_ns"] = process.start // 10_000_000 * 10_000_000 if ticks else process.start
        header["time_boot_ns"] = self.story.tick()
        if process.parent is not None:
            header["ppid"] = process.parent.tgid
            header["parent_start_boot_ns"] = 0 if ticks else process.parent.start
        body = np.zeros(1, dtypes.EXEC)
        strings = b"".join(a + b"\0" for a in args)
        body["inode"], body["path_bytes"] = process.inode, len(path)
        body["args_bytes"] = body["args_full_bytes"] = len(strings)
        more.setdefault("flags", layout.ROW_BEFORE_CAPTURE)
        return self.applier.insert_from_proc(header, task_of(process), body, path + strings, start_ticks=ticks, **more)

    def init(self) -> None:
        """Add pid 1 as the snapshot at start finds it."""
        self.story.begin(1, inode=10)
        self.snapshot(1)

    def proc(self, tgid: int):
        return self.read.present(tgid)


def flag(row, name: str) -> bool:
    return bool(row.flags & getattr(layout, "ROW_" + name))

"""A made-up host: tables made by hand, with processes that a test starts, changes and ends."""

from __future__ import annotations

import shlex
from pathlib import Path

from pipeline.shm.layout import layout
from pipeline.top.feed import Feed, Reading
from pipeline.top.model import Model, Settings
from tests.shm.handmade import BOOT_UNIX_NS, Tables, now_boot_ns

S = 1_000_000_000
KNOWN = layout.KNOWN_START | layout.KNOWN_COMM | layout.KNOWN_FILE | layout.KNOWN_ARGS | layout.KNOWN_CREDS
EXEC = layout.ROW_HEAD | layout.ROW_IS_EXEC
#: The host has been up for this much longer than this machine, whose boot may be more recent than what a test makes.
LONGER_NS = 7200 * S


class Host:
    """Processes in tables. Times are seconds ago, so they stay true while a test runs."""

    def __init__(self, directory: Path, rows: int = 256) -> None:
        self.tables = Tables(directory, rows=rows)
        self.now_ns = now_boot_ns() + LONGER_NS
        self.commits = 0
        self._files: dict[str, int] = {}
        self._rows: dict[int, int] = {}
        self.commit()

    def ago(self, seconds: float) -> int:
        """Return a time on the boot clock."""
        return self.now_ns - int(seconds * S)

    def commit(self, **fields: int) -> None:
        self.commits += 1
        self.tables.commit(self.commits, watermark_boot_ns=now_boot_ns() + LONGER_NS, **fields)

    def start(
        self, pid: int, command: str = "sh", *, parent: int = 0, ago: float = 1000.0, uid: int = 0, **fields: object
    ) -> int:
        """A process that was forked and has executed a program since; returns its row."""
        argv = shlex.split(command)
        path = argv[0] if argv[0].startswith("/") else f"/usr/bin/{argv[0]}"
        if path not in self._files:
            self._files[path] = self.tables.file(path.encode())
        start = self.ago(ago)
        values: dict[str, object] = {
            "ppid": parent, "start_boot_ns": start, "exec_boot_ns": start + 1, "flags": EXEC, "known": KNOWN,
            "uid": uid, "euid": uid, "suid": uid, "comm": path.rpartition("/")[2].encode()[:15],
            "file_ref": self._files[path], "images": 2, "argc": len(argv), "creator": self.link(parent),
            "args_ref": self.tables.strings("args", *(word.encode("utf-8", "surrogateescape") for word in argv)),
        }  # fmt: skip
        row = self.tables.row(pid, **values | fields)
        self._rows[pid] = row
        return row

    def fork(self, pid: int, parent: int, *, ago: float = 0.0) -> int:
        """A process that has not executed anything: its image is that of its parent."""
        hot = self.tables.hot[self._rows[parent]]
        return self.start(
            pid, parent=parent, ago=ago, flags=layout.ROW_HEAD, exec_boot_ns=0, images=1,
            file_ref=int(hot["file_ref"]), args_ref=int(hot["args_ref"]), comm=bytes(hot["comm"]),
        )  # fmt: skip

    def execute(self, pid: int, command: str, *, ago: float = 0.0) -> int:
        """A process executes another program: its present image ends, and a new one begins."""
        row = self._rows[pid]
        hot = self.tables.hot[row]
        began = self.ago(ago)
        new = self.start(
            pid, command, parent=int(hot["ppid"]), start_boot_ns=int(hot["start_boot_ns"]), exec_boot_ns=began,
            images=int(hot["images"]) + 1, ancestor=self.tables.link(row), creator=int(hot["creator"]),
        )  # fmt: skip
        self.tables.change(row, exit_boot_ns=began, flags=int(hot["flags"]) & ~layout.ROW_HEAD | layout.ROW_REPLACED)
        return new

    def end(self, pid: int, code: int = 0, *, ago: float = 0.0) -> None:
        """A process ends with a wait status."""
        row = self._rows[pid]
        flags = int(self.tables.hot["flags"][row]) | layout.ROW_DELETED | layout.ROW_EXIT_KNOWN
        self.tables.change(row, exit_boot_ns=self.ago(ago), flags=flags, exit_code=code)

    def link(self, pid: int) -> int:
        row = self._rows.get(pid)
        return 0 if row is None else self.tables.link(row)

    def feed(self, recorded_ago: float | None = None) -> HostFeed:
        recorded = None if recorded_ago is None else self.ago(recorded_ago) + BOOT_UNIX_NS
        return HostFeed(self, recorded)

    def model(self, **settings: object) -> Model:
        model = Model(self.feed(), Settings(**settings))  # type: ignore[arg-type]
        assert model.step()
        return model


class HostFeed(Feed):
    """The tables of a made-up host, whose writer is always alive."""

    def __init__(self, host: Host, recorded_unix_ns: int | None) -> None:
        self.host = host
        host.tables.heartbeat()
        super().__init__("made-up", host.tables.directory, recorded_unix_ns=recorded_unix_ns)

    def read(self, keep_ns: int, at_boot_ns: int | None = None) -> Reading | None:
        self.host.tables.heartbeat()
        self.host.commit()
        return super().read(keep_ns, at_boot_ns)

    def now_boot_ns(self) -> int:
        return super().now_boot_ns() + LONGER_NS


def texts(model: Model) -> list[str]:
    """Return the lines of a model: depth as dashes, pid, name of the program."""
    assert model.lines is not None
    found = []
    for number, depth in enumerate(model.lines.depths.tolist()):
        fields = model.subject(number).facts.fields
        found.append(f"{'-' * depth}{fields['pid']} {(fields.get('path') or '').rpartition('/')[2]}")
    return found

"""The catalogue of a store: which files belong to it, which numbers are stored, and what is known about each host.

It is an SQLite database. A file of events counts only when the catalogue names it, and one transaction adds the files
of a batch with the numbers of its events. So a kill at any moment leaves either all of a batch or nothing.

The journal mode is SQLite's default, not WAL: a reader without write permission can open the database.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.errors import ConfigError, LayoutError
from pipeline.fleet.numbers import Numbers

NAME = "catalogue.sqlite"
#: Raised if an older version could not read the store. Added columns of events do not count.
VERSION = 1
#: A reader waits at most this time for a commit of the writer, and the writer for a reader.
_WAIT_S = 30.0
_TABLES = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE files (
    id INTEGER PRIMARY KEY, day TEXT NOT NULL, level INTEGER NOT NULL, rows INTEGER NOT NULL, bytes INTEGER NOT NULL,
    stored_ns INTEGER NOT NULL, replaced_ns INTEGER
);
CREATE TABLE numbers (
    host TEXT, boot TEXT, stream TEXT, topic TEXT, first INTEGER, next INTEGER,
    PRIMARY KEY (host, boot, stream, topic, first)
) WITHOUT ROWID;
CREATE TABLE hosts (
    host TEXT PRIMARY KEY, name TEXT NOT NULL, boot TEXT NOT NULL, stream TEXT NOT NULL, version TEXT NOT NULL,
    first_event_ns INTEGER, last_event_ns INTEGER, stored_ns INTEGER NOT NULL, lag_ns INTEGER,
    events INTEGER NOT NULL, doubles INTEGER NOT NULL, refused INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE losses (
    id TEXT PRIMARY KEY, host TEXT NOT NULL, boot TEXT NOT NULL, stream TEXT NOT NULL, topic TEXT NOT NULL,
    first INTEGER, events INTEGER, from_ns INTEGER, to_ns INTEGER, cause TEXT NOT NULL
) WITHOUT ROWID;
CREATE INDEX losses_of_host ON losses (host);
"""


class File(NamedTuple):
    """A file of events with the file of its executions, which has the same number."""

    id: int
    day: str
    level: int
    rows: int
    bytes: int


class Host(NamedTuple):
    """The facts about a host. Times are ns since the Unix epoch."""

    host: str
    name: str
    boot: str
    stream: int
    version: str
    first_event_ns: int | None
    last_event_ns: int | None
    stored_ns: int
    lag_ns: int | None
    events: int
    doubles: int
    refused: int


class Loss(NamedTuple):
    """Events that are missing.

    Attributes:
        id: identifies the record, so that a repeated one is stored once.
        host, boot, stream: where.
        topic: topic of the stream; of events that the kernel could not write their kind; "": every topic.
        first: number of the first one; None: unknown.
        events: how many; None: unknown.
        from_ns, to_ns: when, ns since the Unix epoch; None: unknown.
        cause: ``kernel``, or the reason of the forwarder.
    """

    id: str
    host: str
    boot: str
    stream: int
    topic: str
    first: int | None
    events: int | None
    from_ns: int | None
    to_ns: int | None
    cause: str


#: Identifies the numbers of a topic: host, boot id, stream, topic.
Key = tuple[str, str, int, str]


class Catalogue:
    """An open catalogue. Use one from one thread."""

    def __init__(self, connection: sqlite3.Connection, root: Path) -> None:
        self._db = connection
        self.root = root

    @classmethod
    def create(cls, root: Path) -> Catalogue:
        """Open the catalogue in `root` for writing; create it, and the directory, if there is none.

        Raises:
            ConfigError: the directory cannot be written.
            LayoutError: another version wrote the catalogue.
        """
        try:
            root.mkdir(mode=0o750, parents=True, exist_ok=True)
            db = sqlite3.connect(root / NAME, timeout=_WAIT_S, isolation_level=None, check_same_thread=False)
            db.execute("PRAGMA synchronous = FULL")
            with _transaction(db):
                if not db.execute("SELECT 1 FROM sqlite_master WHERE name = 'meta'").fetchone():
                    for statement in _TABLES.split(";\n"):
                        db.execute(statement)
                    facts = {"version": str(VERSION), "id": os.urandom(4).hex(), "next_file": "1"}
                    db.executemany("INSERT INTO meta VALUES (?, ?)", facts.items())
        except (OSError, sqlite3.Error) as error:
            raise ConfigError(
                f"cannot write the store {root}: {error}; make sure that this user can write to it and that its file "
                "system has space, or choose another directory with --store",
                key="store", value=str(root),
            ) from None  # fmt: skip
        return cls(db, root)._checked()

    @classmethod
    def open(cls, root: Path) -> Catalogue:
        """Open the catalogue in `root` for reading.

        Raises:
            ConfigError: there is none, or it cannot be read.
            LayoutError: another version wrote it.
        """
        path = root / NAME
        if not path.is_file():
            raise ConfigError(
                f"{root} is not a store: it has no {NAME}; name the directory that `procline fleet ingest` fills "
                "with --store",
                key="store", value=str(root),
            )  # fmt: skip
        try:
            db = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=_WAIT_S, isolation_level=None)
            db.execute("SELECT count(*) FROM meta").fetchone()
        except sqlite3.Error as error:
            raise ConfigError(
                f"cannot read the store {root}: {error}; make sure that this user can read {path}, and if it is "
                "damaged, restore it from a copy",
                key="store", value=str(root),
            ) from None  # fmt: skip
        return cls(db, root)._checked()

    def _checked(self) -> Catalogue:
        found = self.meta("version")
        if found != str(VERSION):
            self.close()
            raise LayoutError(
                f"the store {self.root} has version {found}, and this Procline reads version {VERSION}: use the "
                "version that made it, or a new directory",
                expected=VERSION, found=found,
            )  # fmt: skip
        return self

    def close(self) -> None:
        """Close the database."""
        self._db.close()

    def meta(self, key: str) -> str:
        """Return a fact about the store."""
        found = self._db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return str(found[0]) if found else ""

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All changes in the body become durable together, or none."""
        with _transaction(self._db):
            yield

    def next_file(self) -> int:
        """Return a number that no file has or had."""
        [(number,)] = self._db.execute(
            "UPDATE meta SET value = CAST(value AS INTEGER) + 1 WHERE key = 'next_file' RETURNING value"
        ).fetchall()
        return int(number) - 1

    def files(self, day: str | None = None) -> list[File]:
        """Return the files of the store in order, or those of a day."""
        rows = self._db.execute(
            "SELECT id, day, level, rows, bytes FROM files WHERE replaced_ns IS NULL AND (? IS NULL OR day = ?) "
            "ORDER BY day, id", (day, day),
        )  # fmt: skip
        return [File(*row) for row in rows]

    def add_files(self, files: Iterable[File], stored_ns: int) -> None:
        """Add files."""
        self._db.executemany(
            "INSERT INTO files VALUES (?, ?, ?, ?, ?, ?, NULL)", [(*each, stored_ns) for each in files]
        )

    def replace_files(self, files: Iterable[File], now_ns: int) -> None:
        """Mark files that readers no longer use; `drop_files` forgets them."""
        self._db.executemany("UPDATE files SET replaced_ns = ? WHERE id = ?", [(now_ns, each.id) for each in files])

    def replaced(self, before_ns: int) -> list[File]:
        """Return the files that were replaced before a time."""
        rows = self._db.execute("SELECT id, day, level, rows, bytes FROM files WHERE replaced_ns < ?", (before_ns,))
        return [File(*row) for row in rows]

    def drop_files(self, files: Iterable[File]) -> None:
        """Forget files that were removed."""
        self._db.executemany("DELETE FROM files WHERE id = ?", [(each.id,) for each in files])

    def known(self) -> set[int]:
        """Return the numbers of all files, also of replaced ones."""
        return {number for (number,) in self._db.execute("SELECT id FROM files")}

    def numbers(self, key: Key) -> Numbers:
        """Return the numbers of a topic that are stored."""
        host, boot, stream, topic = key
        rows = self._db.execute(
            "SELECT first, next FROM numbers WHERE host = ? AND boot = ? AND stream = ? AND topic = ?",
            (host, boot, str(stream), topic),
        )
        return Numbers(rows.fetchall())

    def all_numbers(self) -> Iterator[tuple[Key, Numbers]]:
        """Yield the numbers of each topic of each stream."""
        found: dict[Key, list[tuple[int, int]]] = {}
        for host, boot, stream, topic, first, after in self._db.execute("SELECT * FROM numbers"):
            found.setdefault((host, boot, int(stream), topic), []).append((first, after))
        for key, intervals in found.items():
            yield key, Numbers(intervals)

    def set_numbers(self, key: Key, numbers: Numbers, since: int) -> None:
        """Store the numbers of a topic; only the intervals that reach `since` or above have changed."""
        host, boot, stream, topic = key
        self._db.execute(
            "DELETE FROM numbers WHERE host = ? AND boot = ? AND stream = ? AND topic = ? AND next >= ?",
            (host, boot, str(stream), topic, since),
        )
        self._db.executemany(
            "INSERT INTO numbers VALUES (?, ?, ?, ?, ?, ?)",
            [(host, boot, str(stream), topic, *each) for each in numbers.intervals if each[1] >= since],
        )

    def hosts(self) -> list[Host]:
        """Return all hosts by name."""
        rows = self._db.execute("SELECT * FROM hosts ORDER BY host")
        return [Host._make((*row[:3], int(row[3]), *row[4:])) for row in rows]

    def host(self, host: str) -> Host | None:
        """Return one host."""
        row = self._db.execute("SELECT * FROM hosts WHERE host = ?", (host,)).fetchone()
        return None if row is None else Host._make((*row[:3], int(row[3]), *row[4:]))

    def set_hosts(self, hosts: Iterable[Host]) -> None:
        """Store what is known about hosts."""
        self._db.executemany(
            "INSERT OR REPLACE INTO hosts VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [
                tuple(str(value) if name == "stream" else value for name, value in each._asdict().items())
                for each in hosts
            ],
        )

    def losses(self) -> list[Loss]:
        """Return all records of losses."""
        rows = self._db.execute("SELECT * FROM losses ORDER BY host, from_ns, id")
        return [Loss._make((*row[:3], int(row[3]), *row[4:])) for row in rows]

    def add_losses(self, losses: Iterable[Loss]) -> None:
        """Add records; those with a known id are ignored."""
        self._db.executemany(
            "INSERT OR IGNORE INTO losses VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [
                tuple(str(value) if name == "stream" else value for name, value in each._asdict().items())
                for each in losses
            ],
        )

    def drop_losses(self, before_ns: int) -> None:
        """Forget losses that ended before a time."""
        self._db.execute("DELETE FROM losses WHERE to_ns < ?", (before_ns,))

    def bound(self, *, losses: int, numbers: int) -> None:
        """Forget the oldest losses and numbers of hosts that have more of them than the limits allow.

        The newest numbers of each topic of the host's current stream are kept longest.
        """
        hosts = "SELECT host FROM {} GROUP BY host HAVING count(*) > ?"
        for (host,) in self._db.execute(hosts.format("losses"), (losses,)).fetchall():
            self._db.execute(
                "DELETE FROM losses WHERE id IN (SELECT id FROM losses WHERE host = ? "
                "ORDER BY coalesce(to_ns, from_ns, 0) DESC, id DESC LIMIT -1 OFFSET ?)", (host, losses),
            )  # fmt: skip
        for (host,) in self._db.execute(hosts.format("numbers"), (numbers,)).fetchall():
            self._db.execute(
                "DELETE FROM numbers WHERE (host, boot, stream, topic, first) IN ("
                "SELECT n.host, n.boot, n.stream, n.topic, n.first FROM numbers n LEFT JOIN hosts h USING (host) "
                "WHERE n.host = ? ORDER BY (n.boot = h.boot AND n.stream = h.stream) DESC, "
                "row_number() OVER (PARTITION BY n.boot, n.stream, n.topic ORDER BY n.next DESC), n.next DESC "
                "LIMIT -1 OFFSET ?)", (host, numbers),
            )  # fmt: skip


@contextmanager
def _transaction(db: sqlite3.Connection) -> Iterator[None]:
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        db.execute("ROLLBACK")
        raise
    db.execute("COMMIT")


def as_dicts(rows: Iterable[Any]) -> list[dict[str, Any]]:
    """Return named tuples as dicts."""
    return [row._asdict() for row in rows]

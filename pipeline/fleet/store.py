"""The writer of a store: receives messages, and commits them in batches, each exactly once.

A batch is spooled as JSON lines, so its size in memory does not grow with the number of events. A commit writes the
files, makes them durable, and then names them in the catalogue together with the numbers of their events. Only then may
the messages be acknowledged. A message that comes again is recognised by these numbers.
"""

from __future__ import annotations

import contextlib
import fcntl
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import msgspec

from pipeline.errors import FrameError, WriteError, WriterExistsError
from pipeline.fleet import parquet
from pipeline.fleet.catalogue import Catalogue, File, Host, Key, Loss
from pipeline.fleet.messages import EVENT_KINDS, TIME_MAX_NS, Envelope, envelope_of, maps_of, rows_of
from pipeline.fleet.numbers import Numbers

#: One event as JSON; a longer one is rejected with its message.
LINE_MAX_BYTES = 8 << 20
#: This many files of one level and day are merged into one of the next level, unless it would have more rows.
MERGE_FILES, MERGE_ROWS_MAX = 8, 2_000_000
#: Replaced files stay for readers that have the old list.
_GRACE_NS = 60 * 10**9
#: For this many topics, the numbers are kept in memory between two batches.
_CACHED_TOPICS = 100_000
#: A record of a loss counts at most this many events, so that sums of many records fit an integer of 64 bits.
_LOST_MAX = 1 << 53
#: The largest number of records of losses, and of intervals of numbers, for each host. It is checked once a minute.
LOSSES_MAX = NUMBERS_MAX = 10_000
_BOUND_NS = 60 * 10**9
_encode_lines = msgspec.json.Encoder().encode_lines


#: Subject, headers, data.
_Message = tuple[str, Mapping[str, str] | None, bytes]


@dataclass(slots=True)
class Totals:
    """Counts of a writer since it was opened."""

    messages: int = 0
    events: int = 0
    doubles: int = 0  #: events that were stored already
    refused: int = 0  #: messages that are not those of `procline forward`
    batches: int = 0
    wire_bytes: int = 0  #: data of the messages


@dataclass(slots=True)
class _Seen:
    """The facts of a batch about a host."""

    envelope: Envelope
    first_ns: int | None = None
    last_ns: int | None = None
    events: int = 0
    doubles: int = 0
    refused: int = 0


@dataclass(slots=True)
class _Batch:
    """The additions since the last commit."""

    events: int = 0
    bytes: int = 0
    wire_bytes: int = 0
    refused: int = 0
    messages: list[_Message] = field(default_factory=list)
    since: dict[Key, int] = field(default_factory=dict)  #: the smallest new number of each topic
    hosts: dict[str, _Seen] = field(default_factory=dict)
    losses: list[Loss] = field(default_factory=list)
    files: list[File] = field(default_factory=list)  #: what a commit has begun to write


class Store:
    """The one writer of a store. Others are rejected while it is open.

    Args:
        root: directory of the store; it is created if it is missing.
        memory_bytes: what DuckDB may use.
        keep_days: older days are removed; None: none.

    Raises:
        ConfigError: the directory cannot be written.
        WriterExistsError: another process writes to this store.
        UnsupportedError: DuckDB is not installed.
    """

    def __init__(self, root: Path, *, memory_bytes: int = 1 << 30, keep_days: int | None = None) -> None:
        self.root = root
        self.keep_days = keep_days
        self.totals = Totals()
        self._catalogue = Catalogue.create(root)
        with contextlib.ExitStack() as stack:
            stack.callback(self._catalogue.close)
            self._lock = stack.enter_context((root / "ingest.lock").open("w"))
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise WriterExistsError(
                    f"another `procline fleet ingest` writes to {root}: stop it, or use another --store"
                ) from None
            temporary = root / "tmp"
            self._spool_path = temporary / "spool.ndjson"
            with self._errors():
                if temporary.exists():
                    shutil.rmtree(temporary)
                temporary.mkdir()
                for path in parquet.unknown(root, self._catalogue.known()):
                    path.unlink()
                self._spool: IO[bytes] = stack.enter_context(self._spool_path.open("wb"))
            self._db = parquet.connect(memory_bytes, temporary)
            stack.callback(self._db.close)
            self._stack = stack.pop_all()
        self._batch = _Batch()
        self._numbers: dict[Key, Numbers] = {}
        self._bounded_ns = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Forget what was not committed, and let others write."""
        self._stack.close()

    @property
    def id(self) -> str:
        """A random number that this store got when it was created."""
        return self._catalogue.meta("id")

    @property
    def pending(self) -> tuple[int, int, int]:
        """Messages, events and bytes that were added and not committed."""
        return len(self._batch.messages), self._batch.events, self._batch.bytes

    def add(self, subject: str, headers: Mapping[str, str] | None, data: bytes) -> None:
        """Add a message to the batch. One that is malformed is counted and dropped."""
        batch = self._batch
        batch.messages.append((subject, headers, data))  # the caller keeps it too, until it is acknowledged
        batch.bytes += len(data)
        batch.wire_bytes += len(data)
        self.totals.wire_bytes += len(data)
        envelope = None
        try:
            envelope = envelope_of(subject, headers)
            if envelope.kind in EVENT_KINDS:
                self._add_events(envelope, data)
            elif envelope.kind == "gap":
                self._add_gap(envelope, data)
            else:
                self._add_figures(envelope, data)
        except (FrameError, ValueError, TypeError, OverflowError, RecursionError):
            self.totals.refused += 1
            batch.refused += 1
            if envelope is not None:
                self._seen(envelope).refused += 1

    def _add_events(self, envelope: Envelope, data: bytes) -> None:
        numbers, missing = self._missing(envelope)
        rows = rows_of(envelope, data) if missing else []
        if missing and missing != [(envelope.first, envelope.first + envelope.count)]:
            rows = [row for first, after in missing for row in rows[first - envelope.first : after - envelope.first]]
        lines = _encode_lines(rows)
        if len(lines) > LINE_MAX_BYTES and max(map(len, lines.splitlines())) >= LINE_MAX_BYTES:
            raise FrameError("message rejected: an event is too long", peer="JetStream", reason="event too long")
        seen = self._seen(envelope)
        seen.doubles += envelope.count - len(rows)
        if not rows:
            return
        self._spool.write(lines)
        self._add(envelope, numbers, missing)
        times = [row.time_ns for row in rows]
        self._seen_between(seen, min(times), max(times))
        seen.events += len(rows)
        self._batch.events += len(rows)
        self._batch.bytes += len(lines)

    def _add_figures(self, envelope: Envelope, data: bytes) -> None:
        """Add records of events that the kernel could not write, or statistics; these only show that the host lives."""
        maps = maps_of(envelope, data)
        numbers, missing = self._missing(envelope)
        seen = self._seen(envelope)
        if not missing:
            seen.doubles += envelope.count
            return
        for number, each in enumerate(maps, envelope.first):
            time_ns = _integer(each.get("time_ns"), TIME_MAX_NS)
            if time_ns is not None:
                self._seen_between(seen, time_ns, time_ns)
            new = each.get("new")
            if envelope.kind == "loss" and type(new) is dict:
                for kind, count in list(new.items())[:64]:
                    if lost := _count(count):
                        ident = f"{envelope.host} {envelope.boot} {envelope.stream} kernel {number} {str(kind)[:32]}"
                        self._batch.losses.append(Loss(
                            ident, envelope.host, envelope.boot, envelope.stream, str(kind)[:32], None, lost, None,
                            time_ns, "kernel",
                        ))  # fmt: skip
        self._add(envelope, numbers, missing)

    def _add_gap(self, envelope: Envelope, data: bytes) -> None:
        for each in maps_of(envelope, data):
            topic = each.get("topic")
            topic = topic[:64] if type(topic) is str else ""
            first, count = _integer(each.get("first"), (1 << 63) - 1), _count(each.get("count"))
            from_ns, to_ns = (_integer(each.get(key), TIME_MAX_NS) for key in ("from_ns", "to_ns"))
            ident = f"{envelope.host} {envelope.boot} {envelope.stream} gap {topic} {first} {count} {from_ns} {to_ns}"
            cause = str(each.get("reason") or "unknown")[:64]
            self._batch.losses.append(
                Loss(ident, envelope.host, envelope.boot, envelope.stream, topic, first, count, from_ns, to_ns, cause)
            )
        self._seen(envelope)

    def _missing(self, envelope: Envelope) -> tuple[Numbers, list[tuple[int, int]]]:
        """Return the stored numbers of a message's topic, and those of the message that are not among them."""
        key = _key(envelope)
        numbers = self._numbers.get(key)
        if numbers is None:
            if len(self._numbers) > _CACHED_TOPICS:
                self._numbers = {known: self._numbers[known] for known in self._batch.since}
            numbers = self._numbers[key] = self._catalogue.numbers(key)
        return numbers, numbers.missing(envelope.first, envelope.first + envelope.count)

    def _add(self, envelope: Envelope, numbers: Numbers, missing: list[tuple[int, int]]) -> None:
        key = _key(envelope)
        for first, after in missing:
            numbers.add(first, after)
        self._batch.since[key] = min(self._batch.since.get(key, envelope.first), missing[0][0])

    def _seen(self, envelope: Envelope) -> _Seen:
        seen = self._batch.hosts.get(envelope.host)
        if seen is None:
            seen = self._batch.hosts[envelope.host] = _Seen(envelope)
        seen.envelope = envelope
        return seen

    @staticmethod
    def _seen_between(seen: _Seen, first_ns: int, last_ns: int) -> None:
        seen.first_ns = first_ns if seen.first_ns is None else min(seen.first_ns, first_ns)
        seen.last_ns = last_ns if seen.last_ns is None else max(seen.last_ns, last_ns)

    def commit(self, now_ns: int | None = None) -> int:
        """Make the batch durable; returns its number of events. Then its messages may be acknowledged.

        If a message cannot be stored because of its content, it is counted and dropped, and the others are stored.

        Raises:
            WriteError: the store cannot be written, for example because the disk is full.
        """
        now_ns = time.time_ns() if now_ns is None else now_ns
        try:
            return self._commit(now_ns)
        except (WriteError, OverflowError, UnicodeError) as error:
            if not _is_of_content(error):
                raise
            messages = self._batch.messages
            self._forget_batch()
        if len(messages) == 1:
            self._refuse(messages[0], now_ns)
            return 0
        middle, events = len(messages) // 2, 0
        for half in (messages[:middle], messages[middle:]):
            for message in half:
                self.add(*message)
            events += self.commit(now_ns)
        return events

    def _commit(self, now_ns: int) -> int:
        batch = self._batch
        with self._errors():
            written = self._write(now_ns) if batch.events else []
            with self._catalogue.transaction():
                self._catalogue.add_files(written, now_ns)
                for key, since in batch.since.items():
                    self._catalogue.set_numbers(key, self._numbers[key], since)
                self._catalogue.set_hosts(self._updated(seen, now_ns) for seen in batch.hosts.values())
                self._catalogue.add_losses(batch.losses)
        self._begin_batch()
        self.totals.messages += len(batch.messages)
        self.totals.events += batch.events
        self.totals.doubles += sum(seen.doubles for seen in batch.hosts.values())
        self.totals.batches += 1
        return batch.events

    def _begin_batch(self) -> None:
        self._batch = _Batch()
        self._spool.seek(0)
        self._spool.truncate()

    def _forget_batch(self) -> None:
        """Forget what was added since the last commit, as if it had not arrived."""
        self.totals.wire_bytes -= self._batch.wire_bytes
        self.totals.refused -= self._batch.refused
        self._numbers.clear()
        with contextlib.suppress(OSError):  # the next writer removes what is left
            for file in self._batch.files:
                parquet.remove(self.root, file)
        self._begin_batch()

    def _refuse(self, message: _Message, now_ns: int) -> None:
        """Count a message that cannot be stored, for its host too if that is possible."""
        self.totals.messages += 1
        self.totals.refused += 1
        self.totals.wire_bytes += len(message[2])
        try:
            self._seen(envelope_of(*message[:2])).refused += 1
            self._commit(now_ns)
        except (FrameError, WriteError, OverflowError, UnicodeError) as error:
            if isinstance(error, WriteError) and not _is_of_content(error):
                raise
            self._forget_batch()

    def _write(self, now_ns: int) -> list[File]:
        self._spool.flush()
        days = parquet.load_spool(self._db, self._spool_path, now_ns, LINE_MAX_BYTES + 1024)
        written = []
        for day, rows in days:
            file = File(self._catalogue.next_file(), day, 0, rows, 0)
            self._batch.files.append(file)
            written.append(parquet.write_batch(self._db, self.root, file))
        self._db.execute("DROP TABLE batch")
        return written

    def _updated(self, seen: _Seen, now_ns: int) -> Host:
        """Return what is known about a host after the batch."""
        envelope, old = seen.envelope, self._catalogue.host(seen.envelope.host)
        firsts = [each for each in (seen.first_ns, old and old.first_event_ns) if each is not None]
        lasts = [each for each in (seen.last_ns, old and old.last_event_ns) if each is not None]
        lag_ns = now_ns - seen.last_ns if seen.last_ns is not None else old and old.lag_ns
        return Host(
            host=envelope.host, name=envelope.name, boot=envelope.boot, stream=envelope.stream,
            version=envelope.version, first_event_ns=min(firsts, default=None),
            last_event_ns=max(lasts, default=None), stored_ns=now_ns, lag_ns=lag_ns,
            events=seen.events + (old.events if old else 0),
            doubles=seen.doubles + (old.doubles if old else 0), refused=seen.refused + (old.refused if old else 0),
        )  # fmt: skip

    def tidy(self, now_ns: int | None = None) -> bool:
        """Do a piece of upkeep: merge some small files, remove old days, remove replaced files.

        Returns:
            Whether there is more to do at once.
        """
        now_ns = time.time_ns() if now_ns is None else now_ns
        with self._errors():
            gone = self._catalogue.replaced(now_ns - _GRACE_NS)
            for file in gone:
                parquet.remove(self.root, file)
            if gone:
                self._catalogue.drop_files(gone)
            if self.keep_days is not None:
                self._forget_before(now_ns - self.keep_days * 86_400 * 10**9, now_ns)
            if abs(now_ns - self._bounded_ns) >= _BOUND_NS:
                self._bounded_ns = now_ns
                with self._catalogue.transaction():
                    self._catalogue.bound(losses=LOSSES_MAX, numbers=NUMBERS_MAX)
            return self._merge(now_ns)

    def _merge(self, now_ns: int) -> bool:
        groups: dict[tuple[str, int], list[File]] = {}
        for file in self._catalogue.files():
            if file.rows <= MERGE_ROWS_MAX // 2:
                groups.setdefault((file.day, file.level), []).append(file)
        ready = [(key, group) for key, group in groups.items() if len(group) >= MERGE_FILES]
        if not ready:
            return False
        (day, level), group = ready[0]
        chosen: list[File] = []
        for file in group[:MERGE_FILES]:
            if sum(each.rows for each in chosen) + file.rows > MERGE_ROWS_MAX:
                break
            chosen.append(file)
        made = File(self._catalogue.next_file(), day, level + 1, sum(file.rows for file in chosen), 0)
        made = parquet.merge(self._db, self.root, chosen, made)
        with self._catalogue.transaction():
            self._catalogue.replace_files(chosen, now_ns)
            self._catalogue.add_files([made], now_ns)
        return True

    def _forget_before(self, before_ns: int, now_ns: int) -> None:
        day = time.strftime("%Y-%m-%d", time.gmtime(before_ns // 10**9))
        if old := [file for file in self._catalogue.files() if file.day < day]:
            with self._catalogue.transaction():
                self._catalogue.replace_files(old, now_ns)
                self._catalogue.drop_losses(before_ns)

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        """Turn errors of the disk into one with the store's name."""
        import sqlite3

        import duckdb

        try:
            yield
        except (OSError, sqlite3.Error, duckdb.Error) as error:
            reason = " ".join(str(error).split())
            raise WriteError(
                f"cannot write the store {self.root}: {reason}; make sure that this user can write to it and that its "
                "file system has space, then start again: messages that are not stored are delivered again",
                path=str(self.root),
            ) from error


def _key(envelope: Envelope) -> Key:
    return envelope.host, envelope.boot, envelope.stream, envelope.topic if envelope.kind != "snapshot" else "snapshot"


def _integer(value: Any, largest: int) -> int | None:
    """Return an integer from 0 to a largest one; None otherwise."""
    return value if type(value) is int and 0 <= value <= largest else None


def _count(value: Any) -> int | None:
    """Return a number of lost events, limited; None if it is not a number."""
    found = _integer(value, (1 << 64) - 1)
    return None if found is None else min(found, _LOST_MAX)


def _is_of_content(error: Exception) -> bool:
    """Whether a commit failed because of what was added, and not because of the disk."""
    import sqlite3

    import duckdb

    of_content = (OverflowError, UnicodeError, sqlite3.DataError, duckdb.DataError, duckdb.InvalidInputException)
    return isinstance(error.__cause__ if isinstance(error, WriteError) else error, of_content)

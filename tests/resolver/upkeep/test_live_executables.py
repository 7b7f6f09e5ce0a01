"""Packages and hashes of executables: in events, for readers, when they are read, and what is counted."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pipeline.procfs import executables
from pipeline.resolver.stream._encoder import Encoder
from pipeline.resolver.stream._file_cache import FILES_MAX, FILES_PER_USER
from pipeline.resolver.upkeep import details, live_executables
from pipeline.resolver.upkeep.aside import SWEEP_NS
from pipeline.resolver.upkeep.live_executables import LiveHashes, LivePackages
from pipeline.shm.layout import layout
from pipeline.shm.names.details import forget
from pipeline.shm.names.executable_facts import file_name
from pipeline.shm.reader._reader import TableReader
from pipeline.shm.writer._writer import TableWriter
from pipeline.software.dpkg import Package, UnclearError
from tests.procfs.test_executables import key_of
from tests.resolver.stream_rows import BOOT, CONTEXT, EXEC, FORK, Row, file_facts, tables_in, take
from tests.waiting import until

Key = tuple[int, int, int, int]
TOOLS = Package("tools", "1.2", "amd64")


#: A user other than root.
USER = 7


class Known:
    """Stands for dpkg's files."""

    def __init__(self) -> None:
        self.asked: list[bytes] = []
        self.found: Package | Exception = TOOLS

    def owner(self, path: bytes) -> Package:
        self.asked.append(path)
        if isinstance(self.found, Exception):
            raise self.found
        return self.found


class Instance:
    """Tables, an encoder and both parts, stepped by the test."""

    def __init__(self, writer: TableWriter, directory: Path, **options: Any) -> None:
        self.writer = writer
        self.directory = directory
        self.encoder = Encoder(BOOT)
        self.encoder.topics_mask = 0xFF
        self.now, self.step = 10**12, 1_000_000
        self.known = Known()
        common = {"now": lambda: self.now, "mode": 0o644}
        self.packages = LivePackages(writer, self.encoder, directory, packages=self.known, **common)  # type: ignore[arg-type]
        self.hashes = LiveHashes(writer, self.encoder, directory, **({"bytes_max": 1 << 24} | common | options))
        self.packages.begin()
        self.hashes.begin()

    def row(self, tgid: int, path: Path | bytes, key: Key | None = None, **facts: Any) -> Row:
        key = key or key_of(path)  # type: ignore[arg-type]
        text = path if isinstance(path, bytes) else os.fsencode(path)
        common = {"start_boot_ns": tgid, "flags": layout.ROW_HEAD, "known": layout.KNOWN_FILE, "inode": key[0]}
        return Row(self.writer, tgid=tgid, file=file_facts(*key) + text, **(common | facts))

    def event(self, row: Row) -> tuple[Any, Any]:
        self.encoder.add(self.writer, CONTEXT, 6, row.number, 5)
        (event,) = take(self.encoder)
        return event["file_package"], event["file_sha256"]

    def read(self, row: Row) -> tuple[Any, Any]:
        """Return the facts that a reader finds that has read nothing before."""
        forget()
        entry = TableReader(self.directory).resolve(row["tgid"])
        assert entry is not None
        return entry.file_package, entry.file_sha256

    def work(self) -> None:
        self.now += self.step
        self.packages.do_work(self.now)
        self.hashes.do_work(self.now)

    def until(self, condition: Callable[[], Any]) -> None:
        until(condition, pause_s=0.001, meanwhile=self.work)

    def close(self) -> None:
        self.packages.close()
        self.hashes.close()


@contextmanager
def instance(**options: Any) -> Iterator[Instance]:
    directory = Path(tempfile.mkdtemp(prefix="procline-test-", dir="/dev/shm"))
    with tables_in(directory) as writer:
        made = Instance(writer, directory, **options)
        try:
            yield made
        finally:
            made.close()


@pytest.fixture
def copy(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A file that can be hashed: /tmp is often a tmpfs, and all directories of a container are on an overlay."""
    monkeypatch.setattr(executables, "_UNSTABLE", executables._UNSTABLE - {b"overlay"})
    with tempfile.TemporaryDirectory(prefix="procline-test-", dir="/var/tmp") as directory:
        path = Path(shutil.copy("/usr/bin/sleep", Path(directory) / "copy"))
        time.sleep(0.1)  # longer than RACY_NS
        yield path


@pytest.fixture
def digest(copy: Path) -> str:
    return hashlib.sha256(copy.read_bytes()).hexdigest()


def test_events_and_entries_have_them(copy: Path, digest: str) -> None:
    expected = {"name": "tools", "version": "1.2", "architecture": "amd64"}, digest
    with instance() as made:
        row = made.row(20, copy)
        assert made.event(row) == made.read(row) == (None, None), "nothing waits for a file"
        made.until(lambda: made.event(row) == expected)
        assert made.read(row) == expected
        assert made.known.asked == [bytes(copy)]
        assert made.event(made.row(8, copy)) == expected, "known from the first event of the next process on"
        assert made.event(Row(made.writer, tgid=9, start_boot_ns=9)) == (None, None)
        assert made.writer.counter("files_hashed_bytes") == copy.stat().st_size
        assert made.writer.counter("files_unread") == made.writer.counter("files_refused") == 0


def test_an_exec_is_enough_also_without_a_subscriber(copy: Path, digest: str) -> None:
    with instance() as made:
        made.encoder.topics_mask = 0
        made.packages._sweeps.due_ns = made.hashes._sweeps.due_ns = 1 << 62
        row = made.row(20, copy)
        made.encoder.add(made.writer, FORK, 1, row.number, 5)
        made.encoder.add(made.writer, CONTEXT, 6, row.number, 5)
        assert not made.hashes._cache.is_wanting
        made.encoder.add(made.writer, EXEC, 2, row.number, 5)
        made.until(lambda: made.read(row)[1] == digest and made.read(row)[0])


def test_living_processes_need_no_event(copy: Path, digest: str) -> None:
    with instance() as made:
        row = made.row(20, copy)
        made.until(lambda: made.read(row)[1] == digest and made.read(row)[0])


def test_a_file_without_a_package_is_distinguished_from_an_unclear_one(copy: Path) -> None:
    with instance() as made:
        made.known.found = UnclearError("diverted")
        row = made.row(20, copy)
        made.until(lambda: made.writer.counter("files_refused"))
        assert made.event(row)[0] is None
        made.known.found = Package()
        made.now += details.RETRY_MAX_NS
        made.until(lambda: made.event(row)[0])
        assert made.event(row)[0] == made.read(row)[0] == {"name": None, "version": None, "architecture": None}


def test_processes_with_other_files_have_no_package(copy: Path) -> None:
    """In a container, the same path can be another file."""
    with instance() as made:
        made.packages._cache.mnt_ns = 7
        known = layout.KNOWN_FILE | layout.KNOWN_NS
        rows = [
            made.row(20, copy, known=known, mnt_ns=8),
            made.row(21, copy, known=known, mnt_ns=7, container=b"c0ffee"),
        ]
        made.until(lambda: made.event(rows[1])[1])
        assert made.event(rows[0])[0] is None and made.known.asked == []
        third = made.row(22, copy, known=known, mnt_ns=7)
        made.step = SWEEP_NS
        made.until(lambda: made.event(third)[0])


@pytest.mark.parametrize("part", range(4))
def test_another_file_at_the_path_is_not_taken(copy: Path, part: int) -> None:
    with instance() as made:
        key = list(key_of(copy))
        key[part] += 1
        row = made.row(20, copy, tuple(key))  # type: ignore[arg-type]
        made.until(lambda: made.writer.counter("files_unread") >= 2)
        assert made.event(row) == (None, None) and made.known.asked == []


def test_what_is_too_large_is_refused_and_seldom_tried_again(copy: Path) -> None:
    with instance(bytes_max=1000) as made:
        row = made.row(20, copy)
        made.until(lambda: made.writer.counter("files_refused") == 1)
        made.step = 1_000_000
        for _ in range(50):
            made.now += SWEEP_NS
            made.hashes.do_work(made.now)
        assert made.writer.counter("files_refused") == 1 and made.event(row)[1] is None


def test_a_reader_that_hangs_blocks_nothing(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ends = threading.Event()
    monkeypatch.setattr(live_executables, "open_executable", lambda *_: ends.wait(3600) and None)
    with instance() as made:
        row = made.row(20, copy)
        began = time.monotonic()
        made.until(lambda: made.event(row)[0])
        for _ in range(100):
            made.now += SWEEP_NS
            made.hashes.do_work(made.now)
        assert made.event(row)[1] is None
        made.hashes.close(0.05)
        assert time.monotonic() - began < 30
        ends.set()


def test_one_user_cannot_use_all_places() -> None:
    with instance() as made:
        for number in range(FILES_PER_USER + 5):
            made.row(1000 + number, b"/x", (number + 1, 1, 1, 1), uid=7, known=layout.KNOWN_FILE | layout.KNOWN_CREDS)
        made.row(5, b"/y", (1 << 40, 1, 1, 1), uid=8, known=layout.KNOWN_FILE | layout.KNOWN_CREDS)
        made.hashes.do_work(made.now)
        assert len(made.hashes._known) == FILES_PER_USER + 1
        assert made.writer.counter("files_refused") >= 5


def test_all_users_together_leave_places_for_root() -> None:
    """The ids in /etc/subuid make one user many."""
    facts = {"known": layout.KNOWN_FILE | layout.KNOWN_CREDS}
    with instance() as made:
        for number in range(FILES_MAX):
            made.row(1000 + number, b"/x", (number + 1, 1, 1, 1), uid=7 + number % 8, **facts)
        made.hashes.do_work(made.now)
        assert len(made.hashes._known) == FILES_MAX // 4 * 3
        made.row(5, b"/y", (1 << 40, 1, 1, 1), **facts)
        made.hashes._sweeps.due_ns = 0
        made.hashes.do_work(made.now)
        assert (1 << 40, 1, 1, 1) in made.hashes._known
        assert made.writer.counter("files_evicted") == 0


def test_the_number_of_files_is_bounded() -> None:
    with instance() as made:
        rows = [made.row(1000 + number, b"/x", (number + 1, 1, 1, 1)) for number in range(FILES_MAX)]
        made.hashes.do_work(made.now)
        assert len(made.hashes._known) == FILES_MAX
        made.writer.py_begin(rows[0].number)
        made.writer.hot_view()["exit_boot_ns"][rows[0].number] = 9
        made.writer.py_end(rows[0].number)
        made.writer.py_retire(rows[0].number)
        made.row(5, b"/y", (1 << 40, 1, 1, 1))
        made.step = SWEEP_NS
        made.until(lambda: (1 << 40, 1, 1, 1) in made.hashes._known)
        assert len(made.hashes._known) == FILES_MAX and made.writer.counter("files_evicted") == 1


def test_a_successor_continues_with_the_files_of_its_predecessor(copy: Path, digest: str) -> None:
    class TakenOver:
        is_takeover = True

        def hot_view(self) -> dict[str, list[int]]:
            return {"uid": [USER], "tgid": [5], "file_ref": [0]}

        def py_head(self, tgid: int) -> int:
            return 0

    with instance() as first:
        row = first.row(20, copy)
        first.until(lambda: all(first.read(row)))
        directory = first.directory / "hashes"
        good = (directory / file_name(key_of(copy))).read_text()
        for name, text in (("1-2-3-4.json", '"x"'), ("other.json", good), ("1-2-3.json", good), ("1-2-3-5.json", "{}")):
            (directory / name).write_text(text)
        second = LiveHashes(TakenOver(), Encoder(BOOT), first.directory, bytes_max=1)  # type: ignore[arg-type]
        second.begin()
        assert list(second._known) == [key_of(copy)]
        second._want(key_of(copy), 0, 1)
        assert +second._by_user == {USER: 1}, "it counts for a user again"
        assert (directory / file_name(key_of(copy))).stat().st_mode & 0o777 == 0o600
        packages = LivePackages(TakenOver(), Encoder(BOOT), first.directory)  # type: ignore[arg-type]
        packages.begin()
        assert list(packages._known) == [key_of(copy)]
        assert packages._known[key_of(copy)].text == first.packages._known[key_of(copy)].text is not None


def test_rows_without_a_complete_file_are_left_alone() -> None:
    with instance() as made:
        rows = [made.row(7, b"/x", (0, 1, 1, 1)), made.row(8, b"/x", (1, 1, 0, 1))]
        for row in rows:
            assert made.event(row) == made.read(row) == (None, None)
        made.hashes.do_work(made.now)
        assert not made.hashes._known

"""Facts of scripts' files in the rows: which rows get them, when they are dropped, and that nothing waits."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import msgpack
import pytest

from pipeline.records import declared
from pipeline.resolver.upkeep import aside, scripts
from pipeline.resolver.upkeep.scripts import ScriptFiles
from tests.resolver.applier_world import World
from tests.resolver.story import apply_batch, instance
from tests.resolver.upkeep.test_aside import threads
from tests.waiting import until

FACTS = {"path": b"/opt/caf\xe9", "inode": 7, "mount_path": None}


class Scripts(World):
    """A world with `ScriptFiles`, whose files are `found` and whose questions are `asked`."""

    def __init__(self, directory: Any) -> None:
        super().__init__(directory)
        self.init()
        self.asked: list[tuple[int, int, bytes]] = []
        self.found: dict[str, Any] | None = FACTS
        self.gate = threading.Event()
        self.gate.set()
        self.files = ScriptFiles(self.tables, self.applier, self._look)

    def _look(self, tgid: int, start_ticks: int, invoked: bytes) -> dict[str, Any] | None:
        self.asked.append((tgid, start_ticks, invoked))
        assert self.gate.wait(30)
        return self.found

    def script(self, tgid: int) -> None:
        self.fork(1, tgid)
        self.exec(tgid, b"/bin/sh", flags=declared.EXEC_SCRIPT, name=b"./run.sh")

    def extra(self, row: int) -> Any:
        ref = int(self.tables.cold_view()["extra_ref"][row])
        return msgpack.unpackb(self.tables.args.py_bytes(ref)) if ref else None

    def until(self, condition: Callable[[], Any]) -> None:
        until(condition, pause_s=0.001, meanwhile=self.files.do_work)


@pytest.fixture
def w() -> Iterator[Scripts]:
    with instance() as directory:
        world = Scripts(directory)
        try:
            yield world
        finally:
            world.gate.set()
            world.files.close()
            world.tables.close()


def test_a_script_gets_the_facts_of_its_file(w: Scripts) -> None:
    w.fork(1, 2)
    w.exec(2, b"/bin/ls")
    w.script(3)
    w.until(lambda: w.extra(w.proc(3).row))
    assert w.extra(w.proc(3).row) == {"script_file": FACTS}
    assert w.asked == [(3, w.proc(3).start_boot_ns // 10_000_000, b"./run.sh")]
    w.fork(3, 4)
    assert w.extra(w.proc(4).row) is None and w.extra(w.proc(2).row) is None
    assert w.read.counter("scripts_unread") == 0


def test_answers_wait_until_they_are_handled(w: Scripts) -> None:
    before = threads()
    w.script(3)
    w.files.do_work()
    until(lambda: w.files.has_answers)
    w.files.do_work()
    assert not w.files.has_answers and w.extra(w.proc(3).row)
    w.files.close(60)
    assert threads() == before


def test_other_facts_stay(w: Scripts) -> None:
    w.script(3)
    row = w.proc(3).row
    w.tables.py_begin(row)
    w.tables.py_set_ref("extra", row, w.tables.py_intern_args(msgpack.packb({"ssh": {"ssh_session_id": 5}})))
    w.tables.py_end(row)
    w.until(lambda: len(w.extra(row)) == 2)
    assert w.extra(row) == {"ssh": {"ssh_session_id": 5}, "script_file": FACTS}


def test_what_cannot_be_read_is_counted(w: Scripts) -> None:
    w.found = None
    w.script(3)
    w.until(lambda: w.read.counter("scripts_unread") == 1)
    assert w.extra(w.proc(3).row) is None


@pytest.mark.parametrize("value", [10**21, -(10**21), object(), {1: object()}])
def test_facts_that_cannot_be_stored_are_counted(w: Scripts, value: Any) -> None:
    w.found = FACTS | {"mtime_ns": value}
    w.script(3)
    w.until(lambda: w.read.counter("scripts_unread") == 1)
    assert w.extra(w.proc(3).row) is None


@pytest.mark.parametrize("error", [OverflowError("x"), RuntimeError("x"), MemoryError()])
def test_the_thread_survives_a_file_that_cannot_be_read(w: Scripts, error: Exception) -> None:
    def look(tgid: int, start_ticks: int, invoked: bytes) -> dict[str, Any]:
        if tgid == 3:
            raise error
        return FACTS

    w.files._read_file = look
    w.script(3)
    w.until(lambda: w.read.counter("scripts_unread") == 1)
    w.script(4)
    w.until(lambda: w.extra(w.proc(4).row))
    assert w.extra(w.proc(3).row) is None


def test_the_thread_pauses_for_four_times_the_cpu_time_that_it_used(
    w: Scripts, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    used = iter([0.0, 0.001, 1.0, 3.0, 5.0, 105.0])

    class Closing(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            pauses.append(timeout or 0.0)
            return False

    w.files._aside.closing = Closing()
    monkeypatch.setattr(aside, "time", SimpleNamespace(thread_time=lambda: next(used)))
    for tgid in (3, 4, 5):
        w.script(tgid)
        w.until(lambda: len(pauses) == tgid - 2)  # noqa: B023 - called at once
    assert pauses == pytest.approx([0.004, 8.0, scripts.PAUSE_MAX_S])


def test_a_row_that_was_reused_in_the_batch_is_not_asked_for(w: Scripts) -> None:
    """The file of a script must not be shown at the process that got its row."""
    w.script(3)
    row = w.proc(3).row
    w.exit(3)
    w.tables.evict_exited(1 << 62, 100)
    for tgid in range(4, 100):
        w.fork(1, tgid)
        w.exec(tgid, b"/bin/ls", name=b"ls")
        if w.proc(tgid).row == row:
            break
    assert w.proc(tgid).row == row
    w.files.do_work()
    assert w.asked == [] and w.read.counter("scripts_unread") == 1


def test_a_process_that_has_ended_is_counted_and_not_asked_for(w: Scripts) -> None:
    w.script(3)
    w.exit(3)
    w.files.do_work()
    assert w.read.counter("scripts_unread") == 1 and w.asked == []


def test_the_facts_are_of_the_image_that_was_asked_for(w: Scripts) -> None:
    w.gate.clear()
    w.script(3)
    first = w.proc(3).row
    w.files.do_work()
    w.exec(3, b"/bin/ls")
    w.gate.set()
    w.until(lambda: w.extra(first))
    assert w.extra(first) == {"script_file": FACTS} and w.extra(w.proc(3).row) is None


def test_an_image_that_was_evicted_meanwhile_is_counted(w: Scripts) -> None:
    w.gate.clear()
    w.script(3)
    link = w.proc(3).row | w.proc(3).generation << 32
    w.files.do_work()
    assert w.tables.py_follow(link)
    w.exit(3)
    w.tables.evict_exited(1 << 62, 100)
    assert not w.tables.py_follow(link)
    w.gate.set()
    w.until(lambda: w.read.counter("scripts_unread") == 1)
    assert w.extra(0) is None


def test_a_full_queue_and_a_full_batch_are_counted_and_block_nothing(
    w: Scripts, monkeypatch: pytest.MonkeyPatch
) -> None:
    w.gate.clear()
    w.script(3)
    w.files.do_work()
    w.until(lambda: w.asked)
    count = scripts.JOBS_MAX + 7
    happened = []
    for tgid in range(10, 10 + count):
        happened += [w.story.fork(1, tgid), w.story.exec(tgid, b"/bin/sh", flags=declared.EXEC_SCRIPT, name=b"x")]
    apply_batch(w.applier, *happened)
    w.files.do_work()
    assert w.read.counter("scripts_unread") == 7, "of more in one batch, the rest is not noted"
    w.script(4)
    w.files.do_work()
    assert w.read.counter("scripts_unread") == 8, "the queue is full"
    w.files.close(0.05)


def test_a_thread_that_cannot_start_ends_nothing_and_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user can leave no pid for the resolver."""

    class Refused(threading.Thread):
        def start(self) -> None:
            raise RuntimeError("can't start new thread")

    made = aside.Aside[int]("names", jobs_max=4)
    with monkeypatch.context() as patch:
        patch.setattr(aside.threading, "Thread", Refused)
        assert not made.ask(lambda: 1)
        assert made.wait(0.01), "nothing is awaited"
    assert made.ask(lambda: 2)
    deadline = time.monotonic() + 30
    while not made.wait(0.1):
        assert time.monotonic() < deadline
    assert list(made.take(5)) == [2]
    made.close()

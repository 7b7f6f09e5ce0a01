"""`procline subscribe`: a line for each event, and every way to end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pipeline.cli.subscribe import lineage, readable
from tests.cli.conftest import Command
from tests.cli.fakes import BOOT_NS, FakeSubscriber, entry


def event(seq: int, **changes: Any) -> dict[str, Any]:
    return {"event": "exec", "seq": seq, "time_ns": BOOT_NS, **entry(seq).to_dict(), **changes}


def test_each_event_is_a_line(procline: Command, subscriber: type[FakeSubscriber]) -> None:
    subscriber.batches = ([event(1), event(2)], [event(3)])
    done = procline("subscribe", "exec", "fork", "--snapshot", "--timeout", "0.01")
    assert done.code == 0 and done.err == ""
    assert [json.loads(line)["seq"] for line in done.out.splitlines()] == [1, 2, 3]
    assert subscriber.made == ("default", ("exec", "fork"), True, False)


def test_count_ends_it_in_the_middle_of_a_batch(procline: Command, subscriber: type[FakeSubscriber]) -> None:
    subscriber.batches = ([event(1), event(2)], [event(3), event(4), event(5)])
    done = procline("subscribe", "--count", "3")
    assert done.code == 0
    assert len(done.out.splitlines()) == 3


def test_too_few_events_in_time_give_code_1(procline: Command, subscriber: type[FakeSubscriber]) -> None:
    subscriber.batches = ([event(1)],)
    done = procline("subscribe", "--count", "3", "--timeout", "0.01")
    assert done.code == 1
    assert len(done.out.splitlines()) == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_end_it_with_0(procline: Command, subscriber: type[FakeSubscriber], number: int) -> None:
    subscriber.batches = ([event(1)], lambda: os.kill(os.getpid(), number))
    before = signal.getsignal(signal.SIGTERM)
    done = procline("subscribe")
    assert done.code == 0 and done.err == ""
    assert len(done.out.splitlines()) == 1
    assert signal.getsignal(signal.SIGTERM) is before


def test_the_end_of_the_instance_is_printed(procline: Command, subscriber: type[FakeSubscriber]) -> None:
    subscriber.batches = ([event(1)], [])
    done = procline("subscribe", "--name", "web")
    assert done.code == 3
    assert len(done.out.splitlines()) == 1
    assert "'web' has ended" in done.err


def test_at_a_terminal_lines_are_for_people(
    procline: Command, subscriber: type[FakeSubscriber], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    lineage = [{"pid": 40, "comm": "ba\x1bsh"}, {"pid": 1, "comm": "systemd"}]
    subscriber.batches = ([event(7, lineage=lineage), {"event": "loss", "seq": 1, "time_ns": BOOT_NS, "fork": 3}],)
    done = procline("subscribe", "--count", "2")
    first, second = done.out.splitlines()
    assert first.split()[1:] == [">", "exec", "7", "sh", "-x", "<", "ba\\x1bsh(40)", "<", "systemd(1)"]
    assert "loss" in second and "fork=3" in second
    subscriber.batches = ([event(7)],)
    assert json.loads(procline("subscribe", "--count", "1", "--json").out)["seq"] == 7


def test_the_cause_of_an_exit_is_shown_in_words() -> None:
    times = {"start_time_ns": BOOT_NS, "exit_time_ns": BOOT_NS + 1_500_000_000}
    assert "[code 3 after 1.5 s]" in readable(event(7, event="exit", exit_code=3, exit_cause="exited", **times))
    assert "[signal 9 after 1.5 s]" in readable(event(7, event="exit", exit_code=9, exit_cause="signaled", **times))
    assert "[ended]" in readable(event(7, event="exit", exit_code=None, start_time_ns=None))


def test_a_fork_shows_the_name_that_the_child_has_from_its_parent() -> None:
    assert readable(event(7, event="fork")).split()[1:] == ["+", "fork", "7", "sh"]


def test_earlier_images_of_a_process_are_named_once() -> None:
    images = [(7, "sh"), (7, "py"), (40, "bash"), (40, "login"), (1, "init")]
    chain = [{"pid": pid, "comm": comm} for pid, comm in images]
    assert lineage(event(7, lineage=chain)) == "  (was sh) < bash(40) < init(1)"
    assert lineage(event(7, event="exit", lineage=chain)) == " < bash(40) < init(1)"
    assert lineage(event(7, lineage=None)) == ""


BACKLOG = """
import json, sys
sys.path.insert(0, sys.argv[1])
import pipeline
from pipeline.cli import common, main


class Backlog:
    def __init__(self, *args, **options):
        self.seq = 0

    def read(self, wait_s):
        self.seq += 7
        return [{"event": "exec", "seq": n, "argv": ["x" * 3000]} for n in range(self.seq, self.seq + 7)]

    def close(self):
        pass


pipeline.Subscriber = Backlog
common.warn_about_namespace = lambda name: None
sys.exit(main.main(["subscribe", "--json"]))
"""


@contextmanager
def backlog() -> Iterator[subprocess.Popen[bytes]]:
    """The command with an endless supply of events."""
    root = str(Path(__file__).parents[2])
    with subprocess.Popen(
        [sys.executable, "-c", BACKLOG, root], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("taken", [1, 10_001, 100_000, 1_000_000])
def test_an_interrupt_during_a_backlog_leaves_a_complete_last_line(number: int, taken: int) -> None:
    with backlog() as process:
        assert process.stdout is not None and process.stderr is not None
        text = b""
        while len(text) < taken:
            text += os.read(process.stdout.fileno(), min(4096, taken - len(text)))
        process.send_signal(number)
        text += process.stdout.read()
        assert process.wait(20) == 0, process.stderr.read()
    assert text.endswith(b"\n")
    lines = [json.loads(line) for line in text.splitlines()]
    assert [line["seq"] for line in lines] == list(range(7, 7 + len(lines)))


def test_a_reader_that_has_stopped_does_not_keep_it_from_ending() -> None:
    with backlog() as process:
        assert process.stdout is not None
        os.read(process.stdout.fileno(), 1)
        time.sleep(0.3)  # the pipe is full by now
        begin = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
        assert time.monotonic() - begin < 5


def test_a_reader_that_has_gone_ends_it() -> None:
    with backlog() as process:
        assert process.stdout is not None
        process.stdout.close()
        process.wait(20)


def test_a_time_without_a_watch_is_a_line_with_times_to_read() -> None:
    second = 1_000_000_000
    told = {"event": "unwatched", "unwatched_from_ns": 5 * second, "unwatched_to_ns": 65 * second, "seq": None}
    line = readable({**told, "time_ns": 70 * second})
    assert "unwatched" in line and "unwatched_from_ns=1970-01-01" in line and "unwatched_to_ns=1970-01-01" in line

"""`procline subscribe`: a line for each event, and every way to end."""

from __future__ import annotations

import io
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

from pipeline import StreamPosition
from pipeline.screen.terminal import Screen
from tests.cli.conftest import Command
from tests.cli.fakes import BOOT_NS, FakeSubscriber, FakeTable, entry
from tests.sampling import chosen


def event(seq: int, **changes: Any) -> dict[str, Any]:
    return {"event": "exec", "seq": seq, "time_ns": BOOT_NS, **entry(seq).to_dict(), **changes}


def test_each_event_is_a_line(procline: Command, subscriber: type[FakeSubscriber]) -> None:
    subscriber.batches = ([event(1), event(2)], [event(3)])
    done = procline("subscribe", "exec", "fork", "--snapshot", "--timeout", "0.01")
    assert done.code == 0 and done.err == ""
    assert [json.loads(line)["seq"] for line in done.out.splitlines()] == [1, 2, 3]
    assert subscriber.made == ("default", ("exec", "fork"), True, False)


@pytest.mark.parametrize(("form", "key"), [("ecs", "@timestamp"), ("ocsf", "class_uid"), ("otel", "resourceLogs")])
def test_formats_of_other_schemas(
    procline: Command, subscriber: type[FakeSubscriber], monkeypatch: pytest.MonkeyPatch, form: str, key: str
) -> None:
    """Also at a terminal, because only people want lines without names."""
    monkeypatch.setattr("pipeline.cli.ask.subscribe.Screen", Terminal)
    subscriber.batches = ([event(1), event(2)],)
    done = procline("subscribe", "--count", "2", "--format", form)
    documents = [json.loads(line) for line in done.out.splitlines()]
    assert done.code == 0 and len(documents) == 2 and all(key in document for document in documents)
    assert all("web1" in line for line in done.out.splitlines()), "the name of the publisher's host"


def test_resume_stores_the_position_behind_the_last_line(
    procline: Command, subscriber: type[FakeSubscriber], tmp_path: Path
) -> None:
    file = tmp_path / "position.json"
    subscriber.batches = ([event(1), event(2)], [event(3), event(4), event(5)])
    done = procline("subscribe", "exec", "--count", "3", "--resume", str(file))
    assert done.code == 0 and subscriber.resumed is None
    stored = StreamPosition.from_dict(json.loads(file.read_text()))
    assert stored == StreamPosition(7, {"proc.exec": 4}), "not behind the events that were not printed"
    subscriber.batches = ([event(4)],)
    assert procline("subscribe", "exec", "--timeout", "0.01", "--resume", str(file)).code == 0
    assert subscriber.resumed == stored
    assert json.loads(file.read_text())["next"] == {"proc.exec": 5}


@pytest.mark.parametrize("content", ["", "[]", "{", '{"version": 9}', '{"version": 1, "stream": 1, "next": {"x": 1}}'])
def test_a_file_that_is_no_position_is_an_error(
    procline: Command, subscriber: type[FakeSubscriber], tmp_path: Path, content: str
) -> None:
    file = tmp_path / "position.json"
    file.write_text(content)
    done = procline("subscribe", "--resume", str(file))
    assert done.code == 2 and str(file) in done.err and not subscriber.made
    assert file.read_text() == content
    done = procline("subscribe", "--resume", str(tmp_path / "none" / "file"))
    assert done.code == 2 and "cannot write" in done.err


def test_an_unknown_format_is_an_error(procline: Command, subscriber: type[FakeSubscriber]) -> None:
    done = procline("subscribe", "--format", "cef")
    assert done.code == 2 and "otel" in done.err and not subscriber.made


def test_count_ends_it_in_the_middle_of_a_batch(procline: Command, subscriber: type[FakeSubscriber]) -> None:
    subscriber.batches = ([event(1), event(2)], [event(3), event(4), event(5)])
    done = procline("subscribe", "--count", "3")
    assert done.code == 0
    assert len(done.out.splitlines()) == 3


def test_a_time_without_events_is_not_silent(procline: Command, subscriber: type[FakeSubscriber]) -> None:
    assert procline("subscribe", "--timeout", "0.01") == (0, "", "procline: no events in 0.01 s\n")
    assert procline("subscribe", "--count", "1", "--timeout", "0.01").code == 1
    subscriber.batches = ([event(1)],)
    assert procline("subscribe", "--timeout", "0.01").err == ""


def test_too_few_events_in_time_give_code_1(procline: Command, subscriber: type[FakeSubscriber]) -> None:
    subscriber.batches = ([event(1)],)
    done = procline("subscribe", "--count", "3", "--timeout", "0.01")
    assert done.code == 1
    assert len(done.out.splitlines()) == 1


def test_the_timeout_ends_it_during_a_storm(
    procline: Command, subscriber: type[FakeSubscriber], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each read returns events at once, as during a storm."""
    monkeypatch.setattr("pipeline.cli.ask.subscribe._DRAIN_S", 0)
    subscriber.batches = ([event(1)],) * 2000
    done = procline("subscribe", "--timeout", "0")
    assert done.code == 0 and len(done.out.splitlines()) == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_end_it_with_0(procline: Command, subscriber: type[FakeSubscriber], number: int) -> None:
    subscriber.batches = ([event(1)], lambda: os.kill(os.getpid(), number))
    before = signal.getsignal(signal.SIGTERM)
    done = procline("subscribe")
    assert done.code == 0 and done.err == ""
    assert len(done.out.splitlines()) == 1
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_signal_while_an_object_is_freed_ends_it(procline: Command, subscriber: type[FakeSubscriber]) -> None:
    """Python ignores exceptions there, also one of a signal handler. No further event arrives, as on a quiet host."""

    class Freed:
        def __del__(self) -> None:
            os.kill(os.getpid(), signal.SIGINT)

    subscriber.batches = ([event(1)], lambda: Freed() and None)
    assert procline("subscribe").code == 0


def test_the_end_of_the_instance_is_printed(procline: Command, subscriber: type[FakeSubscriber]) -> None:
    subscriber.batches = ([event(1)], [])
    done = procline("subscribe", "--name", "web")
    assert done.code == 3
    assert len(done.out.splitlines()) == 1
    assert "'web' has ended" in done.err


class Terminal(Screen):
    """A screen that is a terminal, whatever the output is."""

    def __init__(self) -> None:
        stream = io.StringIO()
        stream.isatty = lambda: True  # type: ignore[method-assign]
        super().__init__(stream)


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """The command believes that its output is a terminal with 70 columns and no colour."""
    monkeypatch.setattr("pipeline.cli.ask.subscribe.Screen", Terminal)
    monkeypatch.setenv("COLUMNS", "70")
    monkeypatch.setenv("NO_COLOR", "1")
    return monkeypatch


LINEAGE = [{"pid": 40, "comm": "ba\x1bsh"}, {"pid": 1, "comm": "systemd"}]


def test_at_a_terminal_lines_are_for_people(
    procline: Command, subscriber: type[FakeSubscriber], terminal: pytest.MonkeyPatch
) -> None:
    subscriber.batches = ([event(7, lineage=LINEAGE), {"event": "loss", "seq": 1, "time_ns": BOOT_NS, "fork": 3}],)
    done = procline("subscribe", "--count", "2")
    first, second = done.out.splitlines()
    assert first.split()[1:] == [">", "exec", "7", "sh", "-x", "<", "ba\\x1bsh(40)", "<", "systemd(1)"]
    assert "loss" in second and "fork=3" in second
    subscriber.batches = ([event(7)],)
    assert json.loads(procline("subscribe", "--count", "1", "--json").out)["seq"] == 7


@pytest.mark.parametrize("columns", [40, 60, 80, 200])
def test_a_line_is_as_wide_as_the_terminal_and_keeps_the_end_of_a_process(
    procline: Command, subscriber: type[FakeSubscriber], terminal: pytest.MonkeyPatch, columns: int
) -> None:
    terminal.setenv("COLUMNS", str(columns))
    failed = {"event": "exit", "exit_code": 256, "exit_cause": "exited", "exit_cause_code": 1, "lineage": LINEAGE}
    failed |= {"start_time_ns": BOOT_NS, "exit_time_ns": BOOT_NS + 1_500_000_000, "argv": ["sh", "x" * 300]}
    subscriber.batches = ([event(4711, **failed)],)
    (line,) = procline("subscribe", "--count", "1").out.splitlines()
    assert len(line) <= columns
    assert "4711 " in line and ("[code 1 after 1.5 s]" if columns > 60 else "[code 1 1.5 s]") in line
    assert ("< ba" in line) == (columns > 60)


def test_lines_have_colours_unless_they_are_switched_off(
    procline: Command, subscriber: type[FakeSubscriber], terminal: pytest.MonkeyPatch
) -> None:
    subscriber.batches = ([event(7)],)
    assert "\x1b" not in procline("subscribe", "--count", "1").out
    terminal.delenv("NO_COLOR")
    terminal.setenv("TERM", "xterm")
    assert "\x1b[" in procline("subscribe", "--count", "1").out


def test_only_failures_are_asked_for(procline: Command, subscriber: type[FakeSubscriber]) -> None:
    exits = [event(n, event="exit", exit_code=code) for n, code in ((1, 0), (2, 256), (3, None), (4, 9))]
    subscriber.batches = (exits, [event(5), {"event": "missed", "seq": None, "count": 3}])
    done = procline("subscribe", "--failed", "--timeout", "0.01")
    assert [json.loads(line).get("seq") for line in done.out.splitlines()] == [2, 4, None]
    assert subscriber.made[1] == ("proc.exit", "sys.loss")
    for topics in (("exec", "exit"), ("proc",), ("proc.exit",)):
        procline("subscribe", *topics, "--failed", "--timeout", "0.01")
        assert subscriber.made[1] == topics
    subscriber.made = ()
    done = procline("subscribe", "exec", "fork", "--failed", "--timeout", "0.01")
    assert done.code == 2 and "--failed needs the topic exit" in done.err and not subscriber.made


def test_events_of_users_units_containers_and_paths(procline: Command, subscriber: type[FakeSubscriber]) -> None:
    events = [
        event(1, user="alice", uid=1000), event(2, cgroup="/system.slice/web.service"),
        event(3, container_id="0123456789ab"), event(4, path="/usr/bin/curl"),
    ]  # fmt: skip
    for number, option in enumerate(
        (["--user", "alice"], ["--unit", "web"], ["--container", "0123"], ["--path", "curl"])
    ):
        subscriber.batches = (events,)
        done = procline("subscribe", *option, "--timeout", "0.01")
        assert [json.loads(line)["seq"] for line in done.out.splitlines()] == [number + 1], option


def fork(child: int, parent: int) -> dict[str, Any]:
    return event(child, event="fork", entity_id=f"e{child}", parent_entity_id=f"e{parent}", ppid=parent)


def test_distant_descendants_are_not_missed(
    procline: Command, subscriber: type[FakeSubscriber], table: type[FakeTable]
) -> None:
    """The lineage in an event has eight ancestors at most, so it does not show that a distant one is asked for."""
    chain = [fork(100, 41), *(fork(n + 1, n) for n in range(100, 130))]
    far = event(130, entity_id="e130", parent_entity_id="e129", lineage=[{"pid": n, "entity_id": f"e{n}"} for n in
                                                                        range(129, 121, -1)])  # fmt: skip
    other = [fork(200, 1), event(200, entity_id="e200", parent_entity_id="e1")]
    subscriber.batches = ([*chain, *other], [far])
    done = procline("subscribe", "exec", "--under", "40", "--timeout", "0.01")
    assert [json.loads(line)["pid"] for line in done.out.splitlines()] == [130]
    # Births and ends are subscribed to, but not shown.
    assert subscriber.made[1] == ("exec", "proc.fork", "proc.exit")
    subscriber.batches = ([*chain, *other], [far])
    done = procline("subscribe", "--under", "40", "--timeout", "0.01")
    assert len(done.out.splitlines()) == 32 and subscriber.made[1] == ()


def test_the_descendants_are_read_again_after_a_gap(
    procline: Command, subscriber: type[FakeSubscriber], table: type[FakeTable]
) -> None:
    def missed() -> list[dict[str, Any]]:
        table.entries += (entry(60, 41), entry(61, 60))
        return [{"event": "missed", "seq": None, "count": 2}]

    subscriber.batches = (missed, [event(61, entity_id="e61", parent_entity_id="e60")])
    done = procline("subscribe", "--under", "40", "--timeout", "0.01")
    assert [json.loads(line)["event"] for line in done.out.splitlines()] == ["missed", "exec"]


def test_an_unknown_process_has_no_descendants(
    procline: Command, subscriber: type[FakeSubscriber], table: type[FakeTable]
) -> None:
    done = procline("subscribe", "--under", "99", "--timeout", "0.01")
    assert (done.code, done.out) == (1, "") and "knows no process 99" in done.err


BACKLOG = """
import json, sys
sys.path.insert(0, sys.argv[1])
import pipeline
from pipeline.cli import common, main


class Backlog:
    is_incomplete = False
    host = "web1"
    position = None

    def __init__(self, *args, **options):
        self.seq = 0

    def read(self, wait_s, *, limit):
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
    root = str(Path(__file__).parents[3])
    with subprocess.Popen(
        [sys.executable, "-c", BACKLOG, root], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("taken", chosen([1, 10_001, 100_000, 1_000_000], 1))
def test_an_interrupt_during_a_backlog_leaves_a_complete_last_line(number: int, taken: int) -> None:
    with backlog() as process:
        assert process.stdout is not None and process.stderr is not None
        text = b""
        while len(text) < taken:
            part = os.read(process.stdout.fileno(), min(4096, taken - len(text)))
            assert part, process.stderr.read()
            text += part
        process.send_signal(number)
        text += process.stdout.read()
        assert process.wait(60) == 0, process.stderr.read()
    assert text.endswith(b"\n")
    lines = [json.loads(line) for line in text.splitlines()]
    assert [line["seq"] for line in lines] == list(range(7, 7 + len(lines)))


def test_a_reader_that_has_stopped_does_not_keep_it_from_ending() -> None:
    with backlog() as process:
        assert process.stdout is not None
        assert os.read(process.stdout.fileno(), 1)
        time.sleep(0.3)  # the pipe is full by now
        begin = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
        assert time.monotonic() - begin < 5


def test_a_reader_that_has_gone_ends_it() -> None:
    with backlog() as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.wait(60) == 0
        assert process.stderr is not None and process.stderr.read() == b""

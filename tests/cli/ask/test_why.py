"""`procline why`: its arguments, its exit codes, and that it fits the screen."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from types import SimpleNamespace

import pytest

from pipeline.screen import progress
from pipeline.why import findings, gather, host
from pipeline.why.facts import Facts
from pipeline.why.findings import find
from pipeline.why.host import NoHost
from pipeline.why.story import story
from tests.cli.conftest import Command
from tests.cli.fakes import FakeTable
from tests.why.world import forked, image, lineage


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, table: type[FakeTable]) -> Callable[[Facts | None], list[dict[str, object]]]:
    """Let the tables answer with given facts; returns the list of questions."""
    questions: list[dict[str, object]] = []

    def answer(facts: Facts | None) -> list[dict[str, object]]:
        def read(table: object, pid: int, **options: object) -> Facts | None:
            questions.append({"pid": pid} | options)
            return facts

        monkeypatch.setattr(gather, "read", read)
        monkeypatch.setattr(table, "view", SimpleNamespace(pids_are_ours=True), raising=False)
        return questions

    return answer


FACTS = lineage([image(40, "/usr/bin/bash", uid=1000)], [forked(41, uid=1000), image(41, "/usr/bin/sleep", uid=1000)])


def test_a_story_as_text_and_as_json(procline: Command, asked: Callable[..., list[dict[str, object]]]) -> None:
    asked(FACTS)
    done = procline("why", "41")
    assert done.code == 0 and done.out.startswith("sleep (pid 41) runs as alice (uid 1000).")
    data = json.loads(procline("why", "41", "--json").out)
    assert data["summary"] in done.out and data["process"]["pid"] == 41


@pytest.mark.parametrize(("slow", "text"), [("read", "reading the process"), ("find", "reading this host's files")])
def test_a_long_wait_shows_what_is_read(
    procline: Command, asked: Callable[..., list[dict[str, object]]], monkeypatch: pytest.MonkeyPatch, slow: str,
    text: str,
) -> None:  # fmt: skip
    asked(FACTS)
    module = gather if slow == "read" else findings
    quick = getattr(module, slow)

    def takes_long(*arguments: object, **options: object) -> object:
        time.sleep(0.3)
        return quick(*arguments, **options)

    monkeypatch.setattr(module, slow, takes_long)
    monkeypatch.setattr(progress, "AFTER_S", 0.05)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    for name, value in (("TERM", "xterm"), ("NO_COLOR", "1"), ("COLUMNS", "200")):
        monkeypatch.setenv(name, value)
    done = procline("why", "41")
    assert done.code == 0 and f"\r{text}" in done.err and done.err.endswith("\r\033[K")
    assert done.out.startswith("sleep (pid 41)")


def test_a_past_time_and_a_namespace_are_passed_on(
    procline: Command, asked: Callable[..., list[dict[str, object]]]
) -> None:
    questions = asked(FACTS)
    assert procline("why", "41", "--at", "1700000000000000000").code == 0
    assert procline("why", "7", "--pid-ns", "4026532208").code == 0
    assert (questions[0]["at_ns"], questions[0]["wait_ms"]) == (1_700_000_000_000_000_000, 0)
    assert (questions[1]["pid"], questions[1]["pid_ns"], questions[1]["at_ns"]) == (7, 4026532208, None)


def test_a_process_by_its_name(procline: Command, asked: Callable[..., list[dict[str, object]]]) -> None:
    questions = asked(FACTS)
    assert procline("why", "sleep").code == 0 and questions[0]["pid"] == 41
    assert procline("why", "nobody-runs-this").code == 1
    assert procline("why", "sleep", "--at", "-5m").code == 2


def test_an_unknown_process(
    procline: Command, asked: Callable[..., list[dict[str, object]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked(None)
    monkeypatch.setattr(host, "is_kernel_thread", lambda pid: pid == 2)
    done = procline("why", "4711")
    assert (done.code, done.out) == (1, "") and "knows no process 4711" in done.err
    assert "is a kernel thread" in procline("why", "2").err


def test_a_time_that_is_none(procline: Command, asked: Callable[..., list[dict[str, object]]]) -> None:
    asked(FACTS)
    assert procline("why", "41", "--at", "yesterday").code == 2


@pytest.mark.parametrize("width", [40, 80, 120])
def test_it_fits_the_screen(width: int) -> None:
    facts = lineage(*([image(pid, "/usr/bin/" + "x" * 90, argv=["y" * 300])] for pid in range(40, 60)))
    lines = list(story(facts, *find(facts, NoHost())))
    assert lines and all(part.width <= width for line, indent in lines for part in line.wrapped(width, indent))

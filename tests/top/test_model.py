"""The state of the screen: time, recordings, search, and what happens when the instance ends."""

from __future__ import annotations

import shutil

import pytest

from pipeline.shm.layout import layout
from pipeline.top.facts import FactsCache
from pipeline.top.model import Model, Settings
from tests.top.host import Host, S, texts


def test_new_and_ended_processes_appear_and_disappear(host: Host) -> None:
    model = host.model(keep_s=1.0)
    host.now_ns = model.reading.now_boot_ns  # type: ignore[union-attr]
    host.start(50, "date", parent=40, ago=0)
    host.end(41, ago=0.2)
    assert model.step()
    assert texts(model) == ["1 init", "-40 bash", "--41 sleep", "--50 date"]
    assert [model.subject(number).state for number in range(4)] == [" ", " ", "-", "+"]
    model.settings.keep_s = 0.0
    assert model.step()
    assert texts(model) == ["1 init", "-40 bash", "--50 date"]


def test_a_pause_shows_the_same_moment_until_it_ends(host: Host) -> None:
    model = host.model()
    model.pause()
    host.start(50, "date", parent=40, ago=-1000)
    shown = texts(model)
    assert not model.step() or not model.step()
    assert texts(model) == shown
    assert model.span is not None
    model.pause()
    assert model.at_boot_ns is None, "it continues with the present"
    assert model.step()


def test_time_can_go_on_from_a_past_moment(host: Host) -> None:
    model = host.model()
    model.seek(host.ago(450))
    model.pause()
    assert not model.is_paused and model.at_boot_ns == host.ago(450)
    assert model.step()
    assert model.at_boot_ns is not None and host.ago(450) < model.at_boot_ns < host.ago(400)
    model.to_present()
    assert model.step() and model.at_boot_ns is None


def test_the_past_can_be_looked_at_while_the_host_runs(host: Host) -> None:
    model = host.model()
    model.seek(host.ago(450))
    assert model.read()
    assert texts(model) == ["1 init", "-40 bash"]
    model.seek(host.ago(10_000))
    assert model.at_boot_ns == model.span.begin_boot_ns  # type: ignore[union-attr]


def test_a_recording_is_played_from_its_begin_to_its_end(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    host.start(50, "date", parent=40, ago=10)
    host.end(50, ago=5)
    clock = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    model = Model(host.feed(recorded_ago=20), Settings(speed=2.0))
    assert model.is_recording and model.span is not None
    assert (model.span.begin_boot_ns, model.span.end_boot_ns) == (host.ago(10), host.ago(5))
    assert sum(model.span.counts) == 3  # the start, the exec and the end of one process
    clock[0] += 60  # a start on a slow host
    model.step()
    assert "--50 date" in texts(model) and not model.is_paused
    assert model.at_boot_ns == host.ago(10)
    clock[0] += 2
    model.step()
    assert model.at_boot_ns == host.ago(6)
    clock[0] += 2
    model.step()
    assert model.at_boot_ns == host.ago(5) and model.is_paused, "it stops at its end"
    model.pause()
    assert model.at_boot_ns == host.ago(10), "and begins again"


def test_search_finds_the_next_process_and_begins_again_at_the_top(host: Host) -> None:
    model = host.model()
    assert model.search(["sleep"], 0, 1) == 2
    assert model.search(["SLEEP", "100"], 2, 1) == 2
    assert model.search(["bin/bash"], 2, 1) == 1
    assert model.search(["40"], 2, -1) == 1
    assert model.search(["nothing"], 0, 1) == -1


def test_a_stopped_instance_is_stale_and_the_next_one_is_found(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    model = host.model()
    assert texts(model) == ["1 init", "-40 bash", "--41 sleep"]
    host.tables.control["state"] = layout.STATE_STOPPED
    assert not model.step()
    assert model.feed.problem.startswith("stale: ")
    assert texts(model) == ["1 init", "-40 bash", "--41 sleep"], "the last picture stays"
    shutil.rmtree(host.tables.directory)
    model.step()
    assert "not running" in model.feed.problem
    again = Host(host.tables.directory)
    again.start(1, "/sbin/other")
    model.feed.host = again  # type: ignore[attr-defined]
    monkeypatch.setattr("pipeline.top.feed._RETRY_S", 0.0)
    assert model.step()
    assert not model.feed.problem
    assert texts(model) == ["1 other"], "rows have other owners now"


def test_a_row_without_an_entry_shows_its_own_facts(host: Host) -> None:
    model = host.model()
    assert model.processes is not None
    facts = FactsCache(lambda link: None).of(model.processes, 2)
    assert (facts.fields["pid"], facts.command.plain) == (41, "[sleep]")


def test_facts_are_read_once_and_again_after_a_change(host: Host) -> None:
    model = host.model()
    read: list[int] = []
    cache = FactsCache(lambda link: (read.append(link), model.feed.image(link))[1])  # type: ignore[func-returns-value]
    for _ in range(3):
        cache.of(model.processes, 2)  # type: ignore[arg-type]
    assert len(read) == 1
    host.tables.change(host._rows[41], uid=5)
    model.step()
    assert cache.of(model.processes, 2).fields["uid"] == 5  # type: ignore[arg-type]
    assert len(read) == 2


def test_facts_of_processes_that_are_gone_are_forgotten(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.top.facts._KEPT_MIN", 1)
    model = host.model()
    texts(model)
    assert len(model.facts) == 3
    model.facts.keep({host.link(1)})
    assert len(model.facts) == 1


def test_long_arguments_are_cut(host: Host) -> None:
    argv = b"date", b"x" * 100_000
    host.start(50, "date", parent=40, args_ref=host.tables.strings("args", *argv), argc=len(argv))
    model = host.model(is_tree=False)
    assert len(model.subject(3).facts.command.plain) < 5000
    assert S


def test_hidden_arguments_are_completed_where_that_is_possible(host: Host) -> None:
    host.start(60, "date", parent=1, ago=1, args_ref=0, known=layout.KNOWN_START | layout.KNOWN_FILE)
    model = Model(host.feed(), Settings(is_tree=False), lambda entry: ["mine"] if entry.pid == 60 else None)
    assert model.step()
    assert [model.subject(number).facts.fields.get("argv") for number in (2, 3)] == [["sleep", "100"], ["mine"]]

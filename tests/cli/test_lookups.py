"""`procline resolve`, `ancestors`, `children` and `stat`: their output for a given table."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest

from pipeline import errors, paths
from pipeline.cli import common
from pipeline.shm.layout import layout
from pipeline.shm.layout.declared import CONTROL_LAYOUT
from tests.cli.conftest import Command
from tests.cli.fakes import FakeTable, entry


def test_an_entry_is_one_line_of_json(procline: Command, table: type[FakeTable]) -> None:
    done = procline("resolve", "41", "--json")
    assert done.code == 0 and done.err == ""
    assert done.out.count("\n") == 1
    assert json.loads(done.out) == table.entries[2].to_dict()


def test_a_process_that_was_forked_this_moment_is_waited_for(procline: Command, table: type[FakeTable]) -> None:
    procline("resolve", "41", "--json")
    assert table.calls[0] == ("resolve", 41, None, 200)


def test_a_past_moment_is_passed_on_and_not_waited_for(procline: Command, table: type[FakeTable]) -> None:
    assert procline("resolve", "41", "--json", "--at", "17").code == 0
    assert table.calls[0] == ("resolve", 41, 17, 0)


def test_a_moment_too_long_ago_is_not_called_absent(procline: Command, table: type[FakeTable]) -> None:
    table.failures = (errors.TooOldError("nothing is known from before 12:00"),) * 99
    done = procline("resolve", "41", "--at", "17")
    assert done.code == 1 and "before 12:00" in done.err


def test_people_see_command_and_lineage_first(procline: Command, table: type[FakeTable]) -> None:
    lines = procline("resolve", "41").out.splitlines()
    assert lines[0] == "41  sleep '1 0'"
    assert lines[1].split() == ["from", "bash(40)", "<", "systemd(1)"]
    shown = {line.split()[0] for line in lines[2:]}
    assert {"ppid", "start_time", "uid", "cap_effective", "is_exec"} <= shown
    assert not {"envs", "exit_time", "is_parent_missing", "marks"} & shown


@pytest.mark.parametrize("command", ["resolve", "ancestors", "children", "tree"])
def test_an_unused_pid_is_not_found(procline: Command, table: type[FakeTable], command: str) -> None:
    done = procline(command, "99")
    assert done.code == 1
    assert done.out == "" and done.err == "procline: instance 'default' knows no process 99\n"


def test_with_a_tracer_source_the_message_asks_for_pid_ns(
    procline: Command, table: type[FakeTable], runtime: Path
) -> None:
    (runtime / "default").mkdir()
    (runtime / "default" / paths.TIERS).write_text('{"tracer": "what tracers tell"}')
    assert "--pid-ns is needed" in procline("resolve", "99").err
    assert "--pid-ns is needed" not in procline("resolve", "99", "--pid-ns", "4026532208").err


@pytest.mark.parametrize(
    ("cause", "number", "text"),
    [
        ("exited", 3, "code 3"), ("signaled", 9, "signal 9 (SIGKILL)"), ("signaled", 40, "signal 40"),
        ("coredumped", 11, "signal 11 (SIGSEGV), core dumped"),
    ],
)  # fmt: skip
def test_the_cause_of_an_exit_is_shown_in_words(
    procline: Command, table: type[FakeTable], cause: str, number: int, text: str
) -> None:
    table.entries += (entry(43, exit_code=768, exit_cause=cause, exit_cause_code=number, is_thread=True,
                            created_at_ns=1_700_000_000_000_000_000),)  # fmt: skip
    lines = procline("resolve", "43").out.splitlines()
    assert f"  {'exit':18} {text}" in lines
    # The output has no wait status, no `is_thread`, and no bare number of ns.
    assert not [line for line in lines if "768" in line or "is_thread" in line or "_ns" in line]
    assert json.loads(procline("resolve", "43", "--json").out)["exit_code"] == 768


def test_an_exited_process_is_found(procline: Command, table: type[FakeTable]) -> None:
    done = procline("resolve", "42")
    assert done.code == 0 and "exit_time" in done.out


def test_ancestors_are_an_array_nearest_first(procline: Command, table: type[FakeTable]) -> None:
    done = procline("ancestors", "41", "--json")
    assert done.code == 0
    assert [each["pid"] for each in json.loads(done.out)] == [40, 1]
    assert json.loads(procline("ancestors", "1", "--json").out) == []
    assert "systemd -x" in procline("ancestors", "41").out


def test_children_are_an_array(procline: Command, table: type[FakeTable]) -> None:
    assert [each["pid"] for each in json.loads(procline("children", "40", "--json").out)] == [41, 42]
    text = procline("children", "40").out
    assert "sleep '1 0'" in text and "true -x (exited)" in text


def test_an_entry_that_is_evicted_during_a_read_is_read_again(procline: Command, table: type[FakeTable]) -> None:
    table.failures = (errors.TooOldError("evicted"),)
    assert procline("resolve", "41", "--json").code == 0


def test_names_of_processes_cannot_control_the_terminal(procline: Command, table: type[FakeTable]) -> None:
    table.entries = (entry(5, 0, "\x1b[2J", path="/tmp/\udcff\n", argv=["a\x1b]0;x\x07", "\u202e", "[red]"]),)
    for command in (["resolve", "5"], ["children", "0x"], ["tree"], ["ancestors", "5"], ["dump", "--dot"]):
        out = procline(*command).out
        assert not any(character in out for character in "\x1b\x07\u202e\udcff"), command
    out = procline("resolve", "5").out
    assert "\\x1b]0;x\\x07" in out and "/tmp/\\xff\\n" in out
    json_out = procline("resolve", "5", "--json").out
    assert json_out.isascii() and json.loads(json_out)["path"] == "/tmp/\udcff\n"


def test_statistics(procline: Command, table: type[FakeTable]) -> None:
    assert json.loads(procline("stat", "--json").out)["events"] == {"fork": 3, "exec": 0}
    text = procline("stat").out
    assert "fork 3" in text and "1.5 ms" in text and "3.0 MiB" in text


def test_a_caller_in_another_pid_namespace_is_warned(procline: Command, table: type[FakeTable]) -> None:
    directory = paths.instance_dir("default")
    directory.mkdir(parents=True)
    control = bytearray(layout.CONTROL.itemsize)
    (directory / "control").write_bytes(control)
    assert procline("resolve", "41", "--json").err == ""
    own = Path("/proc/self/ns/pid").stat().st_ino
    for inode, is_warned in ((own, False), (own + 1, True)):
        struct.pack_into("<I", control, CONTROL_LAYOUT.offset("pid_ns"), inode)
        (directory / "control").write_bytes(control)
        done = procline("resolve", "41", "--json")
        assert done.code == 0
        assert ("another pid namespace" in done.err) is is_warned


@pytest.mark.parametrize(
    ("ns", "text"),
    [
        (5, "5 ns"), (582_300, "582 µs"), (999_700, "1000 µs"), (1_580_000, "1.58 ms"), (1_500_000_000, "1.5 s"),
        (60_000_000_000, "1 min 0 s"), (3_599_999_999_999, "59 min 59 s"), (7_500_000_000_000, "2 h 5 min"),
        (86_400_000_000_000, "1 d 0 h"), (400 * 86_400_000_000_000 - 1, "399 d 23 h"),
    ],
)  # fmt: skip
def test_durations_are_for_people(ns: int, text: str) -> None:
    assert common.duration(ns) == text

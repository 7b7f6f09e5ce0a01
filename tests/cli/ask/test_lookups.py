"""`procline resolve`, `ancestors` and `children`: their output for a given table."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest

from pipeline import errors, paths
from pipeline.shm.layout import layout
from pipeline.shm.layout.declared import CONTROL_LAYOUT
from tests.cli.conftest import Command
from tests.cli.fakes import BOOT_NS, FakeTable, entry


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


def test_people_see_what_matters_first(
    procline: Command, table: type[FakeTable], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.time_ns", lambda: BOOT_NS + 100 * 10**9)
    table.entries += (
        entry(
            43, 40, "python3", uid=1000, user="alice", gid=1000, group="alice", euid=0, euser="root", cwd="/srv",
            argv=["python3", "x.py"], cgroup="/system.slice/web.service", container_id="0123456789abcdef" * 4,
            tty="pts/3", ssh_session={"username": "al", "client_ip": "10.0.0.9"}, marks=["adopted"],
        ),
    )  # fmt: skip
    lines = procline("resolve", "43").out.splitlines()
    assert lines[0] == "43  python3 x.py"
    shown = {line[:12].strip(): line[12:] for line in lines[1:]}
    assert shown["running"].startswith("for 57 s  since 2023-11-14 22:14:03")
    assert shown["user"] == "alice (1000), effective root (0)"
    assert shown["from"] == "bash(40) < systemd(1)"
    assert (shown["unit"], shown["container"]) == ("web.service", "0123456789ab")
    assert shown["session"] == "terminal pts/3, ssh al from 10.0.0.9"
    assert "did not create it" in shown["note"] and shown["directory"] == "/srv"
    assert len(lines) <= 12
    # Each number of root is named once.
    assert "  user      0\n" in procline("resolve", "41").out and "gid" not in procline("resolve", "41").out


def test_all_fields_are_shown_on_request(procline: Command, table: type[FakeTable]) -> None:
    brief, verbose = procline("resolve", "41").out, procline("resolve", "41", "-v").out
    assert verbose.startswith(brief.splitlines()[0])
    fields = {line.split()[0] for line in verbose[len(brief) :].splitlines() if line.strip()}
    assert {"ppid", "start_time", "uid", "cap_effective", "is_exec"} <= fields
    assert not {"envs", "exit_time", "is_parent_missing", "marks"} & fields


def test_a_name_finds_the_processes_that_run_it(procline: Command, table: type[FakeTable]) -> None:
    assert procline("resolve", "sleep").out.splitlines()[0] == "41  sleep '1 0'"
    table.entries += (entry(44, 40, "python3", argv=["python3", "/srv/sleep"]),)
    heading, first, second = procline("resolve", "sleep").out.splitlines()
    assert heading.split() == ["PID", "USER", "AGE", "COMMAND"]
    assert [line.split()[0] for line in (first, second)] == ["44", "41"]
    assert [each["pid"] for each in json.loads(procline("resolve", "sleep", "--json").out)] == [44, 41]
    # An exited process has no name any more.
    done = procline("resolve", "true")
    assert (done.code, done.out) == (1, "") and "no live process called 'true'" in done.err
    assert procline("resolve", "true", "--json").code == 1


@pytest.mark.parametrize("command", ["ancestors", "children", "tree"])
def test_a_name_must_be_of_one_process_for_its_relatives(
    procline: Command, table: type[FakeTable], command: str
) -> None:
    assert procline(command, "bash").out == procline(command, "40").out
    table.entries += (entry(45, 40, "bash"),)
    done = procline(command, "bash")
    heading, *lines, error = done.err.splitlines()
    assert (done.code, done.out) == (2, "") and "2 processes are called 'bash': use one of the pids above" in error
    assert heading.split() == ["PID", "USER", "AGE", "PARENT", "COMMAND"]
    shown = [line.split() for line in lines]
    assert [(pid, parent) for pid, _, _, *parent in shown] == [
        ("45", ["bash", "40", "bash", "-x"]), ("40", ["systemd", "1", "bash", "-x"]),
    ]  # fmt: skip
    assert procline(command, "nobody").code == 1


def test_a_long_list_of_namesakes_is_cut(procline: Command, table: type[FakeTable]) -> None:
    table.entries += tuple(entry(100 + number, 40, "worker") for number in range(30))
    done = procline("tree", "worker")
    assert len(done.err.splitlines()) == 22 and "use one of the pids above, and 10 more" in done.err


@pytest.mark.parametrize("command", [["ps"], ["grep", "x"]])
def test_under_accepts_the_name_of_processes(procline: Command, table: type[FakeTable], command: list[str]) -> None:
    named = procline(*command, "--under", "bash")
    assert named == procline(*command, "--under", "40") and named.code == 0 and "bash" in named.out
    none = procline(*command, "--under", "nobody")
    assert none.code == 1 and "knows no live process called 'nobody'" in none.err
    table.entries += (entry(70, 1, "bash"), entry(71, 70, "x"))
    several = procline(*command, "--under", "bash")
    assert several == procline(*command, "--under", "70", "--under", "40")
    assert several.out != procline(*command, "--under", "40").out
    unknown = procline(*command, "--under", "99")
    assert unknown.code == 1 and unknown.err == "procline: instance 'default' knows no process 99\n"


@pytest.mark.parametrize("option", [["--ask"], ["--fresh"], ["--at", "now"], ["--pid-ns", "7"]])
def test_only_a_pid_can_be_asked_for_otherwise(procline: Command, table: type[FakeTable], option: list[str]) -> None:
    assert procline("resolve", "sleep", *option).code == 2


@pytest.mark.parametrize("text", ["0", "²", "9" * 5000, "pid:[x]", str(1 << 32)])
def test_other_text_is_no_pid_namespace(procline: Command, text: str) -> None:
    done = procline("resolve", "7", "--pid-ns", text)
    assert done.code == 2 and "is not a pid namespace: use the inode of one" in done.err


@pytest.mark.parametrize(
    ("text", "time_ns"),
    [("now", BOOT_NS), ("-5m", BOOT_NS - 300 * 10**9), ("2023-11-14T22:13:20Z", BOOT_NS), ("17", 17)],
)
@pytest.mark.parametrize("command", ["resolve", "ancestors"])
def test_a_time_can_be_written_as_people_do(
    procline: Command, table: type[FakeTable], monkeypatch: pytest.MonkeyPatch, command: str, text: str, time_ns: int
) -> None:
    monkeypatch.setattr("time.time_ns", lambda: BOOT_NS)
    assert procline(command, "41", "--at", text, "--json").code == 0
    assert table.calls[0] == ("resolve", 41, time_ns, 0)


@pytest.mark.parametrize("command", ["resolve", "ancestors", "children", "tree"])
def test_an_unused_pid_is_not_found(procline: Command, table: type[FakeTable], command: str) -> None:
    done = procline(command, "99")
    assert done.code == 1
    assert done.out == "" and done.err == "procline: instance 'default' knows no process 99\n"


def test_with_a_tracer_source_the_message_asks_for_pid_ns(
    procline: Command, table: type[FakeTable], runtime: Path
) -> None:
    (runtime / "default").mkdir()
    (runtime / "default" / paths.TIERS).write_text('{"tracer": "what tracers report"}')
    assert "--pid-ns is needed" in procline("resolve", "99").err
    assert "--pid-ns is needed" not in procline("resolve", "99", "--pid-ns", "4026532208").err


@pytest.mark.parametrize(
    ("cause", "number", "text"),
    [
        ("exited", 3, "code 3"), ("signaled", 9, "signal 9 (SIGKILL)"), ("signaled", 40, "signal 40 (SIGRTMIN+6)"),
        ("coredumped", 11, "signal 11 (SIGSEGV), core dumped"),
    ],
)  # fmt: skip
def test_the_cause_of_an_exit_is_shown_in_words(
    procline: Command, table: type[FakeTable], cause: str, number: int, text: str
) -> None:
    ended = {"exit_code": 768, "exit_cause": cause, "exit_cause_code": number, "exit_time_ns": BOOT_NS + 44 * 10**9}
    table.entries += (entry(43, is_thread=True, created_at_ns=BOOT_NS, **ended),)
    assert f"ended     {text}, " in procline("resolve", "43").out
    lines = procline("resolve", "43", "-v").out.splitlines()
    assert f"  {'exit':18} {text}" in lines
    # The output has no wait status, no `is_thread`, and no bare number of ns.
    assert not [line for line in lines if "768" in line or "is_thread" in line or "_ns" in line]
    assert json.loads(procline("resolve", "43", "--json").out)["exit_code"] == 768


def test_an_exited_process_is_found(procline: Command, table: type[FakeTable]) -> None:
    done = procline("resolve", "42")
    assert done.code == 0 and "ended     in an unknown way" in done.out and "ago, after 8 s" in done.out


def test_ancestors_are_an_array_nearest_first(procline: Command, table: type[FakeTable]) -> None:
    done = procline("ancestors", "41", "--json")
    assert done.code == 0
    assert [each["pid"] for each in json.loads(done.out)] == [40, 1]
    assert json.loads(procline("ancestors", "1", "--json").out) == []


def test_ancestors_by_creator_lead_to_the_shell_that_started_a_daemon(
    procline: Command, table: type[FakeTable]
) -> None:
    """Where a creator is unknown, the parents follow."""
    table.entries = (
        *table.entries,
        entry(60, 40, creator_entity_id="e40", exit_time_ns=BOOT_NS + 61 * 10**9),
        entry(61, 1, "daemon", creator_entity_id="e60"),
    )
    assert [each["pid"] for each in json.loads(procline("ancestors", "61", "--json").out)] == [1]
    done = procline("ancestors", "61", "--by", "creator", "--json")
    assert [each["pid"] for each in json.loads(done.out)] == [60, 40, 1]
    assert [each["pid"] for each in json.loads(procline("ancestors", "41", "--by", "creator", "--json").out)] == [40, 1]


def test_ancestors_name_a_user_where_it_changes(
    procline: Command, table: type[FakeTable], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.time_ns", lambda: BOOT_NS + 100 * 10**9)
    alice = {"uid": 1000, "user": "alice"}
    table.entries = (
        entry(1, 0, "systemd", parent_entity_id=None), entry(40, 1, "sshd"),
        entry(41, 40, "bash", **alice), entry(42, 41, "sleep", container_id="0123456789abcdef", **alice),
    )  # fmt: skip
    assert procline("ancestors", "42").out.splitlines() == [
        "PID  USER   AGE  COMMAND",
        " 42  alice  58s  [in container 0123456789ab] sleep -x",
        " 41         59s  bash -x",
        " 40  0      60s  sshd -x",
        "  1         99s  systemd -x",
    ]


def test_children_are_an_array(procline: Command, table: type[FakeTable], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.time_ns", lambda: BOOT_NS + 100 * 10**9)
    assert [each["pid"] for each in json.loads(procline("children", "40", "--json").out)] == [41, 42]
    assert procline("children", "40").out.splitlines() == [
        "PID  USER  AGE  COMMAND",
        " 41  0     59s  sleep '1 0'",
        " 42  0     58s  [exited] true -x",
    ]
    done = procline("children", "41")
    assert (done.code, done.out) == (0, "") and "no live children" in done.err


def test_an_entry_that_is_evicted_during_a_read_is_read_again(procline: Command, table: type[FakeTable]) -> None:
    table.failures = (errors.TooOldError("evicted"),)
    assert procline("resolve", "41", "--json").code == 0


def test_names_of_processes_cannot_control_the_terminal(procline: Command, table: type[FakeTable]) -> None:
    table.entries = (entry(5, 0, "\x1b[2J", path="/tmp/\udcff\n", argv=["a\x1b]0;x\x07", "\u202e", "[red]"]),)
    table.entries += (entry(6, 5, "\x1b[2J", user="\x1b[1m", cwd="\u202e", cgroup="/\x07", tty="\x1b"),)
    for command in (
        ["resolve", "5"],
        ["resolve", "5", "-v"],
        ["children", "5"],
        ["resolve", "6"],
        ["tree"],
        ["ancestors", "5"],
        ["dump", "--dot"],
    ):
        done = procline(*command)
        out = done.out
        assert done.code == 0 and out.strip(), command
        assert not any(character in out for character in "\x1b\x07\u202e\udcff"), command
    out = procline("resolve", "5", "-v").out
    assert "\\x1b]0;x\\x07" in out and "/tmp/\\xff\\n" in out
    json_out = procline("resolve", "5", "--json").out
    assert json_out.isascii() and json.loads(json_out)["path"] == "/tmp/\udcff\n"


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

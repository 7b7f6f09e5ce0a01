"""`procline ps` and `procline grep`."""

from __future__ import annotations

import csv
import io
import json
from functools import partial
from pathlib import Path

import pytest

from pipeline.cli.ask import selecting
from pipeline.screen.terminal import Screen
from pipeline.select.patterns import Bounded
from pipeline.software.container_files import Names, NotAllowedError
from tests.cli.conftest import Command
from tests.cli.fakes import BOOT_NS, FakeTable, entry
from tests.shm.handmade import Tables

FAILED = {"exit_code": 256, "exit_cause": "exited", "exit_cause_code": 1, "exit_time_ns": BOOT_NS + 60 * 10**9}


@pytest.fixture(autouse=True)
def _clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set the clock to 100 s after the boot."""
    monkeypatch.setattr("time.time_ns", lambda: BOOT_NS + 100 * 10**9)


@pytest.fixture(autouse=True)
def _host(table: type[FakeTable]) -> None:
    table.entries = (*table.entries, entry(50, 40, "job", user="dev", uid=1000, cgroup="/x/cron.service", **FAILED))


def test_a_list_shows_the_living(procline: Command) -> None:
    done = procline("ps")
    assert done.code == 0
    assert done.out.splitlines() == [
        "PID  PPID  USER  AGE  COMMAND",
        "  1     0  0     99s  systemd -x",
        " 40     1  0     60s  bash -x",
        " 41    40  0     59s  sleep '1 0'",
    ]


def test_a_list_can_show_exited_processes(procline: Command) -> None:
    lines = procline("ps", "--exited").out.splitlines()
    assert lines[0].split() == ["PID", "PPID", "USER", "AGE", "DURATION", "ENDED", "COMMAND"]
    assert lines[-1].split() == ["50", "40", "dev", "50s", "10s", "code", "1", "job", "-x"]


def pids(out: str) -> list[int]:
    """Return the pid of each line."""
    return [int(line.split()[0]) for line in out.splitlines()[1:]]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--failed"], [50]),
        (["--since", "41s"], [1, 40, 41, 50]),
        (["--since", "39s"], [1, 40, 41]),
        (["--since", "41s", "--under", "40", "--where", "pid > 40"], [41, 50]),
        (["--user", "dev", "--exited"], [50]),
        (["--under", "40", "--exited"], [40, 41, 42, 50]),
        (["--path", "b*"], [40]),
        (["--unit", "cron", "--exited"], [50]),
        (["--where", "age >= 60s"], [1, 40]),
        (["--exited", "--where", "ended == 'code 1' or command ~ 'sl'"], [41, 50]),
        (["--exited", "--where", "exit_time_ns != null and user == null"], [42]),
        (["--sort", "-pid"], [41, 40, 1]),
        (["--exited", "--sort", "user,-pid"], [50, 42, 41, 40, 1]),
        (["--exited", "--sort", "-exit_time_ns"], [50, 42, 1, 40, 41]),
    ],
)
def test_processes_are_chosen_and_sorted(procline: Command, arguments: list[str], expected: list[int]) -> None:
    done = procline("ps", *arguments)
    assert done.code == 0
    assert pids(done.out) == expected


def test_adopted_daemons_descend_from_the_shell_that_started_them(procline: Command, table: type[FakeTable]) -> None:
    """The process between them has ended, and is shown only on request."""
    table.entries = (
        *table.entries,
        entry(60, 40, creator_entity_id="e40", exit_time_ns=BOOT_NS + 61 * 10**9),
        entry(61, 1, "daemon", creator_entity_id="e60"),
    )
    assert pids(procline("ps", "--under", "40").out) == [40, 41, 61]
    assert 60 in pids(procline("ps", "--under", "40", "--exited").out)
    live = procline("grep", "--live", "--under", "40", "--", "-x").out
    assert [line.split()[0] for line in live.splitlines()] == ["40", "61"]


def test_a_period_has_the_columns_of_exited_processes(procline: Command) -> None:
    assert procline("ps", "--since", "1m").out.splitlines()[0].split()[-2:] == ["ENDED", "COMMAND"]
    done = procline("ps", "--since", "yesterday")
    assert done.code == 2 and "--since: 'yesterday' is not a time" in done.err


def test_a_period_that_begins_too_early_is_named(
    procline: Command, runtime: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables = Tables(runtime / "test")
    tables.control["horizon_boot_ns"] = tables.control["ready_boot_ns"] = 50 * 10**9
    tables.control["boot_unix_ns"] = BOOT_NS
    monkeypatch.setattr(FakeTable, "directory", tables.directory)
    assert "not known" not in procline("ps", "--since", "49s").err
    done = procline("ps", "--since", "51s")
    assert done.code == 0 and "are not known: the capture began then" in done.err
    done = procline("ps", "--since", "51s", "--user", "nobody")
    assert done.code == 1 and "no process matches; processes that ended before" in done.err


def test_columns_are_chosen(procline: Command) -> None:
    lines = procline("ps", "-o", "pid,unit", "-o", "is_exec", "--exited").out.splitlines()
    assert lines[0].split() == ["PID", "UNIT", "IS_EXEC"]
    assert lines[-1].split() == ["50", "cron.service", "yes"]
    assert procline("ps", "-o", "+unit,container").out.splitlines()[0].split() == [
        "PID", "PPID", "USER", "AGE", "UNIT", "CONTAINER", "COMMAND"
    ]  # fmt: skip
    assert "age_ns" in procline("ps", "-o", "help").out
    assert procline("ps", "-o", "start_time_ns").out.splitlines()[1] == "2023-11-14 22:13:21.000000Z"


def test_names_of_containers_are_columns(
    procline: Command, table: type[FakeTable], monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the caller may not read the files, one message says that the names are missing."""
    table.entries = (*table.entries, *(entry(number, 40, "x", container_id="ab" * 32) for number in (60, 61)))
    monkeypatch.setattr(
        "pipeline.software.container_files.names_of", lambda number, root: Names("f", f"web-{number[:2]}")
    )
    done = procline("ps", "-o", "pid,container_name", "--where", "container_name ~ '^web'")
    assert [line.split() for line in done.out.splitlines()[1:]] == [["60", "web-ab"], ["61", "web-ab"]]

    def denied(number: str, root: str) -> Names | None:
        raise NotAllowedError

    monkeypatch.setattr("pipeline.software.container_files.names_of", denied)
    done = procline("ps", "-o", "pid,container_name", "--where", "container_id != null")
    assert [line.split() for line in done.out.splitlines()[1:]] == [["60", "-"], ["61", "-"]]
    assert done.err.count("only root may read") == 1
    assert "only root" not in procline("ps", "-o", "pid,container").err


def test_a_container_that_a_user_may_have_named_is_marked(procline: Command, table: type[FakeTable]) -> None:
    inside = {"container_id": "0123456789abcdef"}
    table.entries = (
        entry(5, 0, container_trust="root", **inside), entry(6, 0, container_trust="user", **inside), entry(7, 0),
    )  # fmt: skip
    lines = procline("ps", "-o", "pid,container").out.splitlines()[1:]
    assert [line.split(maxsplit=1)[1] for line in lines] == ["0123456789ab", "0123456789ab (named by a user?)", "-"]
    out = procline("ps", "--where", "container_trust == 'root'", "--container", "0123", "-o", "pid", "--json").out
    assert json.loads(out) == [{"pid": 5}]


def test_no_unit_and_an_unknown_unit_differ(procline: Command, table: type[FakeTable]) -> None:
    table.entries = (entry(5, 0, cgroup="/"), entry(6, 0, cgroup=None), entry(7, 0, cgroup="/docker/ab"))
    lines = procline("ps", "-o", "pid,unit").out.splitlines()[1:]
    assert [line.split(maxsplit=1)[1].strip() for line in lines] == ["no unit", "-", "no unit"]
    assert json.loads(procline("ps", "-o", "unit", "--json").out) == [{"unit": None}] * 3


def test_a_duration_is_written_like_an_age(procline: Command, table: type[FakeTable]) -> None:
    table.entries = (entry(5, 0, exit_time_ns=BOOT_NS + 58_900_000_000),)
    assert procline("ps", "--exited", "-o", "duration").out.split() == ["DURATION", "53s"]


def test_long_lines_of_a_pipe_are_cut_around_the_match(procline: Command, table: type[FakeTable]) -> None:
    table.entries = (entry(5, 0, argv=["sh", "-c", "a" * 5000 + "needle" + "b" * 5000]),)
    line = procline("grep", "needle").out
    assert "needle" in line and len(line) < 400
    assert len(procline("grep", "-v", "needle").out) > 10_000


def test_json_has_the_values_of_the_columns(procline: Command) -> None:
    found = json.loads(procline("ps", "--json", "--failed").out)
    assert found == [
        {"pid": 50, "ppid": 40, "user": "dev", "age_ns": 50 * 10**9, "duration_ns": 10 * 10**9, "ended": "code 1",
         "command": "job -x"}
    ]  # fmt: skip
    assert procline("ps", "--format", "json", "--failed").out == procline("ps", "--json", "--failed").out
    whole = json.loads(procline("ps", "--json", "-o", "all").out)[0]
    assert whole["pid"] == 1 and "entity_id" in whole and "ssh_session" in whole


def test_csv_has_a_line_for_each_process(procline: Command, table: type[FakeTable]) -> None:
    table.entries = (entry(5, 0, argv=["a,b", '"', "x\ny\x1b[31m"], is_kworker=False),)
    out = procline("ps", "-o", "pid,argv,container_id,is_kworker,command", "--format", "csv").out
    assert len(out.splitlines()) == 2
    (row,) = csv.DictReader(io.StringIO(out))
    assert json.loads(row["argv"]) == ["a,b", '"', "x\ny\x1b[31m"]
    assert row["container_id"] == "" and row["is_kworker"] == "false"
    assert "\x1b" not in out and row["command"].endswith(r"x\ny\x1b[31m'")


def test_hostile_text_does_not_reach_the_terminal(procline: Command, table: type[FakeTable]) -> None:
    table.entries = (entry(5, 0, "\x1b]0;x\x07", argv=["\x1b[2J\nroot", "\udcff"], path="/\x9b"),)
    for arguments in (["ps"], ["ps", "-o", "comm,path,argv,program"], ["grep", "root"], ["grep", "^/"], ["tree"]):
        out = procline(*arguments).out
        assert "\x1b" not in out and "\x9b" not in out and "\x07" not in out and len(out.splitlines()) <= 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["-o", "pid,comn"], "-o: there is no column 'comn': did you mean comm?"),
        (["--where", "pid =="], "--where: a value is missing at character 7"),
        (["--sort", "x"], "--sort: there is no column 'x'"),
        (["--sort", "agee"], "did you mean age?"),
        (["--format", "xml"], "xml"),
        (["--under", "0"], "not a pid"),
        (["--container", "abc"], "too short"),
    ],
)
def test_wrong_options_are_errors(procline: Command, arguments: list[str], said: str) -> None:
    done = procline("ps", *arguments)
    assert done.code == 2 and done.out == "" and said in done.err


def test_nothing_that_matches_is_said(procline: Command) -> None:
    done = procline("ps", "--user", "nobody")
    assert (done.code, done.out, done.err) == (1, "", "procline: no process matches\n")
    assert procline("ps", "--user", "nobody", "--json").out == "[]\n"


# -- grep --------------------------------------------------------------------------------------------------------------


def test_grep_searches_arguments_and_paths_of_live_and_exited_processes(procline: Command) -> None:
    done = procline("grep", "j.b|sleep")
    assert done.code == 0
    assert done.out.splitlines() == [
        "41  59s                     0    sleep '1 0'  ← bash 40 ← systemd 1",
        "50  exited 40s ago, code 1  dev  job -x  ← bash 40 ← systemd 1",
    ]
    assert [line.split()[0] for line in procline("grep", "j.b|sleep", "--live").out.splitlines()] == ["41"]
    assert procline("grep", "bin/sle+p").out == (
        "41  59s  0  sleep '1 0'  (/usr/bin/sleep)  ← bash 40 ← systemd 1\n"
    )  # fmt: skip
    assert procline("grep", "sleep 1 0").code == 0  # arguments have a space between them, and no quotes


def test_grep_without_matches_is_1(procline: Command) -> None:
    done = procline("grep", "nonesuch")
    assert (done.code, done.out) == (1, "")
    assert procline("grep", "nonesuch", "--json").out == "[]\n"


def test_grep_searches_plain_text_and_ignores_case(procline: Command) -> None:
    assert procline("grep", "-F", "b.sh").code == 1 and procline("grep", "b.sh").code == 0
    assert procline("grep", "BASH").code == 1 and procline("grep", "-i", "BASH").code == 0


def test_grep_selects(procline: Command) -> None:
    out = procline("grep", "--user", "dev", "--", "-x").out
    assert [line.split()[0] for line in out.splitlines()] == ["50"]


def test_grep_as_json_has_the_lineage(procline: Command) -> None:
    (found,) = json.loads(procline("grep", "job", "--json").out)
    assert found["pid"] == 50 and found["argv"] == ["job", "-x"] and "tid" in found
    assert [each["pid"] for each in found["lineage"]] == [40, 1]


def test_grep_marks_what_it_found(procline: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "\x1b[31m\x1b[1mlee\x1b[0m" in procline("grep", "lee").out


@pytest.mark.parametrize("width", [40, 80])
def test_grep_shows_the_match_of_a_long_command_line(
    procline: Command, table: type[FakeTable], monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    table.entries = (*table.entries, entry(60, 40, argv=["x" * 3000, "needle", "y" * 3000]))
    monkeypatch.setattr("pipeline.cli.ask.grep.Screen", lambda: narrow(width))
    lines = procline("grep", "needle").out.splitlines()
    assert max(map(len, lines)) <= width and 4 <= len(lines) <= 7
    text = " ".join(line.strip() for line in lines)
    assert "needle" in text and text.count("…") == 2 and text.endswith("← bash 40 ← systemd 1")


def narrow(width: int) -> Screen:
    """Return a terminal of this many columns, without colour."""
    screen = Screen()
    screen.is_terminal, screen.width, screen.has_colour = True, width, False
    return screen


@pytest.mark.parametrize("width", [40, 60, 120])
def test_lines_fit_the_terminal(
    procline: Command, table: type[FakeTable], monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    table.entries = tuple(entry(pid, pid - 1, argv=["program", "x" * pid * 10]) for pid in range(1, 40))
    for module in ("tree", "ps"):
        monkeypatch.setattr(f"pipeline.cli.ask.{module}.Screen", lambda: narrow(width))
        lines = procline(module).out.splitlines()
        assert max(map(len, lines)) <= width and len(lines) >= 39
        assert all("program" in line for line in lines[-39:])


@pytest.mark.slow
def end_searches_early(monkeypatch: pytest.MonkeyPatch) -> None:
    """End a search after less CPU time than for users."""
    monkeypatch.setattr(selecting, "Bounded", partial(Bounded, 0.01))


def test_grep_names_processes_that_could_not_be_compared(
    procline: Command, table: type[FakeTable], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process cannot hide from a search by arguments that make it slow."""
    table.entries = (*table.entries, entry(60, 1, argv=["a" * 40 + "!"]))
    done = procline("grep", "^(a+)+$|sleep")
    assert done.code == 2 and done.out.startswith("41 ")
    assert done.err == "procline: pid 60 was not compared: the search took more than 0.1 s\n"
    end_searches_early(monkeypatch)
    done = procline("ps", "--where", "argv ~ '^(a+)+$|sleep'")
    assert done.code == 2 and pids(done.out) == [41]
    done = procline("ps", "-o", "comm", "--where", "argv ~ '^(a+)+$|sleep'")
    assert done.code == 2 and done.err.startswith("procline: pid 60 was not compared") and "sleep" in done.out


def test_only_one_form_can_be_asked_for(procline: Command, table: type[FakeTable]) -> None:
    assert procline("ps", "--format", "csv", "--json").code == 2


def test_grep_names_the_nearest_parents_of_a_long_chain(procline: Command, table: type[FakeTable]) -> None:
    table.entries = tuple(entry(pid, pid - 1, f"c{pid}") for pid in range(1, 300))
    line = procline("grep", "bin/c299").out
    assert line.endswith(f"  ← {' ← '.join(f'c{pid} {pid}' for pid in range(298, 290, -1))} ← …\n")
    assert len(json.loads(procline("grep", "bin/c299", "--json").out)[0]["lineage"]) == 64


def test_grep_does_not_take_a_new_program_for_the_end(procline: Command, table: type[FakeTable]) -> None:
    """The image that was found can be replaced before all of it is read."""
    replaced = entry(60, 1, "cc", exit_time_ns=1_700_000_070_000_000_000, is_exited=False)
    ended = entry(61, 1, "cc", exit_time_ns=1_700_000_070_000_000_000, is_exited=True)
    table.entries = (*table.entries, replaced, ended)
    first, second = procline("grep", "bin/cc").out.splitlines()
    assert "exited" not in first and "exited" in second


def test_grep_stops_a_pattern_that_is_slow_everywhere(
    procline: Command, table: type[FakeTable], monkeypatch: pytest.MonkeyPatch
) -> None:
    end_searches_early(monkeypatch)
    table.entries = tuple(entry(pid, 1, argv=["a" * 40 + "!"]) for pid in range(100, 150))
    done = procline("grep", "^(a+)+$")
    assert done.code == 2 and len(done.err.splitlines()) == 11 and "the pattern takes too long" in done.err


@pytest.mark.parametrize("pattern", ["", "(", "[a"])
def test_a_wrong_pattern_is_an_error(procline: Command, pattern: str) -> None:
    assert procline("grep", pattern).code == 2

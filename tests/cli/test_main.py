"""Common behaviour of all commands: help, exit codes, one line for each error, few imports."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import click
import pytest

from pipeline import errors
from pipeline.cli import common
from pipeline.cli.commands import _SYNONYMS, COMMANDS, command_of, exit_code
from pipeline.screen import columns
from tests.cli.conftest import Command
from tests.cli.fakes import FakeTable


@pytest.mark.parametrize("name", COMMANDS)
def test_help_is_one_screen_and_ends_with_examples(procline: Command, name: str) -> None:
    done = procline(name, "--help")
    assert done.code == 0
    lines = done.out.splitlines()
    assert len(lines) <= 40
    assert "Examples:" in done.out
    assert max(map(len, lines)) <= 110


def test_help_of_all_names_every_command_and_imports_none(procline: Command) -> None:
    done = procline("--help")
    assert done.code == 0
    assert all(f"  {name} " in done.out for name in COMMANDS)
    assert "Examples:" in done.out


def test_no_command_shows_help_and_is_wrong_use(procline: Command) -> None:
    done = procline()
    assert done.code == 2 and "Ask about processes:" in done.err


@pytest.mark.parametrize(
    "arguments",
    [
        ["resolve", ""],
        ["resolve", "--", "-x"],
        ["resolve", "0"],
        ["resolve", "-5"],
        ["resolve", "4194305"],
        ["resolve"],
        ["ancestors", "0"],
        ["children", "4194305"],
        ["tree", ""],
        ["tree", "--json", "--dot"],
        ["dump", "--json", "--dot"],
        ["resolve", "1", "--at", "yesterday"],
        ["resolve", "1", "--at", "-5x"],
        ["stat", "--json", "--seconds", "1"],
        ["help", "frobnicate"],
        ["completion", "tcsh"],
        ["resolve", "1", "--at", "99999999999999999999"],
        ["resolve", "1", "--name", "a/b"],
        ["subscribe", "--count", "0"],
        ["wait", "--timeout", "-1"],
        ["wait", "--timeout", "nan"],
        ["subscribe", "--timeout", "nan"],
        ["record", "/dev/shm/none.rec", "--seconds", "nan"],
        ["frobnicate"],
        ["keys"],
        ["completion"],
        ["run", "--set", "nonsense"],
        ["run", "--source", "kafka"],
        ["run", "--shards", "0"],
        ["run", "--config", "/nonexistent.toml"],
        ["run", "--name", ".."],
        ["config", "--set", "capture.ring_byte=1", "--check"],
    ],
)
def test_wrong_use_is_one_line_and_code_2(procline: Command, table: type[FakeTable], arguments: list[str]) -> None:
    done = procline(*arguments)
    assert done.code == 2, done
    assert done.out == ""
    assert len(done.err.splitlines()) == 1, done.err


def test_a_word_in_place_of_a_number_is_named(procline: Command) -> None:
    assert "'x' is not a whole number" in procline("tree", "--depth", "x").err
    assert "'x' is not a number" in procline("stat", "--seconds", "x").err


def test_a_pid_that_is_none_is_quoted(procline: Command) -> None:
    assert "'-x' is neither a pid nor the name of a program" in procline("tree", "--", "-x").err
    assert "0 is not a pid: use a number from 1 to 4194304" in procline("tree", "0").err


def test_a_missing_value_names_the_command(procline: Command) -> None:
    assert procline("cost", "--under").err == (
        "procline cost: Option '--under' requires an argument (see procline cost --help)\n"
    )


def test_a_mistyped_command_is_guessed(procline: Command) -> None:
    done = procline("resolv", "1")
    assert (done.code, done.err) == (
        2,
        "procline: there is no command 'resolv'; did you mean resolve? (see procline --help)\n",
    )
    assert "did you mean" not in procline("frobnicate").err
    assert "did you mean children?" in procline("help", "childen").err


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("stop", "SIGTERM"),
        ("restart", "procline run"),
        ("start", "procline run"),
        ("status", "procline stat"),
        ("nosuch", "`procline help` lists all"),
    ],
)
def test_a_command_that_others_have_gets_advice(procline: Command, name: str, hint: str) -> None:
    for done in (procline(name), procline("help", name)):
        assert done.code == 2 and hint in done.err and "did you mean" not in done.err


@pytest.mark.parametrize(
    ("name", "hint"),
    [("events", "did you mean subscribe?"), ("pstree", "did you mean tree?"), ("4711", "`procline why 4711` explains")],
)
def test_a_name_that_people_try_first_leads_to_the_command(procline: Command, name: str, hint: str) -> None:
    done = procline(name)
    assert done.code == 2 and hint in done.err


def test_synonyms_are_no_commands_and_lead_to_commands() -> None:
    assert not set(_SYNONYMS) & set(COMMANDS) and set(_SYNONYMS.values()) <= set(COMMANDS)


def test_a_mistyped_option_topic_and_setting_are_guessed(procline: Command) -> None:
    assert "--json" in procline("resolve", "1", "--jsn").err
    assert "did you mean proc.exec?" in procline("subscribe", "proc.exce").err
    assert "did you mean unit?" in procline("cost", "--by", "unti").err
    assert "did you mean forks?" in procline("load", "fork").err
    assert "did you mean ring_bytes?" in procline("config", "--set", "capture.ring_byts=1").err
    assert "did you mean capture.ring_bytes?" in procline("config", "--set", "ring_bytes=8192").err
    assert "did you mean capture.ring_bytes?" in procline("config", "--set", "tables.ring_bytes=8192").err


def test_every_choice_of_words_is_guessed() -> None:
    commands = [command_of(name) for name in COMMANDS]
    commands += [inner for each in commands if isinstance(each, click.Group) for inner in each.commands.values()]
    kinds = {type(parameter.type) for each in commands for parameter in each.params}
    assert common.OneOf in kinds and click.Choice not in kinds


def test_help_of_a_command_is_that_of_its_option(procline: Command) -> None:
    for name in COMMANDS:
        assert procline("help", name).out == procline(name, "--help").out != ""
    assert procline("help").out == procline("--help").out
    assert procline("help", "fleet", "query").out == procline("fleet", "query", "--help").out != ""
    assert "has no command 'quer'; did you mean query?" in procline("help", "fleet", "quer").err
    assert "`procline tree` has no command 'x'" in procline("help", "tree", "x").err
    assert "use one topic" in procline("help", "creator_pid", "x").err


@pytest.mark.parametrize(
    ("topic", "words"),
    [
        ("creator_pid", "field of entries and events"),
        ("age", "column of `procline ps -o`"),
        ("file", "see Files"),
        ("creator", "attribute of an entry, in Python only"),
        ("descendants", "Return the processes below this one"),
        ("maps_full", "counter of `procline stat -v`"),
        ("freshness_ms", "capture.freshness_ms  setting, default 20.0"),
        ("capture.ring_bytes", "setting, default"),
    ],
)
def test_help_explains_fields_settings_and_counters(procline: Command, topic: str, words: str) -> None:
    done = procline("help", topic)
    assert (done.code, done.err) == (0, "") and words in done.out and "](" not in done.out


def test_help_explains_a_section_of_settings_and_guesses(procline: Command) -> None:
    from pipeline.config.schema import Config, settings

    done = procline("help", "capture")
    assert all(key in done.out for key, _, _ in settings(Config()) if key.startswith("capture."))
    done = procline("help", "creator_pidd")
    assert done.code == 2 and "there is no command or topic 'creator_pidd'; did you mean creator_pid?" in done.err


def test_help_explains_every_computed_column() -> None:
    computed = {name for name, fact in columns.facts(0).items() if fact.needs != (name,)}
    assert set(columns.MEANINGS) == computed


def test_help_explains_every_field_and_counter(procline: Command) -> None:
    from pipeline.cli.topics import explained, names

    assert len(names()) > 200
    assert all(explained(name) for name in names())


def test_the_environment_names_the_instance(
    procline: Command, table: type[FakeTable], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROCLINE_INSTANCE", "nobody")
    assert "nobody" in procline("resolve", "1").err
    assert procline("resolve", "1", "--name", "default").code == 0


@pytest.mark.parametrize(
    "arguments",
    [["resolve", "1"], ["ancestors", "1"], ["children", "1"], ["tree"], ["dump", "--json"], ["stat"],
     ["wait", "--timeout", "0.05"]],
)  # fmt: skip
def test_no_instance_is_code_3_and_the_message_names_the_command(
    procline: Command, table: type[FakeTable], arguments: list[str]
) -> None:
    done = procline(arguments[0], "--name", "nobody", *arguments[1:])
    assert done.code == 3
    assert done.out == ""
    assert len(done.err.splitlines()) == 1
    assert "nobody" in done.err and "procline run --name nobody" in done.err


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.ConfigError("x"), 2),
        (errors.UnsupportedError("x", hint="do y"), 2),
        (errors.LoadError("x"), 2),
        (errors.WriterExistsError("x"), 2),
        (errors.AccessError("x"), 2),
        (errors.LayoutError("x"), 2),
        (errors.TooOldError("x"), 1),
        (errors.UntrustedError("x"), 2),
        (errors.NotRunningError("x"), 3),
    ],
)
def test_each_error_has_its_code(
    procline: Command, table: type[FakeTable], error: errors.ProclineError, code: int
) -> None:
    assert exit_code(error) == code
    table.failures = (error,) * 99
    done = procline("resolve", "1")
    assert done.code == code
    assert done.err.startswith("procline: x") and len(done.err.splitlines()) == 1


def test_a_resolver_that_is_being_replaced_is_waited_for(procline: Command, table: type[FakeTable]) -> None:
    table.failures = (errors.StaleError("gone"), errors.BusyError("busy"), errors.StaleError("gone"))
    assert procline("resolve", "40", "--json").code == 0


def test_a_resolver_that_does_not_return_is_reported(
    procline: Command, table: type[FakeTable], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.cli.common.PATIENCE_S", 0.05)
    table.failures = (errors.StaleError("its writer is gone"),) * 1000
    done = procline("resolve", "40")
    assert done.code == 75 and "its writer is gone" in done.err


def test_an_interrupt_is_quiet(procline: Command, table: type[FakeTable]) -> None:
    table.failures = (KeyboardInterrupt(),)  # type: ignore[assignment]
    done = procline("resolve", "40")
    assert done.code == 130 and "Traceback" not in done.err


def test_a_closed_output_pipe_is_no_error() -> None:
    """The example is written at once at the end, so the reader has certainly gone when the command writes."""
    command = f"set -o pipefail; {{ sleep 0.2; {sys.executable} -m pipeline.cli.main config --example; }} | true"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_an_error_of_another_pipe_is_not_taken_for_a_closed_output() -> None:
    """It is a failure, even if the output is not read to its end."""
    code = (
        "import sys; from pipeline.cli import main, version\n"
        "def fail(**_): raise BrokenPipeError(32, 'another')\n"
        "version.command.callback = fail; sys.exit(main.main(['version']))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60, check=False).returncode == 1


def test_the_beginning_of_the_output_can_be_read() -> None:
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {sys.executable} -m pipeline.cli.main config --example | head -1"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.startswith("# Settings")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("command", ["resolve 1", "wait --timeout 0"])
@pytest.mark.parametrize(("closed", "errors"), [("", 1), ("2>&-", 0), (">&-", 1)])
def test_a_command_ends_with_its_exit_code_and_its_message(
    runtime: Path, command: str, closed: str, errors: int
) -> None:
    """It ends the process itself, without the interpreter."""
    command = f"{sys.executable} -m pipeline.cli.main {command} --name nobody {closed}"
    environment = {**os.environ, "PROCLINE_RUNTIME_DIR": str(runtime)}
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60, env=environment)
    message = done.stderr.count("is not running")
    assert (done.returncode, done.stdout, message) == (3, "", errors)


def test_a_look_up_imports_little() -> None:
    code = (
        "import sys; from pipeline.cli.main import main; code = main(['resolve', '1', '--name', 'nobody']);"
        "print(code, sorted({name.split('.')[0] for name in sys.modules}), sorted(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.startswith("3 ")
    for heavy in (
        "numpy",
        "rich.console",
        "msgspec",
        "pythonjsonlogger",
        "pylibbpf",
        "llvmlite",
        "re2",
        "zmq",
        "asyncio",
    ):
        assert f"'{heavy}'" not in done.stdout, heavy


def test_versions(procline: Command) -> None:
    assert procline("--version").out.startswith("procline ")
    assert procline("-V").out == procline("--version").out
    assert "python 3." in procline("version").out
    assert '"kernel"' in procline("version", "--json").out


def test_output_to_a_full_disk_is_one_line_and_code_2() -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "pipeline.cli.main", "config", "--example"],
            stdout=full, stderr=subprocess.PIPE, text=True, timeout=30,
        )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr == ("procline: cannot write the output: No space left on device; the output is incomplete\n")


def test_a_measurement_without_an_end_is_an_error(procline: Command, table: type[FakeTable]) -> None:
    done = procline("bench-read", "--seconds", "inf")
    assert done.code == 2 and "a measurement must end" in done.err

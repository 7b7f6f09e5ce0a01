"""The group of all subcommands: find the subcommand, and turn an error into one line and an exit code.

Each subcommand is a module of `ask`, `operate` or this package with a click command named `command`. The module is
imported only when its command is called, so a look-up does not load the packages of `run` or `tree`. Data goes to
standard output, everything else to standard error.

    code  meaning
    0     success; a process was found (it may have exited and be retained). Also if the reader of the output
          has closed the pipe, as `head` does
    1     not found, or no longer known; for `doctor`: a needed feature is missing; for `load`:
          events were lost or wrong
    2     the command cannot work: wrong arguments or settings, missing permissions or host features, the instance is
          already running, or the output cannot be written
    3     no running instance: it was not started, is not ready, or has ended
    4     only `run` and `replay`: a process of the daemon died repeatedly, or its start took too long
    75    the instance cannot answer now: it is busy, behind, or its resolver is being replaced. Try again (EX_TEMPFAIL)
    130   interrupted
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import os
import select
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import click

from pipeline import errors, journald
from pipeline.spelling import did_you_mean
from pipeline.version import __version__

#: The commands with their line in `procline --help`, by the package that contains them.
ASK = {
    "resolve": "Show a process and its lineage.",
    "why": "Explain a process: what it is, who started it, and how.",
    "ancestors": "Show the parents of a process, nearest first.",
    "children": "Show the live children of a process.",
    "tree": "Show the tree of processes, as text, JSON, DOT or SVG.",
    "ps": "List processes, with columns and conditions of your choice.",
    "grep": "Find processes by arguments and path, also exited ones.",
    "cost": "Sum up what processes have used: CPU, memory, storage.",
    "timeline": "Write a page that shows when each process ran.",
    "top": "Show the processes live on the screen, and who spawns them.",
    "dump": "Print the whole table, as JSON or DOT.",
    "subscribe": "Print events as they happen.",
}
OPERATE = {
    "run": "Start an instance and keep it running.",
    "wait": "Wait until an instance is ready.",
    "list": "List the running instances.",
    "stat": "Show counters, sizes and costs of an instance.",
    "doctor": "Check whether an instance can run on this host.",
    "config": "Show, check or explain settings.",
    "keys": "Create, allow and revoke keys for the stream over TCP.",
    "record": "Record the events of this host into a file.",
    "forward": "Send the events to NATS JetStream, or to a file.",
    "replay": "Start an instance from a recording.",
    "fleet": "Keep the events of many hosts, and ask about all of them.",
    "load": "Make processes, and check that an instance reports them all.",
    "bench-read": "Measure what a look-up costs on this host.",
}
ITSELF = {
    "completion": "Print the completion script for a shell.",
    "version": "Show the versions of Procline, Python and the kernel.",
    "help": "Explain a command, a setting, a field or a counter.",
}
#: Heading in the help, package and commands of each group.
GROUPS = (
    ("Ask about processes", "pipeline.cli.ask", ASK),
    ("Run and watch an instance", "pipeline.cli.operate", OPERATE),
    ("This command", "pipeline.cli", ITSELF),
)
#: Name of each command, and its line in the help.
COMMANDS = {**ASK, **OPERATE, **ITSELF}

EXIT_NOT_FOUND = 1
EXIT_USAGE = 2
EXIT_NOT_RUNNING = 3
EXIT_GAVE_UP = 4
EXIT_TRY_AGAIN = 75
EXIT_INTERRUPTED = 130

#: Errors of writing to standard output, for example to a file on a full disk.
_CANNOT_WRITE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG})

_EXIT_CODES: tuple[tuple[type[errors.ProclineError], int], ...] = (
    (errors.TooOldError, EXIT_NOT_FOUND),
    (errors.HopelessError, EXIT_USAGE),
    (errors.GivingUpError, EXIT_GAVE_UP),
    (errors.NotRunningError, EXIT_NOT_RUNNING),
    (errors.StaleError, EXIT_TRY_AGAIN),
    (errors.BusyError, EXIT_TRY_AGAIN),
)

_STOP = (
    "end an instance with Ctrl-C in its terminal, with SIGTERM (`procline list` shows its pid), or with systemctl stop"
)
#: What to do instead of a command that service managers have.
_SERVICE = {
    "stop": _STOP, "kill": _STOP, "restart": f"{_STOP}, and start it with `procline run`",
    "start": "start an instance with `procline run`, or systemctl start procline",
    "status": "`procline list` shows the instances, and `procline stat` one of them",
}  # fmt: skip

#: Commands by names that people try first, because other programs have them.
_SYNONYMS = {
    "events": "subscribe", "follow": "subscribe", "tail": "subscribe", "watch": "subscribe", "info": "resolve",
    "inspect": "resolve", "show": "resolve", "explain": "why", "who": "why", "parents": "ancestors", "pstree": "tree",
    "find": "grep", "pgrep": "grep", "search": "grep", "rates": "top", "usage": "cost", "metrics": "stat",
    "check": "doctor", "settings": "config", "bench": "bench-read",
}  # fmt: skip

#: What a value is not, in words, by the name of its type in click.
_KINDS = {"integer": "is not a whole number", "float": "is not a number"}

EPILOG = """\b
Examples:
  procline run &                       start an instance (as root)
  procline wait                        wait until it knows all processes
  procline why 4711                    what process 4711 is, and who started it
  procline tree                        show all live processes
  procline ps --under sshd --since 1m  what ran under sshd in the last minute
  procline top                         watch processes start and end
  procline top --rates --by unit       which unit spawns most
  procline cost --path make            what a build executed, and what that cost
  procline cost --by unit              which unit has used the most
  procline cost --by unit --sort processes    which unit has had the most processes
  procline subscribe exec              print each exec as it happens
  procline stat                        what Procline itself costs, and what it lost
  procline help subscribe              the options of a command, with examples
"""


def command_of(name: str) -> click.Command:
    """Import and return one of `COMMANDS`."""
    [package] = [package for _, package, commands in GROUPS if name in commands]
    command = importlib.import_module(f"{package}.{name.replace('-', '_')}").command
    assert isinstance(command, click.Command)
    return command


class _ReaderGoneError(Exception):
    """The reader of the output has closed the pipe. click would exit with 1 on a BrokenPipeError."""


@contextlib.contextmanager
def _reader_may_go() -> Iterator[None]:
    """Raise _ReaderGoneError if the body fails because no process reads the output; an error of another pipe stays."""
    try:
        yield
    except BrokenPipeError:
        poll = select.poll()
        with contextlib.suppress(OSError, ValueError):  # not a file
            for stream in (sys.stdout, sys.stderr):
                poll.register(stream.fileno(), 0)  # POLLERR, always reported: the pipe has no reader
        if not any(events & select.POLLERR for _, events in poll.poll(0)):
            raise
        raise _ReaderGoneError from None


class Commands(click.Group):
    """The subcommands of `COMMANDS`, each imported when it is called."""

    def make_context(self, *arguments: Any, **options: Any) -> click.Context:
        """Read the arguments; this may print a help text."""
        with _reader_may_go():
            return super().make_context(*arguments, **options)

    def invoke(self, ctx: click.Context) -> Any:
        """Call the subcommand."""
        with _reader_may_go():
            return super().invoke(ctx)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of the subcommands, in the order of the help."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return a subcommand; None if it does not exist."""
        if cmd_name not in COMMANDS:
            return None
        return command_of(cmd_name)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the subcommand that the first argument names; of an unknown one, report the most similar name."""
        name = args[0]
        if name not in COMMANDS and not name.startswith("-"):
            ctx.fail(unknown_command(name))
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of subcommands without importing them."""
        for heading, _, commands in GROUPS:
            with formatter.section(heading):
                formatter.write_dl(list(commands.items()))


def unknown_command(name: str, topics: Sequence[str] = ()) -> str:
    """Return the message about a command that does not exist; `topics` are other names that are possible."""
    if name in _SERVICE:
        return f"there is no command {name!r}; {_SERVICE[name]}"
    if name.isdigit():
        return f"there is no command {name!r}; `procline why {name}` explains the process with that pid"
    known = [_SYNONYMS[name]] if name in _SYNONYMS else [*COMMANDS, *topics]
    meant = did_you_mean(_SYNONYMS.get(name, name), known, "`procline help` lists all")
    what = "command or topic" if topics else "command"
    return f"there is no {what} {name!r}; {meant}"


def _print_version(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        click.echo(f"procline {__version__}")
        ctx.exit()


@click.group(
    cls=Commands, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.option(
    "-V",
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_version,
    help="Show the version.",
)
def cli() -> None:
    """Show the processes of this Linux host and their lineage.

    An instance of Procline records every process: what it runs, its parents, and how it ended. The other commands read
    the instance's tables, which also retain exited processes.
    """


def exit_code(error: errors.ProclineError) -> int:
    """Return the exit code of an error; this module's docstring lists them."""
    return next((code for kind, code in _EXIT_CODES if isinstance(error, kind)), EXIT_USAGE)


def explain(error: errors.ProclineError) -> str:
    """Return one line about what failed and what to do."""
    text = " ".join(str(error).split())
    if isinstance(error, errors.StartingError):
        return text
    if isinstance(error, errors.NotRunningError) and "procline run" not in text:
        name = f" --name {error.instance}" if error.instance not in {"", "default"} else ""
        text += f"; start one with: procline run{name}"
    if isinstance(error, errors.NotRunningError):
        from pipeline.host.instances import others

        if not error.running and (names := others(error.instance)):
            text += f"; running: {', '.join(names)}"
        text += " (choose with --name)" if "; running: " in text else ""
    return text


def call(arguments: Sequence[str]) -> int:
    """Run a command and return its exit code."""
    # When numpy is imported, BLAS would start a thread for each CPU, but no command multiplies matrices.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    for stream in (sys.stdout, sys.stderr):
        # Names of processes and files can contain any byte, so text that the terminal cannot encode must not fail.
        with contextlib.suppress(AttributeError, ValueError):
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        result = cli.main(list(arguments), "procline", standalone_mode=False)
        sys.stdout.flush()
        return result if isinstance(result, int) else 0
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return EXIT_USAGE
    except click.ClickException as error:
        context = getattr(error, "ctx", None)
        path = context.command_path if context else _command_path(arguments)
        text = error.format_message().rstrip(".")
        for kind, called in _KINDS.items():
            text = text.replace(f"is not a valid {kind} range", called).replace(f"is not a valid {kind}", called)
        _complain(f"{path}: {text} (see {path} --help)")
        return EXIT_USAGE
    except errors.ProclineError as error:
        _complain(f"procline: {explain(error)}")
        return exit_code(error)
    except (click.Abort, KeyboardInterrupt):
        return EXIT_INTERRUPTED
    except (BrokenPipeError, _ReaderGoneError):
        # The reader has what it wanted, as `head` does.
        _drop_output()
        return 0
    except OSError as error:
        if error.errno not in _CANNOT_WRITE or error.filename is not None:
            raise
        _complain(f"procline: cannot write the output: {error.strerror}; the output is incomplete")
        _drop_output()
        return EXIT_USAGE


def _command_path(arguments: Sequence[str]) -> str:
    """Return the command with its subcommand, for errors that do not say to which one they belong."""
    return f"procline {arguments[0]}" if arguments and arguments[0] in COMMANDS else "procline"


def _complain(text: str) -> None:
    """Print why the command failed; in the journal with the priority of an error."""
    click.echo(journald.prefixed(text, journald.ERROR) if journald.is_journal(sys.stderr) else text, err=True)


def _drop_output() -> None:
    """Redirect standard output to /dev/null, so that the interpreter does not report the error again at exit."""
    with contextlib.suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

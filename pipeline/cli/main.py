"""The `procline` command: finds the subcommand, and turns what goes wrong into one line and an exit code.

Each subcommand is a module of this package with a click command named `command`, imported only when it is called: a
look-up must not pay for what `run` or `tree` need. Data goes to standard output, everything else to standard error.

    code  meaning
    0     done, found (also when it has exited and is retained)
    1     not found, or no longer known; for `doctor`: something is missing
    2     it cannot work so: arguments, settings, permissions, what the host lacks, an instance that runs already, or
          output that cannot be written
    3     no running instance: none was started, it is not ready, it has ended
    4     only `run` and `replay`: a process of the daemon died again and again, or its start took too long
    75    the instance cannot answer now: it is busy, behind, or its resolver is being replaced. Ask again (EX_TEMPFAIL)
    130   interrupted
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import os
import sys
from collections.abc import Sequence

import click

from pipeline import errors

#: Name: what `procline --help` says of it.
COMMANDS = {
    "run": "Start an instance and keep it running.",
    "wait": "Wait until an instance is ready.",
    "resolve": "What is this pid, and where did it come from?",
    "ancestors": "Parents of a process and its earlier images, nearest first.",
    "children": "Live children of a process.",
    "tree": "The tree of processes, as text, JSON, DOT or SVG.",
    "dump": "What the table has of all pids, as JSON or DOT.",
    "subscribe": "Follow events as they happen.",
    "stat": "Counters, sizes and costs of an instance.",
    "record": "Record the events of this host into a file.",
    "replay": "Start an instance from a recording.",
    "doctor": "What this host offers, what is missing, and what to do.",
    "config": "Show, check or explain settings.",
    "version": "Show the version.",
}

EXIT_NOT_FOUND = 1
EXIT_USAGE = 2
EXIT_NOT_RUNNING = 3
EXIT_GAVE_UP = 4
EXIT_TRY_AGAIN = 75
EXIT_INTERRUPTED = 130
EXIT_BROKEN_PIPE = 141

#: Standard output is a file on a full disk, or the like.
_CANNOT_WRITE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG})

_EXIT_CODES: tuple[tuple[type[errors.ProclineError], int], ...] = (
    (errors.TooOldError, EXIT_NOT_FOUND),
    (errors.HopelessError, EXIT_USAGE),
    (errors.GivingUpError, EXIT_GAVE_UP),
    (errors.NotRunningError, EXIT_NOT_RUNNING),
    (errors.StaleError, EXIT_TRY_AGAIN),
    (errors.BusyError, EXIT_TRY_AGAIN),
)

EPILOG = """\b
Examples:
  procline run &                     start following this host's processes
  procline wait --timeout 10         until it knows them all
  procline resolve 4711              what is 4711?
  procline tree                      all of them
  procline subscribe proc.exec       what is being executed, as it happens
"""


class Commands(click.Group):
    """The subcommands of `COMMANDS`, each imported when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command = importlib.import_module(f"pipeline.cli.{cmd_name}").command
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


def _print_version(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        from pipeline.cli.version import version

        click.echo(f"procline {version()}")
        ctx.exit()


@click.group(
    cls=Commands, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_print_version, help="Show the version."
)
def cli() -> None:
    """What is this pid, and where did it come from?

    Procline follows the processes of a Linux host and answers for each of them, also when it has exited.
    """


def exit_code(error: errors.ProclineError) -> int:
    """Return the exit code that stands for an error; the table is in this module's docstring."""
    return next((code for kind, code in _EXIT_CODES if isinstance(error, kind)), EXIT_USAGE)


def explain(error: errors.ProclineError) -> str:
    """Return one line that says what happened and what to do."""
    text = " ".join(str(error).split())
    if isinstance(error, errors.NotRunningError) and "procline run" not in text:
        name = f" --name {error.instance}" if error.instance not in {"", "default"} else ""
        text += f"; start one with: procline run{name}"
    return text


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code."""
    # BLAS would start a thread for each CPU when numpy is imported; nothing here multiplies matrices.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    for stream in (sys.stdout, sys.stderr):
        # Names of processes and files can hold any byte; no terminal's encoding is a reason to stop.
        with contextlib.suppress(AttributeError, ValueError):
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        result = cli.main(None if arguments is None else list(arguments), "procline", standalone_mode=False)
        sys.stdout.flush()
        return result if isinstance(result, int) else 0
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return EXIT_USAGE
    except click.ClickException as error:
        context = getattr(error, "ctx", None)
        path = context.command_path if context else "procline"
        click.echo(f"{path}: {error.format_message()} (see {path} --help)", err=True)
        return EXIT_USAGE
    except errors.ProclineError as error:
        click.echo(f"procline: {explain(error)}", err=True)
        return exit_code(error)
    except (click.Abort, KeyboardInterrupt):
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        _drop_output()
        return EXIT_BROKEN_PIPE
    except OSError as error:
        if error.errno not in _CANNOT_WRITE or error.filename is not None:
            raise
        click.echo(f"procline: cannot write the output: {error.strerror}: what is there is incomplete", err=True)
        _drop_output()
        return EXIT_USAGE


def _drop_output() -> None:
    """Standard output cannot be written; the interpreter would complain once more when it flushes at its end."""
    with contextlib.suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def run() -> None:
    """Run as a program."""
    sys.exit(main())


if __name__ == "__main__":
    run()

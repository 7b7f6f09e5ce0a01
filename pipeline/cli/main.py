"""The `procline` command: find the subcommand, and turn an error into one line and an exit code.

Each subcommand is a module of this package with a click command named `command`. The module is imported only when its
command is called, so a look-up does not load the packages of `run` or `tree`. Data goes to standard output, everything
else to standard error.

    code  meaning
    0     success; a process was found (it may have exited and be retained)
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
import sys
from collections.abc import Sequence

import click

from pipeline import __version__, errors, journal

#: Name of each command, and its line in `procline --help`.
COMMANDS = {
    "run": "Start an instance and keep it running.",
    "wait": "Wait until an instance is ready.",
    "resolve": "Show a process and its lineage.",
    "ancestors": "Show the parents of a process, nearest first.",
    "children": "Show the live children of a process.",
    "tree": "Show the tree of processes, as text, JSON, DOT or SVG.",
    "dump": "Print the whole table, as JSON or DOT.",
    "subscribe": "Print events as they happen.",
    "stat": "Show counters, sizes and costs of an instance.",
    "record": "Record the events of this host into a file.",
    "replay": "Start an instance from a recording.",
    "load": "Make processes, and check that an instance reports them all.",
    "doctor": "Check whether an instance can run on this host.",
    "config": "Show, check or explain settings.",
    "version": "Show the versions of Procline, Python and the kernel.",
}

EXIT_NOT_FOUND = 1
EXIT_USAGE = 2
EXIT_NOT_RUNNING = 3
EXIT_GAVE_UP = 4
EXIT_TRY_AGAIN = 75
EXIT_INTERRUPTED = 130
EXIT_BROKEN_PIPE = 141

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

EPILOG = """\b
Examples:
  procline run &                     start an instance (as root)
  procline wait --timeout 10         wait until it knows all processes
  procline resolve 4711              show the process with pid 4711
  procline tree                      show all live processes
  procline subscribe proc.exec       print each exec as it happens
"""


class Commands(click.Group):
    """The subcommands of `COMMANDS`, each imported when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of the subcommands, in the order of the help."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return a subcommand; None if it does not exist."""
        if cmd_name not in COMMANDS:
            return None
        command = importlib.import_module(f"pipeline.cli.{cmd_name}").command
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of subcommands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


def _print_version(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        click.echo(f"procline {__version__}")
        ctx.exit()


@click.group(
    cls=Commands, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_print_version, help="Show the version."
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
    """Return one line that says what failed and what to do."""
    text = " ".join(str(error).split())
    if isinstance(error, errors.NotRunningError) and "procline run" not in text:
        name = f" --name {error.instance}" if error.instance not in {"", "default"} else ""
        text += f"; start one with: procline run{name}"
    return text


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code."""
    # When numpy is imported, BLAS would start a thread for each CPU, but no command multiplies matrices.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    for stream in (sys.stdout, sys.stderr):
        # Names of processes and files can contain any byte, so text that the terminal cannot encode must not fail.
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
        _complain(f"{path}: {error.format_message()} (see {path} --help)")
        return EXIT_USAGE
    except errors.ProclineError as error:
        _complain(f"procline: {explain(error)}")
        return exit_code(error)
    except (click.Abort, KeyboardInterrupt):
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        _drop_output()
        return EXIT_BROKEN_PIPE
    except OSError as error:
        if error.errno not in _CANNOT_WRITE or error.filename is not None:
            raise
        _complain(f"procline: cannot write the output: {error.strerror}; the output is incomplete")
        _drop_output()
        return EXIT_USAGE


def _complain(text: str) -> None:
    """Print why the command failed; in the journal with the priority of an error."""
    click.echo(journal.prefixed(text, journal.ERROR) if journal.is_journal(sys.stderr) else text, err=True)


def _drop_output() -> None:
    """Redirect standard output to /dev/null, so that the interpreter does not report the error again at exit."""
    with contextlib.suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def run() -> None:
    """Run the command line of this process and exit."""
    sys.exit(main())


if __name__ == "__main__":
    run()

"""The `procline` command: wake the instance, import the commands, and run one. `commands` lists the exit codes."""

from __future__ import annotations

import sys

from pipeline.cli import catching_up

TYPE_CHECKING = False  # as `typing.TYPE_CHECKING`, without that module
if TYPE_CHECKING:
    from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code."""
    if arguments is None:
        arguments = sys.argv[1:]
    catching_up.begin(arguments)
    # The imports take the time that an idle instance needs to bring its tables up to date.
    from pipeline.cli.commands import call

    return call(arguments)


def run() -> None:
    """Run the command line of this process and exit."""
    sys.exit(main())


if __name__ == "__main__":
    run()

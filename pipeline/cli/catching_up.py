"""Wait until what happened before a command began is in the tables.

After starting a process, a user can ask about it at once, and expects to see it. But while no reader has the tables
open, events gather for up to a quarter of a second. An opening of the tables ends that. On an idle host they are up to
date a millisecond later, on a busy one after `capture.freshness_ms`.

So `begin` opens the tables before anything else, and closes them again. They catch up while the command imports its
modules, and then `wait` seldom has to wait. After `_CATCH_UP_S` every event before the opening is in the tables, unless
the instance is behind. The watermark shows it earlier, but it does not move on a host without events.

Whatever is imported before `begin` is called delays the opening. So this module and `pipeline.cli.main` import little.
"""

from __future__ import annotations

import os
import time

from pipeline import paths, trust
from pipeline.errors import ProclineError

TYPE_CHECKING = False  # as `typing.TYPE_CHECKING`, without that module
if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline import ProcessTable

#: How long a command waits at most for what happened before it began.
_CATCH_UP_S = 0.03
#: Commands that read the tables, show the answer, and end.
READING = frozenset({
    "resolve", "why", "ancestors", "children", "tree", "ps", "grep", "cost", "timeline", "dump", "stat",
    "bench-read",
})  # fmt: skip

#: When `begin` opened the tables of an instance, by its name: boot clock in ns, and monotonic clock in s.
_opened: dict[str, tuple[int, float]] = {}


def reads_tables(arguments: Sequence[str]) -> bool:
    """Return whether these are the arguments of one of `READING`."""
    return bool(arguments) and arguments[0] in READING


def begin(arguments: Sequence[str]) -> None:
    """Open the tables that a command is going to read, if it reads any.

    It reports no error, because the command itself will. If it opens the tables of another instance than the command
    does, `wait` waits as if this had not been called.
    """
    _opened.clear()
    if not reads_tables(arguments):
        return
    name = _instance(arguments)
    now = _now()
    try:
        os.close(trust.open_file(os.path.join(paths.instance_directory(name), paths.CONTROL)))  # noqa: PTH118
    except (OSError, ValueError, ProclineError):
        return
    _opened[name] = now


def wait(table: ProcessTable, name: str) -> None:
    """Wait for a moment until the tables of an instance have what happened before the command began.

    Args:
        table: the tables, just opened.
        name: of the instance.
    """
    # A command that opens the tables once more must wait for what happened before that.
    began_boot_ns, began_s = _opened.pop(name) if name in _opened else _now()
    try:
        while table.watermark_boot_ns < began_boot_ns and time.monotonic() < began_s + _CATCH_UP_S:
            time.sleep(0.001)
    except ProclineError:
        pass  # the command reports it


def _now() -> tuple[int, float]:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME), time.monotonic()


def _instance(arguments: Sequence[str]) -> str:
    """Return the name of the instance that the arguments or the environment choose."""
    name = None
    for place, argument in enumerate(arguments):
        if argument == "--":
            break
        if argument == "--name":
            name = "".join(arguments[place + 1 : place + 2])
        elif argument.startswith("--name="):
            name = argument.removeprefix("--name=")
    return paths.chosen_instance(name)

"""The start of a worker process: read its description, set up its log, drop privileges, and report that it is ready."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from pipeline.errors import ProclineError
from pipeline.host import privileges
from pipeline.log import get_logger, set_up
from pipeline.records.capture_fds import NO_FD
from pipeline.worker.reading import description_fd, read_description

if TYPE_CHECKING:
    from pipeline.worker.description import WorkerDescription

#: Exit code of a worker that would fail in the same way if it were restarted; its last log line contains the reason.
EXIT_HOPELESS = 2


def run_worker(
    work: Callable[[WorkerDescription], int],
    *,
    keep: tuple[int, ...] = (),
    keep_also: Callable[[WorkerDescription], tuple[int, ...]] | None = None,
    arguments: list[str] | None = None,
) -> int:
    """Start this process as a worker, and run its work.

    Args:
        work: runs until SIGTERM; returns the exit code.
        keep: capabilities to keep.
        keep_also: returns further ones, which depend on the description.
        arguments: the command line's arguments; None for those of this process.

    Returns:
        The exit code; EXIT_HOPELESS after a ProclineError, which is logged.
    """
    try:
        return work(begin(sys.argv[1:] if arguments is None else arguments, keep, keep_also))
    except ProclineError as error:
        get_logger().error(str(error))
        return EXIT_HOPELESS


def begin(
    arguments: list[str],
    keep: tuple[int, ...] = (),
    keep_also: Callable[[WorkerDescription], tuple[int, ...]] | None = None,
) -> WorkerDescription:
    """Read the description, set up the log, and disable what the worker does not need: capabilities and core dumps.

    Args:
        arguments: the command line's arguments.
        keep: capabilities to keep.
        keep_also: returns further ones, which depend on the description.

    Raises:
        ConfigError: there is no readable description.
        ProclineError: the supervisor has ended already.
    """
    set_up()  # so that an unreadable description can be logged
    description: WorkerDescription = read_description(description_fd(arguments))
    set_up(description.config.log.level, description.config.log.format, description.role)
    keep = (*keep, *(keep_also(description) if keep_also is not None else ()))
    _, is_parent_there = privileges.confine(parent_tgid=description.supervisor_tgid, keep=keep)
    if not is_parent_there:
        raise ProclineError("the supervisor has ended, so this worker ends too")
    return description


def report_ready(description: WorkerDescription) -> None:
    """Report to the supervisor that this worker has started its work, and close `ready_fd`.

    A worker that ends before that has failed to start. The resolver reports when its tables are complete (READY). Every
    other worker reports when it has opened and mapped its input and is about to read its first record.
    """
    if description.ready_fd != NO_FD:
        os.eventfd_write(description.ready_fd, 1)
        os.close(description.ready_fd)

"""Logs of the daemon's processes: one JSON object a line on standard error, or readable lines on a terminal.

Set up once in each process; code asks for a logger by `get_logger` and logs an event with facts. Under
journald each line begins with its priority as ``<N>``. Readers and subscribers do not import this module: they
raise, and do not log.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Mapping
from typing import TextIO, cast

from pipeline.config import Log

# structlog imports rich where it is installed, for tracebacks that are shown in colours: 3 MB and 0.1 s of every
# process of the daemon, for nothing. None in its place makes that import fail, which structlog is prepared for.
_RICH_IS_ABSENT = sys.modules.setdefault("rich", None) is None  # type: ignore[arg-type]

import structlog  # noqa: E402
from structlog.typing import EventDict, Processor, WrappedLogger  # noqa: E402

if _RICH_IS_ABSENT:
    del sys.modules["rich"]

LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}

#: Priorities of syslog(3), which journald reads from the front of a line (SyslogLevelPrefix= of systemd.exec(5)).
PRIORITIES = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}


def is_journal(stream: TextIO, environ: Mapping[str, str] = os.environ) -> bool:
    """Whether `stream` goes to journald: JOURNAL_STREAM of systemd.exec(5) names its device and inode."""
    try:
        status = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return environ.get("JOURNAL_STREAM", "") == f"{status.st_dev}:{status.st_ino}"


def set_up(settings: Log, role: str = "", stream: TextIO | None = None) -> None:
    """Send this process's logs to `stream` (standard error) as `settings` say.

    Args:
        settings: section ``log`` of the configuration.
        role: ``supervisor``, ``resolver``, ``shard-0``; in every line if given.
        stream: where lines go; each is written and flushed whole.
    """
    stream = stream or sys.stderr
    readable = settings.format == "console" or (settings.format == "auto" and stream.isatty())
    render: Processor
    if readable:
        stamp = structlog.processors.TimeStamper(fmt="%H:%M:%S.%f", utc=False)
        render = structlog.dev.ConsoleRenderer(colors=stream.isatty(), pad_event_to=40)
    else:
        stamp = structlog.processors.TimeStamper(fmt="iso", utc=True)
        render = structlog.processors.JSONRenderer(sort_keys=True, default=str)
    processors: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.format_exc_info,
        stamp,
        _with_priority(render) if is_journal(stream) else render,
    ]
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[settings.level]),
        logger_factory=structlog.WriteLoggerFactory(cast(TextIO, _Unbreakable(stream))),
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.clear_contextvars()
    structlog.contextvars.bind_contextvars(**{"role": role} if role else {}, pid=os.getpid())


def get_logger(name: str = "") -> structlog.typing.FilteringBoundLogger:
    """Return a logger; `name` (a part of the process, such as ``merge``) is in each of its lines if given."""
    logger: structlog.typing.FilteringBoundLogger = structlog.get_logger(**{"part": name} if name else {})
    return logger


class _Unbreakable:
    """A stream whose reader may go away: losing log lines is no reason for the daemon to end."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, line: str) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._stream.write(line)

    def flush(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._stream.flush()


def _with_priority(render: Processor) -> Processor:
    """Put the priority before the line that `render` makes."""

    def line(logger: WrappedLogger, method: str, event: EventDict) -> str:
        priority = PRIORITIES.get(str(event.get("level")), 6)
        return f"<{priority}>{render(logger, method, event)!s}"

    return line

"""Logs of the daemon's processes on standard error: one JSON object per line, or readable lines for people.

Each process calls `set_up` once. Code gets a logger from `get_logger` and logs an event with facts:
``log.info("ready", entries=812)``. On a terminal and in the journal the lines are readable; in the journal each
begins with its priority as ``<N>``. A fact that is a mapping is detail, which only JSON lines have. Readers and
subscribers do not import this module: they raise exceptions and do not log.

Every process of the daemon imports it, so it uses nothing large: structlog would add 8 MB to each process, because it
imports asyncio and with it the TLS library.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
from collections.abc import Callable, Mapping, MutableMapping
from datetime import datetime
from pathlib import Path
from typing import Any, TextIO

from pipeline import journald

#: Priorities of the journal by level.
PRIORITIES = {
    logging.DEBUG: journald.DEBUG, logging.INFO: journald.INFO, logging.WARNING: journald.WARNING,
    logging.ERROR: journald.ERROR, logging.CRITICAL: journald.CRITICAL,
}  # fmt: skip

_LOGGER = logging.getLogger("procline")


class Logger(logging.LoggerAdapter[logging.Logger]):
    """A logger with methods that accept facts as keyword arguments.

    ``exc_info``, ``stack_info`` and ``stacklevel`` have the same meaning as in `logging`.
    """

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        """Combine the event and its facts to the dict that the formatters below expect."""
        own = {name: kwargs.pop(name) for name in ("exc_info", "stack_info", "stacklevel") if name in kwargs}
        return {"event": msg, **(self.extra or {}), **kwargs}, own


def set_up(level: str = "info", form: str = "auto", role: str = "", stream: TextIO | None = None) -> None:
    """Configure the logs of this process.

    Args:
        level: lowest level that is written; the setting ``log.level``.
        form: ``json``, ``console``, or ``auto`` for readable lines on a terminal and in the journal; the setting
            ``log.format``.
        role: ``supervisor``, ``resolver``, ``shard-0``; included in every line unless it is empty.
        stream: where lines are written, each with one flush; None: standard error.
    """
    # sys.stderr is None if the interpreter was started with descriptor 2 closed.
    stream = stream or sys.stderr or Path(os.devnull).open("w")  # noqa: SIM115 - stays open until the process ends
    facts = {"role": role, "pid": os.getpid()} if role else {"pid": os.getpid()}
    is_journal = journald.is_journal(stream)
    is_readable = form == "console" or (form == "auto" and (is_journal or stream.isatty()))
    handler = _Handler(stream, is_prefixed=is_journal)
    if not is_readable:
        # Deferred: readable lines do not need what this imports, a seventh of the time in which a shard starts.
        from pipeline.log_json import JsonLines

        handler.setFormatter(JsonLines(facts))
    else:
        handler.setFormatter(_JournalLines(role) if is_journal else _ReadableLines(facts))
    _LOGGER.handlers = [handler]
    _LOGGER.setLevel(level.upper())
    _LOGGER.propagate = False


def before_each_line(call: Callable[[], None]) -> None:
    """Call a function before each line that this process writes, such as one that removes a line of progress."""

    def passes(record: logging.LogRecord) -> bool:
        call()
        return True

    for handler in _LOGGER.handlers:
        handler.addFilter(passes)


def get_logger(name: str = "") -> Logger:
    """Return a logger.

    Args:
        name: part of the process, such as ``merge``; included in each line unless it is empty.
    """
    return Logger(_LOGGER, {"part": name} if name else {})


class _Handler(logging.StreamHandler[TextIO]):
    """Handler for a stream that can be closed by its reader."""

    def __init__(self, stream: TextIO, *, is_prefixed: bool) -> None:
        super().__init__(stream)
        self._is_prefixed = is_prefixed

    def format(self, record: logging.LogRecord) -> str:
        line = super().format(record)
        return journald.prefixed(line, PRIORITIES.get(record.levelno, journald.INFO)) if self._is_prefixed else line

    def handleError(self, record: logging.LogRecord) -> None:
        """Report a failure on standard error if possible; the daemon continues without the lost lines."""
        with contextlib.suppress(OSError, ValueError):
            super().handleError(record)


class _ReadableLines(logging.Formatter):
    """Local time, level, event, and ``name=value`` for each short fact; a traceback follows on separate lines."""

    def __init__(self, facts: dict[str, Any]) -> None:
        super().__init__()
        self._facts = facts

    def format(self, record: logging.LogRecord) -> str:
        facts = {**self._facts, **record.msg} if isinstance(record.msg, dict) else self._facts
        event = facts.pop("event", "")
        shown = " ".join(f"{name}={value}" for name, value in facts.items() if not isinstance(value, Mapping))
        moment = datetime.fromtimestamp(record.created).strftime("%H:%M:%S.%f")
        line = f"{moment} [{record.levelname.lower():<8}] {event:<40} {shown}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class _JournalLines(logging.Formatter):
    """The role, the event, and ``name=value`` for each fact; a traceback follows on separate lines.

    journald itself stores the time, the priority and the pid.
    """

    def __init__(self, role: str) -> None:
        super().__init__()
        self._role = role

    def format(self, record: logging.LogRecord) -> str:
        facts = dict(record.msg) if isinstance(record.msg, dict) else {"event": record.msg}
        event = _one_line(facts.pop("event", ""))
        where = "/".join(filter(None, (self._role, facts.pop("part", ""))))
        shown = " ".join(f"{name}={_value(value)}" for name, value in facts.items() if not isinstance(value, Mapping))
        line = " ".join(filter(None, (f"{where}:" if where else "", event, shown)))
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def _one_line(value: object) -> str:
    """Return a value as text on one line."""
    text = str(value)
    return text if text.isprintable() else json.dumps(text)[1:-1]


def _value(value: object) -> str:
    """Return the value of a fact, quoted if its end would not be visible otherwise."""
    text = str(value)
    return text if text.isprintable() and text and not set(text) & set(' "=') else json.dumps(text)

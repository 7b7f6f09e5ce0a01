"""Run the tests in processes that are forked after the collection. Loaded by `script/test --quick`.

The workers of xdist import and collect all tests, each for itself, and send each report through several threads: more
than a third of the CPU time of a quick run. A forked process has everything already, so there can be as many of them as
are useful while tests wait.
"""

from __future__ import annotations

import os
import selectors
import signal
import sys
import traceback
import warnings
from collections.abc import Iterator
from itertools import groupby
from multiprocessing.connection import Connection, Pipe
from typing import Any, NamedTuple, NoReturn

import pytest

#: So many tests of one module run in one process. Fixtures of the module are made anew for the next ones.
PART_MAX = 32
#: Bytes of the number of a part.
_NUMBER = 4


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--processes", type=int, default=1, metavar="N", help="run the tests in N forked processes")


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> bool | None:
    """Run the tests, unless pytest has a reason to run none."""
    if session.testsfailed or session.config.option.collectonly:
        return None
    # Otherwise each process would make a numbered directory, which nobody removes.
    session.config._tmp_path_factory.getbasetemp()  # type: ignore[attr-defined]
    controller = _Controller(session)
    try:
        for _ in range(session.config.option.processes):
            controller.fork()
        controller.report()
    finally:
        controller.end()
    if session.shouldfail:
        raise session.Failed(session.shouldfail)
    if session.shouldstop:
        raise session.Interrupted(session.shouldstop)
    return True


def _parts(items: list[pytest.Item]) -> list[range]:
    """Return the numbers of the tests that one process runs together."""
    parts = []
    for _, group in groupby(range(len(items)), key=lambda number: items[number].path):
        first, *others = group
        end = first + len(others) + 1
        parts += [range(start, min(start + PART_MAX, end)) for start in range(first, end, PART_MAX)]
    return parts


class _Worker(NamedTuple):
    """What the controller has of a process."""

    pid: int
    #: Readable when the process has ended. Its channel can stay open, in processes that tests have started.
    end: int
    channel: Connection


class _Controller:
    """The side that reports. The plugins, for example the one that writes to the terminal, see all reports here."""

    def __init__(self, session: pytest.Session) -> None:
        self._session = session
        self._config = session.config
        terminal: Any = self._config.pluginmanager.get_plugin("terminalreporter")
        if terminal is not None:
            # Tests of several files run at the same time, so each result would be behind the name of its file.
            terminal.showfspath = False
        self._parts = _parts(session.items)
        # Each process reads the number of its next part from this pipe, until it is empty.
        self._queue, writing = os.pipe()
        os.write(writing, b"".join(number.to_bytes(_NUMBER) for number in range(len(self._parts))))
        os.close(writing)
        self._selector = selectors.DefaultSelector()
        self._workers: dict[int, _Worker] = {}
        self._running: dict[int, pytest.Item] = {}

    def fork(self) -> None:
        """Start a process that runs parts."""
        receiving, sending = Pipe(duplex=False)
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if not pid:
            self._work(sending)
        sending.close()
        worker = self._workers[pid] = _Worker(pid, os.pidfd_open(pid), receiving)
        self._selector.register(receiving, selectors.EVENT_READ, worker)
        self._selector.register(worker.end, selectors.EVENT_READ, worker)

    def _work(self, channel: Connection) -> NoReturn:
        code = 1
        try:
            _Runner(self._session, channel).run(self._next_items())
            code = 0
        except KeyboardInterrupt:
            pass
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)

    def _next_items(self) -> Iterator[int]:
        while number := os.read(self._queue, _NUMBER):
            yield from self._parts[int.from_bytes(number)]

    def report(self) -> None:
        """Report what the processes send, until all have ended.

        Raises:
            RuntimeError: a process failed outside a test.
        """
        while self._workers:
            for key, _ in self._selector.select():
                if key.fileobj == key.data.end:
                    self._finish(key.data)
                elif key.data.pid in self._workers:
                    self._receive(key.data)
            if self._session.shouldfail or self._session.shouldstop:
                while os.read(self._queue, _NUMBER):
                    pass

    def end(self) -> None:
        """Interrupt the processes that still run, because this one was interrupted."""
        for pid in self._workers:
            os.kill(pid, signal.SIGINT)
        for worker in [*self._workers.values()]:
            self._remove(worker)
        self._selector.close()
        os.close(self._queue)

    def _receive(self, worker: _Worker) -> bool:
        """Handle a message; False: there is none and never will be."""
        try:
            kind, *values = worker.channel.recv()
        except EOFError:
            self._selector.unregister(worker.channel)
            return False
        hook = self._config.hook
        if kind == "start":
            item = self._running[worker.pid] = self._session.items[values[0]]
            hook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        elif kind == "warning":
            text, category, file, line, where = values
            message = warnings.WarningMessage(text, type(category, (Warning,), {}), file, line)
            hook.pytest_warning_recorded.call_historic(kwargs={"warning_message": message, **where})
        else:
            for data in values[0]:
                is_plain = isinstance(data, pytest.TestReport)
                report = data if is_plain else hook.pytest_report_from_serializable(config=self._config, data=data)
                hook.pytest_runtest_logreport(report=report)
            item = self._running.pop(worker.pid)
            hook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        return True

    def _finish(self, worker: _Worker) -> None:
        """Handle what a process that has ended sent before, and report if it should not have ended."""
        while worker.channel in self._selector.get_map() and worker.channel.poll() and self._receive(worker):
            pass
        code = self._remove(worker)
        item = self._running.pop(worker.pid, None)
        if item is not None:
            text = f"this test ended its process with {code}; up to {PART_MAX} tests that follow it did not run"
            report = pytest.TestReport(item.nodeid, item.location, {}, "failed", text, "call")
            self._config.hook.pytest_runtest_logreport(report=report)
        elif code:
            raise RuntimeError(f"a process failed outside a test, with {code}")

    def _remove(self, worker: _Worker) -> int:
        """Return the exit code of a process, or the negative number of a signal."""
        del self._workers[worker.pid]
        _, status = os.waitpid(worker.pid, 0)
        self._selector.unregister(worker.end)
        if worker.channel in self._selector.get_map():
            self._selector.unregister(worker.channel)
        os.close(worker.end)
        worker.channel.close()
        return os.waitstatus_to_exitcode(status)


class _Runner:
    """The side that runs tests. It replaces the plugin that writes to the terminal."""

    def __init__(self, session: pytest.Session, channel: Connection) -> None:
        self._config = session.config
        self._items = session.items
        self._channel = channel
        self._reports: list[pytest.TestReport | dict[str, Any]] = []
        # pytest asks the plugin of the terminal for it.
        self._tw = session.config.get_terminal_writer()

    def run(self, numbers: Iterator[int]) -> None:
        plugins = self._config.pluginmanager
        plugins.unregister(name="terminalreporter")
        plugins.register(self, "terminalreporter")
        # Processes that share its file would read the output of each other.
        capture: Any = plugins.get_plugin("capturemanager")
        capture.stop_global_capturing()
        capture.start_global_capturing()
        number = next(numbers, None)
        while number is not None:
            following = next(numbers, None)
            self._channel.send(("start", number))
            self._config.hook.pytest_runtest_protocol(
                item=self._items[number], nextitem=None if following is None else self._items[following]
            )
            self._channel.send(("finish", self._reports))
            self._reports.clear()
            number = following

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        # What pytest has to convert is a failure, with its traceback.
        hook = self._config.hook
        data = hook.pytest_report_to_serializable(config=self._config, report=report) if report.failed else report
        self._reports.append(data)

    def pytest_warning_recorded(
        self, warning_message: warnings.WarningMessage, when: str, nodeid: str, location: tuple[str, int, str] | None
    ) -> None:
        # Of the class, only the name is shown. One that a test defines could not be sent.
        text, category = str(warning_message.message), warning_message.category.__name__
        where = {"when": when, "nodeid": nodeid, "location": location}
        self._channel.send(("warning", text, category, warning_message.filename, warning_message.lineno, where))

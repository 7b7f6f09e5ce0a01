"""A process that has imported what all tests need and that no mutant changes, and forks one for each run of pytest.

The start of pytest and of Hypothesis otherwise takes longer than the tests that notice most mutants. `Runner` starts
the process in a copy of the checkout; this module imports nothing of the project.
"""

from __future__ import annotations

import importlib
import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

#: Imported once, if they are there.
_IMPORTED = (
    "_pytest.assertion", "_pytest.capture", "_pytest.fixtures", "_pytest.pytester", "hypothesis.strategies",
    "hypothesis.stateful", "msgpack", "msgspec", "numpy", "psutil", "pytest", "pytest_timeout", "xdist.plugin", "zmq",
)  # fmt: skip


def arguments_of(tests: Sequence[str], marks: str, limit_s: float) -> list[str]:
    """Return the arguments with which pytest runs tests up to the first that fails.

    Args:
        tests: what to run, and further arguments.
        marks: an expression that selects some of them.
        limit_s: for one test. pytest-timeout cannot end a loop of compiled code.
    """
    return [
        "-q", "-x", "--tb=no", "-n", "0", "-p", "no:cacheprovider", "-p", "tests.plugins.hurried",
        "-o", f"faulthandler_timeout={limit_s}", "-o", "faulthandler_exit_on_timeout=true", "-m", marks, *tests,
    ]  # fmt: skip


class Runner:
    """Runs pytest in a copy of the checkout.

    Args:
        directory: the copy.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._started: subprocess.Popen[str] | None = None

    @property
    def _process(self) -> subprocess.Popen[str]:
        """The process, which starts with the first run."""
        if self._started is None:
            # A single thread can be forked, and the tests drop privileges in processes with one.
            environment = dict(os.environ, OPENBLAS_NUM_THREADS="1")
            self._started = subprocess.Popen(
                [sys.executable, "-m", "tests.mutants.warm"], cwd=self._directory, env=environment, text=True,
                bufsize=1, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                start_new_session=True,
            )  # fmt: skip
        return self._started

    def run(self, arguments: Sequence[str], environment: Mapping[str, str], limit_s: float) -> int:
        """Run pytest in a process group of its own; return its exit code, -1 if it takes longer than the limit."""
        assert self._process.stdin is not None and self._process.stdout is not None
        print(json.dumps([arguments, dict(environment)]), file=self._process.stdin, flush=True)
        pid = int(self._process.stdout.readline())
        is_done = bool(select.select([self._process.stdout], [], [], limit_s)[0])
        with suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)  # also what a killed test has started
        code = int(self._process.stdout.readline())
        return code if is_done else -1

    def close(self) -> None:
        """End the process, and what it has started."""
        if self._started is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._started.pid, signal.SIGKILL)
            self._started.communicate()


def _run(arguments: list[str], environment: dict[str, str]) -> int:
    """Run pytest in this process, a new one."""
    os.setsid()
    nothing = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(nothing, fd)
    os.environ.update(environment)
    for name in [name for name in sys.modules if name.partition(".")[0] in {"tests", "pipeline"}]:
        del sys.modules[name]
    importlib.invalidate_caches()
    sys.stdin, sys.stdout, sys.stderr = (os.fdopen(fd, mode) for fd, mode in ((0, "r"), (1, "w"), (2, "w")))
    import pytest

    return int(pytest.main(arguments))


def main() -> None:
    """Serve runs until the input ends: a line with arguments and environment each; answers are pid and exit code."""
    for name in _IMPORTED:
        with suppress(ImportError):
            importlib.import_module(name)
    for line in sys.stdin:
        child = os.fork()
        if not child:
            code = 3
            try:
                code = _run(*json.loads(line))
            finally:
                os._exit(code)
        print(child, flush=True)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    main()

"""A daemon in a pid namespace of its own, as a child process that carries out commands."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.live.harness import CHECKOUT

NAMESPACE = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")
#: bash waits for processes that it adopts; as one command it would replace itself by python.
INIT = ("bash", "-c", '"$@"; exit $?', "init")
ANSWER_S = 90


class Inside:
    """inside_namespace.py as a child process in namespaces of its own."""

    def __init__(self, workload: Path, depth: int, *options: str, init: Sequence[str] = INIT) -> None:
        self.process = subprocess.Popen(
            [*NAMESPACE * depth, *init, sys.executable, "-P", "-m", "tests.live.inside_namespace", str(workload),
             *options],
            env=dict(os.environ, PYTHONPATH=str(CHECKOUT)), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.facts = self._answer()

    def ask(self, *command: object) -> Any:
        """Carry out a command, and return its answer."""
        self.begin(*command)
        return self._answer()

    def begin(self, *command: object) -> None:
        """Send a command; `end` returns its answer."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(command) + "\n")
        self.process.stdin.flush()

    def _answer(self) -> Any:
        assert self.process.stdout is not None
        assert select.select([self.process.stdout], [], [], ANSWER_S)[0], "no answer"
        line = self.process.stdout.readline()
        assert line, f"ended with {self.process.wait()}"
        answer = json.loads(line)
        if isinstance(answer, dict) and "error" in answer:
            raise AssertionError(answer["error"])
        return answer

    end = _answer

    @property
    def init(self) -> int:
        """The host's pid of the namespace's init."""
        pid = self.process.pid
        while True:
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
            if not children or Path(f"/proc/{pid}/comm").read_text() != "unshare\n":
                return pid
            pid = int(children[0])

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        try:
            self.process.wait(60)
        finally:
            self.process.kill()
            self.process.wait()


@contextmanager
def inside(workload: Path, depth: int = 1, *options: str, init: Sequence[str] = INIT) -> Iterator[Inside]:
    """Run a daemon in a pid namespace `depth` levels below this one.

    Args:
        workload: for the commands that make processes.
        depth: 1 or more.
        options: of `procline run`.
        init: the command of the namespace's process 1, which runs the command that follows it.
    """
    one = Inside(workload, depth, *options, init=init)
    try:
        yield one
    finally:
        one.close()

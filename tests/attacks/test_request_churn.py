"""Thousands of connections to the requests socket: all of root's requests are answered nevertheless."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline import paths
from pipeline.client.ask import ask
from tests.attacks.harness import as_nobody, unharmed
from tests.attacks.programs import CHURN
from tests.live.harness import Daemon, patience
from tests.nobody import NOBODY

pytestmark = [pytest.mark.live, pytest.mark.usefixtures("live_kernel")]

QUESTIONS = 50


def test_all_questions_of_root_are_answered(daemon: Daemon) -> None:
    missing = next(pid for pid in range(4_000_000, 0, -1) if not Path(f"/proc/{pid}").exists())
    before = daemon.stat()["counters"]
    with unharmed(daemon), as_nobody(CHURN, paths.requests_socket(daemon.directory), 4) as attacker:
        assert attacker.stdout is not None and attacker.stdout.readline() == "ready\n"
        waits = []
        for number in range(QUESTIONS):
            began = time.monotonic()
            answer = ask(daemon.directory, os.getpid())
            assert answer.found, answer
            # For a process that is in no table, the request waits for the watermark, in a queue that the flood fills
            # too.
            absent = ask(daemon.directory, missing - number)
            assert not absent.found and absent.reason in {"absent", "limited"}, absent
            waits.append(time.monotonic() - began)
            time.sleep(0.02)
        assert sorted(waits)[QUESTIONS // 2] < 0.2 * patience(), waits
        answered = sum(_another_user_is_answered(daemon) for _ in range(5))
    assert answered == 5, "another user shares the public socket with the flood"
    counters = daemon.stat()["counters"]
    assert counters["requests_dropped"] > before["requests_dropped"]


def _another_user_is_answered(daemon: Daemon) -> bool:
    """Return whether a user that is neither root nor the attacker gets an answer."""
    code = (
        "import sys; from pathlib import Path; from pipeline.client.ask import ask; "
        "sys.exit(not ask(Path(sys.argv[1]), int(sys.argv[2]), 5000).found)"
    )

    done = subprocess.run(
        [sys.executable, "-c", code, str(daemon.directory), str(os.getpid())],
        env=daemon.environment, user=NOBODY - 1, group=NOBODY - 1, extra_groups=[], capture_output=True, text=True,
    )  # fmt: skip
    return done.returncode == 0

"""Waits of nanoseconds: what the kernel is asked for, and what happens if it does not know the call."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
INT_MAX_NS = (2**31 - 1) * 1_000_000


def waited(waiter: str, waits: list[float], answers: list[int | None]) -> dict[str, Any]:
    """Make these waits, and let the kernel answer so; return the calls and how each wait ended."""
    asked = {"waiter": waiter, "waits": waits, "answers": answers}
    done = subprocess.run(
        [sys.executable, "-m", "tests.host.epoll_calls"], input=json.dumps(asked), capture_output=True, text=True,
        timeout=120, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def test_a_shard_waits_for_nanoseconds() -> None:
    result = waited("ring", [0.0003, 0.008, 1.5, 1e-10], [0, 0, 0, 0])
    assert result["calls"] == [["epoll_pwait2", ns] for ns in (300_000, 8_000_000, 1_500_000_000, 1)]
    assert result["ended"] == [False] * 4


def test_the_resolver_waits_for_nanoseconds() -> None:
    result = waited("turn", [0.00125, 0.05], [0, 0])
    assert result["calls"] == [["epoll_pwait2", 1_250_000], ["epoll_pwait2", 50_000_000]]


@pytest.mark.parametrize("waiter", ["ring", "turn"])
@pytest.mark.parametrize("refusal", [errno.ENOSYS, errno.EPERM])
def test_if_the_call_is_refused_whole_milliseconds_are_waited_for(waiter: str, refusal: int) -> None:
    """Linux before 5.11 answers ENOSYS, a filter that does not know the call EPERM. It is asked only once."""
    result = waited(waiter, [0.0012, 0.002, 0.0029, 1e7], [-refusal, 0, 0, 0, 0])
    calls = [call for call, _ in result["calls"]]
    assert calls[0] == "epoll_pwait2"
    assert set(calls[1:]) <= {"epoll_wait", "epoll_pwait"}
    assert [ns for _, ns in result["calls"]] == [1_200_000, 1_000_000, 2_000_000, 2_000_000, INT_MAX_NS]
    assert result["ended"] == [False] * 4


def test_a_shorter_wait_takes_a_millisecond_if_the_call_is_refused() -> None:
    """Not 0, which is no wait."""
    result = waited("ring", [0.0003, 1e-9], [-errno.ENOSYS, 0, 0])
    assert [ns for _, ns in result["calls"]] == [300_000, 1_000_000, 1_000_000]


def test_a_wait_that_falls_back_is_ended_by_a_descriptor() -> None:
    """The second call is real, and would take an hour otherwise."""
    assert waited("ring", [3600], [-errno.EPERM, None])["ended"] == [True]


def test_a_wait_is_ended_by_a_descriptor() -> None:
    """All calls are real here, so a kernel before 5.11 falls back."""
    assert waited("ring", [3600], [])["ended"] == [True]


@pytest.mark.parametrize("waiter", ["ring", "turn"])
def test_a_signal_ends_a_wait_and_is_no_refusal(waiter: str) -> None:
    result = waited(waiter, [0.0015, 0.0015], [-errno.EINTR, 0])
    assert [call for call, _ in result["calls"]] == ["epoll_pwait2"] * 2
    assert result["ended"][1] is False


@pytest.mark.parametrize("waiter", ["ring", "turn"])
def test_other_errors_are_raised(waiter: str) -> None:
    result = waited(waiter, [0.0015, 0.0015], [-errno.EBADF, 0])
    assert [call for call, _ in result["calls"]] == ["epoll_pwait2"] * 2
    assert result["ended"] == [errno.EBADF, False]

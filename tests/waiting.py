"""Waiting for a state: `until` for a condition, `eventually` for a check of tables that may be behind.

Both fail when their limit is over. No test is about that limit: on an idle machine, such a state takes milliseconds,
and a busy machine can need far longer.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from pipeline.errors import BusyError, StaleError
from tests.linux import IS_GUEST

#: How long a test waits for a state that it expects. In an emulated guest, everything takes longer.
WAIT_S = 300.0 if IS_GUEST else 60.0


def until(
    condition: Callable[[], Any],
    what: object = "",
    limit_s: float = WAIT_S,
    pause_s: float = 0.01,
    *,
    meanwhile: Callable[[], object] = lambda: None,
) -> Any:
    """Wait until a condition is true, and return its value; None is not true.

    `meanwhile` is the work of each round, without which the condition would stay false. `what` is for the message of a
    failure: a text, or a function that returns one. The pause is `pause_s`, or as long as the check took, whichever is
    longer: half of a CPU at most.
    """
    deadline = time.monotonic() + limit_s
    while True:
        began = time.monotonic()
        if value := condition():
            return value
        ended = time.monotonic()
        assert ended < deadline, f"not within {limit_s:g} s: {(what() if callable(what) else what) or condition}"
        meanwhile()
        time.sleep(max(pause_s, ended - began))


def eventually(check: Callable[[], Any], limit_s: float = WAIT_S, pause_s: float = 0.02) -> Any:
    """Call `check` until it returns a true value, or None without an error; return that value.

    The pause is as in `until`.

    Raises:
        AssertionError: the last error of `check`, or its value was still false, after `limit_s`.
        BusyError, StaleError: the last error of `check`. Tables that are behind or filling are ready soon.
    """
    deadline = time.monotonic() + limit_s
    while True:
        began = time.monotonic()
        try:
            result = check()
            if result or result is None:
                return result
            error: Exception = AssertionError(f"still {result!r}")
        except (AssertionError, BusyError, StaleError) as failure:
            error = failure
        ended = time.monotonic()
        if ended > deadline:
            raise error
        time.sleep(max(pause_s, ended - began))

"""Answers of a thread wait until they are taken, and the thread ends with its owner."""

from __future__ import annotations

import threading

from pipeline.resolver.upkeep.aside import Aside
from tests.waiting import until


def threads() -> list[str]:
    """Return the names of this process's threads."""
    return sorted(thread.name for thread in threading.enumerate())


def test_an_answer_waits_until_it_is_taken() -> None:
    before = threads()
    made = Aside[int]("one-of-a-test", jobs_max=4)
    assert not made.has_answers
    assert made.ask(lambda: 7)
    until(lambda: made.has_answers)
    assert list(made.take(1)) == [7] and not made.has_answers
    made.close(60)
    assert threads() == before

"""Searches in hostile text end."""

from __future__ import annotations

import signal
import time

import pytest

from pipeline.select import patterns
from pipeline.select.patterns import Bounded, Pattern, SlowPatternError

HOSTILE = "a" * 40 + "!"


def test_patterns_are_regular_expressions_or_plain_text() -> None:
    assert Pattern("a.c").search("xabcx") and not Pattern("a.c", is_plain=True).search("abc")
    assert Pattern("A.C", is_plain=True, ignores_case=True).search("xa.cx")
    assert Pattern("a+|x*").spans("aab a") == [(0, 2), (4, 5)]


@pytest.mark.parametrize("text", ["(", "[a", "a{99999999999}", "*a"])
def test_a_wrong_pattern_is_an_error(text: str) -> None:
    with pytest.raises(ValueError, match="is not a regular expression"):
        Pattern(text)


@pytest.mark.parametrize("search", [Pattern("(a+)+$").search, Pattern("(a+)+$").spans])
def test_a_search_that_would_take_years_is_ended(search: object) -> None:
    assert callable(search)
    begin = time.process_time()
    with Bounded(0.01):
        for _ in range(3):
            with pytest.raises(SlowPatternError):
                search(HOSTILE)
        assert search("aaa")
    assert time.process_time() - begin < 2


def test_many_texts_together_are_one_search() -> None:
    texts = ["a" * 16 + "!"] * 10_000
    begin = time.process_time()
    with Bounded(0.05), pytest.raises(SlowPatternError):
        Pattern("(a+)+$").search_any(texts)
    assert time.process_time() - begin < 2


def test_the_end_of_a_search_leaves_no_search_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """The signal may arrive after the search, just before it is noted that it is over."""
    bounded = Bounded()
    patterns._state.is_searching = True
    monkeypatch.setattr(bounded, "_seen", patterns._state.searches)
    with pytest.raises(SlowPatternError):
        bounded._tick(signal.SIGVTALRM, None)
    bounded._tick(signal.SIGVTALRM, None)


def test_a_pattern_makes_no_warning(recwarn: pytest.WarningsRecorder) -> None:
    assert Pattern("[[a]").search("a")
    assert not recwarn


def test_many_quick_searches_are_not_ended() -> None:
    pattern = Pattern("(a+)+$")
    begin = time.process_time()
    # The kernel counts a whole tick for a process that it interrupts, however briefly that ran: the limit has several.
    with Bounded(0.02):
        while time.process_time() - begin < 0.1:
            assert not pattern.search("a" * 10 + "!")


def test_the_timer_and_the_handler_are_restored() -> None:
    before = signal.getsignal(signal.SIGVTALRM)
    with pytest.raises(KeyError), Bounded(0.02):
        raise KeyError
    assert signal.getsignal(signal.SIGVTALRM) == before
    assert signal.getitimer(signal.ITIMER_VIRTUAL) == (0, 0)

"""Regular expressions over text that processes choose, with a limit of the time that a search takes.

Python's `re` tries alternatives one after the other, and for some patterns a hostile text makes that take years. RE2
has no such texts, but readers do not have it installed, and its patterns differ. So the patterns are Python's, and a
timer ends a search that uses too much CPU time. That works because `re` handles signals while it searches. The length
of a text is limited by what the tables store (`capture.args_bytes`).
"""

from __future__ import annotations

import re
import signal
import warnings
from collections.abc import Iterable
from types import FrameType, TracebackType
from typing import Self

#: A search may use this much CPU time, and up to twice as much before it is ended.
LIMIT_S = 0.1


class SlowPatternError(Exception):
    """A search was ended because it used too much CPU time."""


class Pattern:
    """A pattern for text.

    Args:
        text: a regular expression of Python's `re`, or plain text.
        is_plain: whether `text` is plain text.
        ignores_case: whether upper and lower case are the same.

    Raises:
        ValueError: `text` is not a regular expression.
    """

    def __init__(self, text: str, *, is_plain: bool = False, ignores_case: bool = False) -> None:
        try:
            with warnings.catch_warnings():
                # A warning about a pattern that later versions of Python may read otherwise would name this file.
                warnings.simplefilter("ignore")
                self._compiled = re.compile(re.escape(text) if is_plain else text, re.IGNORECASE if ignores_case else 0)
        except (re.error, OverflowError, RecursionError) as error:
            raise ValueError(f"{text!r} is not a regular expression: {error}") from None

    def search(self, text: str) -> bool:
        """Whether the pattern is in a text.

        Raises:
            SlowPatternError: it took too long, within `Bounded`.
        """
        return self.search_any((text,))

    def search_any(self, texts: Iterable[str]) -> bool:
        """Whether the pattern is in one of several texts. They count as one search: a process can have many arguments.

        Raises:
            SlowPatternError: all of it took too long, within `Bounded`.
        """
        _state.searches += 1
        _state.is_searching = True
        try:
            return any(self._compiled.search(text) is not None for text in texts)
        finally:
            _state.is_searching = False

    def spans(self, text: str) -> list[tuple[int, int]]:
        """Return begin and end of each match that is not empty. Raises what `search` raises."""
        _state.searches += 1
        _state.is_searching = True
        try:
            return [found.span() for found in self._compiled.finditer(text) if found.end() > found.start()]
        finally:
            _state.is_searching = False


class _State:
    """The search of the main thread; the timer reads it."""

    searches = 0
    is_searching = False


_state = _State()


class Bounded:
    """Ends each search within it that uses more CPU time than `LIMIT_S`. Only for the main thread."""

    def __init__(self, limit_s: float = LIMIT_S) -> None:
        self._limit_s = limit_s
        self._seen = 0

    def __enter__(self) -> Self:
        self._previous = signal.signal(signal.SIGVTALRM, self._tick)
        signal.setitimer(signal.ITIMER_VIRTUAL, self._limit_s, self._limit_s)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, self._previous)

    def _tick(self, number: int, frame: FrameType | None) -> None:
        if _state.is_searching and _state.searches == self._seen:
            _state.is_searching = False  # the signal may arrive when the search is about to say this itself
            raise SlowPatternError
        self._seen = _state.searches

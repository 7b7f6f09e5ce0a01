"""Names of signals."""

from __future__ import annotations

import signal
from typing import Any

import pytest

from pipeline import signal_name


def test_every_signal_has_the_name_that_python_has() -> None:
    assert {each: signal_name(each) for each in signal.Signals} == {each: each.name for each in signal.Signals}


def test_real_time_signals_are_counted_from_the_first_one() -> None:
    assert signal_name(signal.SIGRTMIN + 4) == "SIGRTMIN+4"
    assert len({signal_name(number) for number in range(1, 65)}) == 64


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "signal 0"), (-1, "signal -1"), (65, "signal 65"), (1 << 70, f"signal {1 << 70}"), (None, "no signal"),
     ("x", "signal x"), (1.5, "signal 1.5"), ([], "signal []")],
)  # fmt: skip
def test_what_is_no_signal_is_text(number: Any, text: str) -> None:
    assert signal_name(number) == text

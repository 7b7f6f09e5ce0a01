"""Interrupts of `procline record` while it starts. Recordings themselves are tested in tests/live/test_replay.py."""

from __future__ import annotations

import os
import signal

import pytest

from pipeline.cli.operate.record import Interrupts


def test_an_interrupt_of_a_start_is_raised_when_the_start_asks_for_it() -> None:
    with Interrupts() as interrupts:
        interrupts.check()
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            interrupts.check()


def test_a_second_interrupt_is_raised_at_once() -> None:
    before = signal.getsignal(signal.SIGINT)
    with Interrupts():
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) == before

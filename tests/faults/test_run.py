"""A long run that is interrupted makes the same faults as one that is not."""

from __future__ import annotations

import contextlib
import itertools
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.faults import run as runs
from tests.faults.rounds import Tally

ROUNDS = ("storm_round", "start_round", "resource_round")


def fake_round(workload: Path, tally: Tally, kinds: Sequence[Any], rng: random.Random, **_: object) -> None:
    for kind in kinds:
        tally.recovered_s[kind.name].append(rng.random())


def test_a_run_in_parts_is_one_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ROUNDS:
        monkeypatch.setattr(runs, name, fake_round)
    whole = runs.run(60, runs.Progress(random.Random(4)), tmp_path, 10, is_silent=True)
    state = tmp_path / "state"
    runs.Progress(random.Random(4)).keep(state)
    calls = itertools.count()

    def interrupted(*arguments: Any, **options: Any) -> None:
        if next(calls) % 3 == 2:
            raise KeyboardInterrupt
        fake_round(*arguments, **options)

    for name in ROUNDS:
        monkeypatch.setattr(runs, name, interrupted)
    parts = 0
    while (progress := runs.Progress.kept(state)).tally.faults < 60:
        with contextlib.suppress(KeyboardInterrupt):
            runs.run(60, progress, tmp_path, 10, state=state, is_silent=True)
        parts += 1
    assert parts > 2
    assert progress.tally.recovered_s == whole.recovered_s


def test_a_round_that_fails_is_not_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    state = tmp_path / "state"
    for name in ROUNDS:
        monkeypatch.setattr(runs, name, fake_round)
    runs.run(8, runs.Progress(random.Random(1)), tmp_path, 10, state=state, is_silent=True)

    def fails(*_: object, **__: object) -> None:
        raise AssertionError("not survived")

    for name in ROUNDS:
        monkeypatch.setattr(runs, name, fails)
    progress = runs.Progress.kept(state)
    with pytest.raises(AssertionError, match="not survived"):
        runs.run(60, progress, tmp_path, 10, state=state, is_silent=True)
    assert runs.Progress.kept(state).tally.faults == 8
    assert runs.Progress.kept(state).rng.getstate() != random.Random(1).getstate()

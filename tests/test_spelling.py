"""Suggestions for a word that is not known."""

from __future__ import annotations

import pytest

from pipeline.spelling import did_you_mean, similar


@pytest.mark.parametrize(
    ("word", "meant"), [("exitt", "exit"), ("fork", "fork"), ("exce", "exec"), ("zzz", ""), ("", "")]
)
def test_the_most_similar_word_is_meant(word: str, meant: str) -> None:
    assert similar(word, ("fork", "exec", "exit")) == meant
    assert did_you_mean(word, ("fork", "exec", "exit")) == (f"did you mean {meant}?" if meant else "")


def test_nothing_is_meant_below_the_cutoff() -> None:
    assert similar("excess", ["exec"], cutoff=0.6) == "exec"
    assert similar("excess", ["exec"], cutoff=0.9) == ""


def test_what_to_say_otherwise() -> None:
    assert did_you_mean("zzz", iter(["fork"]), "one of: fork") == "one of: fork"
    assert did_you_mean("zzz", []) == ""

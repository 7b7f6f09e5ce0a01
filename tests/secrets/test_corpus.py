"""How many secrets are found in command lines as people write them, and how much else is hidden."""

from __future__ import annotations

import pytest

from tests.secrets.measuring import Score, corpus, hidden_spans, measure, parse


def test_the_corpus_is_large_and_split_in_halves() -> None:
    lines = list(corpus())
    assert len(lines) >= 500
    assert len({line.text for line in lines}) == len(lines)
    seen = sum(line.is_seen for line in lines)
    assert 0.4 < seen / len(lines) < 0.6
    assert 0.4 < sum(any(line.secrets) for line in lines) / len(lines) < 0.65


def test_the_half_that_no_rule_was_written_for() -> None:
    """The figures are in docs/security.md."""
    _, unseen = measure()
    assert unseen.recall >= 0.97, unseen
    assert unseen.precision >= 0.95, unseen


def test_marks_are_positions() -> None:
    line = parse("tool --user 'me:\u2039a b\u203a' \u2039c\u203a")
    assert line.argv == ("tool", "--user", "me:a b", "c")
    assert line.secrets == ((), (), ((3, 6),), ((0, 1),))


@pytest.mark.parametrize(
    ("before", "after", "spans"),
    [
        ("--token=x y", "--token=x y", []),
        ("--token=abc", "--token=********", [(8, 11)]),
        ("a=1&b=2&c", "a=********&b=********&c", [(2, 3), (6, 7)]),
        ("secret", "********", [(0, 6)]),
    ],
)
def test_what_was_hidden_is_found(before: str, after: str, spans: list[tuple[int, int]]) -> None:
    assert hidden_spans(before, after) == spans


def test_a_score_counts_misses_and_harm() -> None:
    score = Score(secrets=4, found=3, hidden=5, right=4)
    assert (score.recall, score.precision) == (0.75, 0.8)

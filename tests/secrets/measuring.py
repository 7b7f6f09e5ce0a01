"""Measure what the scrubber hides of the labelled command lines in ``corpus.txt``, and what it hides besides.

    python -m tests.secrets.measuring            figures of both halves
    python -m tests.secrets.measuring --seen     also every failure of the half that rules may be written by

Two figures, as for any search. *Recall*: of all marked secrets, the share of which nothing is left. *Precision*: of all
texts that were hidden, the share that was a marked secret, or a part of one.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from os import fsdecode
from pathlib import Path

from pipeline.secrets.scrub import Scrubber

CORPUS = Path(__file__).with_name("corpus.txt")
_MASK = re.compile(r"\*{5,8}")
#: Longest beginning of a token that may stay.
_PREFIX_MAX = 7
_MARK = re.compile("\u2039(.*?)\u203a", re.DOTALL)


@dataclass(frozen=True)
class CommandLine:
    """A labelled command line.

    Attributes:
        text: as it stands in the corpus.
        argv: its arguments, without marks.
        secrets: for each argument, the marked texts as (start, end).
    """

    text: str
    argv: tuple[str, ...]
    secrets: tuple[tuple[tuple[int, int], ...], ...]

    @property
    def is_seen(self) -> bool:
        """Whether rules may be written from this line."""
        return hashlib.sha256(self.text.encode()).digest()[0] < 128


@dataclass
class Score:
    """Counts of one half."""

    secrets: int = 0
    found: int = 0
    hidden: int = 0
    right: int = 0
    lines: int = 0
    failures: list[str] = field(default_factory=list)

    @property
    def recall(self) -> float:
        """Share of the secrets of which nothing is left."""
        return self.found / self.secrets

    @property
    def precision(self) -> float:
        """Share of the hidden texts that were secrets."""
        return self.right / self.hidden

    def __str__(self) -> str:
        return (
            f"{self.lines} lines, {self.secrets} secrets: recall {self.recall:.3f} "
            f"({self.secrets - self.found} missed), precision {self.precision:.3f} "
            f"({self.hidden - self.right} of {self.hidden} hidden texts were harmless)"
        )


def corpus() -> Iterator[CommandLine]:
    """Yield the command lines of ``corpus.txt``."""
    for line in CORPUS.read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            yield parse(line)


def parse(line: str) -> CommandLine:
    """Return a command line with its marks as positions."""
    argv, secrets = [], []
    for word in shlex.split(line):
        spans, plain, end = [], "", 0
        for mark in _MARK.finditer(word):
            plain += word[end : mark.start()]
            spans.append((len(plain), len(plain) + len(mark[1])))
            plain += mark[1]
            end = mark.end()
        argv.append(plain + word[end:])
        secrets.append(tuple(spans))
    return CommandLine(line, tuple(argv), tuple(secrets))


def hidden_spans(before: str, after: str) -> list[tuple[int, int]]:
    """Return which parts of an argument were replaced by a mask.

    The text between masks is unchanged, so it is found again from left to right; the last piece is found at the end.
    """
    if before == after:
        return []
    pieces = _MASK.split(after)
    spans, at = [], 0
    assert before.startswith(pieces[0]), (before, after)
    at = len(pieces[0])
    for number, piece in enumerate(pieces[1:], 1):
        is_last = number == len(pieces) - 1
        stop = len(before) - len(piece) if is_last else before.find(piece, at)
        assert stop >= at, (before, after)
        spans.append((at, stop))
        at = stop + len(piece)
    return spans


def score(line: CommandLine, scrubber: Scrubber, result: Score) -> None:
    """Add one command line to the counts."""
    raw = b"".join(argument.encode() + b"\0" for argument in line.argv)
    scrubbed = [fsdecode(part) for part in scrubber.scrub_argv(raw)[:-1].split(b"\0")]
    result.lines += 1
    problems = []
    for before, after, secrets in zip(line.argv, scrubbed, line.secrets, strict=True):
        hidden = hidden_spans(before, after)
        for start, end in secrets:
            result.secrets += 1
            covered = sum(max(0, min(end, stop) - max(start, begin)) for begin, stop in hidden)
            left = end - start - covered
            # The beginning of a token names its kind (ghp_, dop_v1_) and may stay.
            if left == 0 or (left <= _PREFIX_MAX and covered >= 2 * left and before[start] in "gdphxsn"):
                result.found += 1
            else:
                problems.append(f"missed {before[start:end]!r}")
        for begin, stop in hidden:
            result.hidden += 1
            # What goes with a secret, such as a quote or "pass:", is less than the secret itself.
            if any(2 * (min(end, stop) - max(start, begin)) >= stop - begin for start, end in secrets):
                result.right += 1
            else:
                problems.append(f"harmed {before[begin:stop]!r}")
    if problems:
        result.failures.append(f"{line.text}\n    {'; '.join(problems)}\n    -> {shlex.join(scrubbed)}")


def measure() -> tuple[Score, Score]:
    """Return the scores of the seen and of the unseen half."""
    scrubber = Scrubber()
    seen, unseen = Score(), Score()
    for line in corpus():
        score(line, scrubber, seen if line.is_seen else unseen)
    return seen, unseen


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seen", action="store_true", help="print each failure of the seen half")
    wanted = parser.parse_args()
    seen, unseen = measure()
    if wanted.seen:
        print("\n".join(seen.failures))
    print(f"seen:   {seen}\nunseen: {unseen}")


if __name__ == "__main__":
    main()

"""Make many faults, and print a table of those that were survived: `python -m tests.faults.run --help`."""

from __future__ import annotations

import argparse
import pickle
import random
import signal
import sys
import tempfile
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Self

from tests.faults.faults import BETWEEN_STORMS, IN_A_STORM
from tests.faults.resources import CROWD_MAX, RESOURCES, Resource, resource_round
from tests.faults.rounds import Tally, start_round, storm_round
from tests.live.harness import build_workload

#: Faults in one round, so in one storm.
PER_ROUND = 8


@dataclass
class Progress:
    """How far a run has come.

    Attributes:
        rng: chooses what comes next.
        tally: of the rounds so far.
        spent_s: the time that they took.
    """

    rng: random.Random
    tally: Tally = field(default_factory=Tally)
    spent_s: float = 0.0

    def keep(self, path: Path) -> None:
        """Write the state to a file, which is complete at each moment."""
        begun = path.with_name(path.name + ".new")
        begun.write_bytes(pickle.dumps((self.rng.getstate(), vars(self.tally), self.spent_s)))
        begun.replace(path)

    @classmethod
    def kept(cls, path: Path) -> Self:
        """Return the state that `keep` wrote."""
        state, tally, spent_s = pickle.loads(path.read_bytes())
        rng = random.Random()
        rng.setstate(state)
        return cls(rng, Tally(**tally), spent_s)


def possible_resources() -> list[Resource]:
    """Return the faults of resources that this machine can have, and say which it cannot."""
    missing = {kind.name: kind.missing() for kind in RESOURCES}
    for name, what in missing.items():
        if what:
            print(f"left out: {name}: {what}", file=sys.stderr, flush=True)
    return [kind for kind in RESOURCES if not missing[kind.name]]


def run(
    count: int,
    progress: Progress,
    workload: Path,
    crowd_max: int,
    *,
    minutes: float = 1e9,
    state: Path | None = None,
    is_silent: bool = False,
) -> Tally:
    """Make `count` faults of all kinds in an order that follows from the seed; `crowd_max` is that of `Scene`.

    No round begins after `minutes`. After each round the progress is kept in `state`.

    Raises:
        AssertionError: the daemon did not survive one.
    """
    #: How often each kind of round is chosen, how many faults it has, the kinds of faults, and what makes them.
    rounds = (
        (5, PER_ROUND, IN_A_STORM, storm_round),
        (3, PER_ROUND // 2, BETWEEN_STORMS, start_round),
        (3, PER_ROUND // 2, possible_resources(), partial(resource_round, crowd_max=crowd_max)),
    )
    weights = [weight for weight, *_ in rounds]
    rng, tally = progress.rng, progress.tally
    begin = time.monotonic()
    while tally.faults < count and time.monotonic() < begin + 60 * minutes:
        began_round = time.monotonic()
        left = count - tally.faults
        ((_, per_round, faults, make_round),) = rng.choices(rounds, weights)
        kinds = rng.choices(faults, k=min(per_round, left))
        try:
            make_round(workload, tally, kinds, rng)
        except BaseException:
            print("\n".join(tally.lines()))
            print(f"not survived, in a round of: {', '.join(kind.name for kind in kinds)}", flush=True)
            raise
        progress.spent_s += time.monotonic() - began_round
        if state:
            progress.keep(state)
        if not is_silent:
            print(f"{tally.faults} of {count} faults, {progress.spent_s:.0f} s", file=sys.stderr, flush=True)
    return tally


def run_each(times: int, only: str, progress: Progress, workload: Path, crowd_max: int) -> None:
    """Make each kind of fault `times` times, each in a round of its own, and print how long the tables took afterwards.

    Raises:
        AssertionError: the daemon did not survive one.
    """
    try:
        for faults, make_round in (
            (IN_A_STORM, storm_round),
            (BETWEEN_STORMS, start_round),
            (possible_resources(), partial(resource_round, crowd_max=crowd_max)),
        ):
            for kind in faults:
                for _ in range(times if only in kind.name else 0):
                    print(kind.name, file=sys.stderr, flush=True)
                    make_round(workload, progress.tally, [kind], progress.rng)
    finally:
        print("\n".join(progress.tally.lines()))


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--faults", type=int, default=500, metavar="N", help="number of faults (default: 500, about an hour)"
    )
    parser.add_argument("--each", type=int, default=0, metavar="N", help="each kind of fault N times, alone in a storm")
    parser.add_argument("--only", default="", metavar="TEXT", help="with --each: only faults with this in their name")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="the same seed makes the same faults")
    parser.add_argument(
        "--crowd", type=int, default=CROWD_MAX, metavar="N", help=f"live processes at a time (default: {CROWD_MAX:,})"
    )
    parser.add_argument("--minutes", type=float, default=1e9, metavar="M", help="begin no round after this time")
    parser.add_argument(
        "--state", type=Path, metavar="FILE", help="keep the progress there after each round, and continue from there"
    )
    options = parser.parse_args()
    # A shell ignores SIGINT for jobs in the background. Nothing is left behind by either signal.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    state: Path | None = options.state
    progress = Progress.kept(state) if state and state.exists() else Progress(random.Random(options.seed))
    with tempfile.TemporaryDirectory(prefix="procline-faults-") as directory:
        workload = build_workload(Path(directory))
        if options.each:
            run_each(options.each, options.only, progress, workload, options.crowd)
            return
        tally = run(options.faults, progress, workload, options.crowd, minutes=options.minutes, state=state)
    print("\n".join(tally.lines()))
    print(f"Time of all rounds: {progress.spent_s:.0f} s.")


if __name__ == "__main__":
    main()

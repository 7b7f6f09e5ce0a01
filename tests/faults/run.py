"""Make many faults, and print a table of those that were survived: `python -m tests.faults.run --help`."""

from __future__ import annotations

import argparse
import random
import signal
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

from tests.faults.faults import BETWEEN_STORMS, IN_A_STORM
from tests.faults.resources import CROWD_MAX, RESOURCES, resource_round
from tests.faults.rounds import Tally, start_round, storm_round
from tests.live.harness import build_workload

#: Faults in one round, so in one storm.
PER_ROUND = 8


def run(
    count: int, seed: int, workload: Path, crowd_max: int, *, minutes: float = 1e9, is_silent: bool = False
) -> Tally:
    """Make `count` faults of all kinds in an order that follows from `seed`; `crowd_max` is that of `Scene`.

    No round begins after `minutes`.

    Raises:
        AssertionError: the daemon did not survive one.
    """
    #: How often each kind of round is chosen, how many faults it has, the kinds of faults, and what makes them.
    rounds = (
        (5, PER_ROUND, IN_A_STORM, storm_round),
        (3, PER_ROUND // 2, BETWEEN_STORMS, start_round),
        (3, PER_ROUND // 2, RESOURCES, partial(resource_round, crowd_max=crowd_max)),
    )
    weights = [weight for weight, *_ in rounds]
    rng = random.Random(seed)
    tally = Tally()
    begin = time.monotonic()
    while tally.faults < count and time.monotonic() < begin + 60 * minutes:
        left = count - tally.faults
        ((_, per_round, faults, make_round),) = rng.choices(rounds, weights)
        kinds = rng.choices(faults, k=min(per_round, left))
        try:
            make_round(workload, tally, kinds, rng)
        except BaseException:
            print("\n".join(tally.lines()))
            print(f"seed {seed}: not survived, in a round of: {', '.join(kind.name for kind in kinds)}", flush=True)
            raise
        if not is_silent:
            print(f"{tally.faults} of {count} faults, {time.monotonic() - begin:.0f} s", file=sys.stderr, flush=True)
    return tally


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--faults", type=int, default=500, metavar="N", help="how many (default: 500, about an hour)")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="the same seed makes the same faults")
    parser.add_argument(
        "--crowd", type=int, default=CROWD_MAX, metavar="N", help=f"live processes at a time (default: {CROWD_MAX:,})"
    )
    parser.add_argument("--minutes", type=float, default=1e9, metavar="M", help="begin no round after this time")
    options = parser.parse_args()
    # A shell ignores SIGINT for jobs in the background. Nothing is left behind by either signal.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    with tempfile.TemporaryDirectory(prefix="procline-faults-") as directory:
        tally = run(
            options.faults, options.seed, build_workload(Path(directory)), options.crowd, minutes=options.minutes
        )
    print("\n".join(tally.lines()))


if __name__ == "__main__":
    main()

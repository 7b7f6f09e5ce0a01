"""Make many faults, and print a table of those that were survived: `python -m tests.faults.run --help`."""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from pathlib import Path

from tests.faults.faults import BETWEEN_STORMS, IN_A_STORM
from tests.faults.rounds import Tally, start_round, storm_round
from tests.live.harness import build_workload

#: Faults in one round, so in one storm.
PER_ROUND = 8
#: The part of the rounds in which instances are started.
STARTS = 0.3


def run(count: int, seed: int, workload: Path, *, is_silent: bool = False) -> Tally:
    """Make `count` faults of all kinds in an order that follows from `seed`.

    Raises:
        AssertionError: the daemon did not survive one.
    """
    rng = random.Random(seed)
    tally = Tally()
    begin = time.monotonic()
    while tally.faults < count:
        left = count - tally.faults
        is_start = rng.random() < len(BETWEEN_STORMS) / (len(BETWEEN_STORMS) + len(IN_A_STORM)) * 2
        kinds = rng.choices(
            BETWEEN_STORMS if is_start else IN_A_STORM, k=min(PER_ROUND // 2 if is_start else PER_ROUND, left)
        )
        try:
            (start_round if is_start else storm_round)(workload, tally, kinds, rng)
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
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="procline-faults-") as directory:
        tally = run(options.faults, options.seed, build_workload(Path(directory)))
    print("\n".join(tally.lines()))


if __name__ == "__main__":
    main()

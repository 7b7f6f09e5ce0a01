"""How much an instance slows down the host: the same load with and without it, in turn.

The rounds are A B, B A, A B, …. A pair is a round with the instance and the round without it that is next to it, so a
drift of the host affects both. The figure is the median of the pairs' ratios. Its confidence interval comes from the
order of the ratios and assumes no distribution. In a round nothing else is measured: no subscriber, no probe.
"""

from __future__ import annotations

import itertools
import math
import statistics
import time
from collections.abc import Sequence
from typing import Any

from pipeline.load.instance import OwnInstance
from pipeline.load.measuring import quartiles
from pipeline.load.program import Load
from pipeline.load.scenarios import Settings
from pipeline.screen.progress import Show, silent

#: After a start the instance still works on its snapshot.
_SETTLE_S = 2.0
_PAUSE_S = 0.3
_CONFIDENCE = 0.95


def measure(instance: OwnInstance, settings: Settings, pairs: int, progress: Show = silent) -> dict[str, Any]:
    """Run the pairs; return the report's part `paired`. The instance is stopped afterwards.

    Args:
        instance: started or not.
        settings: of each round.
        pairs: how many.
        progress: called before each round.
    """
    rounds: list[dict[str, Any]] = []
    runs: bool | None = None
    for pair in range(pairs):
        for is_with in (True, False) if pair % 2 == 0 else (False, True):
            number = len(rounds) + 1
            progress(f"round {number} of {2 * pairs}, {'with' if is_with else 'without'} the instance")
            if runs is not is_with:
                instance.stop()
                if is_with:
                    instance.start(lambda: progress("starting the instance"))
                    time.sleep(_SETTLE_S)
                runs = is_with
            time.sleep(_PAUSE_S)
            with Load(settings) as load:
                load.begin()
                made = load.result()
            rounds.append({
                "is_with": is_with,
                "events_per_s": made.events / made.seconds,
                "cpu_us_per_event": made.cpu_ns / max(made.events, 1) / 1000,
            })  # fmt: skip
    instance.stop()
    return {
        "pairs": pairs,
        "time": slowdown([_time_ratio(*pair) for pair in _pairs(rounds)]),
        "cpu": slowdown([_cpu_ratio(*pair) for pair in _pairs(rounds)]),
        "noise": _noise(rounds),
        "rounds": rounds,
    }


def _pairs(rounds: Sequence[dict[str, Any]]) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Return (with, without) of each pair."""
    found = []
    for one, other in zip(rounds[::2], rounds[1::2], strict=True):
        found.append((one, other) if one["is_with"] else (other, one))
    return found


def _time_ratio(with_it: dict[str, Any], without: dict[str, Any]) -> float:
    return float(without["events_per_s"] / with_it["events_per_s"])


def _cpu_ratio(with_it: dict[str, Any], without: dict[str, Any]) -> float:
    return float(with_it["cpu_us_per_event"] / without["cpu_us_per_event"])


def slowdown(ratios: Sequence[float]) -> dict[str, float]:
    """Return the median of ratios and its confidence interval, as percent above 1."""
    low, high, confidence = median_interval(ratios)
    return {
        "slowdown_percent": (statistics.median(ratios) - 1) * 100,
        "low_percent": (low - 1) * 100,
        "high_percent": (high - 1) * 100,
        "confidence_percent": confidence * 100,
    }


def median_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Return an interval that contains the median of the distribution, and the probability that it does.

    It is the narrowest pair of order statistics with at least 95 %; with fewer than 6 values even the smallest and the
    largest have less.
    """
    ordered = sorted(values)
    count = len(ordered)
    # `outside`: the probability that fewer than k of the values are below the median.
    k, outside = 1, 1 / 2**count
    while k < (count + 1) // 2:
        more = outside + math.comb(count, k) / 2**count
        if 2 * more > 1 - _CONFIDENCE:
            break
        k, outside = k + 1, more
    return ordered[k - 1], ordered[count - k], 1 - 2 * outside


def _noise(rounds: Sequence[dict[str, Any]]) -> dict[str, float | int | None]:
    """Return the quartiles of the ratios of neighbours of the same kind: what a pair shows without any effect."""
    ratios = [
        other["events_per_s"] / one["events_per_s"]
        for one, other in itertools.pairwise(rounds)
        if one["is_with"] == other["is_with"]
    ]
    if not ratios:
        return {"count": 0, "low_percent": None, "high_percent": None}
    low, _, high = quartiles(ratios)
    return {"count": len(ratios), "low_percent": (low - 1) * 100, "high_percent": (high - 1) * 100}

"""What the benches of growth share: costs in pairs with the smallest size, and their rows, curves and targets.

A cost that is compared over minutes drifts with the machine, so each size is measured right before or after the
smallest one, and what is reported of its growth is the median of these pairs' ratios.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import common


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one size: ns (median and best), and ratios to the smallest size (median and quartiles of the pairs)."""

    ns: float
    best: float
    ratio: float
    low: float
    high: float


def paired(runs: Mapping[int, Callable[[], float]], rounds: int) -> dict[int, Cost]:
    """Measure each size beside the smallest, `rounds` times, in the order A B B A …; ns by size.

    The smallest is paired with itself: its quartiles are the noise.
    """
    base, *_ = runs
    for run in runs.values():
        run()  # touches and compiles everything
    times: dict[int, list[float]] = {size: [] for size in runs}
    ratios: dict[int, list[float]] = {size: [] for size in runs}
    for number in range(rounds):
        for size, run in runs.items():
            if number % 2:
                mine, first = run(), runs[base]()
            else:
                first, mine = runs[base](), run()
            times[size].append(mine)
            ratios[size].append(mine / first)
    found = {}
    for size in runs:
        ordered = sorted(ratios[size])
        low, high = ordered[len(ordered) // 4], ordered[(3 * len(ordered)) // 4]
        found[size] = Cost(
            statistics.median(times[size]), min(times[size]), statistics.median(ratios[size]), low, high
        )  # fmt: skip
    return found


def add(
    report: common.Report, title: str, x_label: str, unit: str, series: Mapping[str, Mapping[int, Cost]],
    flat: Mapping[str, float],
) -> None:  # fmt: skip
    """Put series over the same sizes into a report: rows, one curve, and for those in `flat` the most they may grow."""
    for name, costs in series.items():
        for size, cost in costs.items():
            report.rows.append({
                "curve": title, "series": name, x_label: size, unit: cost.ns, "best": cost.best, "ratio": cost.ratio,
                "low": cost.low, "high": cost.high,
            })  # fmt: skip
        if name in flat:
            first, *_, last = costs
            what = f"{title}, {name}: at {last:,} {x_label} over {first:,}'s"
            report.target(what, costs[last].ratio, flat[name], "times")
    sizes = list(next(iter(series.values())))
    report.curves.append({
        "title": title, "x_label": x_label, "y_label": unit, "x": sizes,
        "y": {name: [costs[size].ns for size in sizes] for name, costs in series.items()},
    })  # fmt: skip

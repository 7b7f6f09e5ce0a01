"""Shared code of the growth benches: costs measured in pairs with the smallest size, and their rows and curves.

Measurements that are minutes apart drift with the machine. Each size is therefore measured directly before or after the
smallest size, and the reported growth is the median of the ratios of these pairs.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import common


@dataclass(frozen=True, slots=True)
class Cost:
    """Cost of one size: ns (median and best), and ratio to the smallest size (median and quartiles of the pairs)."""

    ns: float
    best: float
    ratio: float
    low: float
    high: float


def paired(runs: Mapping[int, Callable[[], float]], rounds: int) -> dict[int, Cost]:
    """Measure each size in pairs with the smallest, `rounds` times, in the order A B B A ...; returns costs by size.

    The smallest size is also paired with itself; its quartiles show the noise.
    """
    base, *_ = runs
    for run in runs.values():
        run()  # warm-up: touches all pages
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
    """Add series over the same sizes to a report.

    Args:
        report: the report.
        title: title of the curve.
        x_label: what the sizes count.
        unit: unit of the costs.
        series: costs by size, for each series.
        flat: for some series, the target of the ratio between the largest and the smallest size.
    """
    for name, costs in series.items():
        for size, cost in costs.items():
            report.rows.append({
                "curve": title, "series": name, x_label: size, unit: cost.ns, "best": cost.best, "ratio": cost.ratio,
                "low": cost.low, "high": cost.high,
            })  # fmt: skip
        if name in flat:
            first, *_, last = costs
            what = f"{title}, {name}: {last:,} {x_label} relative to {first:,}"
            report.target(what, costs[last].ratio, flat[name], "times")
    sizes = list(next(iter(series.values())))
    report.curves.append({
        "title": title, "x_label": x_label, "y_label": unit, "x": sizes,
        "y": {name: [costs[size].ns for size in sizes] for name, costs in series.items()},
    })  # fmt: skip

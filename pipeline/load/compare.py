"""Several reports side by side: of other hosts, versions or settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.load.summary import Table, figure, mib, percent, us


@dataclass(frozen=True, slots=True)
class Metric:
    """A figure that is compared.

    Attributes:
        name: for people.
        value: returns it from a report; None: unknown.
        show: writes it.
        is_less_better: for a figure where less is better.
    """

    name: str
    value: Callable[[Mapping[str, Any]], float | None]
    show: Callable[[float | None], str] = figure
    is_less_better: bool = True


def _worst(place: str, part: str) -> Callable[[Mapping[str, Any]], float | None]:
    """Return the function for the largest of a percentile over all kinds."""

    def read(report: Mapping[str, Any]) -> float | None:
        kinds = report["latency_us"][place].values()
        values = [kind[part] for kind in kinds if isinstance(kind, Mapping) and kind[part] is not None]
        return max(values, default=None)

    return read


def _sum(key: str) -> Callable[[Mapping[str, Any]], float | None]:
    return lambda report: sum(report[key].values())


def _memory(report: Mapping[str, Any]) -> float | None:
    sizes = [size for size in report["memory_bytes"].values() if size is not None]
    return sum(sizes) if sizes else None


def _fill(report: Mapping[str, Any]) -> float | None:
    ring = report["ring"]
    if ring["fill_max_bytes"] is None or not ring["size_bytes"]:
        return None
    return float(100 * ring["fill_max_bytes"] / ring["size_bytes"])


def _slowdown(report: Mapping[str, Any]) -> float | None:
    return None if report["paired"] is None else float(report["paired"]["time"]["slowdown_percent"])


def _limit(report: Mapping[str, Any]) -> float | None:
    return None if report["limit"] is None else report["limit"]["events_per_s"]


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g} %"


METRICS: tuple[Metric, ...] = (
    Metric("made, events/s", lambda report: report["load"]["events_per_s"], is_less_better=False),
    Metric("lost", _sum("lost")),
    Metric("extra", _sum("extra")),
    Metric("wrong", _sum("wrong")),
    Metric("late", lambda report: report["late"]),
    Metric("to table, p50", _worst("table", "p50_us"), us),
    Metric("to table, p99", _worst("table", "p99_us"), us),
    Metric("to subscriber, p50", _worst("subscriber", "p50_us"), us),
    Metric("to subscriber, p99", _worst("subscriber", "p99_us"), us),
    Metric("to subscriber, max", _worst("subscriber", "max_us"), us),
    Metric("CPU per event", lambda report: report["cpu_us_per_event_total"], us),
    Metric("CPU of the load per event", lambda report: report["load"]["cpu_us_per_event"], us),
    Metric("memory", _memory, mib),
    Metric("fullest ring", _fill, _share),
    Metric("slowdown", _slowdown, percent),
    Metric("highest rate without loss, events/s", _limit, is_less_better=False),
)

#: What must be equal for figures to be comparable, and what explains a difference.
_SETTINGS = ("scenario", "rate_events_per_s", "duration_s", "concurrency", "cpus")
_HOST = ("kernel", "machine", "processor", "cpu_count", "memory_bytes")


def labels(reports: Sequence[Mapping[str, Any]], names: Sequence[str]) -> list[str]:
    """Return a short name for each report: the host's, with the version or the file if hosts repeat."""
    hosts = [report["host"]["name"] for report in reports]
    if len(set(hosts)) == len(hosts):
        return hosts
    versions = [f"{report['host']['name']} {report['procline_version']}" for report in reports]
    return versions if len(set(versions)) == len(versions) else list(names)


def differences(reports: Sequence[Mapping[str, Any]], names: Sequence[str]) -> Table:
    """Return what differs between the tests themselves: hosts, versions, settings."""
    table = Table("What differs", [["", *labels(reports, names)]])
    sources: list[tuple[str, Callable[[Mapping[str, Any]], object]]] = [
        ("host", lambda report: report["host"]["name"]),
        ("procline", lambda report: report["procline_version"]),
        *((name, lambda report, name=name: report["host"][name]) for name in _HOST),
        *((name, lambda report, name=name: report["settings"][name]) for name in _SETTINGS),
        ("own instance", lambda report: report["instance"]["is_own"]),
    ]
    for name, read in sources:
        values = [read(report) for report in reports]
        if any(value != values[0] for value in values):
            show: Callable[[Any], str] = mib if name == "memory_bytes" else figure
            table.rows.append(
                [
                    name.replace("_", " ").replace("rate events per s", "rate, events/s"),
                    *(show(value) for value in values),
                ]
            )
    return table


def figures(reports: Sequence[Mapping[str, Any]], names: Sequence[str]) -> Table:
    """Return the figures of all reports, and for two reports the change from the first to the second."""
    heads = labels(reports, names)
    rows: list[list[str]] = []
    for metric in METRICS:
        values = [metric.value(report) for report in reports]
        if all(value is None for value in values):
            continue
        shown = [metric.show(value) for value in values]
        if len(reports) == 2:
            shown.append(change(*values))
        rows.append([metric.name, *shown])
    if len(reports) == 2:
        heads = [*heads, "change"]
    return Table("Figures", [["", *heads], *rows])


def turned(table: Table) -> Table:
    """Return a table with its rows as columns."""
    return Table(table.title, [list(column) for column in zip(*table.rows, strict=True)])


def change(old: float | None, new: float | None) -> str:
    """Return the change from one figure to another, relative where that has a meaning."""
    if old is None or new is None or old == new:
        return "" if old == new else "-"
    if old <= 0 or new < 0:
        return f"{new - old:+,.3g}"
    return percent((new / old - 1) * 100)

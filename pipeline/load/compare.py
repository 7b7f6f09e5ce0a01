"""Several reports side by side: of other hosts, versions or settings."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.load.summary import Table, figure, mib, percent, us


@dataclass(frozen=True, slots=True)
class Metric:
    """A figure that is compared.

    Attributes:
        key: its name in JSON, with the unit.
        name: for people.
        value: returns it from a report; None: unknown.
        show: writes it.
        is_less_better: for a figure where less is better.
    """

    key: str
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
    Metric("made_events_per_s", "made, events/s", lambda report: report["load"]["events_per_s"], is_less_better=False),
    Metric("lost", "lost", _sum("lost")),
    Metric("extra", "extra", _sum("extra")),
    Metric("wrong", "wrong", _sum("wrong")),
    Metric("late", "late", lambda report: report["late"]),
    Metric("table_p50_us", "to table, p50", _worst("table", "p50_us"), us),
    Metric("table_p99_us", "to table, p99", _worst("table", "p99_us"), us),
    Metric("subscriber_p50_us", "to subscriber, p50", _worst("subscriber", "p50_us"), us),
    Metric("subscriber_p99_us", "to subscriber, p99", _worst("subscriber", "p99_us"), us),
    Metric("subscriber_max_us", "to subscriber, max", _worst("subscriber", "max_us"), us),
    Metric("cpu_us_per_event", "CPU per event", lambda report: report["cpu_us_per_event_total"], us),
    Metric("load_cpu_us_per_event", "CPU of the load per event", lambda report: report["load"]["cpu_us_per_event"], us),
    Metric("memory_bytes", "memory", _memory, mib),
    Metric("ring_fill_percent", "fullest ring", _fill, _share),
    Metric("slowdown_percent", "slowdown", _slowdown, percent),
    Metric("limit_events_per_s", "highest rate without loss, events/s", _limit, is_less_better=False),
)

#: What must be equal for figures to be comparable, and what explains a difference: fields of a report, and their names
#: for people.
_CONDITIONS = {
    "host.name": "host", "procline_version": "procline", "host.kernel": "kernel", "host.machine": "machine",
    "host.processor": "processor", "host.cpu_count": "cpu count", "host.memory_bytes": "memory bytes",
    "settings.scenario": "scenario", "settings.rate_events_per_s": "rate, events/s",
    "settings.duration_s": "duration s", "settings.concurrency": "concurrency", "settings.cpus": "cpus",
    "instance.is_own": "own instance",
}  # fmt: skip


def labels(reports: Sequence[Mapping[str, Any]], names: Sequence[str]) -> list[str]:
    """Return a short name for each report: the host's, with the version or the file if hosts repeat."""
    hosts = [report["host"]["name"] for report in reports]
    if len(set(hosts)) == len(hosts):
        return hosts
    versions = [f"{report['host']['name']} {report['procline_version']}" for report in reports]
    return versions if len(set(versions)) == len(versions) else list(names)


def _differing(reports: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, list[Any]]]:
    """Yield the fields of _CONDITIONS that are not the same in all reports, with their values."""
    for field in _CONDITIONS:
        part, _, name = field.rpartition(".")
        values = [(report[part] if part else report)[name] for report in reports]
        if any(value != values[0] for value in values):
            yield field, values


def differences(reports: Sequence[Mapping[str, Any]], names: Sequence[str]) -> Table:
    """Return what differs between the tests themselves: hosts, versions, settings."""
    table = Table("What differs", [["", *labels(reports, names)]])
    for field, values in _differing(reports):
        show: Callable[[Any], str] = mib if field == "host.memory_bytes" else figure
        table.rows.append([_CONDITIONS[field], *map(show, values)])
    return table


def document(reports: Sequence[Mapping[str, Any]], names: Sequence[str]) -> dict[str, Any]:
    """Return the comparison as data: values in the order of the reports, None where a report has none."""
    return {
        "reports": labels(reports, names),
        "differences": dict(_differing(reports)),
        "figures": {metric.key: [metric.value(report) for report in reports] for metric in METRICS},
    }


def figures(reports: Sequence[Mapping[str, Any]], names: Sequence[str]) -> Table:
    """Return the figures of all reports, and for two reports the change from the first to the second."""
    headings = labels(reports, names)
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
        headings = [*headings, "change"]
    return Table("Figures", [["", *headings], *rows])


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

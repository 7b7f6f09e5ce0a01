"""A report as tables of text: titles, and rows of cells. The caller prints or draws them, and escapes the cells."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from pipeline.load import limit
from pipeline.load.run import is_exact


@dataclass(slots=True)
class Table:
    """A table with a title; the first row is the heading, the first column names the rows."""

    title: str
    rows: list[list[str]] = field(default_factory=list)


def figure(value: object) -> str:
    """Return a number with three significant digits or with thousands separators; a dash for None."""
    if value is None:
        return "-"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if isinstance(value, int) or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def us(value: float | None) -> str:
    """Return a time with its unit."""
    if value is None:
        return "-"
    for size, unit in ((1e6, "s"), (1e3, "ms")):
        if abs(value) >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.3g} µs"


def mib(value: float | None) -> str:
    """Return a size in MiB or KiB."""
    if value is None:
        return "-"
    return f"{value / (1 << 20):.1f} MiB" if value >= 1 << 20 else f"{value / 1024:.1f} KiB"


def percent(value: float | None) -> str:
    """Return a percentage with its sign."""
    return "-" if value is None else f"{value:+.1f} %"


def title(report: Mapping[str, Any]) -> str:
    """Return one line about what was tested where."""
    settings, host = report["settings"], report["host"]
    rate = settings["rate_events_per_s"]
    cpus = f", on CPUs {settings['cpus']}" if settings["cpus"] else ""
    return (
        f"{settings['scenario']} at {'full speed' if rate is None else f'{figure(rate)} events/s'} for "
        f"{settings['duration_s']:g} s, {settings['concurrency']} workers{cpus}; {host['name']}, "
        f"{host['cpu_count']} CPUs, Linux {host['kernel']}, procline {report['procline_version']}"
    )


def verdict(report: Mapping[str, Any]) -> str:
    """Return one sentence about the result."""
    made = sum(count for kind, count in report["made"].items() if kind != "thread")
    if is_exact(report):
        return f"All {made:,} events were seen, each once, and none was wrong."
    faults = {what: sum(report[what].values()) for what in ("lost", "extra", "wrong")}
    parts = [f"{count:,} {what}" for what, count in faults.items() if count]
    if report["alive_in_table"]:
        parts.append(f"{report['alive_in_table']:,} still alive in the tables")
    text = f"Of {made:,} events: {', '.join(parts)}."
    if report["missed_by_subscriber"]:
        text += (
            f" The subscriber of this test was too slow and missed {report['missed_by_subscriber']:,} published "
            f"events; the instance itself lost {sum(report['host_events']['lost'].values()):,}."
        )
    return text


def tables(report: Mapping[str, Any]) -> Iterator[Table]:
    """Yield the tables of a report."""
    yield _counts(report)
    yield _latency(report)
    yield _costs(report)
    yield _load(report)
    if report["paired"] is not None:
        yield _paired(report["paired"])
    if report["limit"] is not None:
        yield _limit(report["limit"])


def _counts(report: Mapping[str, Any]) -> Table:
    columns = ("made", "seen", "lost", "extra", "wrong")
    table = Table("Events", [["", *columns]])
    for kind, made in report["made"].items():
        if kind == "thread":
            if made:
                table.rows.append([kind, figure(made), "-", "-", "-", "-"])
        elif made or report["extra"].get(kind):
            table.rows.append([kind, *(figure(report[column].get(kind)) for column in columns)])
    return table


def _latency(report: Mapping[str, Any]) -> Table:
    table = Table("Latency", [["", "p50", "p90", "p99", "max", "events"]])
    for place, kinds in report["latency_us"].items():
        for kind, found in kinds.items():
            if isinstance(found, Mapping):
                values = [us(found[f"{part}_us"]) for part in ("p50", "p90", "p99", "max")]
                table.rows.append([f"{kind} to {place}", *values, figure(found["count"])])
    return table


def _costs(report: Mapping[str, Any]) -> Table:
    table = Table("Instance", [["", "CPU per event", "memory"]])
    roles = dict.fromkeys([*report["cpu_us_per_event"], *report["memory_bytes"]])
    for role in roles:
        table.rows.append([role, us(report["cpu_us_per_event"].get(role)), mib(report["memory_bytes"].get(role))])
    memory = [size for size in report["memory_bytes"].values() if size is not None]
    table.rows.append(["all", us(report["cpu_us_per_event_total"]), mib(sum(memory) if memory else None)])
    return table


def _load(report: Mapping[str, Any]) -> Table:
    load, ring = report["load"], report["ring"]
    lags = [sample["table_lag_ms"] for sample in report["samples"]]
    fill, size = ring["fill_max_bytes"], ring["size_bytes"]
    share = f" of {mib(size)} ({100 * fill / size:.1f} %)" if fill is not None and size else ""
    forks = report["kernel"]
    host_lost = ", ".join(f"{count:,} {kind}" for kind, count in report["host_events"]["lost"].items())
    rows = [
        ["", "value"],
        ["made", f"{figure(load['events_per_s'])} events/s for {load['seconds']:.1f} s"],
        ["CPU of the load per event", us(load["cpu_us_per_event"])],
        ["forks by the kernel's count", f"{forks['forks']:,}, of others {forks['forks_of_others']:,}"],
        ["fullest ring", f"{mib(fill)}{share}"],
        ["tables behind, at most", us(max(lags) * 1000) if lags else "-"],
        ["applied late", figure(report["late"])],
        ["lost by the instance, whole host", host_lost or "0"],
        ["alive in the tables after the end", figure(report["alive_in_table"])],
    ]
    if load["is_shortened"]:
        rows.append(["ended early", "the log of the load was full"])
    for example in report["examples"]:
        rows.append(["example", example])
    return Table("Load", rows)


def _paired(paired: Mapping[str, Any]) -> Table:
    table = Table(f"Slowdown, {paired['pairs']} pairs with and without", [["", "median", "from", "to", "confidence"]])
    for name, key in (("events a second", "time"), ("CPU of the load", "cpu")):
        part = paired[key]
        values = [percent(part[f"{each}_percent"]) for each in ("slowdown", "low", "high")]
        table.rows.append([name, *values, f"{part['confidence_percent']:.0f} %"])
    noise = paired["noise"]
    table.rows.append(["noise (quartiles)", "", percent(noise["low_percent"]), percent(noise["high_percent"]), ""])
    return table


def _limit(found: Mapping[str, Any]) -> Table:
    rate = found["events_per_s"]
    reason = limit.REASONS.get(found["reason"], found["reason"])
    name = "Highest rate without loss: " + (f"{figure(rate)} events/s" if rate is not None else "none was found")
    table = Table(f"{name} ({reason})", [["events/s", "made", "lost", "missed", "result"]])
    for step in found["steps"]:
        table.rows.append([
            figure(step["rate_events_per_s"]), figure(step["made_events_per_s"]), figure(step["lost"]),
            figure(step["missed_by_subscriber"]), step["reason"] or "sustained",
        ])  # fmt: skip
    return table

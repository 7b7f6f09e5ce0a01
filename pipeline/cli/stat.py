"""`procline stat`: counters, sizes and costs of an instance."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import click

from pipeline.cli import common
from pipeline.export.json import dumps


@click.command(
    epilog="""\b
Examples:
  procline stat
  procline stat --json | jq .lost      the events lost so far, by kind
"""
)
@common.name_option
@common.json_option
def command(name: str, as_json: bool) -> int:
    """Show the counters, sizes and lag of an instance, and the CPU time and memory of its processes."""
    with common.attached(name) as table:
        stats = common.patiently(table.stats)
    if stats.get("behind_ns"):
        common.warn_about_delay(name, stats["behind_ns"])
    if as_json:
        click.echo(dumps(stats))
        return 0
    for line in describe(stats):
        click.echo(line)
    return 0


def describe(stats: Mapping[str, object]) -> Iterator[str]:
    """Yield the statistics as lines of text."""
    for key, value in stats.items():
        if key in {"processes", "behind_ns", "readers_complete"}:
            continue
        if key == "readers" and not stats.get("readers_complete", True):
            value = f"at least {value}"
        if isinstance(value, Mapping):
            parts = [f"{part} {number}" for part, number in value.items() if number]
            value = ", ".join(parts) or "none"
        elif key.endswith("_ns") and isinstance(value, int | float):
            key, value = key.removesuffix("_ns"), f"{value / 1e6:.1f} ms"
        yield f"{key.replace('_', ' '):18} {common.printable(value)}"
    processes = stats.get("processes")
    if isinstance(processes, list) and processes:
        yield ""
        yield f"{'ROLE':12} {'PID':>8} {'CPU':>10} {'MEMORY':>10}"
        for row in processes:
            memory = "-" if row["pss_bytes"] is None else f"{row['pss_bytes'] / (1 << 20):.1f} MiB"
            yield f"{row['role']:12} {row['pid']:>8} {row['cpu_seconds']:>8.2f} s {memory:>10}"

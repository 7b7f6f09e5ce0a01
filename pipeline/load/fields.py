"""The fields of a report: their types and meanings, and the check of a report that was read from a file.

`docs/load.md` has the same table. A report can come from another host, so it is not trusted: text can contain
anything, and is escaped where it is shown.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.errors import ConfigError
from pipeline.load.run import FORMAT

#: Path, type and meaning. A `?` marks a value that can be null; `{x}` is an object with values of type x by name.
FIELDS: tuple[tuple[str, str, str], ...] = (
    ("format", "int", "version of this format: raised when a field changes its meaning or is removed"),
    ("time", "str", "when the test ended, UTC"),
    ("procline_version", "str", "version of Procline that tested"),
    ("host.name", "str", "name of the host"),
    ("host.kernel", "str", "release of its kernel"),
    ("host.machine", "str", "machine, such as `x86_64`"),
    ("host.processor", "str", "its processor"),
    ("host.cpu_count", "int", "its CPUs"),
    ("host.memory_bytes", "int", "its memory"),
    ("settings.scenario", "str", "what was made"),
    ("settings.rate_events_per_s", "float?", "the rate that was asked for; null: as fast as possible"),
    ("settings.duration_s", "float", "the duration that was asked for, of each round"),
    ("settings.concurrency", "int", "workers"),
    ("settings.cpus", "str?", "CPUs of the load; null: all"),
    ("instance.name", "str", "name of the instance"),
    ("instance.is_own", "bool", "it was started for this test (`--own`)"),
    ("made", "{int}", "events that the load made, by kind; `thread`: threads, which are no events"),
    ("seen", "{int}", "of these, the events that a subscriber received, by kind"),
    ("lost", "{int}", "made, but not seen"),
    ("extra", "{int}", "seen, but not made, or seen twice"),
    ("wrong", "{int}", "seen with another parent, wait status, user or executable than was made"),
    ("alive_in_table", "int", "processes of the load that the tables show as alive after its end"),
    ("late", "int", "events that the instance applied too late to keep their order, of the whole host"),
    (
        "missed_by_subscriber",
        "int",
        "published events that were dropped because the test's subscriber was too slow",
    ),
    ("examples", "[str]", "a few of the lost, extra and wrong events"),
    ("load.seconds", "float", "how long the load ran"),
    ("load.events_per_s", "float", "events and threads that it made in a second"),
    ("load.units", "int", "units that it made, the smallest part of a scenario"),
    ("load.cpu_us_per_event", "float", "CPU time of the load for each event, with the BPF programs in it"),
    ("load.start_late_max_ms", "float", "the longest time by which a unit began too late"),
    ("load.is_shortened", "bool", "the load ended early, because its log was full"),
    ("kernel.forks", "int", "the kernel's own count of new processes and threads of the whole host, meanwhile"),
    ("kernel.forks_of_others", "int", "of these, those that the load did not make"),
    ("host_events.applied", "int", "events of the whole host that the instance applied"),
    ("host_events.lost", "{int}", "events of the whole host that the instance counted as lost, by kind; none: empty"),
    ("host_events.threads", "int", "new threads of the whole host that the instance counted"),
    ("latency_us.table", "{percentiles}", "from the event to the tables, by kind; of the processes of a probe"),
    ("latency_us.table.not_shown", "int", "events of the probe that did not appear in the tables within 5 s"),
    ("latency_us.subscriber", "{percentiles}", "from the event to the subscriber, by kind; of all events of the load"),
    ("cpu_us_per_event", "{float}", "CPU time of the instance for each event of the host, by role of its processes"),
    ("cpu_us_per_event_total", "float?", "the sum; null: /proc did not show it"),
    ("memory_bytes", "{int?}", "memory of the instance's processes at the end (PSS), by role; null: not readable"),
    ("ring.size_bytes", "int?", "size of the largest ring buffer; null: there is none, or the user may not read it"),
    ("ring.fill_max_bytes", "int?", "the most that was sampled in any ring"),
    ("samples", "[sample]", "ten a second, or 600 in total: `at_s`, `events_per_s`, `table_lag_ms`, `ring_fill_bytes`"),
    ("paired", "paired?", "only with `--paired`, see below"),
    ("limit", "limit?", "only with `--find-limit`, see below"),
)

_TEXT_MAX = 1000
_PERCENTILES = {"count": "int", "p50_us": "float?", "p90_us": "float?", "p99_us": "float?", "max_us": "float?"}
_SAMPLE = {"at_s": "float", "events_per_s": "float", "table_lag_ms": "float", "ring_fill_bytes": "int?"}
_SLOWDOWN = dict.fromkeys(("slowdown_percent", "low_percent", "high_percent", "confidence_percent"), "float")
_ROUND = {"is_with": "bool", "events_per_s": "float", "cpu_us_per_event": "float"}
_STEP = {
    "rate_events_per_s": "float", "made_events_per_s": "float", "lost": "int", "missed_by_subscriber": "int",
    "reason": "str?",
}  # fmt: skip
_OBJECTS: dict[str, dict[str, str]] = {
    "percentiles": _PERCENTILES,
    "sample": _SAMPLE,
    "slowdown": _SLOWDOWN,
    "round": _ROUND,
    "step": _STEP,
    "noise": {"count": "int", "low_percent": "float?", "high_percent": "float?"},
    "paired": {"pairs": "int", "time": "slowdown", "cpu": "slowdown", "noise": "noise", "rounds": "[round]"},
    "limit": {"events_per_s": "float?", "reason": "str", "steps": "[step]"},
}


def read(path: Path) -> dict[str, Any]:
    """Read a report that `procline load --json` printed.

    Raises:
        ConfigError: it cannot be read, is not a report, or has another format.
    """
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not JSON"
        raise _refused(path, reason or str(error)) from None
    fault = fault_of(report)
    if fault is not None:
        raise _refused(path, fault)
    checked: dict[str, Any] = report
    return checked


def _refused(path: Path, reason: str) -> ConfigError:
    return ConfigError(
        f"{path}: {reason}; use files that `procline load --json` printed", key="--compare", value=str(path)
    )


def fault_of(report: object) -> str | None:
    """Return what is wrong with the form of a report; None: nothing."""
    if not isinstance(report, Mapping) or "format" not in report:
        return "it is not a report of a load test"
    if report["format"] != FORMAT:
        return f"its format is {str(report['format'])[:20]!r}, but this version reads format {FORMAT}"
    for path, kind, _ in FIELDS:
        value: object = report
        for part in path.split("."):
            if not isinstance(value, Mapping) or part not in value:
                return f"the field {path} is missing"
            value = value[part]
        if path == "latency_us.table" and isinstance(value, Mapping):
            value = {name: each for name, each in value.items() if name != "not_shown"}
        if not _fits(value, kind):
            return f"the field {path} is not of type {kind}"
    return None


def _fits(value: object, kind: str) -> bool:
    if kind.endswith("?"):
        return value is None or _fits(value, kind[:-1])
    if kind.startswith("{"):
        return isinstance(value, Mapping) and all(
            isinstance(name, str) and len(name) < _TEXT_MAX and _fits(each, kind[1:-1]) for name, each in value.items()
        )
    if kind.startswith("["):
        return isinstance(value, list) and all(_fits(each, kind[1:-1]) for each in value)
    if kind in _OBJECTS:
        return isinstance(value, Mapping) and all(
            name in value and _fits(value[name], each) for name, each in _OBJECTS[kind].items()
        )
    if kind == "bool":
        return isinstance(value, bool)
    if kind == "str":
        return isinstance(value, str) and len(value) <= _TEXT_MAX
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) < 2**63 if isinstance(value, int) else kind == "float" and math.isfinite(value)

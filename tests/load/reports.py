"""A small report of a load test, to change."""

from __future__ import annotations

from typing import Any


def percentiles(us: float, count: int = 10) -> dict[str, Any]:
    return {"count": count, "p50_us": us, "p90_us": 2 * us, "p99_us": 3 * us, "max_us": 4 * us}


def report(host: str = "alpha", **changes: Any) -> dict[str, Any]:
    """Return a report without a fault; `changes` replace its parts."""
    made = {"fork": 100, "exec": 50, "exit": 100, "cred": 0, "thread": 0}
    nothing = {"fork": 0, "exec": 0, "exit": 0, "cred": 0}
    return {
        "format": 1,
        "time": "2026-01-02T03:04:05+00:00",
        "procline_version": "0.1.0",
        "host": {
            "name": host, "kernel": "6.12.1", "machine": "x86_64", "processor": "A CPU", "cpu_count": 4,
            "memory_bytes": 1 << 33,
        },
        "settings": {
            "scenario": "mix", "rate_events_per_s": 2000.0, "duration_s": 1.0, "concurrency": 2, "cpus": None,
        },
        "instance": {"name": "default", "is_own": False},
        "made": made,
        "seen": {kind: made[kind] for kind in nothing},
        "lost": dict(nothing),
        "extra": dict(nothing),
        "wrong": dict(nothing),
        "alive_in_table": 0,
        "late": 0,
        "missed_by_subscriber": 0,
        "examples": [],
        "load": {
            "seconds": 1.0, "events_per_s": 2000.0, "units": 50, "cpu_us_per_event": 90.0, "start_late_max_ms": 1.5,
            "is_shortened": False,
        },
        "kernel": {"forks": 120, "forks_of_others": 20},
        "host_events": {"applied": 300, "lost": {}, "threads": 3},
        "latency_us": {
            "table": {"fork": percentiles(1000), "exit": percentiles(2000), "not_shown": 0},
            "subscriber": {"fork": percentiles(3000.0), "exit": percentiles(4000.0)},
        },
        "cpu_us_per_event": {"supervisor": 0.5, "resolver": 5.0, "shard-0": 2.5},
        "cpu_us_per_event_total": 8.0,
        "memory_bytes": {"supervisor": 20 << 20, "resolver": 40 << 20, "shard-0": None},
        "ring": {"size_bytes": 8 << 20, "fill_max_bytes": 4096},
        "samples": [
            {"at_s": 0.1, "events_per_s": 1900.0, "table_lag_ms": 3.0, "ring_fill_bytes": 100},
            {"at_s": 0.2, "events_per_s": 2100.0, "table_lag_ms": 4.0, "ring_fill_bytes": None},
        ],
        "paired": None,
        "limit": None,
        **changes,
    }  # fmt: skip


def paired() -> dict[str, Any]:
    part = {"slowdown_percent": 3.0, "low_percent": 1.0, "high_percent": 5.0, "confidence_percent": 98.0}
    return {
        "pairs": 2,
        "time": part,
        "cpu": part,
        "noise": {"count": 1, "low_percent": -1.0, "high_percent": 1.0},
        "rounds": [
            {"is_with": is_with, "events_per_s": 1000.0, "cpu_us_per_event": 90.0}
            for is_with in (True, False, False, True)
        ],
    }


def limit() -> dict[str, Any]:
    step = {"rate_events_per_s": 2000.0, "made_events_per_s": 1990.0, "lost": 0, "missed_by_subscriber": 0}
    return {
        "events_per_s": 1990.0,
        "reason": "lost",
        "steps": [{**step, "reason": None}, {**step, "rate_events_per_s": 4000.0, "lost": 3, "reason": "lost"}],
    }

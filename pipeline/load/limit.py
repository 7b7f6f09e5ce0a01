"""The highest rate without loss: doubled until a step fails, then bisected.

A step is sustained if every event was seen exactly once, the instance counted no loss, and the load reached the rate.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from pipeline.load.run import is_exact
from pipeline.load.scenarios import RATE_MAX, Settings
from pipeline.screen.progress import Show, silent

STEPS_MAX = 16
#: The search ends when the highest good and the lowest bad rate differ by less than this factor.
_NEAR = 1.1
#: The load has reached a rate if it made this part of it.
_REACHED = 0.95
_LEAST_RATE = 50.0

#: Why a step was not sustained.
REASONS = {
    "lost": "the instance lost events or reported wrong ones",
    "subscriber": "the subscriber of this test was too slow",
    "load": "this host could not make more events",
    "rate": "the highest rate that can be asked for",
    "steps": "the search ended after the maximum number of steps",
}


def find(settings: Settings, run: Callable[[Settings], dict[str, Any]], progress: Show = silent) -> dict[str, Any]:
    """Search the highest sustained rate; return the report of its step, with the part `limit`.

    Args:
        settings: of each step; the search begins with their rate.
        run: measures one step.
        progress: called before each step.
    """
    rate = settings.rate_events_per_s or _LEAST_RATE
    good: float | None = None
    bad: float | None = None
    best: dict[str, Any] | None = None
    reason = "steps"
    steps: list[dict[str, Any]] = []
    while len(steps) < STEPS_MAX:
        progress(f"step {len(steps) + 1}: {rate:,.0f} events/s")
        report = run(replace(settings, rate_events_per_s=rate))
        failed = why_not(report)
        steps.append({
            "rate_events_per_s": rate,
            "made_events_per_s": report["load"]["events_per_s"],
            "lost": sum(report["lost"].values()),
            "missed_by_subscriber": report["missed_by_subscriber"],
            "reason": failed,
        })  # fmt: skip
        if failed is None:
            good, best = rate, report
        else:
            bad, reason = rate, failed
            best = best if good is not None else report
        if good is None:
            rate /= 2
            if rate < _LEAST_RATE:
                break
        elif bad is None:
            if rate >= RATE_MAX:
                reason = "rate"
                break
            rate = min(2 * rate, RATE_MAX)
        elif bad / good < _NEAR:
            break
        else:
            rate = (good * bad) ** 0.5
    else:
        reason = reason if bad is not None else "steps"
    assert best is not None
    sustained = None if good is None else best["load"]["events_per_s"]
    best["limit"] = {"events_per_s": sustained, "reason": reason, "steps": steps}
    return best


def why_not(report: dict[str, Any]) -> str | None:
    """Return why a step was not sustained, a key of REASONS; None if it was."""
    if sum(report["host_events"]["lost"].values()) or (not is_exact(report) and not report["missed_by_subscriber"]):
        return "lost"
    if report["missed_by_subscriber"]:
        return "subscriber"
    if report["load"]["events_per_s"] < _REACHED * report["settings"]["rate_events_per_s"]:
        return "load"
    return None

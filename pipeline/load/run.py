"""One round of a load test: the load, a subscriber, a probe of the tables and the measurements, put into one report.

`docs/load.md` describes the report; its fields have their units in their names.
"""

from __future__ import annotations

import subprocess
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.errors import BehindError, UnsupportedError
from pipeline.host import processes, tiers
from pipeline.host.boot import now_boot_ns
from pipeline.load import measuring, truth
from pipeline.load.declared import KINDS
from pipeline.load.instance import attach
from pipeline.load.listener import Listener
from pipeline.load.program import Bounded, Load, program
from pipeline.load.scenarios import Settings, check, cpu_list
from pipeline.screen.progress import Show, silent
from pipeline.shm.reader.statistics import Stats
from pipeline.shm.reader.table import ProcessTable
from pipeline.version import __version__

if TYPE_CHECKING:
    import numpy.typing as npt

#: Raised when a field changes its meaning or is removed.
FORMAT = 1


#: The probe forks a child after this time on average, and reads the tables in this interval until they show it.
_PROBE_GAP_MS, _PROBE_POLL_US = 20, 100
_SAMPLES_MAX = 600
_CAUGHT_UP_S = 60.0
#: An idle instance reads the kernel's counts, threads among them, at least this often.
_COUNTED_S = 4.0


@dataclass(frozen=True, slots=True)
class _Round:
    """The measurements of one round.

    Attributes:
        made: what the load made.
        before, after: statistics of the tables, which contained all events at both times.
        seen: the load's events, as the subscriber received them.
        missed: events that the subscriber missed.
        ghosts: processes of the load that the tables show as alive after their end.
        forks: forks and new threads of the whole host, by the kernel.
        cpu_ns: CPU time of the instance by role; empty: unknown.
        memory_bytes: of the instance by role, at the end; None: unknown.
        ring_bytes: size of a ring; 0: unknown.
        samples: see `_sample`.
        probe: lines of the probe of the tables.
    """

    made: truth.Made
    before: Stats
    after: Stats
    seen: npt.NDArray[np.void]
    missed: int
    ghosts: int
    forks: int
    cpu_ns: Mapping[str, int]
    memory_bytes: Mapping[str, int | None]
    ring_bytes: int
    samples: list[dict[str, Any]]
    probe: str


def measure(name: str, directory: Path, settings: Settings, *, is_own: bool, progress: Show = silent) -> dict[str, Any]:
    """Run a load against a running instance; return the report.

    Args:
        name: of the instance.
        directory: of the instance.
        settings: what to make.
        is_own: whether the instance was started for this test.
        progress: called several times a second.

    Raises:
        ProclineError: the load could not be made, or the instance cannot be tested.
    """
    check(settings)
    if settings.scenario == "credentials":
        _check_sees_each_change(name, directory)
    found = _run(name, directory, settings, progress)
    progress("comparing")
    return {**_about(settings), "instance": {"name": name, "is_own": is_own}, **_report(found)}


def _run(name: str, directory: Path, settings: Settings, progress: Show) -> _Round:
    """Run the load, with a subscriber and a probe of the tables."""
    with (
        attach(name, directory) as table,
        Load(settings) as load,
        Listener(name, directory, load.comm, load.pid, table.boot_unix_ns) as listener,
        tempfile.TemporaryFile() as probed,
    ):
        rings = measuring.Rings(directory)
        try:
            before = _caught_up(name, table)
            used = _usage(directory)
            forks = measuring.kernel_forks()
            arguments = [str(program()), "watch", str(directory), "0", str(_PROBE_GAP_MS), str(_PROBE_POLL_US), "1"]
            with Bounded(arguments, output=probed, errors=subprocess.DEVNULL):
                load.begin()
                samples = _sample(load, table, rings, settings, progress)
            made = load.result()
            forks = measuring.kernel_forks() - forks
            progress("waiting for the tables")
            after = _caught_up(name, table)
            deadline = time.monotonic() + _COUNTED_S
            while _threads(before, after) < made.counts()["thread"] and time.monotonic() < deadline:
                time.sleep(0.1)
                after = table.stats()
            used_after = _usage(directory)
            progress("waiting for the subscriber")
            seen, counts = listener.result()
            ghosts = _ghosts(name, table, load.comm)
        finally:
            rings.close()
        probed.seek(0)
        probe = probed.read().decode()
    return _Round(
        made=made,
        before=before,
        after=after,
        seen=seen,
        missed=counts["missed"],
        ghosts=ghosts,
        forks=forks,
        cpu_ns={} if used is None or used_after is None else used_after.since(used).ns,
        memory_bytes={each["role"]: each["pss_bytes"] for each in processes.measure(directory)},
        ring_bytes=rings.size_bytes,
        samples=samples,
        probe=probe,
    )


def _report(found: _Round) -> dict[str, Any]:
    """Return the part of a report about a round; docs/load.md describes it."""
    made, before, after = found.made, found.before, found.after
    compared = truth.compare(made.records, found.seen)
    applied = sum(after["events"].values()) - sum(before["events"].values())
    fills = [sample["ring_fill_bytes"] for sample in found.samples if sample["ring_fill_bytes"] is not None]
    return {
        "made": made.counts(),
        "seen": compared.seen,
        "lost": compared.lost,
        "extra": compared.extra,
        "wrong": compared.wrong,
        "alive_in_table": found.ghosts,
        "late": after["late"] - before["late"],
        "missed_by_subscriber": found.missed,
        "examples": compared.examples,
        "load": _load(made),
        "kernel": {
            "forks": found.forks,
            "forks_of_others": found.forks - made.counts()["fork"] - made.counts()["thread"],
        },
        "host_events": {
            "applied": applied,
            "lost": _delta(before, after, "lost"),
            "threads": _threads(before, after),
        },
        "latency_us": {"table": _table_latency(found.probe), "subscriber": _subscriber_latency(found.seen)},
        "cpu_us_per_event": {role: ns / max(applied, 1) / 1000 for role, ns in found.cpu_ns.items()},
        "cpu_us_per_event_total": sum(found.cpu_ns.values()) / max(applied, 1) / 1000 if found.cpu_ns else None,
        "memory_bytes": dict(found.memory_bytes),
        "ring": {"size_bytes": found.ring_bytes or None, "fill_max_bytes": max(fills, default=None)},
        "samples": found.samples,
        "paired": None,
        "limit": None,
    }


def _load(made: truth.Made) -> dict[str, Any]:
    return {
        "seconds": made.seconds,
        "events_per_s": made.events / made.seconds,
        "units": made.units,
        "cpu_us_per_event": made.cpu_ns / max(made.events, 1) / 1000,
        "start_late_max_ms": made.late_ns / 1e6,
        "is_shortened": made.is_full,
    }


def _check_sees_each_change(name: str, directory: Path) -> None:
    """Check that the instance reports every change of credentials, not only what a comparison finds."""
    # If the file cannot be read, attaching to the instance reports the reason.
    if tiers.sees_each_change(tiers.read(directory)) is False:
        raise UnsupportedError(
            f"instance {name!r} does not see each change of credentials: fentry, kprobe and syscalls are off",
            feature="scenario credentials",
            needs="an instance that sees each change of credentials",
            hint='run it with capture.credentials = "syscalls", or use --own --set capture.credentials=syscalls',
        )


def _about(settings: Settings) -> dict[str, Any]:
    """Return what identifies a report."""
    return {
        "format": FORMAT,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "procline_version": __version__,
        "host": measuring.host(),
        "settings": {
            "scenario": settings.scenario,
            "rate_events_per_s": settings.rate_events_per_s,
            "duration_s": settings.duration_s,
            "concurrency": settings.concurrency,
            "cpus": cpu_list(settings.cpus) or None,
        },
    }


def is_exact(report: Mapping[str, Any]) -> bool:
    """Whether nothing was lost, extra or wrong."""
    faults = sum(sum(report[what].values()) for what in ("lost", "extra", "wrong"))
    return not faults and not report["alive_in_table"]


def _caught_up(name: str, table: ProcessTable) -> Stats:
    try:
        return measuring.caught_up(table, _CAUGHT_UP_S)
    except TimeoutError:
        behind_ns = now_boot_ns() - table.watermark_boot_ns
        raise BehindError(
            f"instance {name!r} was still behind by {behind_ns / 1e9:.1f} s, {_CAUGHT_UP_S:g} s after the load; "
            "lower --rate",
            behind_ns=behind_ns,
        ) from None


def _usage(directory: Path) -> measuring.Usage | None:
    try:
        found = measuring.usage(directory)
    except (OSError, IndexError, ValueError):
        return None  # a process was replaced, or /proc hides it
    return found if found.ns else None


def _sample(
    load: Load, table: ProcessTable, rings: measuring.Rings, settings: Settings, progress: Show
) -> list[dict[str, Any]]:
    """Sample while the load is running."""
    interval_s = max(0.1, settings.duration_s / _SAMPLES_MAX)
    samples: list[dict[str, Any]] = []
    begin = time.monotonic()
    due, events = begin, 0
    while load.is_running:
        due += interval_s
        while load.is_running and time.monotonic() < due:
            time.sleep(min(0.02, interval_s))
        now = time.monotonic()
        total = load.events_so_far()
        lag_ns = now_boot_ns() - table.watermark_boot_ns
        samples.append({
            "at_s": round(now - begin, 3),
            "events_per_s": round((total - events) / max(now - due + interval_s, 1e-3), 1),
            "table_lag_ms": round(lag_ns / 1e6, 3),
            "ring_fill_bytes": rings.fill_bytes(),
        })  # fmt: skip
        events = total
        progress(f"{settings.scenario}: {min(now - begin, settings.duration_s):.0f} of {settings.duration_s:g} s, "
                 f"{total:,} events")  # fmt: skip
    return samples


def _threads(before: Stats, after: Stats) -> int:
    return after["counters"]["threads_forked"] - before["counters"]["threads_forked"]


def _delta(before: Stats, after: Stats, what: str) -> dict[str, int]:
    pairs: dict[str, int] = after[what]  # type: ignore[literal-required]
    old: dict[str, int] = before[what]  # type: ignore[literal-required]
    return {kind: count - old.get(kind, 0) for kind, count in pairs.items() if count - old.get(kind, 0)}


def _ghosts(name: str, table: ProcessTable, comm: str) -> int:
    """Return the number of the load's processes that the tables show as alive, although they have ended.

    The load itself ended before the tables caught up, so none of its processes lives.

    Raises:
        BehindError: the tables were behind again and again because of other work on the machine.
    """
    deadline = time.monotonic() + _CAUGHT_UP_S
    while True:
        try:
            return sum(entry.comm == comm and entry.exit_time_ns is None for entry in table.walk())
        except BehindError:
            if time.monotonic() > deadline:
                raise
            _caught_up(name, table)


def _percentiles(values: npt.NDArray[np.float64]) -> dict[str, float | int | None]:
    if not len(values):
        return {"count": 0, "p50_us": None, "p90_us": None, "p99_us": None, "max_us": None}
    ordered = np.sort(values).tolist()
    return {
        "count": len(ordered),
        "p50_us": measuring.at_part(ordered, 0.5),
        "p90_us": measuring.at_part(ordered, 0.9),
        "p99_us": measuring.at_part(ordered, 0.99),
        "max_us": ordered[-1],
    }


def _table_latency(probe: str) -> dict[str, Any]:
    found: dict[str, list[float]] = {"fork": [], "exit": [], "lost": []}
    for line in probe.splitlines():
        what, _, value = line.partition(" ")
        if what in found:
            found[what].append(float(value))
    return {kind: _percentiles(np.array(found[kind])) for kind in ("fork", "exit")} | {"not_shown": len(found["lost"])}


def _subscriber_latency(seen: npt.NDArray[np.void]) -> dict[str, Any]:
    return {
        name: _percentiles(seen["delay_ns"][seen["kind"] == kind] / 1000)
        for name, kind in KINDS.items()
        if np.any(seen["kind"] == kind)
    }

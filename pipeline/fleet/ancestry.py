"""The ancestry of a process: from its event, and beyond the eight images in it from the events of its ancestors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pipeline.fleet.open_store import OpenStore, QueryResult
from pipeline.fleet.parquet import EVENTS, text

COLUMNS = ["depth", "pid", "path", "comm", "argv", "user", "started", "entity_id", "source"]
#: A chain that is longer is cut.
_STEPS_MAX = 64
_FIELDS = 'time_ns, entity_id, pid, path, comm, argv, "user", start_time_ns, lineage, lineage_truncated'
_TOPICS = "topic IN ('fork', 'exec', 'exit', 'snapshot', 'cred', 'context', 'reparent')"
#: The last event about the process that had a pid.
BY_PID = (
    f"SELECT {_FIELDS} FROM events WHERE host = $host AND pid = $pid AND start_time_ns <= $time AND time_ns <= $time "
    f'AND {_TOPICS} ORDER BY time_ns DESC, "order" DESC LIMIT 1'
)
#: Where the last events about several pids are. Reads only columns of numbers, which are small.
_PLACES = (
    "SELECT pid, start_time_ns, max(time_ns) AS time_ns, arg_max(filename, time_ns) AS file FROM {source} "
    f"WHERE host = $host AND pid IN ({{pids}}) AND start_time_ns <= $time AND time_ns <= $time AND {_TOPICS} "
    "GROUP BY pid, start_time_ns"
)
#: These events, of one file.
_ROWS = f'SELECT {_FIELDS}, "order" FROM read_parquet({{file}}) WHERE host = $host AND ({{places}}) AND {_TOPICS}'
#: The start of a process in its own event and in a lineage differ if the clock was set in between.
_CLOCK_STEP_NS = 2 * 10**9


def ancestry(opened: OpenStore, parameters: Mapping[str, Any]) -> QueryResult:
    """Return the process of a pid at a time and its ancestors; no rows if it is unknown."""
    return QueryResult(COLUMNS, iter([list(_found(opened, parameters))]))


def _found(opened: OpenStore, parameters: Mapping[str, Any]) -> Iterator[tuple[Any, ...]]:
    from datetime import UTC, datetime

    def row(process: Mapping[str, Any], source: str) -> tuple[Any, ...]:
        started_ns = process["start_time_ns"]
        started = None if started_ns is None else datetime.fromtimestamp(started_ns // 10**9, UTC).replace(
            microsecond=started_ns % 10**9 // 1000, tzinfo=None
        )  # fmt: skip
        names = ("pid", "path", "comm", "argv", "user")
        return depth, *(process.get(name) for name in names), started, process["entity_id"], source

    depth = 0
    seen: set[str] = set()
    host, pid, time_ns = (parameters[name] for name in ("host", "pid", "time"))
    owners = _latest(opened, host, time_ns, {pid: None})
    event = max(owners.values(), key=lambda each: (each["time_ns"], each["order"]), default=None)
    while event is not None and len(seen) < _STEPS_MAX:
        if event["entity_id"] not in seen:
            yield row(event, "event")
            seen.add(event["entity_id"])
            depth += 1
        # One process can be there with several images; its latest one is nearest.
        above = {each["entity_id"]: each for each in reversed(event["lineage"] or ()) if each["entity_id"]}
        new = [each for entity, each in reversed(above.items()) if entity not in seen]
        starts = {each["pid"]: each["start_time_ns"] for each in new}
        known = _latest(opened, host, event["time_ns"], starts)
        for each in new:
            whole = known.get(each["entity_id"])
            yield row({**(whole or {}), **each}, "event" if whole else "lineage")
            seen.add(each["entity_id"])
            depth += 1
        if not event["lineage_truncated"] or not new:
            return
        event = known.get(new[-1]["entity_id"])


def _latest(opened: OpenStore, host: str, time_ns: int, starts: Mapping[int, int | None]) -> dict[str, dict[str, Any]]:
    """Return the last event about each process until a time, by its entity id.

    Args:
        opened: the store.
        host: host of the processes.
        time_ns: that time, ns since the Unix epoch.
        starts: when the process of each pid started; None: any process that had the pid, of which the last one counts.
    """
    if not opened.files:
        return {}
    asked = {"host": host, "time": time_ns}
    pids = ", ".join(str(int(pid)) for pid in starts) or "NULL"
    places = _dicts(opened.ask(_PLACES.format(source=opened.source(EVENTS), pids=pids), asked))
    if None in starts.values():
        places = sorted(places, key=lambda place: place["time_ns"])[-1:]
    by_file: dict[str, list[str]] = {}
    for place in places:
        start_ns = starts[place["pid"]]
        if start_ns is None or abs(place["start_time_ns"] - start_ns) <= _CLOCK_STEP_NS:
            by_file.setdefault(place["file"], []).append(f"(pid = {place['pid']} AND time_ns = {place['time_ns']})")
    found: dict[str, dict[str, Any]] = {}
    for file, wanted in by_file.items():
        for row in _dicts(opened.ask(_ROWS.format(file=text(file), places=" OR ".join(wanted)), {"host": host})):
            old = found.get(row["entity_id"])
            if old is None or (old["time_ns"], old["order"]) < (row["time_ns"], row["order"]):
                found[row["entity_id"]] = row
    return found


def _dicts(rows: QueryResult) -> list[dict[str, Any]]:
    return [dict(zip(rows.columns, each, strict=True)) for each in rows]

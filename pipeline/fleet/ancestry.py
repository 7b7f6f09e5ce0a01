"""The ancestry of a process: from its event, and beyond the eight images in there from the events of its ancestors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pipeline.fleet.session import Rows, Session

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
#: The events of several processes at once: an ancestor's image is the one that it had at the time.
_BY_ENTITY = (
    f"SELECT {_FIELDS} FROM events WHERE host = $host AND list_contains($entities, entity_id) AND time_ns <= $time "
    f'AND {_TOPICS} QUALIFY row_number() OVER (PARTITION BY entity_id ORDER BY time_ns DESC, "order" DESC) = 1'
)


def ancestry(session: Session, parameters: Mapping[str, Any]) -> Rows:
    """Return the process of a pid at a time and its ancestors; no rows if it is unknown."""
    return Rows(COLUMNS, iter([list(_found(session, parameters))]))


def _found(session: Session, parameters: Mapping[str, Any]) -> Iterator[tuple[Any, ...]]:
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
    event: dict[str, Any] | None = next(iter(_events(session, BY_PID, parameters)), None)
    while event is not None and len(seen) < _STEPS_MAX:
        if event["entity_id"] not in seen:
            yield row(event, "event")
            seen.add(event["entity_id"])
            depth += 1
        # One process can be there with several images; its latest one is nearest.
        above = {each["entity_id"]: each for each in reversed(event["lineage"] or ()) if each["entity_id"]}
        new = [each for entity, each in reversed(above.items()) if entity not in seen]
        asked = {"host": parameters["host"], "entities": [each["entity_id"] for each in new], "time": event["time_ns"]}
        known = {each["entity_id"]: each for each in _events(session, _BY_ENTITY, asked)} if new else {}
        for each in new:
            whole = known.get(each["entity_id"])
            yield row({**(whole or {}), **each}, "event" if whole else "lineage")
            seen.add(each["entity_id"])
            depth += 1
        if not event["lineage_truncated"] or not new:
            return
        event = known.get(new[-1]["entity_id"])


def _events(session: Session, sql: str, parameters: Mapping[str, Any]) -> list[dict[str, Any]]:
    rows = session.ask(sql, parameters)
    return [dict(zip(rows.columns, each, strict=True)) for each in rows]

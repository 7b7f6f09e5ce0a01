"""Facts that several formats need and that an event has only indirectly: its id, its parent, what happened in words.

Every function accepts events with fields of any type, because a publisher can send anything.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pipeline.durations import duration
from pipeline.export.text import printable

Fields = Mapping[str, Any]

#: Events that report missing events, so a receiver must notice them.
GAPS = frozenset({"loss", "missed", "unwatched"})

#: What every event has.
_NUMBERED = ("event", "seq", "order", "time_ns")
_BOOT = re.compile(r"([0-9a-f]{8})([0-9a-f]{4})([0-9a-f]{4})([0-9a-f]{4})([0-9a-f]{12})-")
#: What a wrong type in a field can raise.
MALFORMED = (TypeError, ValueError, AttributeError, LookupError, OverflowError, OSError, RecursionError)


def facts_of(event: Fields) -> dict[str, Any]:
    """Return the fields of an event, and the facts that `declared.TABLE` names besides them.

    - ``event_id``: the same for the same event, also if it is received twice
    - ``boot_id``: of the host's kernel, as ``/proc/sys/kernel/random/boot_id`` has it
    - ``exit_status``: the number that the process passed to exit(2), if no signal ended it
    - ``parent.NAME``: facts of the current parent, if the lineage has it
    - ``earlier_images``: those of this process in the lineage, newest first
    - ``ancestors``: the processes of the lineage, from the current parent upwards, each with its last image
    - ``creators``: the lineage of a process that has another parent than the one that forked it
    - ``file.NAME``, ``file_package.NAME``, ``container_details.NAME``: the keys of these
    - ``span``, ``trace``: of `extra`, as hexadecimal numbers
    - ``unwatched_ns``: how long no daemon watched
    - ``stats``: the fields of an event with statistics
    """
    if not is_about_process(event):
        return _facts_of_the_stream(event)
    facts = dict(event)
    entity_id, kind, time_ns = event.get("entity_id"), event.get("event"), event.get("time_ns")
    if isinstance(entity_id, str):
        if isinstance(kind, str) and isinstance(time_ns, int):
            facts["event_id"] = f"{entity_id}-{kind}-{time_ns:x}"
        if boot := _BOOT.match(entity_id):
            facts["boot_id"] = "-".join(boot.groups())
    if event.get("exit_cause") == "exited":
        facts["exit_status"] = event.get("exit_cause_code")
    lineage = images(event)
    parent_id = event.get("parent_entity_id")
    parent = next((image for image in lineage if parent_id and image.get("entity_id") == parent_id), {})
    for name in ("comm", "path", "start_time_ns"):
        facts[f"parent.{name}"] = parent.get(name)
    facts["earlier_images"] = [image for image in lineage if entity_id and image.get("entity_id") == entity_id] or None
    facts["lineage"] = lineage or None
    above = _processes(lineage, entity_id)
    is_parent_first = bool(above) and above[0].get("entity_id") == parent_id
    facts["ancestors"] = above if is_parent_first else None
    facts["creators"] = lineage if above and not is_parent_first else None
    for name in ("file", "file_package", "container_details"):
        values = event.get(name)
        if isinstance(values, dict):
            facts |= {f"{name}.{key}": value for key, value in values.items()}
    extra = event.get("extra")
    if isinstance(extra, dict):
        span, trace = extra.get("span_id"), extra.get("trace_id")
        if isinstance(trace, str) and re.fullmatch("[0-9a-f]{32}", trace):
            facts["trace"] = trace
            facts["span"] = f"{span:016x}" if isinstance(span, int) and 0 < span < 1 << 64 else None
    return facts


def _processes(lineage: list[dict[str, Any]], entity_id: Any) -> list[dict[str, Any]]:
    """Return the last image of each process in a lineage, without those of the process itself."""
    found: list[dict[str, Any]] = []
    for image in lineage:
        if image.get("entity_id") != (found[-1].get("entity_id") if found else entity_id):
            found.append(image)
    return found


def _facts_of_the_stream(event: Fields) -> dict[str, Any]:
    if event.get("event") == "stats":
        common = {key: event.get(key) for key in _NUMBERED}
        return common | {"stats": {key: value for key, value in event.items() if key not in common}}
    begin_ns, end_ns = event.get("unwatched_from_ns"), event.get("unwatched_to_ns")
    facts = dict(event)
    if isinstance(begin_ns, int) and isinstance(end_ns, int):
        facts["unwatched_ns"] = end_ns - begin_ns
    return facts


def images(event: Fields) -> list[dict[str, Any]]:
    """Return the lineage of an event; what is no map is left out."""
    lineage = event.get("lineage")
    return [image for image in lineage if isinstance(image, dict)] if isinstance(lineage, list) else []


def is_about_process(event: Fields) -> bool:
    """Whether an event is about a process; the others report missing events, or statistics."""
    return event.get("pid") is not None


def message_of(event: Fields) -> str:
    """Return what happened in one line. Names that a process chose are escaped, so the line is safe to show."""
    kind = event.get("event")
    if is_about_process(event):
        what = event.get("comm") if kind == "fork" else event.get("path") or event.get("comm")
        return printable(f"{kind}: {what or 'unknown program'} (pid {event.get('pid')}){_end(event)}")
    try:
        return printable(_about_the_stream(event))
    except MALFORMED:
        return printable(f"{kind}")


def _end(event: Fields) -> str:
    if event.get("event") != "exit":
        return ""
    code = event.get("exit_cause_code")
    match event.get("exit_cause"):
        case "exited":
            return f" exited with code {code}"
        case "signaled":
            return f" was killed by signal {code}"
        case "coredumped":
            return f" was killed by signal {code} and dumped core"
    return " ended"


def _about_the_stream(event: Fields) -> str:
    match event.get("event"):
        case "loss":
            lost = ", ".join(f"{count} {kind}" for kind, count in event["new"].items() if count)
            return f"the kernel could not write these records: {lost}"
        case "missed":
            topic = event["topic"] or "every topic"
            count = "an unknown number of" if event["count"] is None else event["count"]
            return f"{count} events of {topic} are missing ({event['reason']})"
        case "unwatched":
            passed = duration(event["unwatched_to_ns"] - event["unwatched_from_ns"])
            return f"no daemon watched this host for {passed}, so events are missing"
        case "stats":
            return "statistics of the instance"
    return f"{event.get('event')}"

"""Events as documents of the Elastic Common Schema."""

from __future__ import annotations

from typing import Any

from pipeline.formats.declared import ECS_VERSION
from pipeline.formats.facts import GAPS, Fields, facts_of, is_about_process, message_of
from pipeline.formats.mapping import fill

#: ``event.type`` by the kind of the event; others say something about the process and change nothing (``info``).
TYPES = {
    "fork": "start", "exec": "start", "exit": "end", "cred": "change", "comm": "change", "cgroup": "change",
    "sid": "change", "reparent": "change", "setrlimit": "change", "ptrace": "access",
}  # fmt: skip
#: ``event.action`` where it is not the kind of the event: Elastic's own agents and detection rules say so.
ACTIONS = {"exit": "end"}


def document(event: Fields, host: str) -> dict[str, Any]:
    """Return an event as a document, which is ready to be indexed.

    Args:
        event: of the stream.
        host: name of the host that the event comes from.
    """
    kind = str(event.get("event"))
    about: dict[str, Any] = {
        "kind": "event",
        "action": ACTIONS.get(kind, kind),
        "module": "procline",
        "dataset": "procline.events",
        "provider": "procline",
    }
    found: dict[str, Any] = {
        "ecs": {"version": ECS_VERSION},
        "event": about,
        "message": message_of(event),
        "host": {"name": host, "hostname": host, "os": {"type": "linux"}},
    }
    if is_about_process(event):
        about |= {"category": ["process"], "type": [TYPES.get(kind, "info")]}
        if kind == "snapshot":
            about["kind"] = "state"
    elif kind in GAPS:
        about |= {"kind": "pipeline_error", "type": ["error"]}
        found["error"] = {"message": found["message"]}
    else:
        about |= {"kind": "metric", "type": ["info"]}
    fill(found, "ecs", facts_of(event))
    return found

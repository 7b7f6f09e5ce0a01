"""Events in the Open Cybersecurity Schema Framework: Process Activity, and Base Event for events about no process."""

from __future__ import annotations

from typing import Any

from pipeline.formats.declared import OCSF_VERSION
from pipeline.formats.facts import GAPS, MALFORMED, Fields, facts_of, images, is_about_process, message_of
from pipeline.formats.mapping import fill
from pipeline.formats.values import process_entity
from pipeline.version import __version__

SYSTEM_ACTIVITY, PROCESS_ACTIVITY, BASE_EVENT = 1, 1007, 0
LAUNCH, TERMINATE, OTHER = 1, 2, 99
FORK, EXEC = 2, 3
INFORMATIONAL, MEDIUM = 1, 3
SUCCESS = 1
LINUX = 200
UNKNOWN = 0
EXECUTABLE_FILE = 8

#: Activities by the kind of the event; others are OTHER with the kind as the name. An event ``cred`` does not say which
#: of the ids and capabilities changed, so it is not "Set User ID".
ACTIVITIES = {"fork": (LAUNCH, "Launch"), "exec": (LAUNCH, "Launch"), "exit": (TERMINATE, "Terminate")}
LAUNCHES = {"fork": (FORK, "Fork"), "exec": (EXEC, "Exec")}


def document(event: Fields, host: str) -> dict[str, Any]:
    """Return an event as a document of OCSF.

    Args:
        event: of the stream.
        host: name of the host that the event comes from.
    """
    kind = str(event.get("event"))
    is_process = is_about_process(event)
    class_uid = PROCESS_ACTIVITY if is_process else BASE_EVENT
    activity, name = ACTIVITIES.get(kind, (OTHER, kind))
    severity = (MEDIUM, "Medium") if kind in GAPS else (INFORMATIONAL, "Informational")
    found: dict[str, Any] = {
        "metadata": {
            "version": OCSF_VERSION,
            "product": {"name": "Procline", "vendor_name": "Procline", "version": __version__},
            "profiles": ["datetime", "host"],
            "event_code": kind,
        },
        "category_uid": SYSTEM_ACTIVITY if is_process else BASE_EVENT,
        "category_name": "System Activity" if is_process else "Uncategorized",
        "class_uid": class_uid,
        "class_name": "Process Activity" if is_process else "Base Event",
        "activity_id": activity,
        "activity_name": name,
        "type_uid": class_uid * 100 + activity,
        "type_name": f"{'Process Activity' if is_process else 'Base Event'}: {name}",
        "severity_id": severity[0],
        "severity": severity[1],
        "status_id": SUCCESS,
        "status": "Success",
        "message": message_of(event),
        "device": {
            "hostname": host,
            "type_id": UNKNOWN,
            "type": "Unknown",
            "os": {"name": "Linux", "type_id": LINUX, "type": "Linux"},
        },
    }
    facts = facts_of(event)
    fill(found, "ocsf", facts)
    if is_process:
        _complete(found, kind, facts)
    return found


def _complete(found: dict[str, Any], kind: str, facts: Fields) -> None:
    """Add what the table cannot say: which process acted, what is required, and the profiles that are used."""
    process = found.setdefault("process", {})
    if kind in LAUNCHES:
        found["launch_type_id"], found["launch_type"] = LAUNCHES[kind]
    if name := _file_name(process):
        process["file"] = {"name": name, "path": process.get("path")} | process.get("file", {})
        process["file"] |= {"type_id": EXECUTABLE_FILE, "type": "Executable File"}
    else:
        process.pop("file", None)
    if not process.get("parent_process", {}).keys() & {"pid", "uid"}:
        process.pop("parent_process", None)
    if process.get("namespace_pid") == process.get("pid"):
        process.pop("namespace_pid", None)
    found["actor"] = _actor(kind, process, facts)
    profiles = found["metadata"]["profiles"]
    if process.keys() & {"container", "namespace_pid"}:
        profiles.append("container")
    if process.keys() & {"auid", "euid", "egid", "group"}:
        profiles.append("linux/linux_users")


def _file_name(process: dict[str, Any]) -> str | None:
    """Return the name of the executable, which a file must have; None: the executable is not known."""
    name = process.get("file", {}).get("name")
    return name or (process.get("name") if process.get("path") else None)


def _actor(kind: str, process: dict[str, Any], facts: Fields) -> dict[str, Any]:
    """Return which process acted: the one that forked, the one that sent the deadly signal, or the process itself."""
    try:
        actor = _ACTORS.get(kind, _itself)(facts)
    except MALFORMED:
        actor = {}
    if kind == "fork" and not actor:
        parent = process.get("parent_process", {})
        actor = {key: parent[key] for key in ("pid", "uid", "name", "path") if key in parent}
    return {"process": actor} if actor else {"app_name": "unknown"}


def _creator(facts: Fields) -> dict[str, Any]:
    found = process_entity({"pid": facts.get("creator_pid"), "entity_id": facts.get("creator_entity_id")})
    image = next((each for each in images(facts) if found and each.get("entity_id") == found.get("uid")), None)
    return found if image is None else process_entity(image)


def _former_image(facts: Fields) -> dict[str, Any]:
    """Return the process that called exec: it had another image then."""
    earlier = facts.get("earlier_images")
    return process_entity(earlier[0]) if earlier else _identity(facts)


def _killer(facts: Fields) -> dict[str, Any]:
    """Return the process that sent the signal that ended this one, otherwise the process itself."""
    sender = (facts.get("extra") or {}).get("exit_signal_sender")
    found = process_entity(sender) if sender else {}
    if not sender or "pid" not in found:
        return _itself(facts)
    if isinstance(sender.get("uid"), int):
        found["user"] = {"uid": str(sender["uid"])}
    return found


def _itself(facts: Fields) -> dict[str, Any]:
    return process_entity(facts)


def _identity(facts: Fields) -> dict[str, Any]:
    return {key: value for key, value in process_entity(facts).items() if key not in ("name", "path")}


_ACTORS = {"fork": _creator, "exec": _former_image, "exit": _killer}

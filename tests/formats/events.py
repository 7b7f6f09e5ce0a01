"""Events of every kind: the golden messages of every version of the stream, and those that only subscribers make."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pipeline.bus.stream.messages import missed_event, unwatched_event

GOLDEN = Path(__file__).parent.parent / "bus" / "stream" / "golden"
BOOT = "000102030405060708090a0b0c0d0e0f"
ENTITY = f"{BOOT}-10e1-b2d05e07"
PARENT = f"{BOOT}-190-77359400"
KILLER = 777
AT_NS = 1_700_000_005_123_456_789


def golden(version: str) -> list[dict[str, Any]]:
    """Return the events of the golden messages of a version."""
    messages = json.loads((GOLDEN / f"{version}.json").read_text())
    return [event for message in messages for event in message["events"]]


VERSIONS = sorted(path.stem for path in GOLDEN.glob("*.json"))
NEWEST = VERSIONS[-1]


def event(kind: str, **changes: Any) -> dict[str, Any]:
    """Return an event about a process with a parent and an earlier image."""
    found = next(each for each in golden(NEWEST) if each["event"] == kind)
    image = {"pid": 4321, "start_time_ns": found["start_time_ns"], "comm": "sh", "path": "/bin/sh", "entity_id": ENTITY}
    lineage = [image, *found["lineage"]]
    return {**found, "time_ns": AT_NS, "lineage": lineage, **changes}


def made() -> dict[str, dict[str, Any]]:
    """Return further events, each with a name for the test."""
    nothing: dict[str, Any] = dict.fromkeys(event("comm"))
    sender = {"pid": KILLER, "start_time_ns": AT_NS, "uid": 0, "comm": "kill", "signal": 9}
    kthread = {
        "path": None, "argv": None, "argc": None, "file": None, "comm": "kworker/0:1", "is_kworker": True, "ppid": 2,
        "lineage": [], "parent_entity_id": None, "creator_entity_id": None, "creator_pid": None,
    }  # fmt: skip
    snapshot = {"seq": None, "order": None, "row": 3, "generation": 1, "is_head": True, "ssh_session": None, "left": 0}
    target = {"pid": 400, "start_time_ns": 1, "comm": "bash", "path": "/usr/bin/bash", "entity_id": PARENT}
    return {
        "running": event("exec", exit_time_ns=None, exit_code=None, exit_cause=None, exit_cause_code=None),
        "killed": event("exit", exit_cause="signaled", exit_cause_code=9, extra={"exit_signal_sender": sender}),
        "dumped": event("exit", exit_cause="coredumped", exit_cause_code=11),
        "unseen end": event("exit", exit_cause=None, exit_cause_code=None, exit_code=None),
        "a kernel thread": event("fork", **kthread),
        "the first process": event("fork", pid=1, ppid=0, lineage=[], parent_entity_id=None, creator_entity_id=None,
                                   creator_pid=0),
        "no file": event("exec", file=None, inode=None, path=None),
        "an unknown process": nothing | {"event": "signal", "seq": 4, "order": 9, "time_ns": AT_NS, "pid": 4711,
                                         "context": {"target": None, "error": "no_process_context"}},
        "ptrace": event("comm", event="ptrace", context={"target": target, "request": 16, "error": None}),
        "user_session": event("comm", event="user_session", context={"ssh_session_id": 2**63, "error": None}),
        "a kind of a later version": event("comm", event="frobnicate"),
        "traced": event("exec", extra={"span_id": 255, "trace_id": "0af7651916cd43dd8448eb211c80319c"}),
        "with variables": event("exec", envs=["HOME=/root", "HIDDEN", "=odd", "A=b=c"]),
        "snapshot": event("exec", event="snapshot", **snapshot),
        "missed": missed_event(topic="proc.exec", first=7, last=9, time_ns=AT_NS, reason="gap"),
        "restart": missed_event(topic=None, first=None, last=None, time_ns=AT_NS, reason="restart"),
        "unwatched": unwatched_event(from_ns=AT_NS - 3_000_000_000, to_ns=AT_NS, time_ns=AT_NS),
        "statistics": {"event": "stats", "seq": 1, "order": 2, "time_ns": AT_NS, "load": 0.5, "nan": float("nan"),
                       "processes": [{"role": "resolver", "pid": 7, "pss_bytes": None}], "big": 2**63},
    }  # fmt: skip


def cases() -> list[tuple[str, dict[str, Any]]]:
    """Return all events with names for the tests."""
    found = [(f"{version} {each['event']}", each) for version in VERSIONS for each in golden(version)]
    return found + list(made().items())

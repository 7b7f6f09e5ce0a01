"""The story of a process as JSON. docs/why.md documents the keys."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipeline.select.programs import program_of
from pipeline.select.units import unit_of, user_unit_of
from pipeline.why import users
from pipeline.why.summary import state_of, summary

if TYPE_CHECKING:
    from pipeline.shm.layout.entry_types import EntryFields
    from pipeline.why.facts import Facts, Process
    from pipeline.why.proof import Finding, Unknown

VERSION = 1


def document(facts: Facts, findings: list[Finding], missing: list[Unknown]) -> dict[str, Any]:
    """Return the story as data."""
    return {
        "version": VERSION,
        "summary": summary(facts, findings),
        "asked_at_ns": facts.at_ns,
        "read_at_ns": facts.now_ns,
        "process": _subject(facts),
        "lineage": [_process(process) for process in facts.lineage],
        "lineage_is_cut": facts.is_cut,
        "findings": [
            {
                "kind": finding.kind, "proof": finding.proof.value, "source": finding.source, "text": finding.text,
                "pid": finding.pid, "entity_id": finding.entity_id, "time_ns": finding.time_ns, "facts": finding.facts,
            }
            for finding in findings
        ],
        "unknown": [{"kind": each.kind, "text": each.text, "pid": each.pid} for each in missing],
    }  # fmt: skip


def _subject(facts: Facts) -> dict[str, Any]:
    entry = facts.subject.image
    return _process(facts.subject) | {
        "state": state_of(facts), "cgroup": entry.get("cgroup"), "unit": unit_of(entry.get("cgroup")),
        "user_unit": user_unit_of(entry.get("cgroup")), "container_id": entry.get("container_id"),
        "container_trust": entry.get("container_trust"), "tty": entry.get("tty"), "cwd": entry.get("cwd"),
        "parent_pid": entry.get("ppid"), "parent_entity_id": entry.get("parent_entity_id"),
    }  # fmt: skip


def _process(process: Process) -> dict[str, Any]:
    entry = process.image
    return {
        "pid": process.pid,
        "entity_id": entry.get("entity_id"),
        "link": process.link.value if process.link else None,
        "start_time_ns": entry.get("start_time_ns"),
        "exit_time_ns": process.ended_ns,
        "marks": entry.get("marks") or [],
        "images": [_image(image) for image in reversed(process.images)],
    }


def _image(entry: EntryFields) -> dict[str, Any]:
    program = program_of(entry)
    return {
        "name": program.name,
        "kind": program.kind.value,
        "path": entry.get("path"),
        "script": program.script,
        "comm": entry.get("comm"),
        "argv": entry.get("argv"),
        "is_exec": bool(entry.get("is_exec")),
        "exec_time_ns": entry.get("exec_time_ns") if entry.get("is_exec") else None,
        **users.ids(entry),
        "auid": entry.get("auid"),
        "container_id": entry.get("container_id"),
        "container_trust": entry.get("container_trust"),
        "unit": unit_of(entry.get("cgroup")),
    }

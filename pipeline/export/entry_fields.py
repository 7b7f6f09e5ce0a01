"""The static types of entries in their JSON form, as `Entry.to_dict` returns them. They have no effect at run time.

They contain only the fields that the commands and this package read. docs/wire-schema.md lists all fields.
"""

from __future__ import annotations

from typing import TypedDict


class Command(TypedDict, total=False):
    """What is known of the command line of a process, in an entry or an event."""

    argv: list[str] | None
    path: str | None
    comm: str | None


class EntryFields(Command, total=False):
    """One entry."""

    pid: int
    ppid: int | None
    pid_ns: int | None
    ns_pid: int | None
    entity_id: str | None
    parent_entity_id: str | None
    start_time_ns: int | None
    exec_time_ns: int | None
    exit_time_ns: int | None
    exit_cause: str | None
    exit_cause_code: int | None
    is_exited: bool
    is_parent_missing: bool
    marks: list[str]

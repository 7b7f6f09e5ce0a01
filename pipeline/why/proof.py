"""Statements about a process, and what proves them."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from pipeline.shm.layout.entry_types import EntryFields


class Proof(enum.Enum):
    """The evidence for a statement, strongest first."""

    KERNEL = "kernel"  #: the kernel reported it
    ROOT = "root"  #: a program or a file says so that only root can run or change
    INFERRED = "inferred"  #: it follows from other facts, but could be otherwise
    CLAIMED = "claimed"  #: a process, or a user without privileges, chose it


@dataclass(frozen=True)
class Finding:
    """A statement.

    Attributes:
        kind: what it is about; docs/why.md lists the kinds.
        proof: what it rests on.
        source: where it comes from, in one or a few words, or the path of a file.
        text: the statement in plain words.
        pid, entity_id: the process that it is about.
        time_ns: when it happened, ns since the Unix epoch; None: unknown, or not an event.
        facts: the statement as data; the keys depend on the kind.
    """

    kind: str
    proof: Proof
    source: str
    text: str
    pid: int | None = None
    entity_id: str | None = None
    time_ns: int | None = None
    facts: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(
        cls, entry: EntryFields, kind: str, proof: Proof, source: str, text: str, facts: dict[str, Any] | None = None,
        time_ns: int | None = None,
    ) -> Self:  # fmt: skip
        """Return a statement about the process of an entry."""
        return cls(kind, proof, source, text, entry["pid"], entry.get("entity_id"), time_ns, facts or {})


@dataclass(frozen=True)
class Unknown:
    """Something that is not known, and why.

    Attributes:
        kind: what is missing; docs/why.md lists the kinds.
        text: what is missing and why, in plain words.
        pid: the process that it is about.
    """

    kind: str
    text: str
    pid: int | None = None

"""The facts about a process and the processes that led to it, as entries in their JSON form."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from pipeline.shm.layout.entry_types import EntryFields


class Link(enum.Enum):
    """How a process of the lineage is related to the one before it in the list."""

    CREATOR = "creator"  #: it forked the other one
    PARENT = "parent"  #: it was the parent of the other one; what forked that one is unknown


@dataclass
class Process:
    """One process and its images.

    Attributes:
        images: newest first. The first is the one in question: it forked the next process of the lineage, or was
            asked about. Later images of the process are not included.
        link: how it is related to the process below it; None: it is the subject.
        head: its newest image, which says whether it has ended; None: not retained, or the pid has a new owner.
    """

    images: list[EntryFields]
    link: Link | None = None
    head: EntryFields | None = None

    @property
    def image(self) -> EntryFields:
        """The image in question."""
        return self.images[0]

    @property
    def pid(self) -> int:
        """Its pid."""
        return self.image["pid"]

    @property
    def ended_ns(self) -> int | None:
        """When the process ended; None: it runs, or that is unknown."""
        last = self.head or self.image
        return last.get("exit_time_ns") if last.get("is_exited") else None


@dataclass
class Facts:
    """A process and everything that led to it.

    Attributes:
        subject: the process in question.
        lineage: the process that started it, the one that started that one, and so on.
        is_cut: the lineage is longer than what was read.
        adopter: the current parent, if it is not the creator.
        init: pid 1.
        at_ns: the time that was asked about; None: now.
        now_ns: when the tables were read.
        capture_began_ns: when the capture began; None: unknown.
        arguments_hidden: what the caller must do to read arguments; None: it may.
        sees_each_change: the instance records each change of credentials when it happens. Otherwise it finds a change
            with the next record of the process, or with the next comparison.
    """

    subject: Process
    lineage: list[Process] = field(default_factory=list)
    is_cut: bool = False
    adopter: EntryFields | None = None
    init: EntryFields | None = None
    at_ns: int | None = None
    now_ns: int = 0
    capture_began_ns: int | None = None
    arguments_hidden: str | None = None
    sees_each_change: bool = False

    @property
    def processes(self) -> list[Process]:
        """The subject, then its lineage."""
        return [self.subject, *self.lineage]

    @property
    def oldest_first(self) -> list[Process]:
        """The lineage from its oldest process on, then the subject."""
        return self.processes[::-1]

    def creator_of(self, process: Process) -> Process | None:
        """Return the process that forked another one of this lineage; None: unknown."""
        number = next((n for n, each in enumerate(self.processes) if each is process), -1)
        above = self.processes[number + 1] if 0 <= number < len(self.lineage) else None
        return above if above is not None and above.link is Link.CREATOR else None

    def is_on_host(self, entry: EntryFields) -> bool:
        """Whether a process sees the files of the host: it is in pid 1's mount namespace and in no container."""
        of_init = (self.init or {}).get("mnt_ns")
        return of_init is not None and entry.get("mnt_ns") == of_init and not entry.get("container_id")


def file_of(entry: EntryFields) -> dict[str, Any]:
    """Return the facts about the executable of an entry; empty if nothing is known (the keys: docs/wire-schema.md)."""
    return cast("dict[str, Any]", entry.get("file") or {})


def extra_of(entry: EntryFields) -> dict[str, Any]:
    """Return the facts that few entries have; empty if this one has none (the keys: docs/wire-schema.md)."""
    return cast("dict[str, Any]", entry.get("extra") or {})

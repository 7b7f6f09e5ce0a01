"""Check whether a chain of images is a complete lineage, and list its contents (specification 5.10, 5.11).

A chain contains entries, newest first, beginning with the entry in question. They are either readers' copies (`_entry`)
or the writer's entries (`resolver.entries.cache_entry`).
"""

from __future__ import annotations

from pipeline.errors import (
    LineageError,
    ProcessIncompleteLineageError,
    ProcessMissingParentNodeError,
    ProcessWrongParentNodeError,
)
from pipeline.records.limits import LINEAGE_CHECKED

TYPE_CHECKING = False  # see paths.py
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import Protocol, TypeVar

    class Image(Protocol):
        """The fields that are used of an entry of either kind."""

        @property
        def pid(self) -> int:
            """The process."""
            ...

        @property
        def ppid(self) -> int:
            """Its parent."""
            ...

        @property
        def is_exec(self) -> bool:
            """Whether an exec created this image."""
            ...

        @property
        def is_parent_missing(self) -> bool:
            """Whether the direct parent or the previous image is not the expected one."""
            ...

    _Image = TypeVar("_Image", bound=Image)


def fault(chain: Iterable[_Image], container_of: Callable[[_Image], str | None]) -> LineageError | None:
    """Return why a chain does not lead to pid 1 without a gap; None if it does.

    Args:
        chain: entries, newest first; not empty.
        container_of: returns the container id of an entry.
    """
    last: _Image | None = None
    for entry in chain:
        # An exec of pid 1 has its own earlier image as its ancestor.
        if last is not None and last.pid == 1 and (entry.pid != 1 or not last.is_exec):
            return ProcessWrongParentNodeError(
                f"pid 1 has an ancestor, pid {entry.pid}", pid=1, ppid=entry.pid, container_id=container_of(last) or ""
            )
        if entry.is_parent_missing:
            return ProcessMissingParentNodeError(
                f"the parent of pid {entry.pid} is missing",
                pid=entry.pid, ppid=entry.ppid, container_id=container_of(entry) or "",
            )  # fmt: skip
        last = entry
    if last is None or last.pid == 1:
        return None
    return ProcessIncompleteLineageError(
        f"the lineage ends at pid {last.pid}", pid=last.pid, ppid=last.ppid, container_id=container_of(last) or ""
    )


def is_complete(chain: Sequence[_Image]) -> bool | None:
    """Return whether a chain leads to pid 1 without a gap, as the writer says in events (`TableWriter.lineage`).

    Args:
        chain: entries, newest first; not empty.

    Returns:
        None: the chain is longer than what is checked.
    """
    found = fault(chain[:LINEAGE_CHECKED], lambda _: None)
    if isinstance(found, ProcessIncompleteLineageError | None) and len(chain) > LINEAGE_CHECKED:
        return None
    return found is None


def pids(chain: Iterable[Image]) -> list[int]:
    """Return the distinct pids of a chain, newest first."""
    return list(dict.fromkeys(entry.pid for entry in chain))


def in_container(
    chain: Iterable[_Image], container_of: Callable[[_Image], str | None], path_of: Callable[[_Image], str]
) -> tuple[list[int], list[str]]:
    """Return pids and executables up a chain while it is in a container, using the newest image of each process."""
    paths: dict[int, str] = {}
    for entry in chain:
        if not container_of(entry):
            break
        paths.setdefault(entry.pid, path_of(entry))
    return list(paths), list(paths.values())

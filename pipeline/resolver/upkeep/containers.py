"""Details of containers from the runtimes' files, for a running instance: in its events, and in files for its readers.

A container's files are read as soon as one of its processes is seen, because they may be gone when the details are
needed. They are read again now and then, because a container can be renamed. `pipeline.software.container_files` reads
only what root alone can change, `_container_cache` finds details for the stream, and `pipeline.shm.names.containers`
finds them for readers. `details` says how the rest works, and its bounds.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgpack

from pipeline.host.boot import now_boot_ns
from pipeline.resolver.stream._container_cache import CONTAINERS_MAX, ContainerCache
from pipeline.resolver.upkeep.aside import Aside
from pipeline.resolver.upkeep.details import FORGET_NS, JOBS_MAX, LiveDetails
from pipeline.shm.names.containers import DIRECTORY, KEYS, file_name

if TYPE_CHECKING:
    from pipeline.resolver.stream._encoder import Encoder
    from pipeline.shm.writer._writer import TableWriter
    from pipeline.software.container_files import Names

#: Limit for the details of one container in an event. Labels that do not fit are left out.
DETAILS_BYTES_MAX = 4096
_NAME = re.compile(r"([0-9a-fA-F]{64})\.json")


def _names_of(container_id: str) -> Names | None:
    from pipeline.software.container_files import names_of  # deferred: until a container is seen

    return names_of(container_id)


class LiveContainers(LiveDetails[str, "Names"]):
    """Keeps the details of containers up to date.

    Args:
        tables, encoder: of this instance.
        directory: the instance's runtime directory.
        mode: of the files. Their group is that of the directory, if it has the set-group-id bit.
        with_labels: show labels too, not only name, image and pod.
        read: returns what the files of the runtimes say about a container; None: nothing.
        now: the boot clock, in ns.
        warn: writes a line of the log.
        forget_ns: a container without a live process for this long is forgotten.
    """

    def __init__(
        self,
        tables: TableWriter,
        encoder: Encoder,
        directory: Path,
        *,
        mode: int = 0o644,
        with_labels: bool = True,
        read: Callable[[str], Names | None] = _names_of,
        now: Callable[[], int] = now_boot_ns,
        warn: Callable[..., object] = lambda text, **facts: None,
        forget_ns: int = FORGET_NS,
    ) -> None:
        aside: Aside[Any] = Aside("containers", jobs_max=JOBS_MAX)
        super().__init__(
            tables, directory / DIRECTORY, aside, mode=mode, now=now, forget_ns=forget_ns, known_max=CONTAINERS_MAX
        )
        self._encoder = encoder
        self._with_labels = with_labels
        self._read = read
        self._warn = warn
        self._is_denied = False
        self._cache = ContainerCache()

    def begin(self) -> None:
        """Begin to show details; raises OSError if the directory cannot be made."""
        super().begin()
        self._encoder.containers = self._cache

    @property
    def _keyed(self) -> ContainerCache:
        return self._cache

    def _noted(self) -> list[tuple[str, int]]:
        return [(container_id, 0) for container_id in self._cache.take_wanted()]

    def _living(self) -> list[tuple[str, int]]:
        return [(container_id, 0) for container_id in self._cache.living(self._tables)]

    def _job(self, key: str, row: int) -> Callable[[], Names | None]:
        return partial(self._read, key)

    def _packed(self, found: Names) -> tuple[dict[str, Any], bytes]:
        return packed(found, self._with_labels)

    def _repacked(self, value: Any) -> bytes:
        return msgpack.packb({key: value[key] for key in KEYS})

    def _file_name(self, key: str) -> str:
        return file_name(key)

    def _key_of(self, file_name: str) -> str:
        found = _NAME.fullmatch(file_name)
        if found is None:
            raise ValueError(file_name)
        return found[1]

    def _set_all(self, known: dict[str, tuple[bytes | None, int]]) -> None:
        self._cache.set_all({container_id: text for container_id, (text, _) in known.items()})

    def _may_keep(self) -> bool:
        return self._with_labels

    def _failed(self, error: Exception | None) -> None:
        from pipeline.software.container_files import NotAllowedError

        if isinstance(error, NotAllowedError) and not self._is_denied:
            self._is_denied = True
            self._warn("containers have no names: only root may read the files of their runtimes")


def packed(names: Names, with_labels: bool = True) -> tuple[dict[str, Any], bytes]:
    """Return the details of a container as a map and as its msgpack form, which has at most DETAILS_BYTES_MAX bytes.

    The first labels by name are kept. The text is valid UTF-8: half a surrogate pair, which JSON can express, becomes a
    question mark.
    """
    details: dict[str, Any] = {
        key: None if (value := getattr(names, key)) is None else _valid(value) for key in KEYS if key != "labels"
    }
    details["labels"] = {}
    room = DETAILS_BYTES_MAX - len(msgpack.packb(details)) - 4
    for name, value in names.labels.items() if with_labels else ():
        name, value = _valid(name), _valid(value)
        room -= len(msgpack.packb(name)) + len(msgpack.packb(value))
        if room < 0:
            break
        details["labels"][name] = value
    return details, msgpack.packb(details)


def _valid(text: str) -> str:
    return text.encode("utf-8", "replace").decode("utf-8")

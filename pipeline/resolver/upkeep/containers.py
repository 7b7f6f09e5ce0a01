"""What the runtimes' files say about containers, for a running instance: in its events, and in files for its readers.

The files are read in a thread, so no row, event or reader waits: unknown details are null. A container's files are read
as soon as one of its processes is seen, because they may be gone when the details are needed, and again now and then,
because a container can be renamed. `pipeline.host.container_files` reads only what root alone can change,
`_container_cache` finds details for the stream, and `pipeline.shm.names.containers` finds them for readers.

Bounds: CONTAINERS_MAX containers, of DETAILS_BYTES_MAX each. At the limit, the container that was seen longest ago is
evicted, if the last sweep found no process in it; otherwise the new one is refused until the next sweep. The thread
takes at most CPU_SHARE of a CPU.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import re
import shutil
import stat
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgpack

from pipeline import files
from pipeline.host.alive import watched
from pipeline.host.boot import now_boot_ns
from pipeline.host.container_files import Names, NotAllowedError, names_of
from pipeline.resolver.stream._container_cache import CONTAINERS_MAX, ContainerCache
from pipeline.shm.names.containers import DIRECTORY, KEYS, file_name

if TYPE_CHECKING:
    from pipeline.resolver.stream._encoder import Encoder
    from pipeline.shm.writer._writer import TableWriter

#: Limit for the details of one container in an event. Labels that do not fit are left out.
DETAILS_BYTES_MAX = 4096
#: How often the rows are searched for containers that were not noted; at least SWEEP_SHARE times the duration of one.
SWEEP_NS = 2_000_000_000
SWEEP_SHARE = 500
#: A container's files are read again after REREAD_NS.
REREAD_NS = 300_000_000_000
#: A container without files is searched again after RETRY_NS, then after twice that time, and so on.
RETRY_NS = 100_000_000
RETRY_MAX_NS = 300_000_000_000
#: A container without a live process for this long is forgotten.
FORGET_NS = 300_000_000_000
JOBS_MAX = 1024
ANSWERS_PER_TURN = 16
CPU_SHARE = 0.2
PAUSE_MAX_S = 2.0
_ID = re.compile(r"[0-9a-fA-F]{64}")


@dataclass(slots=True)
class _Known:
    """The state of one container; `text` is None until its files were found.

    Attributes:
        text: the details as a msgpack map.
        seen_ns: when a process of it was seen last.
        due_ns: when its files may be read again.
        failures: searches without a result since the last successful one.
        is_asked: its files are being read.
        is_written: the file for readers has this text.
    """

    text: bytes | None = None
    seen_ns: int = 0
    due_ns: int = 0
    failures: int = 0
    is_asked: bool = False
    is_written: bool = False


class LiveContainers:
    """Keeps the encoder's cache and the readers' files up to date. A part of the resolver's duty cycle.

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
        read: Callable[[str], Names | None] = names_of,
        now: Callable[[], int] = now_boot_ns,
        warn: Callable[..., object] = lambda text, **facts: None,
        forget_ns: int = FORGET_NS,
    ) -> None:
        self._tables = tables
        self._encoder = encoder
        self._directory = directory / DIRECTORY
        self._mode = mode
        self._with_labels = with_labels
        self._read = read
        self._now = now
        self._warn = warn
        self._forget_ns = forget_ns
        self._known: OrderedDict[str, _Known] = OrderedDict()  # the least recently seen first
        self._cache = ContainerCache()
        self._is_changed = False
        self._is_denied = False
        self._sweep_due_ns = self._swept_ns = 0
        self._jobs: queue.Queue[str | None] = queue.Queue(JOBS_MAX)
        self._answers: deque[tuple[str, Names | None, bool]] = deque()
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None

    # -- duty cycle ----------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Make the directory, or continue with the files of a predecessor.

        Files that may contain more than is wanted now, or belong to another group, are removed.

        Raises:
            OSError: the directory cannot be made.
        """
        if not self._tables.is_takeover or not self._with_labels or not self._has_group():
            shutil.rmtree(self._directory, ignore_errors=True)
        self._directory.mkdir(exist_ok=True)
        self._directory.chmod(0o755 | self._directory.stat().st_mode & stat.S_ISGID)
        for path in self._directory.glob(".*.new"):
            path.unlink(missing_ok=True)
        now = self._now()
        left = [path for path in sorted(self._directory.glob("*.json")) if _ID.fullmatch(path.stem)]
        for path in left[:CONTAINERS_MAX]:
            with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
                path.chmod(self._mode)
                details = json.loads(path.read_text("ascii"))
                text = msgpack.packb({key: details[key] for key in KEYS})
                self._known[path.stem] = _Known(text, seen_ns=now, is_written=True)
        self._show()
        self._encoder.containers = self._cache

    def _has_group(self) -> bool:
        """Return whether a file in the directory of a predecessor has the group that a new one would have."""
        with contextlib.suppress(FileNotFoundError):
            above, own = self._directory.parent.stat(), self._directory.stat()
            group = above.st_gid if above.st_mode & stat.S_ISGID else os.getegid()
            return own.st_gid == group and not (own.st_mode ^ above.st_mode) & stat.S_ISGID
        return False

    @property
    def has_answers(self) -> bool:
        """Whether the thread has answers that `do_work` has not handled yet."""
        return bool(self._answers)

    def do_work(self, now: int) -> None:
        """Request missing details and handle answers; this is cheap if there are none."""
        for _ in range(min(len(self._answers), ANSWERS_PER_TURN)):
            self._learn(*self._answers.popleft())
        if self._cache.is_wanting:
            for container_id in self._cache.take_wanted():
                self._want(container_id, now)
        if now >= self._sweep_due_ns:
            self._swept_ns = now
            # The known ones first, so that none of them is evicted for another one.
            living = sorted(self._cache.living(self._tables), key=lambda container_id: container_id not in self._known)
            for container_id in watched(living, self._tables.py_show_life):
                self._want(container_id, now)
            self._forget(now)
            self._sweep_due_ns = now + max(SWEEP_NS, SWEEP_SHARE * (self._now() - now))
        if self._is_changed:
            self._show()

    def close(self, timeout_s: float = 1.0) -> None:
        """End the thread; what it is reading is abandoned."""
        self._closing.set()
        with contextlib.suppress(queue.Full):
            self._jobs.put_nowait(None)
        if self._thread is not None:
            self._thread.join(timeout_s)

    # -- inside --------------------------------------------------------------------------------------------------------

    def _want(self, container_id: str, now: int) -> None:
        """Read the files of a container, unless they were read or requested a short time ago."""
        known = self._known.get(container_id)
        if known is None:
            if len(self._known) >= CONTAINERS_MAX:
                oldest = next(iter(self._known))
                if self._known[oldest].seen_ns >= self._swept_ns:  # it lives: do not evict each other in turns
                    self._tables.count("names_refused")
                    return
                self._drop(oldest)
                self._tables.count("names_evicted")
            known = self._known[container_id] = _Known()
        known.seen_ns = now
        self._known.move_to_end(container_id)
        if known.is_asked or now < known.due_ns:
            return
        if self._thread is None:
            # A daemon thread: a file system that hangs must not keep the process from ending.
            self._thread = threading.Thread(target=self._work, name="containers", daemon=True)
            self._thread.start()
        with contextlib.suppress(queue.Full):  # asked for again at the next sweep
            self._jobs.put_nowait(container_id)
            known.is_asked = True

    def _work(self) -> None:
        while (container_id := self._jobs.get()) is not None and not self._closing.is_set():
            began = time.thread_time()
            found, is_denied = None, False
            try:
                found = self._read(container_id)
            except NotAllowedError:
                is_denied = True
            self._answers.append((container_id, found, is_denied))
            self._closing.wait(min(PAUSE_MAX_S, (time.thread_time() - began) * (1 / CPU_SHARE - 1)))

    def _learn(self, container_id: str, found: Names | None, is_denied: bool) -> None:
        if is_denied and not self._is_denied:
            self._is_denied = True
            self._warn("containers have no names: only root may read the files of their runtimes")
        known = self._known.get(container_id)
        if known is None:
            return
        now = self._now()
        known.is_asked = False
        if found is None:  # what was known of a container that is gone stays
            known.due_ns = now + min(RETRY_NS << min(known.failures, 16), RETRY_MAX_NS)
            known.failures += 1
            return
        known.failures = 0
        known.due_ns = now + REREAD_NS
        details, text = packed(found, self._with_labels)
        if text == known.text and known.is_written:
            return
        self._is_changed |= text != known.text
        known.text, known.is_written = text, False
        # If the file system is full, only these details are missing for readers, until they are read again.
        with contextlib.suppress(OSError):
            files.replace(
                self._directory / file_name(container_id), json.dumps(details).encode("ascii"), self._mode
            )  # fmt: skip
            known.is_written = True

    def _forget(self, now: int) -> None:
        """Drop containers without a live process for a long time."""
        gone = [each for each, known in self._known.items() if now - known.seen_ns > self._forget_ns]
        for container_id in gone:
            self._drop(container_id)
        if refused := self._cache.take_refused():
            self._tables.count("names_refused", refused)
            self._is_changed = True  # make room in the cache for containers that are not known yet

    def _drop(self, container_id: str) -> None:
        del self._known[container_id]
        self._is_changed = True
        (self._directory / file_name(container_id)).unlink(missing_ok=True)

    def _show(self) -> None:
        self._is_changed = False
        self._cache.set_all({container_id: known.text for container_id, known in self._known.items()})


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

"""The details of containers and executables that a thread reads: a cache for events, and files for readers.

A row names its container and its executable by a key. `LiveDetails` keeps the details of each key up to date:

- The thread reads a key when the encoder's cache notes it, or when a sweep over all live processes finds it.
- The details go into the encoder's cache, and into a file for each key.
- If a key cannot be read, the thread tries it again later.
- A key that no live process has had for a long time is forgotten.
- After a take-over, the resolver continues with the files of its predecessor.

`containers` and `live_executables` say what is read for a key.

Bounds: at most `known_max` keys are known. Each user other than root brings at most `user_max` of them, and all these
users together bring at most three quarters. At a limit, the key that was seen longest ago is evicted if the last sweep
found no process with it. Otherwise the new key is rejected until the next sweep.
"""

from __future__ import annotations

import contextlib
import json
from abc import ABC, abstractmethod
from collections import Counter, OrderedDict
from collections.abc import Hashable, Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from pipeline.host.alive import watched
from pipeline.host.boot import now_boot_ns
from pipeline.resolver.upkeep.aside import Aside, ReadersFiles, Sweeps

if TYPE_CHECKING:
    from collections.abc import Callable

    from pipeline.resolver.stream._keyed_cache import KeyedCache
    from pipeline.shm.writer._writer import TableWriter

#: A key is read again this long after it was read.
REREAD_NS = 300_000_000_000
#: If a key cannot be read, it is tried again after RETRY_NS, then after twice that time, and so on.
RETRY_NS = 100_000_000
RETRY_MAX_NS = 300_000_000_000
#: A key that no live process has had for this time is forgotten.
FORGET_NS = 300_000_000_000
#: Keys that wait for the thread at most.
JOBS_MAX = 1024
#: Answers of the thread that one turn handles at most.
ANSWERS_PER_TURN = 16
#: Keys of a predecessor's files are charged to this user until a live process has them. No process has this user.
KEPT_USER = 0xFFFFFFFF

Key = TypeVar("Key", bound=Hashable)
Found = TypeVar("Found")


class RefusedError(Exception):
    """The key must not be read. It is tried again after RETRY_MAX_NS."""


class _Known:
    """The state of one key.

    Attributes:
        text: the details, as msgpack; None: they were not found yet.
        user: the key counts towards the limit of this user; 0: of no user.
        seen_ns: when a live process with the key was last seen.
        due_ns: when the key may be read again.
        failures: reads without a result since the last successful one.
        is_asked: the thread was asked to read the key, and has not answered yet.
        is_written: the file for readers has this text.
    """

    __slots__ = ("due_ns", "failures", "is_asked", "is_written", "seen_ns", "text", "user")

    def __init__(self, text: bytes | None = None, user: int = 0, seen_ns: int = 0, is_written: bool = False) -> None:
        self.text, self.user, self.seen_ns, self.is_written = text, user, seen_ns, is_written
        self.due_ns = self.failures = 0
        self.is_asked = False


class LiveDetails(ABC, Generic[Key, Found]):
    """Keeps the details of keys up to date, for the encoder and for readers. A part of the resolver's duty cycle.

    Args:
        tables: of this instance.
        directory: the directory of the files for readers.
        aside: the thread that reads the details.
        mode: the mode of the files.
        now: the boot clock, in ns.
        forget_ns: a key without a live process for this long is forgotten.
        known_max: at most this many keys are known.
        user_max: at most this many of the known keys are those of one user other than root; 0: no limit.
        reread_ns: a key is read again this long after it was read; 0: never.
    """

    #: Counters of keys that were rejected for lack of room, and of keys that were evicted for others.
    REFUSED = "names_refused"
    EVICTED = "names_evicted"

    def __init__(
        self,
        tables: TableWriter,
        directory: Path,
        aside: Aside[tuple[Key, Found | None, Exception | None]],
        *,
        mode: int,
        now: Callable[[], int] = now_boot_ns,
        forget_ns: int = FORGET_NS,
        known_max: int,
        user_max: int = 0,
        reread_ns: int = REREAD_NS,
    ) -> None:
        self._tables = tables
        self._files = ReadersFiles(directory, mode)
        self._mode = mode
        self._aside = aside
        self._now = now
        self._forget_ns = forget_ns
        self._known_max, self._user_max = known_max, user_max
        self._reread_ns = reread_ns
        self._known: OrderedDict[Key, _Known] = OrderedDict()  # the least recently seen first
        self._by_user: Counter[int] = Counter()
        self._is_changed = False
        self._sweeps = Sweeps()
        self._swept_ns = 0

    # -- what differs --------------------------------------------------------------------------------------------------

    @property
    @abstractmethod
    def _keyed(self) -> KeyedCache:
        """The cache of the encoder."""

    @abstractmethod
    def _noted(self) -> Iterable[tuple[Key, int]]:
        """Return and clear the keys that the cache noted, each with the row of a process; 0: `_job` needs no row."""

    @abstractmethod
    def _living(self) -> list[tuple[Key, int]]:
        """Return the keys of all live processes, in the same form."""

    @abstractmethod
    def _job(self, key: Key, row: int) -> Callable[[], Found | None]:
        """Return a function with which the thread reads the details of a key.

        The function returns None if it finds no details, and raises RefusedError if the key must not be read.
        """

    @abstractmethod
    def _packed(self, found: Found) -> tuple[Any, bytes]:
        """Return details as a value for JSON, and as msgpack."""

    @abstractmethod
    def _repacked(self, value: Any) -> bytes:
        """Return as msgpack the details in a value from JSON. Any exception means that the value is damaged."""

    @abstractmethod
    def _file_name(self, key: Key) -> str:
        """Return the name of the file of a key."""

    @abstractmethod
    def _key_of(self, file_name: str) -> Key:
        """Return the key of a file name. Any exception means that the file belongs to no key."""

    @abstractmethod
    def _set_all(self, known: dict[Key, tuple[bytes | None, int]]) -> None:
        """Replace the content of the cache: the text of each key, and the user to charge for it."""

    def _user_of(self, row: int) -> int:
        """Return the user that is charged for a key of the process in this row."""
        return 0

    def _may_keep(self) -> bool:
        """Return whether files of a predecessor may be used."""
        return True

    def _failed(self, error: Exception | None) -> None:
        """Note that the details of a key were not found, or could not be read."""

    # -- duty cycle ----------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Make the directory, or continue with the files of a predecessor.

        Files of a predecessor are removed if they may contain more than the settings allow, or if they belong to
        another group.

        Raises:
            OSError: the directory cannot be made.
        """
        self._files.begin(keeps=self._tables.is_takeover and self._may_keep() and self._files.has_group())
        now = self._now()
        for path in sorted(self._files.path.glob("*.json")):
            if len(self._known) >= self._known_max:
                break
            with contextlib.suppress(Exception):
                key = self._key_of(path.name)
                path.chmod(self._mode)
                text = self._repacked(json.loads(path.read_text("ascii")))
                self._known[key] = _Known(text, KEPT_USER, seen_ns=now, is_written=True)
                self._by_user[KEPT_USER] += 1
        self._show()

    @property
    def has_answers(self) -> bool:
        """Whether the thread has answers that `do_work` has not handled yet."""
        return self._aside.has_answers

    def do_work(self, now: int) -> None:
        """Request details that are missing, and handle answers; this is cheap if there is nothing to do."""
        for answer in self._aside.take(ANSWERS_PER_TURN):
            self._learn(*answer)
        if self._keyed.is_wanting:
            for key, row in self._noted():
                self._want(key, row, now)
        if now >= self._sweeps.due_ns:
            self._swept_ns = now
            self._sweeps.begin()
            # Known keys come first, so that no new key evicts one of them.
            living = sorted(self._living(), key=lambda found: found[0] not in self._known)
            for key, row in watched(living, self._tables.py_show_life):
                self._want(key, row, now)
            self._forget(now)
            self._sweeps.end(now)
        if self._is_changed:
            self._show()

    def close(self, timeout_s: float = 1.0) -> None:
        """End the thread, and abandon what it is reading."""
        self._aside.close(timeout_s)

    # -- inside --------------------------------------------------------------------------------------------------------

    def _want(self, key: Key, row: int, now: int) -> None:
        """Ask the thread to read a key of a live process, unless the key was read or requested a short time ago."""
        known = self._known.get(key)
        if known is None:
            user = self._user_of(row)
            if not self._has_room(user):
                self._tables.count(self.REFUSED)
                return
            known = self._known[key] = _Known(user=user)
            self._by_user[user] += 1
        elif known.user == KEPT_USER:
            self._by_user[KEPT_USER] -= 1
            known.user = self._user_of(row)
            self._by_user[known.user] += 1
            self._is_changed = True
        known.seen_ns = now
        self._known.move_to_end(key)
        if known.is_asked or now < known.due_ns:
            return
        # The thread reads one key of each user in turn. If it rejects this one, the next sweep asks again.
        turn = self._by_user[known.user] if known.user else 0
        known.is_asked = self._aside.ask(partial(_answer, key, self._job(key, row)), turn)

    def _has_room(self, user: int) -> bool:
        """Return whether a user may have one more key; at a limit, evict a key that no live process has."""
        if user and self._user_max and self._by_user[user] >= self._user_max:
            oldest = next((key for key, known in self._known.items() if known.user == user), None)
        elif user and len(self._known) - self._by_user[0] >= self._known_max // 4 * 3:
            oldest = next(key for key, known in self._known.items() if known.user)
        elif len(self._known) >= self._known_max:
            oldest = next(iter(self._known))
        else:
            return True
        if oldest is None or self._known[oldest].seen_ns >= self._swept_ns:
            return False  # it has a live process, and both keys would evict each other in turns
        self._drop(oldest)
        self._tables.count(self.EVICTED)
        return True

    def _learn(self, key: Key, found: Found | None, error: Exception | None) -> None:
        """Store an answer of the thread: the details of a key, or why there are none."""
        if found is None:
            self._failed(error)
        known = self._known.get(key)
        if known is None:
            return
        now = self._now()
        known.is_asked = False
        if found is None:  # details from an earlier read stay
            is_final = isinstance(error, RefusedError)
            known.due_ns = now + (RETRY_MAX_NS if is_final else min(RETRY_NS << min(known.failures, 16), RETRY_MAX_NS))
            known.failures += 1
            return
        known.failures = 0
        known.due_ns = now + self._reread_ns if self._reread_ns else 1 << 63
        value, text = self._packed(found)
        if text == known.text and known.is_written:
            return
        self._is_changed |= text != known.text
        # If the file system is full, readers lack these details until the key is read again.
        known.text, known.is_written = text, self._files.write(self._file_name(key), json.dumps(value).encode("ascii"))
        if not known.is_written:
            known.due_ns = now + REREAD_NS

    def _forget(self, now: int) -> None:
        """Drop keys that no live process has had for a long time."""
        gone = [key for key, known in self._known.items() if now - known.seen_ns > self._forget_ns]
        for key in gone:
            self._drop(key)
        if refused := self._keyed.take_refused():
            self._tables.count(self.REFUSED, refused)
            self._is_changed = True  # `_show` makes room in the cache for the keys that it rejected

    def _drop(self, key: Key) -> None:
        known = self._known.pop(key)
        self._by_user[known.user] -= 1
        if not self._by_user[known.user]:
            del self._by_user[known.user]
        self._is_changed = True
        self._files.remove(self._file_name(key))

    def _show(self) -> None:
        """Replace the content of the encoder's cache by the details that are known."""
        self._is_changed = False
        self._set_all({key: (known.text, known.user) for key, known in self._known.items()})


def _answer(key: Key, job: Callable[[], Found | None]) -> tuple[Key, Found | None, Exception | None]:
    try:
        return key, job(), None
    except Exception as error:  # a user may have chosen the file, so any content is possible
        return key, None, error

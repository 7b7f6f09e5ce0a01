"""Arguments and environments of processes, as objects that a parent shares with its forked children.

Entries have filtered and scrubbed views. Arguments are sent in chunks: this module has the payload format, and the
cache that collects chunks until the exec event arrives. It also has the filter for raw environments. `scrub` determines
what is secret in arguments, and `pipeline.shm` stores the bytes.
"""

from __future__ import annotations

import struct
import threading
from collections import OrderedDict
from collections.abc import Collection, Sequence
from os import fsdecode
from typing import Protocol

from pipeline.secrets.interner import Interner

CACHE_IDS = 512
CHUNK_BYTES = 256
TRUNCATION_MARK = "..."
#: Maximum number of strings kept of an environment that was read from procfs.
ENVIRON_STRINGS = 256
#: Prefixes of names of variables that are kept first when an environment is cut, besides those with a shown value.
PRIORITY_PREFIXES = ("DD_SERVICE",)

_LENGTH = struct.Struct("=I")


class ArgScrubber(Protocol):
    """Hides secrets in arguments: `scrub.Scrubber` or `Unscrubbed`.

    Example:
        >>> class Everything:
        ...     def scrub(self, args, argv0=""):
        ...         return ["***"] * len(args), bool(args)
        >>> ArgsEntry(["mysql", "-psecret"]).scrubbed(Everything())
        ['***']
    """

    def scrub(self, args: Sequence[str], argv0: str = "") -> tuple[list[str], bool]:
        """Return a new list of the arguments after argv[0], and whether anything was hidden."""
        ...


class Unscrubbed:
    """A scrubber that hides nothing. For callers that need unchanged arguments but filtered environments."""

    def scrub(self, args: Sequence[str], argv0: str = "") -> tuple[list[str], bool]:
        """Return a copy of the arguments, and that nothing was hidden."""
        return list(args), False


class ArgsEntry:
    """The arguments of one image, including argv[0]; a process and its forks share one object.

    The scrubbed list is a separate list, computed once under the entry's lock. So other holders still see the
    unscrubbed arguments, and all of them get the same scrubbed list.

    Example:
        >>> args = ArgsEntry(["date", "+%s"])
        >>> args.argv0, args.argv
        ('date', ['+%s'])
    """

    __slots__ = ("_lock", "_scrubbed", "is_truncated", "values")

    def __init__(self, values: Sequence[str] = (), is_truncated: bool = False) -> None:
        self.values = list(values)
        self.is_truncated = is_truncated
        self._scrubbed: list[str] | None = None
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"ArgsEntry({len(self.values)} values, is_truncated={self.is_truncated})"  # no arguments in logs

    @property
    def argv0(self) -> str:
        """The first argument, or ""."""
        return self.values[0] if self.values else ""

    @property
    def argv(self) -> list[str]:
        """The arguments after argv[0], not scrubbed."""
        return self.values[1:]

    def scrubbed(self, scrubber: ArgScrubber | None) -> list[str]:
        """Return the arguments after argv[0] with secrets hidden, computed once; without a scrubber, unchanged."""
        with self._lock:
            if self._scrubbed is None:
                argv = self.values[1:]
                self._scrubbed = scrubber.scrub(argv, self.argv0)[0] if scrubber is not None and argv else argv
            return self._scrubbed

    def equals(self, other: ArgsEntry | None) -> bool:
        """Return whether the values are equal; truncation is ignored."""
        return other is self or (other is not None and self.values == other.values)


class EnvsEntry:
    """The environment of one image as ``KEY=VALUE`` strings; a process and its forks share one object.

    Example:
        >>> envs = EnvsEntry(["LANG=C", "TOKEN=secret"])
        >>> envs.get("LANG"), envs.filter(allow={"LANG"})
        ('C', (['LANG=C', 'TOKEN'], False))
    """

    __slots__ = ("_filtered", "_map", "is_truncated", "values")

    def __init__(self, values: Sequence[str] = (), is_truncated: bool = False) -> None:
        self.values = list(values)
        self.is_truncated = is_truncated
        self._filtered: list[str] | None = None
        self._map: dict[str, str] | None = None

    def __repr__(self) -> str:
        return f"EnvsEntry({len(self.values)} values, is_truncated={self.is_truncated})"

    def filter(self, allow: Collection[str] | None) -> tuple[list[str] | None, bool]:
        """Return the names of all variables, with the value of allowed names only; and whether the environment was cut.

        The result of the first call is kept: later calls return it whatever they allow. None: there are no values.

        Args:
            allow: names of variables with a shown value; None: all have it.
        """
        if not self.values:
            return None, self.is_truncated
        if allow is None:
            return list(self.values), self.is_truncated
        if self._filtered is None:
            self._filtered = [env if env.partition("=")[0] in allow else env.partition("=")[0] for env in self.values]
        return self._filtered, self.is_truncated

    def get(self, key: str) -> str:
        """Return the value of a variable; "" if it is absent. If there are two with one name, the last counts."""
        if self._map is None:
            pairs = (env.partition("=") for env in self.values)
            self._map = {name: value for name, equals, value in pairs if equals}
        return self._map.get(key, "")

    def equals(self, other: EnvsEntry | None) -> bool:
        """Return whether the values are equal; truncation is ignored."""
        return other is self or (other is not None and self.values == other.values)


def is_command_line(argv0: str | bytes, is_alone: bool) -> bool:
    """Return whether argv[0] may be more than a program's name: it has several words, or no other argument has any.

    A process that wrote a title over its arguments has such an argv[0].

    Args:
        argv0: the first argument.
        is_alone: no other argument has any text.
    """
    words = len(argv0.split(None, 1))
    return words > 1 or (words == 1 and is_alone)


def is_absent(entry: ArgsEntry | EnvsEntry | None) -> bool:
    """Return whether arguments or an environment are unknown, which is also the case if they were cut to nothing."""
    return entry is None or (entry.is_truncated and not entry.values)


def equal_entries(left: ArgsEntry | None, right: ArgsEntry | None) -> bool:
    """Return whether two argument lists are equal; absent equals absent only. Source: specification 1.5."""
    if is_absent(left) or is_absent(right):
        return is_absent(left) and is_absent(right)
    return left is not None and left.equals(right)


def equal_envs(left: EnvsEntry | None, right: EnvsEntry | None) -> bool:
    """Return whether two environments are equal, by the rules of `equal_entries`."""
    if is_absent(left) or is_absent(right):
        return is_absent(left) and is_absent(right)
    return left is not None and left.equals(right)


def filter_area(area: bytes, allow: frozenset[bytes]) -> bytes:
    """Filter a raw environment as `EnvsEntry.filter` does; it has a NUL after each variable, before and after."""
    if not area:
        return area
    kept = []
    for env in area.removesuffix(b"\0").split(b"\0"):
        name = env.partition(b"=")[0]
        kept.append(env if name in allow else name)
    return b"\0".join(kept) + b"\0"


def cut_environ(
    area: bytes, priority: Sequence[str] = PRIORITY_PREFIXES, limit: int = ENVIRON_STRINGS
) -> tuple[list[str], bool]:
    """Return the first strings of an environment, those with a priority prefix before the others.

    Args:
        area: raw environment, a NUL after each string.
        priority: prefixes; strings that start with one come first, in their order.
        limit: maximum number of strings.

    Returns:
        The strings, and whether some were left out.

    Source: specification 3.3.8 step 6.
    """
    values = [fsdecode(env) for env in area.removesuffix(b"\0").split(b"\0")] if area else []
    prefixes = tuple(priority)
    first = [env for env in values if env.startswith(prefixes)]
    rest = [env for env in values if not env.startswith(prefixes)]
    return (first + rest)[:limit], len(values) > limit


class PayloadOverflowError(ValueError):
    """A length in a chunk exceeds its size.

    Attributes:
        strings: the strings that could be read.
    """

    def __init__(self, message: str, strings: list[bytes]) -> None:
        super().__init__(message)
        self.strings = strings


def encode_payload(strings: Sequence[bytes]) -> bytes:
    """Encode strings as a chunk: a u32 length before each, in native byte order."""
    return b"".join(_LENGTH.pack(len(string)) + string for string in strings)


def decode_payload(payload: bytes, count: int | None = None) -> list[bytes]:
    """Decode a chunk.

    Args:
        payload: repeatedly a u32 length and that many bytes; a string ends at its first NUL.
        count: number of strings, if the sender provides it. None: a length of 0 is an empty string if anything but
            zeros follows, otherwise the end.

    Raises:
        PayloadOverflowError: the chunk ends within a length, or a length exceeds the rest. The rest counts as a last
            string.

    Source: specification 1.12. (The reference stops at the first empty string and loses the rest of the chunk.)
    """
    strings: list[bytes] = []
    end = len(payload) if count is not None else len(payload.rstrip(b"\0"))
    offset = 0
    while offset < end if count is None else len(strings) < count:
        if len(payload) - offset < _LENGTH.size + (count is None):
            if count is not None and offset == len(payload):
                break
            raise PayloadOverflowError(f"expected a length, but only {len(payload) - offset} bytes are left", strings)
        (length,) = _LENGTH.unpack_from(payload, offset)
        offset += _LENGTH.size
        strings.append(payload[offset : offset + length].partition(b"\0")[0])
        if length > len(payload) - offset:
            raise PayloadOverflowError(f"length {length}, but only {len(payload) - offset} bytes are left", strings)
        offset += length
    return strings


class ArgsEnvsCache:
    """Collects arguments and environments by id until the exec event takes them. Not thread-safe.

    Args:
        capacity: maximum number of ids, which is the number of processes that can start at the same time. The least
            recently used id is evicted.
        interner: used for all strings; None: a new one.

    Source: specification 3.1, 3.4 (UpdateArgsEnvs, SetProcessArgs).
    """

    def __init__(self, capacity: int = CACHE_IDS, interner: Interner[str] | None = None) -> None:
        self._capacity = capacity
        self._interner: Interner[str] = interner if interner is not None else Interner()
        self._entries: OrderedDict[int, tuple[list[str], bool]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def update(self, entry_id: int, payload: bytes, count: int | None = None) -> None:
        """Add a chunk to an id.

        The chunk counts as truncated if it cannot be decoded or is full; then ``...`` is appended to its last string.

        Args:
            entry_id: the id.
            payload: the chunk.
            count: number of strings in it; see `decode_payload`.
        """
        is_truncated = len(payload) == CHUNK_BYTES
        try:
            strings = decode_payload(payload, count)
        except PayloadOverflowError as overflow:
            strings = overflow.strings
            is_truncated = True
        values = [fsdecode(string) for string in strings]
        if is_truncated and values:
            values[-1] += TRUNCATION_MARK
        self.add(entry_id, values, is_truncated)

    def add(self, entry_id: int, values: Sequence[str], is_truncated: bool = False) -> None:
        """Add decoded strings to an id, as `update` does after decoding.

        Args:
            entry_id: the id.
            values: the strings.
            is_truncated: strings are missing.
        """
        known, was_truncated = self._entries.pop(entry_id, ([], False))
        known += self._interner.intern_all(values)
        self._entries[entry_id] = (known, was_truncated or is_truncated)
        if len(self._entries) > self._capacity:
            self._entries.popitem(last=False)

    def take(self, entry_id: int) -> tuple[list[str], bool] | None:
        """Remove an id and return its strings and whether they were truncated; None: it is unknown or was evicted."""
        return self._entries.pop(entry_id, None)

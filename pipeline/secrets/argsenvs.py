"""Arguments and environments of processes, as objects that a parent and its forked children share.

Covers the entries, their filtered and scrubbed views, the payload form in which arguments travel in chunks, the cache
that collects chunks until the exec event arrives, and the filter for environments as raw bytes. Leaves out what is
secret in arguments (`scrub`) and where bytes are stored (`pipeline.shm`).
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
#: Strings kept of an environment read from procfs.
ENVIRON_STRINGS = 256
#: Names whose variables come first when an environment is cut, besides those with a shown value.
PRIORITY_PREFIXES = ("DD_SERVICE",)

_LENGTH = struct.Struct("=I")


class ArgScrubber(Protocol):
    """What hides secrets in arguments: `scrub.Scrubber`."""

    def scrub(self, args: Sequence[str], argv0: str = "") -> tuple[list[str], bool]:
        """Arguments after argv[0] to a new list, and whether anything was hidden."""
        ...


class Unscrubbed:
    """A scrubber that hides nothing: for who wants arguments as they are, and environments as always."""

    def scrub(self, args: Sequence[str], argv0: str = "") -> tuple[list[str], bool]:
        return list(args), False


class ArgsEntry:
    """The arguments of one image, argv[0] included; shared by reference between a process and its forks.

    The scrubbed list is a list of its own, computed once under the entry's lock: a holder that never asked for it still
    sees the arguments as they were, and two holders get the same list.
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

    @property
    def is_scrubbed(self) -> bool:
        """Whether the scrubbed list exists."""
        return self._scrubbed is not None

    def scrubbed(self, scrubber: ArgScrubber | None) -> list[str]:
        """The arguments after argv[0] with secrets hidden; without a scrubber, as they are. Computed once."""
        with self._lock:
            if self._scrubbed is None:
                argv = self.values[1:]
                self._scrubbed = scrubber.scrub(argv, self.argv0)[0] if scrubber is not None and argv else argv
            return self._scrubbed

    def equals(self, other: ArgsEntry | None) -> bool:
        """Whether the values are the same; truncation plays no part."""
        return other is self or (other is not None and self.values == other.values)


class EnvsEntry:
    """The environment of one image as ``KEY=VALUE`` strings; shared by reference between a process and its forks."""

    __slots__ = ("_filtered", "_map", "is_truncated", "values")

    def __init__(self, values: Sequence[str] = (), is_truncated: bool = False) -> None:
        self.values = list(values)
        self.is_truncated = is_truncated
        self._filtered: list[str] | None = None
        self._map: dict[str, str] | None = None

    def __repr__(self) -> str:
        return f"EnvsEntry({len(self.values)} values, is_truncated={self.is_truncated})"

    def filter(self, allow: Collection[str]) -> tuple[list[str] | None, bool]:
        """Names of all variables, with the value only for allowed names; and whether the environment was cut.

        The first call decides: its result is kept, and later ones get it whatever they allow. None for no values.
        """
        if not self.values:
            return None, self.is_truncated
        if self._filtered is None:
            self._filtered = [env if env.partition("=")[0] in allow else env.partition("=")[0] for env in self.values]
        return self._filtered, self.is_truncated

    def get(self, key: str) -> str:
        """Value of a variable; of two with one name the last; "" when absent."""
        if self._map is None:
            pairs = (env.partition("=") for env in self.values)
            self._map = {name: value for name, equals, value in pairs if equals}
        return self._map.get(key, "")

    def equals(self, other: EnvsEntry | None) -> bool:
        """Whether the values are the same; truncation plays no part."""
        return other is self or (other is not None and self.values == other.values)


def is_command_line(argv0: str | bytes, is_alone: bool) -> bool:
    """Whether argv[0] may hold more than a program's name: it has several words, or no other argument has any.

    So it is with a process that wrote a title over its arguments.
    """
    words = len(argv0.split(None, 1))
    return words > 1 or (words == 1 and is_alone)


def is_absent(entry: ArgsEntry | EnvsEntry | None) -> bool:
    """Whether nothing is known of arguments or an environment; so it is, too, where they were cut to nothing."""
    return entry is None or (entry.is_truncated and not entry.values)


def equal_entries(left: ArgsEntry | None, right: ArgsEntry | None) -> bool:
    """Whether two arguments or environments are equal; absent is equal to absent only. Source: specification 1.5."""
    if is_absent(left) or is_absent(right):
        return is_absent(left) and is_absent(right)
    return left is not None and left.equals(right)


def equal_envs(left: EnvsEntry | None, right: EnvsEntry | None) -> bool:
    """`equal_entries` of environments."""
    if is_absent(left) or is_absent(right):
        return is_absent(left) and is_absent(right)
    return left is not None and left.equals(right)


def filter_area(area: bytes, allow: frozenset[bytes]) -> bytes:
    """`EnvsEntry.filter` on a raw environment area: NUL behind each variable, before and after."""
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
    """The first strings of an environment, those with a priority prefix before the others.

    Args:
        area: raw, NUL behind each.
        priority: prefixes; strings that start with one come first, in their order.
        limit: strings kept.

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
    """A chunk's lengths do not fit its size; `strings` is what could be read."""

    def __init__(self, message: str, strings: list[bytes]) -> None:
        super().__init__(message)
        self.strings = strings


def encode_payload(strings: Sequence[bytes]) -> bytes:
    """Strings in chunk form: a u32 length before each, native byte order."""
    return b"".join(_LENGTH.pack(len(string)) + string for string in strings)


def decode_payload(payload: bytes, count: int | None = None) -> list[bytes]:
    """Take a chunk apart.

    Args:
        payload: repeated u32 length and that many bytes; a string ends at its first NUL.
        count: strings in it, where the sender tells. Without it, a length of 0 is an empty string if anything but
            zeros follows, else the end.

    Raises:
        PayloadOverflowError: cut within a length, or a length beyond the end. The rest counts as a last string.

    Source: specification 1.12. (The reference stops at the first empty string, and loses the rest of the chunk.)
    """
    strings: list[bytes] = []
    end = len(payload) if count is not None else len(payload.rstrip(b"\0"))
    offset = 0
    while offset < end if count is None else len(strings) < count:
        if len(payload) - offset < _LENGTH.size + (count is None):
            if count is not None and offset == len(payload):
                break
            raise PayloadOverflowError(f"{len(payload) - offset} bytes left where a length is due", strings)
        (length,) = _LENGTH.unpack_from(payload, offset)
        offset += _LENGTH.size
        strings.append(payload[offset : offset + length].partition(b"\0")[0])
        if length > len(payload) - offset:
            raise PayloadOverflowError(f"length {length} with {len(payload) - offset} bytes left", strings)
        offset += length
    return strings


class ArgsEnvsCache:
    """Collects arguments and environments by id until their exec event takes them. One user at a time.

    Args:
        capacity: ids kept; processes that start at the same time. The least recently used leaves.
        interner: shared by all strings.

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

        It was truncated if it can not be decoded or is a full chunk; then its last string gets ``...``.
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
        """Add decoded strings to an id, as `update` does after decoding."""
        known, was_truncated = self._entries.pop(entry_id, ([], False))
        known += self._interner.intern_all(values)
        self._entries[entry_id] = (known, was_truncated or is_truncated)
        if len(self._entries) > self._capacity:
            self._entries.popitem(last=False)

    def take(self, entry_id: int) -> tuple[list[str], bool] | None:
        """Remove an id and give its strings and whether they were cut; None when it is not there (any more)."""
        return self._entries.pop(entry_id, None)

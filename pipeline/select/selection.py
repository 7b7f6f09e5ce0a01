"""Decide which processes are selected. All commands with such options, and `ProcessTable.find`, use this module."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pipeline.bus.stream.narrowing import KINDS
from pipeline.paths import CGROUP_ROOTS
from pipeline.select.programs import NAMED_BY, names_of
from pipeline.select.units import readable, shown_unit, unit_of, user_unit_of

if TYPE_CHECKING:
    from pipeline.shm.layout.entry_types import EntryFields


@dataclass(frozen=True)
class Selection:
    """Conditions that a process must match. All that are set must hold; without any, all processes are selected.

    Attributes:
        users: names or numbers of users. The name or number of `uid` or `euid` counts. A name that this host knows also
            selects by its number: the name of a process may not have been read yet.
        units: names of systemd units, as patterns; ``.service`` may be omitted. A pattern that begins with a slash is
            compared with the path of the cgroup, and selects the cgroups below it too. The path may also be that of a
            directory below ``/sys/fs/cgroup``.
        containers: ids of containers, or the first characters of an id (at least 4).
        paths: patterns for the path of the executable or of the script, as in fnmatch(3); a pattern without a slash is
            compared with the last part.
        names: patterns for the name of the program: that of the script, of the executable, or of the process (comm).
        args: patterns for one argument as a whole, also for the first, which is the name of the program.
        under: pids. A process is selected if one of them is its own or an ancestor's.
        is_failed: only processes that ended with another code than 0, or by a signal.

    Raises:
        ValueError: the id of a container is too short.

    Example:
        >>> shells = Selection(users=["alice"], paths=["*/sh", "bash"])
        >>> shells.matches({"user": "alice", "path": "/usr/bin/bash"})
        True
    """

    users: Collection[str] = ()
    units: Collection[str] = ()
    containers: Collection[str] = ()
    paths: Collection[str] = ()
    names: Collection[str] = ()
    args: Collection[str] = ()
    under: Collection[int] = ()
    is_failed: bool = False
    _uids: set[int] = field(default_factory=set, init=False, repr=False, compare=False)
    _paths: list[tuple[bool, re.Pattern[str]]] = field(default_factory=list, init=False, repr=False, compare=False)
    _names: list[re.Pattern[str]] = field(default_factory=list, init=False, repr=False, compare=False)
    _args: list[re.Pattern[str]] = field(default_factory=list, init=False, repr=False, compare=False)
    _units: list[re.Pattern[str]] = field(default_factory=list, init=False, repr=False, compare=False)
    _cgroups: list[re.Pattern[str]] = field(default_factory=list, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        self._uids.update(uid for each in self.users if (uid := uid_of(each)) is not None)
        self._paths.extend(("/" in each, re.compile(fnmatch.translate(each))) for each in self.paths)
        self._names.extend(re.compile(fnmatch.translate(each)) for each in self.names)
        self._args.extend(re.compile(fnmatch.translate(each)) for each in self.args)
        for each in self.units:
            if each.startswith("/"):
                path = _cgroup_path(each)
                self._cgroups.extend(re.compile(fnmatch.translate(pattern)) for pattern in (path or "/", f"{path}/*"))
                continue
            # A dot does not mean that there is a suffix: php8.2-fpm is php8.2-fpm.service.
            patterns = [f"{each}.service"] if "." not in each else [each, f"{each}.service"]
            self._units.extend(re.compile(fnmatch.translate(pattern)) for pattern in patterns)
        for each in self.containers:
            if len(each) < CONTAINER_LENGTH_MIN:
                raise ValueError(f"{each!r} is too short for a container: use at least 4 characters of its id")

    def __bool__(self) -> bool:
        """Whether anything is asked for."""
        return bool(
            self.users or self.units or self.containers or self.paths or self.names or self.args or self.under
            or self.is_failed
        )  # fmt: skip

    @property
    def fields(self) -> tuple[str, ...]:
        """The fields of an entry that decide; only these need to be read of those that are not shown.

        Example:
            >>> Selection(paths=["bash"]).fields
            ('path', 'script_path')
        """
        needed: list[str] = []
        if self.users:
            needed += ["uid", "euid"]
            if any(not each.isdigit() for each in self.users):  # names cost a look-up each
                needed += ["user", "euser"]
        needed += ["cgroup"] if self.units else []
        needed += ["container_id"] if self.containers else []
        needed += ["path", "script_path"] if self.paths else []
        needed += NAMED_BY if self.names else []
        needed += ["argv"] if self.args else []
        if self.under:
            needed += ["pid", "start_time_ns", "entity_id", "parent_entity_id", "creator_entity_id"]
        needed += ["exit_code"] if self.is_failed else []
        return tuple(dict.fromkeys(needed))

    def matches(self, entry: Mapping[str, object]) -> bool:
        """Whether an entry or event matches everything but `under`, which needs other entries too.

        Example:
            >>> Selection(args=["-x"]).matches({"argv": ["sh", "-x"]})
            True
        """
        fields: EntryFields = entry  # type: ignore[assignment]  # its values are those of an entry, whatever its type
        return (
            (not self.users or self._matches_user(fields))
            and (not self.units or self._matches_unit(fields.get("cgroup")))
            and (not self.containers or self._matches_container(fields.get("container_id")))
            and (not self.paths or self._matches_path(fields))
            and (not self._names or _is_match(self._names, names_of(fields)))
            and (not self._args or _is_match(self._args, fields.get("argv") or ()))
            and (not self.is_failed or _has_failed(fields))
        )

    def required_texts(self) -> tuple[tuple[bytes, ...], ...]:
        """Return alternatives for each condition: an entry that matches contains one of each, in some field.

        Bytes without them need not be decoded. Conditions that do not depend on text are not there.

        Example:
            >>> Selection(paths=["/opt/*/bin/x[0-9]"], args=["-x", "--yes"]).required_texts()
            ((b'/bin/x',), (b'-x', b'--yes'))
        """
        conditions = self._texts()
        return tuple(conditions[kind] for kind in ("path", "arg", "name", "container") if kind in conditions)

    def publisher_filters(self) -> list[tuple[bytes, tuple[bytes, ...]]]:
        """Return the conditions that the publisher can evaluate, most selective first: each a kind and its values.

        An event that matches the selection passes each of them.

        Example:
            >>> Selection(users=["4711"], units=["nginx*"]).publisher_filters()
            [(b'cgroup', (b'nginx',)), (b'user', (b'4711',))]
        """
        conditions = self._texts()
        if self.users:
            users = (*self.users, *(str(uid) for uid in sorted(self._uids)))
            conditions["user"] = tuple(dict.fromkeys(map(_stored, users)))
        cgroups = tuple(
            _stored(_literal(_cgroup_path(each)) if each.startswith("/") else _unit_literal(each))
            for each in self.units
        )
        if cgroups and all(cgroups):
            conditions["cgroup"] = cgroups
        return [(kind, conditions[kind.decode()]) for kind in KINDS if kind.decode() in conditions]

    def _texts(self) -> dict[str, tuple[bytes, ...]]:
        """Return, by kind of the publisher's filters, texts of which a matching entry contains one."""
        conditions = {
            "path": [_literal(each) for each in self.paths],
            "arg": [_literal(each) for each in self.args],
            "name": [_literal(each) for each in self.names],
            "container": list(self.containers),
        }
        found = {kind: tuple(map(_stored, alternatives)) for kind, alternatives in conditions.items()}
        return {kind: alternatives for kind, alternatives in found.items() if alternatives and all(alternatives)}

    def of(self, entries: Iterable[EntryFields]) -> list[EntryFields]:
        """Return the selected ones among all entries of a table, one for each process, in their order.

        Example:
            >>> selection = Selection(under=[2000], paths=["nginx"])
            >>> fields = ["pid", "exit_time_ns", *selection.fields]
            >>> [entry["pid"] for entry in selection.of(table.batch(fields).dicts())]
            [2000, 2001, 2002]
        """
        everything = list(entries)
        if self.under:
            below = descendants(everything, self.under)
            everything = [entry for entry in everything if entry.get("entity_id") in below]
        return [entry for entry in everything if self.matches(entry)]

    def _matches_user(self, entry: EntryFields) -> bool:
        if entry.get("uid") in self._uids or entry.get("euid") in self._uids:
            return True
        return any(entry.get(name) in self.users for name in ("user", "euser"))

    def _matches_unit(self, cgroup: str | None) -> bool:
        if cgroup and any(pattern.match(cgroup) for pattern in self._cgroups):
            return True
        names = {name for name in (unit_of(cgroup), user_unit_of(cgroup), shown_unit(cgroup)) if name}
        names |= {readable(name) for name in names}  # as the commands print it
        return any(pattern.match(name) for pattern in self._units for name in names)

    def _matches_container(self, container: str | None) -> bool:
        return bool(container) and any(str(container).startswith(each) for each in self.containers)

    def _matches_path(self, entry: EntryFields) -> bool:
        for path in (entry.get("path"), entry.get("script_path")):
            if path and any(
                pattern.match(path if is_whole else path.rpartition("/")[2]) for is_whole, pattern in self._paths
            ):
                return True
        return False


#: A shorter beginning would select containers by chance.
CONTAINER_LENGTH_MIN = 4


def descendants(
    entries: Iterable[EntryFields], pids: Collection[int] = (), identities: Collection[str] = ()
) -> set[str]:
    """Return the identities of processes with one of the pids or identities, and of everything that descends from them.

    A process descends from its current parent and from its creator, so a daemon that was adopted by init still counts.
    If several processes had a pid one after the other, it means the last one.
    """
    owners: dict[int, tuple[int, str]] = {}
    children: dict[str, list[str]] = {}
    waiting = list(identities)
    for entry in entries:
        own = entry.get("entity_id")
        if own is None:
            continue
        for above in {entry.get("parent_entity_id"), entry.get("creator_entity_id")}:
            if above is not None:
                children.setdefault(above, []).append(own)
        if entry["pid"] in pids:
            owners[entry["pid"]] = max(owners.get(entry["pid"], (0, "")), (entry.get("start_time_ns") or 0, own))
    waiting += [own for _, own in owners.values()]
    found: set[str] = set()
    while waiting:
        own = waiting.pop()
        if own not in found:
            found.add(own)
            waiting += children.get(own, ())
    return found


def _cgroup_path(pattern: str) -> str:
    """Return a pattern for the paths that entries have: without the mount of the file system, and no slash behind."""
    for root in CGROUP_ROOTS:
        if pattern == root or pattern.startswith(f"{root}/"):
            pattern = pattern.removeprefix(root)
            break
    return pattern.rstrip("/")


def _literal(pattern: str) -> str:
    """Return the longest text that everything contains that matches a pattern of fnmatch."""
    return max(re.split(r"\[.*|[*?]", pattern, flags=re.DOTALL), key=len)


def _unit_literal(pattern: str) -> str:
    """Return a text that is in the cgroup of every unit that matches a pattern, unless the path has escapes.

    A unit of a user's own manager is shown as ``user@1000/ssh.service``, with more between both in the path.
    """
    return max(re.split(r"\[.*|[*?/]", pattern, flags=re.DOTALL), key=len)


def _stored(text: str) -> bytes:
    """Return a text as the stream has it; empty if no process can have it."""
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return b""


def uid_of(user: str) -> int | None:
    """Return the number of a user, from the number itself or by the name service of this host; None: unknown."""
    if user.isascii() and user.isdigit():
        return int(user)
    try:
        import pwd

        return pwd.getpwnam(user).pw_uid
    except (ImportError, KeyError, ValueError):
        return None


def _is_match(patterns: Collection[re.Pattern[str]], texts: Iterable[str]) -> bool:
    return any(pattern.match(text) for text in texts for pattern in patterns)


def _has_failed(entry: EntryFields) -> bool:
    return entry.get("exit_code") not in {None, 0}

"""Fields of many processes at once, with the values that `Entry` has: as lists of Python objects.

`Entry` defines what a field is. If a field is only a number in the row, this module copies the number. Any other value
is computed by the property of `Entry`, so the two cannot differ. It is computed once for all rows that agree in
everything from which it is computed (GROUPED). A field that is not listed here is computed by `Entry` for each row.

Does not need numpy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, TypeVar, cast, overload

from pipeline.host.boot import TICK_NS
from pipeline.shm.layout import declared
from pipeline.shm.layout.declared import COLD_LAYOUT, COSTS_LAYOUT, HOT_LAYOUT
from pipeline.shm.layout.entry_fields import FIELDS
from pipeline.shm.layout.field_table import EntryField
from pipeline.shm.layout.near_names import suggestion
from pipeline.shm.reader import _row_copies

if TYPE_CHECKING:
    from datetime import datetime, timedelta

    from pipeline.shm.reader._entry import Entry
    from pipeline.shm.reader._row_copies import RowCopies
    from pipeline.shm.reader.entry_dict import (
        EntryAttributes,
        Flags,
        Ints,
        Lists,
        Maps,
        OptionalFlags,
        OptionalInts,
        OptionalLists,
        OptionalTexts,
        Periods,
        Texts,
        Times,
    )

_T = TypeVar("_T")

#: Fields of `Entry` by name.
ENTRY_FIELDS: dict[str, EntryField] = {
    field.name: field for field in FIELDS if field.shown in {"both", "entry", "exit", "property"}
}

#: Attributes of `Entry` that are no fields, and the sources of their values in the words of GROUPED; None: any source.
_MADE_OF: dict[str, tuple[str, str | None]] = {
    "start_time": ("datetime", ""), "exec_time": ("datetime", ""), "exit_time": ("datetime", ""),
    "fork_time": ("datetime", "cold.fork_boot_ns"), "created_at": ("datetime", "cold.fork_boot_ns"),
    "cgroup_created_at": ("datetime", "CGROUP cold.cgroup_ref"),
    "container_created_at": ("datetime", "CGROUP CONTAINER cold.cgroup_ref"),
    "age_ns": ("int", ""), "age": ("timedelta", ""), "duration_ns": ("int", ""), "duration": ("timedelta", ""),
    "exit_status": ("int", "cold.exit_code"), "exit_signal": ("int", "cold.exit_code"), "image_number": ("int", ""),
    "is_elided": ("bool", None), "is_exe_deleted": ("bool", None), "is_memfd": ("bool", None),
    "args_full_bytes": ("int", None),
}  # fmt: skip
#: What `Batch` takes: fields, and other attributes of `Entry`.
ATTRIBUTES: dict[str, EntryField] = ENTRY_FIELDS | {
    name: EntryField(name, "property", kind, ["computed"], "", "", False) for name, (kind, _) in _MADE_OF.items()
}

_KINDS = {name: getattr(_row_copies, name) for name in ("FILE", "ARGS", "ENVS", "NAME", "CGROUP", "CONTAINER", "EXTRA")}
_NAMES = "CONTAINER cold.mnt_ns cold.user_ns known flags:FOREIGN"
_FILE = f"FILE {_NAMES}"
_MARKS = "+".join(name.upper() for name in declared.MARKS)

#: What a value is made of: strings of the row (capitals), fields of the row, `known`, and flags.
GROUPED = {
    "comm": "hot.comm known",
    "path": "FILE known",
    "path_in_root": "FILE known",
    "name": "NAME",
    "script_path": "NAME flags:SCRIPT",
    "symlink_paths": "ARGS FILE known flags:THROUGH_SYMLINK",
    "symlink_basename": "ARGS FILE known flags:THROUGH_SYMLINK",
    "user": f"hot.uid {_NAMES}",
    "group": f"hot.gid {_NAMES}",
    "euser": f"cold.euid {_NAMES}",
    "egroup": f"cold.egid {_NAMES}",
    "fsuser": f"cold.fsuid {_NAMES}",
    "fsgroup": f"cold.fsgid {_NAMES}",
    "file": _FILE,
    "interpreter": f"{_FILE}+SCRIPT EXTRA hot.inode",
    "file_package": "FILE known",
    "file_sha256": "FILE known",
    "extra": "EXTRA",
    "tty": "cold.tty known",
    "cgroup": "CGROUP",
    "cgroup_created_at_ns": "CGROUP",
    "container_created_at_ns": "CGROUP CONTAINER",
    "cgroup_version": "hot.cgroup_id known",
    "cgroup_source": "hot.cgroup_source hot.cgroup_id known",
    "container_id": "CONTAINER",
    "container_trust": "CGROUP CONTAINER",
    "container_details": "CGROUP CONTAINER",
    "ssh_session": "cold.user_session",
    "source": "hot.source",
    "exit_cause": "cold.exit_code flags:EXIT_KNOWN",
    "exit_cause_code": "cold.exit_code flags:EXIT_KNOWN",
    "marks": f"flags:{_MARKS}",
    "parent_entity_id": "hot.parent",
    "creator_entity_id": "hot.creator",
}


class UnknownFieldError(ValueError):
    """Entries have no such field."""


def check(names: Iterable[str]) -> None:
    """Raise UnknownFieldError, with a suggestion, unless every name is one of ATTRIBUTES, and TypeError for a str."""
    if isinstance(names, str):
        raise TypeError(f"names of fields are a list: write [{names!r}]")
    for name in names:
        if name not in ATTRIBUTES:
            hint = suggestion(
                str(name), ATTRIBUTES, otherwise="pipeline.FIELDS and docs/wire-schema.md list the fields"
            )
            raise UnknownFieldError(f"entries have no field {name!r}{hint}")


def _flags(names: str) -> int:
    return sum({int(getattr(declared, f"ROW_{name}")) for name in names.split("+")})


def _known(names: str | None) -> int:
    return int(getattr(declared, f"KNOWN_{names}")) if names else 0


def _place(name: str) -> tuple[int, int, int, bool]:
    """Return part, offset, size of a field of a row, and whether it is signed."""
    part, _, field = name.partition(".")
    number, begin, row = {
        "hot": (_row_copies.HOT, 0, HOT_LAYOUT),
        "cold": (_row_copies.COLD, 0, COLD_LAYOUT),
        "costs": (_row_copies.COLD, COLD_LAYOUT.size, COSTS_LAYOUT),
    }[part]
    found = row.fields[field]
    return number, begin + found.offset, found.size, found.element.startswith("i")


def words_of(text: str) -> list[tuple[int, int, int]]:
    """Return the key of `RowCopies.group` for a text of GROUPED."""
    words = []
    for each in text.split():
        if each in _KINDS:
            words.append((_row_copies.CODE, _KINDS[each].bit_length() - 1, 0xFFFFFFFF))
        elif each.startswith("flags:"):
            words.append((_row_copies.HOT, HOT_LAYOUT.offset("flags"), _flags(each.removeprefix("flags:"))))
        else:
            part, offset, size, _ = _place("hot.known" if each == "known" else each)
            if size >= 4:
                words += [(part, offset + at, 0xFFFFFFFF) for at in range(0, size, 4)]
            else:  # a part of a word
                shift = offset % 4 * 8
                words.append((part, offset - offset % 4, ((1 << size * 8) - 1) << shift))
    return words


def grouping(field: EntryField) -> str | None:
    """Return what a field is made of, if it is computed for groups of rows."""
    text = GROUPED.get(field.name)
    if text is None and field.value[0] == "directory":
        return "NAME"
    if text is None and field.value[0] == "state":
        state = next(each for each in declared.STATES if each.name == field.value[1])
        flags = [name for name in vars(declared) if name.startswith("ROW_") and getattr(declared, name) & state.mask]
        return f"known flags:{'+'.join(name.removeprefix('ROW_') for name in flags)}"
    return text


def flag_bits(field: EntryField) -> int:
    """Return the bits of HOT.flags that a field of the form ``flag NAME`` or ``no flag NAME`` is made of."""
    return _flags(field.value[field.value.index("flag") + 1])


#: Fields that are lists of strings: the kind of string, and what says that it is known.
_LISTS = {"argv": (_row_copies.ARGS, declared.KNOWN_ARGS), "envs": (_row_copies.ENVS, declared.KNOWN_ENVS)}

#: Computed fields that have a method below, and what they are made of.
_SPECIAL = {
    "pid": "", "ppid": "", "tid": "cold.tid", "creator_pid": "cold.creator_tgid", "row": "", "entity_id": "",
    "created_at_ns": "cold.fork_boot_ns", "exit_code": "cold.exit_code", "argv": "ARGS", "envs": "ENVS",
    "is_exited": "", "start_boot_ns": "", "cpid": "cold.pid_ns",
}  # fmt: skip


def needs(fields: Iterable[str]) -> tuple[int, bool]:
    """Return the kinds of strings that fields are made of, and whether they need the cold parts of the rows."""
    kinds, cold = 0, False
    for name in fields:
        field = ATTRIBUTES[name]
        text = _MADE_OF[name][1] if name in _MADE_OF else _SPECIAL[name] if name in _SPECIAL else grouping(field)
        if text is None and field.value[0] == "computed":
            return sum(_KINDS.values()), True  # whatever `Entry` may need
        text = field.value[0] if text is None else text
        for word in text.split():
            kinds |= _KINDS.get(word, 0)
            cold = cold or word.startswith(("cold.", "costs."))
    return kinds, cold


class Batch:
    """Fields of processes that were read at once, as Python values. `ProcessTable.batch` makes it.

    `dicts` has a dict for each process, `column` a list for each field, and `entry` makes an `Entry` of one. The
    processes are in the order of `ProcessTable.walk`.

    Attributes:
        rows: copies of their rows.
        fields: the fields that are available.

    Example:
        >>> batch = table.batch(["pid", "comm", "duration"])
        >>> batch
        <Batch of 9 processes: pid, comm, duration>
        >>> [row for row in batch.dicts() if row["comm"] == "date"]
        [{'pid': 8675, 'comm': 'date', 'duration': datetime.timedelta(microseconds=779)}]
    """

    def __init__(self, rows: RowCopies, fields: Sequence[str]) -> None:
        self.rows = rows
        self.fields = tuple(fields)
        self._made: dict[str, Sequence[object]] = {}
        self._boot_ns: int = rows.view.boot_unix_ns

    def __len__(self) -> int:
        return len(self.rows)

    def __repr__(self) -> str:
        return f"<Batch of {len(self)} processes: {', '.join(self.fields)}>"

    def entry(self, place: int) -> Entry:
        """Return one of the processes as an entry with the facts of the same moment.

        Example:
            >>> table.batch(["pid"]).entry(0).path
            '/usr/lib/systemd/systemd'
        """
        return self.rows.entry(place)

    def dicts(self) -> list[EntryAttributes]:
        """Return for each process what `Entry.as_dict` returns for the fields.

        Example:
            >>> table.batch(["pid", "exit_status"]).dicts()[-1]
            {'pid': 8675, 'exit_status': 0}
        """
        columns = [self.column(name) for name in self.fields]
        dicts = [dict(zip(self.fields, values, strict=True)) for values in zip(*columns, strict=True)]
        return cast("list[EntryAttributes]", dicts)

    @overload
    def column(self, name: Ints) -> list[int]: ...
    @overload
    def column(self, name: OptionalInts) -> list[int | None]: ...
    @overload
    def column(self, name: Texts) -> list[str]: ...
    @overload
    def column(self, name: OptionalTexts) -> list[str | None]: ...
    @overload
    def column(self, name: Flags) -> list[bool]: ...
    @overload
    def column(self, name: OptionalFlags) -> list[bool | None]: ...
    @overload
    def column(self, name: Lists) -> list[list[str]]: ...
    @overload
    def column(self, name: OptionalLists) -> list[list[str] | None]: ...
    @overload
    def column(self, name: Maps) -> list[dict[str, object] | None]: ...
    @overload
    def column(self, name: Times) -> list[datetime | None]: ...
    @overload
    def column(self, name: Periods) -> list[timedelta | None]: ...
    @overload
    def column(self, name: str) -> list[object]: ...
    def column(self, name: str) -> Sequence[object]:
        """Return a field of all processes. Values that are lists or dicts may be shared between processes.

        Example:
            >>> table.batch(["pid", "comm"], running=True).column("pid")
            [1, 901, 2000, 2001, 3000, 8674]
        """
        made = self._made.get(name)
        if made is None:
            made = self._made[name] = self._column(ATTRIBUTES[name])
        return made

    def groups(self, name: str) -> tuple[bytearray, list[object]] | None:
        """Return a field as (codes, values): the place of each process's value as int32; None: it is no such field."""
        text = grouping(ATTRIBUTES[name])
        if text is None:
            return None
        if name in {"symlink_paths", "symlink_basename"} and not self._has_symlinks():
            return bytearray(4 * len(self.rows)), [None]  # without reading all arguments
        codes, firsts = self.rows.group(words_of(text))
        return codes, [getattr(self.rows.entry(first), name) for first in firsts]

    def lists(self, name: str) -> tuple[bytearray, list[tuple[str, ...] | None]] | None:
        """Return a field that is a list of strings as `groups` does, with tuples as values; None: it is no list."""
        if name not in _LISTS:
            return None
        kind, known = _LISTS[name]
        return self.rows.list_groups(kind.bit_length() - 1, known)

    def _column(self, field: EntryField) -> Sequence[object]:
        rows = self.rows
        name = field.name
        special: Callable[[], Sequence[object]] | None = getattr(self, f"_{name}", None) if name in _SPECIAL else None
        if special is not None:
            return special()
        groups = self.groups(name)
        if groups is not None:
            codes, values = groups
            return rows.by_code(values, codes)
        value = field.value
        if value[0] in {"flag", "no"}:
            return rows.bits(flag_bits(field), known=_known(field.known), negative=value[0] == "no")
        if "." in value[0]:
            unknown = 0 if {"nonzero", "time"} & set(value) else 0xFFFFFFFF if "set" in value else None
            part, offset, size, is_signed = _place(value[0])
            return rows.ints(
                part, offset, size, is_signed, known=_known(field.known), unknown=unknown,
                added=self._boot_ns if "time" in value else 0,
            )  # fmt: skip
        return [getattr(rows.entry(place), name) for place in range(len(rows))]

    def _has_symlinks(self) -> bool:
        """Return whether the names of any process differ from its path, see `pipeline.shm.names.symlinks`."""
        from pipeline.shm.names.symlinks import is_busybox

        _, firsts = self.rows.group(words_of("FILE known flags:THROUGH_SYMLINK"))
        entries = [self.rows.entry(first) for first in firsts]
        return any(entry.is_through_symlink or is_busybox(entry.path_in_root or "") for entry in entries)

    def _ints(self, name: str) -> list[int]:
        return cast("list[int]", self.rows.ints(*_place(name)))  # None is only there for conditions

    def _foreign(self, name: str, values: list[_T]) -> list[_T]:
        """Replace the values of foreign processes: what the row has are places in the index, not pids."""
        for place, is_foreign in enumerate(self.rows.bits(declared.ROW_FOREIGN)):
            if is_foreign:
                values[place] = getattr(self.rows.entry(place), name)
        return values

    def _pid(self) -> list[int]:
        return self._foreign("pid", self._ints("hot.tgid"))

    def _ppid(self) -> list[int]:
        return self._foreign("ppid", self._ints("hot.ppid"))

    def _tid(self) -> list[int]:
        return [tid or pid for tid, pid in zip(self._ints("cold.tid"), self._pid(), strict=True)]

    def _creator_pid(self) -> list[int | None]:
        return self._foreign("creator_pid", self.rows.ints(*_place("cold.creator_tgid"), unknown=0))

    def _row(self) -> list[int]:
        return [number for (number,) in _u32s(self.rows.numbers, len(self.rows))]

    def _entity_id(self) -> list[str | None]:
        return self.rows.identities()

    def _start_boot_ns(self) -> list[int]:
        return self._ints("hot.start_boot_ns")

    def _created_at_ns(self) -> list[int | None]:
        times = zip(
            self._ints("hot.exec_boot_ns"), self._ints("cold.fork_boot_ns"), self._ints("hot.start_boot_ns"),
            strict=True,
        )  # fmt: skip
        boot_ns = self._boot_ns
        return [latest + boot_ns if (latest := max(image, fork or start)) else None for image, fork, start in times]

    def _cpid(self) -> list[str | None]:
        return self.rows.cpids(TICK_NS)

    def _exit_code(self) -> list[int | None]:
        return self.rows.ints(*_place("cold.exit_code"), flags=declared.ROW_EXIT_KNOWN)

    def _is_exited(self) -> list[bool]:
        replaced = self.rows.bits(declared.ROW_REPLACED)
        ends = self._ints("hot.exit_boot_ns")
        return [bool(end) and not each for end, each in zip(ends, replaced, strict=True)]

    def _argv(self) -> list[list[str] | None]:
        return self._lists("argv")

    def _envs(self) -> list[list[str] | None]:
        return self._lists("envs")

    def _lists(self, name: str) -> list[list[str] | None]:
        kind, known = _LISTS[name]
        codes, values = self.rows.lists(kind.bit_length() - 1, known)
        return self.rows.argument_lists(values, codes)


def _u32s(data: bytearray, count: int) -> Iterator[tuple[int]]:
    import struct

    return struct.iter_unpack("<I", memoryview(data)[: 4 * count])

"""Fields of many processes as numpy arrays, and as tables of pyarrow, pandas and polars.

`values.py` knows from which parts of a row a field is computed, and `RowCopies` has copies of the rows. This module
makes arrays from them.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, cast, overload

import numpy as np

from pipeline.errors import UnsupportedError
from pipeline.shm.layout import declared, layout
from pipeline.shm.reader import _row_copies, values

if TYPE_CHECKING:
    from types import ModuleType

    import numpy.typing as npt
    import pandas
    import polars
    import pyarrow

    from pipeline.shm.reader._entry import Entry
    from pipeline.shm.reader._row_copies import RowCopies
    from pipeline.shm.reader.arrays import AnyArray, AnyDtype, IntegerArray, PeriodArray, TimeArray
    from pipeline.shm.reader.entry_dict import (
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

#: Types of computed numbers; others have the type of their field in the row.
_COMPUTED: dict[str, type[np.uint32] | type[np.int32]] = {
    "pid": np.uint32, "ppid": np.uint32, "tid": np.uint32, "creator_pid": np.uint32, "row": np.uint32,
    "exit_code": np.int32, "exit_cause_code": np.uint32, "cgroup_version": np.uint32, "exit_status": np.uint32,
    "exit_signal": np.uint32, "image_number": np.uint32,
}  # fmt: skip
#: Texts that differ in most rows, so a dictionary would save nothing.
_DISTINCT = frozenset({"entity_id", "cpid"})
#: Fields that are lists of texts: the kind of string, and the bit of HOT.known.
_LISTS = {
    "argv": (_row_copies.ARGS.bit_length() - 1, declared.KNOWN_ARGS),
    "envs": (_row_copies.ENVS.bit_length() - 1, declared.KNOWN_ENVS),
}
_TIME_ENDS = ("_time_ns", "_at_ns")

#: Names of columns with times as datetime64, by the field that has ns.
DATES = {name.removesuffix("_ns"): name for name in values.ENTRY_FIELDS if name.endswith(_TIME_ENDS)}
#: Names of columns with periods as timedelta64, by the attribute that has ns.
PERIODS = {"age": "age_ns", "duration": "duration_ns"}
#: By the name of a column of dates or periods: the field or attribute that has its ns.
_STORED = DATES | PERIODS


class Columns(Mapping[str, "AnyArray"]):
    """Columns of many processes, by name. `ProcessTable.columns` makes it.

    A column is a numpy array with a value for each process:

    - numbers have the type of the field. An unknown value is the largest number of the type (of signed types the
      smallest), and `known` is false for it. So an unknown uid is not 0, which is root;
    - times that end with ``_ns`` are int64 since the Unix epoch. The same names without ``_ns`` are datetime64[ns], NaT
      where unknown; ``age`` and ``duration`` are timedelta64[ns];
    - texts are `str` in an object array, None where unknown. Equal texts are one object;
    - ``argv`` and ``envs`` are tuples of `str`, None where unknown.

    Attributes:
        count: number of processes.
        found: False for each requested pid that is not in the table.

    Example:
        >>> with ProcessTable.attach() as table:
        ...     columns = table.columns(["pid", "path", "start_time"])
        ...     newest = columns["start_time"].argmax()
        ...     print(columns["pid"][newest], columns["path"][newest])
        8674 /usr/bin/sh
    """

    def __init__(self, rows: RowCopies, names: Sequence[str]) -> None:
        self._names = tuple(dict.fromkeys(names))
        self._rows = rows
        self._batch = values.Batch(rows, ())
        self._boot_ns = rows.view.boot_unix_ns
        self._hot = np.frombuffer(rows.hot, layout.HOT)[: len(rows)]
        self._cold = np.frombuffer(rows.cold, layout.REST)[: len(rows)]  # none, if no field is in it
        self._dictionaries: dict[str, tuple[npt.NDArray[np.int32], list[object]]] = {}
        self._arrays: dict[str, tuple[AnyArray, npt.NDArray[np.bool_] | None]] = {}
        self.count = len(rows)
        self.found: npt.NDArray[np.bool_] = self._hot["generation"] != 0

    def __repr__(self) -> str:
        return f"<Columns of {self.count} processes: {', '.join(self._names)}>"

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    @overload
    def __getitem__(self, name: Ints | OptionalInts) -> IntegerArray: ...
    @overload
    def __getitem__(self, name: Flags | OptionalFlags) -> npt.NDArray[np.bool_]: ...
    @overload
    def __getitem__(self, name: Texts | OptionalTexts | Lists | OptionalLists | Maps) -> npt.NDArray[np.object_]: ...
    @overload
    def __getitem__(self, name: Times) -> TimeArray: ...
    @overload
    def __getitem__(self, name: Periods) -> PeriodArray: ...
    @overload
    def __getitem__(self, name: str) -> AnyArray: ...
    def __getitem__(self, name: str) -> AnyArray:
        return self._array(name)[0]

    def known(self, name: str) -> npt.NDArray[np.bool_]:
        """Return in which rows the value of a column is known.

        Example:
            >>> columns = table.columns(["pid", "exit_code"], pids=[901, 8675])
            >>> columns["exit_code"][columns.known("exit_code")].tolist()
            [0]
        """
        array, mask = self._array(name)
        if mask is None:
            return np.ones(len(array), bool)
        return mask

    @overload
    def dictionary(self, name: Texts | OptionalTexts) -> tuple[npt.NDArray[np.int32], list[str]]: ...
    @overload
    def dictionary(self, name: str) -> tuple[npt.NDArray[np.int32], list[object]]: ...
    def dictionary(self, name: str) -> tuple[npt.NDArray[np.int32], Sequence[object]]:
        """Return a column of texts as (codes, values): a code is a place in `values`, or -1 if the text is unknown.

        Raises:
            ValueError: the column has numbers, or texts that are not encoded in this way.

        Example:
            >>> codes, users = table.columns(["user"], pids=[901, 8674, 8675]).dictionary("user")
            >>> codes.tolist(), users
            ([0, 1, 1], ['root', 'alice'])
        """
        self._check(name)
        found = self._dictionary(name)
        if found is None:
            raise ValueError(f"the column {name!r} has no dictionary: use columns[{name!r}]")
        return found

    def entry(self, place: int) -> Entry:
        """Return the process of a row as an entry with the facts of the same moment.

        Example:
            >>> columns = table.columns(["pid", "start_time"])
            >>> newest = columns.entry(int(columns["start_time"].argmax()))
            >>> newest.argv
            ['sh', '-c', 'date +%s']
        """
        return self._rows.entry(place)

    # -- forms of other libraries ------------------------------------------------------------------------------------

    def to_records(self) -> np.recarray[tuple[int], np.dtype[np.record]]:
        """Return one numpy record array with a field for each column.

        Example:
            >>> records = table.columns(["pid", "comm"], pids=[901, 2000]).to_records()
            >>> records.pid.tolist(), records[1].comm
            ([901, 2000], 'nginx')
        """
        return np.rec.fromarrays([self[name] for name in self._names], names=list(self._names))

    def to_arrow(self) -> pyarrow.Table:
        r"""Return a `pyarrow.Table`.

        Texts are dictionary-encoded, unknown values are null, and arguments are lists of strings. Text that is not
        UTF-8 has escapes such as ``\udcff``.

        Raises:
            UnsupportedError: pyarrow is not installed.

        Example:
            >>> arrow = table.columns(["pid", "exit_code"], pids=[901, 8675]).to_arrow()
            >>> arrow.to_pylist()
            [{'pid': 901, 'exit_code': None}, {'pid': 8675, 'exit_code': 0}]
        """
        pa = _imported("pyarrow", "arrow")
        return pa.table({name: self._arrow(pa, name) for name in self._names})

    def to_pandas(self) -> pandas.DataFrame:
        """Return a `pandas.DataFrame`.

        Texts are categories, times without ``_ns`` are UTC, and numbers that are unknown in some rows have a type of
        pandas that can be null, such as UInt32.

        Raises:
            UnsupportedError: pandas is not installed.

        Example:
            >>> frame = table.columns(["pid", "user", "start_time"]).to_pandas()
            >>> frame.groupby("user", observed=True)["pid"].count().to_dict()
            {'root': 4, 'alice': 1}
        """
        pd = _imported("pandas", "pandas")
        return pd.DataFrame({name: self._pandas(pd, name) for name in self._names}, copy=False)

    def to_polars(self) -> polars.DataFrame:
        """Return a `polars.DataFrame`; the types are those of `to_arrow`.

        Raises:
            UnsupportedError: polars or pyarrow is not installed.

        Example:
            >>> frame = table.columns(["pid", "ppid"], pids=[2001, 2000]).to_polars()
            >>> frame.sort("pid").rows()
            [(2000, 1), (2001, 2000)]
        """
        pl = _imported("polars", "polars")
        _imported("pyarrow", "polars")
        return pl.from_arrow(self.to_arrow())

    # -- arrays ------------------------------------------------------------------------------------------------------

    def _check(self, name: str) -> None:
        if name not in self._names:
            raise KeyError(name)

    def _array(self, name: str) -> tuple[AnyArray, npt.NDArray[np.bool_] | None]:
        self._check(name)
        made = self._arrays.get(name)
        if made is None:
            array, mask = self._made(_STORED.get(name, name))
            if name != "pid" and not self.found.all():
                array[~self.found] = None if array.dtype == object else _unknown(array.dtype)
                mask = self.found if mask is None else mask & self.found
            if name in DATES:
                array = array.view("datetime64[ns]")
            elif name in PERIODS:
                array = array.view("timedelta64[ns]")
            made = self._arrays[name] = array, mask
        return made

    def _made(self, name: str) -> tuple[AnyArray, npt.NDArray[np.bool_] | None]:
        """Return the values, and where they are known; None: everywhere."""
        field = values.ATTRIBUTES[name]
        if name in _LISTS:
            codes, tuples = self._lists(name)
            pool = np.empty(len(tuples) + 2, object)
            pool[: len(tuples)] = np.fromiter(tuples, object, len(tuples))
            pool[-1], pool[-2] = None, ()  # the codes of unknown and of empty lists
            array = pool[codes]
            return array, _is_set(array)
        groups = self._dictionary(name)
        if groups is not None:
            codes, pool_values = groups
            is_known = codes >= 0
            if field.type in {"str", "map", "[str]"}:
                pool = np.empty(len(pool_values) + 1, object)
                pool[:-1] = np.fromiter(pool_values, object, len(pool_values))
                pool[-1] = None
                return pool[codes], is_known
            return self._numbers(name, [*pool_values, None])[0][codes], is_known  # the last one is that of code -1
        value = field.value
        if "." in value[0]:
            return self._of_row(name)
        if value[0] in {"flag", "no"}:
            is_set = self._hot["flags"] & np.uint32(values.flag_bits(field)) != 0
            return (~is_set if value[0] == "no" else is_set), None
        if name == "pid" and not (self._hot["flags"] & declared.ROW_FOREIGN).any():
            return self._hot["tgid"].copy(), None
        if name == "ppid" and not (self._hot["flags"] & declared.ROW_FOREIGN).any():
            return self._hot["ppid"].copy(), None
        return self._numbers(name, self._batch.column(name))

    def _of_row(self, name: str) -> tuple[AnyArray, npt.NDArray[np.bool_] | None]:
        """Return a field that the row has."""
        field = values.ATTRIBUTES[name]
        part, _, column = field.value[0].partition(".")
        array = (self._hot if part == "hot" else self._cold)[column].copy()
        is_known = np.ones(len(array), bool)
        if field.known is not None:
            bit = np.uint32(getattr(declared, f"KNOWN_{field.known}"))
            is_known &= self._hot["known"] & bit != 0
        if {"nonzero", "time"} & set(field.value):
            is_known &= array != 0
        elif "set" in field.value:
            is_known &= array != 0xFFFFFFFF
        if "time" in field.value:
            array = array.astype(np.int64) + self._boot_ns
        array[~is_known] = _unknown(array.dtype)
        return array, is_known

    def _numbers(self, name: str, found: list[object]) -> tuple[AnyArray, npt.NDArray[np.bool_] | None]:
        """Return values of Python as an array of the type of the field."""
        kind = values.ATTRIBUTES[name].type
        if kind in {"str", "map", "[str]"}:
            array = np.fromiter(found, object, len(found))
            return array, _is_set(array)
        dtype = np.dtype(bool if kind == "bool" else _COMPUTED.get(name, np.int64 if kind == "int" else np.uint64))
        is_known = np.fromiter((each is not None for each in found), bool, len(found))
        unknown = _unknown(dtype)
        return np.fromiter((unknown if each is None else each for each in found), dtype, len(found)), is_known

    def _lists(self, name: str) -> tuple[npt.NDArray[np.int32], list[tuple[str, ...] | None]]:
        codes, tuples = self._rows.lists(*_LISTS[name])
        return np.frombuffer(codes, np.int32), tuples

    def _dictionary(self, name: str) -> tuple[npt.NDArray[np.int32], list[object]] | None:
        """Return a grouped field as (codes, values) with each value once, and -1 for unknown ones."""
        if name in _STORED or name not in values.ATTRIBUTES:
            return None
        made = self._dictionaries.get(name)
        if made is None:
            groups = self._batch.groups(name)
            if groups is None:
                return None
            codes, found = groups
            places: dict[str | int, int] = {}
            kept: list[object] = []
            number_of = np.empty(max(1, len(found)), np.int32)
            for code, value in enumerate(found):
                if value is None:
                    number_of[code] = -1
                    continue
                key = value if isinstance(value, str | int) else id(value)
                place = places.get(key)
                if place is None:
                    place = places[key] = len(kept)
                    kept.append(value)
                number_of[code] = place
            numbers = number_of[np.frombuffer(codes, np.int32)]
            numbers[~self.found] = -1
            made = self._dictionaries[name] = numbers, kept
        return made

    def _utf8_dictionary(self, name: str) -> tuple[npt.NDArray[np.int32], list[str]] | None:
        """Return the dictionary of a column, with texts that every library can encode; None: it needs none.

        Escapes can make two texts equal, and pandas accepts only different ones.
        """
        groups = None if name in _DISTINCT else self._dictionary(name)
        if groups is None:
            return None
        codes, texts = cast("tuple[npt.NDArray[np.int32], list[str]]", groups)
        places: dict[str, int] = {}
        places_of = [places.setdefault(_escaped(text), len(places)) for text in texts]
        if len(places) < len(texts):
            codes = np.array([*places_of, -1], np.int32)[codes]  # the last one is that of code -1
        return codes, list(places)

    # -- columns of other libraries ----------------------------------------------------------------------------------

    def _arrow(self, pa: ModuleType, name: str) -> object:
        field = values.ATTRIBUTES[_STORED.get(name, name)]
        if name in _LISTS:
            return self._arrow_lists(pa, name)
        if field.type == "str":
            groups = self._utf8_dictionary(name)
            if groups is None:
                texts = cast("list[str | None]", self[name].tolist())
                return pa.array([_utf8(each) for each in texts], pa.string())
            codes, pool = groups
            made = pa.array(codes, pa.int32(), mask=codes < 0)
            return pa.DictionaryArray.from_arrays(made, pa.array(pool, pa.string()))
        array, is_known = self._array(name)
        if array.dtype == object:
            if field.type == "[str]":
                found = cast("list[list[str] | None]", array.tolist())
                lists = [None if each is None else [_utf8(text) for text in each] for each in found]
                return pa.array(lists, pa.list_(pa.string()))
            return pa.array([None if each is None else json.dumps(each) for each in array.tolist()], pa.string())
        mask = None if is_known is None or is_known.all() else ~is_known
        if name in DATES:
            return pa.array(array, pa.timestamp("ns"), mask=mask).cast(pa.timestamp("ns", "UTC"))
        return pa.array(array, mask=mask)

    def _arrow_lists(self, pa: ModuleType, name: str) -> object:
        lists, ends, data, is_known = self._rows.flat_lists(*_LISTS[name])
        texts = pa.Array.from_buffers(
            pa.large_string(), len(ends) // 8 - 1, [None, pa.py_buffer(ends), pa.py_buffer(data)]
        )
        mask = ~np.frombuffer(is_known, np.bool_)
        offsets = np.frombuffer(lists, np.int64)
        return pa.LargeListArray.from_arrays(pa.array(offsets), texts, mask=pa.array(mask) if mask.any() else None)

    def _pandas(self, pd: ModuleType, name: str) -> object:
        field = values.ATTRIBUTES[_STORED.get(name, name)]
        if field.type == "str" and (groups := self._utf8_dictionary(name)) is not None:
            return pd.Categorical.from_codes(groups[0], groups[1])
        array, is_known = self._array(name)
        if name in DATES:
            return pd.DatetimeIndex(array).tz_localize("UTC")
        if name in PERIODS:
            return pd.TimedeltaIndex(array)
        if array.dtype == object or is_known is None or is_known.all():
            return array
        if array.dtype.kind == "b":
            return pd.arrays.BooleanArray(array.copy(), ~is_known)
        return pd.arrays.IntegerArray(array.copy(), ~is_known)


def _is_set(array: AnyArray) -> npt.NDArray[np.bool_]:
    """Return which items of an array of objects are not None."""
    return np.fromiter((each is not None for each in array.tolist()), bool, len(array))


def _unknown(dtype: AnyDtype) -> int:
    """Return the number that stands for an unknown one."""
    if dtype.kind == "b":
        return False
    limits = np.iinfo(dtype.type)  # type: ignore[type-var]  # it is that of an integer
    return limits.min if dtype.kind == "i" else limits.max


def _utf8(text: str | None) -> str | None:
    """Return a text that every library can encode: each byte that is not UTF-8 is an escape, as in JSON."""
    return None if text is None else _escaped(text)


def _escaped(text: str) -> str:
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


def _imported(module: str, extra: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UnsupportedError(
            f"{module} is not installed: pip install 'procline[{extra}]'",
            feature=f"columns as {extra}", needs=module, hint=f"pip install 'procline[{extra}]'",
        ) from error  # fmt: skip

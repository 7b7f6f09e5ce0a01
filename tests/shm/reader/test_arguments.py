"""Every method of `ProcessTable` rejects what is not a number, a time or a text, with an error that names it."""

from __future__ import annotations

import inspect
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.errors import TooOldError
from pipeline.shm.layout import layout
from pipeline.shm.reader._reader import TableReader, pids_of
from pipeline.shm.reader.arguments import numbers_in, seconds_of, texts_of, unix_ns_of
from pipeline.shm.reader.table import ProcessTable
from tests.shm.handmade import BOOT_UNIX_NS, Tables

Call = Callable[[ProcessTable, Any], object]

NAMES = ["pid"]
#: Each method with each of its numbers that must fit in 32 bits.
PIDS: dict[str, Call] = {
    "resolve": lambda table, x: table.resolve(x),
    "resolve at": lambda table, x: table.resolve(x, at=BOOT_UNIX_NS + 10**9),
    "resolve pid_ns": lambda table, x: table.resolve(x, pid_ns=77),
    "in": lambda table, x: x in table,
    "ancestors": lambda table, x: table.ancestors(x),
    "children": lambda table, x: table.children(x),
    "has_valid_lineage": lambda table, x: table.has_valid_lineage(x),
    "has_complete_lineage": lambda table, x: table.has_complete_lineage(x),
    "get_ancestors_pids": lambda table, x: table.get_ancestors_pids(x),
    "get_container_pids": lambda table, x: table.get_container_pids(x),
    "is_container_root": lambda table, x: table.is_container_root(x),
    "ancestor_rows": lambda table, x: table.ancestor_rows(x),
    "resolve_many": lambda table, x: table.resolve_many([1, x]),
    "resolve_many fields": lambda table, x: table.resolve_many([1, x], fields=("ppid",)),
    "ancestors_many": lambda table, x: table.ancestors_many((x, 1)),
    "ancestor_pids_many": lambda table, x: table.ancestor_pids_many([x]),
    "columns": lambda table, x: table.columns(NAMES, pids=[1, x]),
    "wait_exit": lambda table, x: table.wait_exit(x, timeout=0),
    "wait_tree": lambda table, x: table.wait_tree(x, timeout=0),
}
NUMBERS: dict[str, Call] = {
    **PIDS,
    "resolve wait_ms": lambda table, x: table.resolve(1, wait_ms=x),
    "resolve in pid_ns": lambda table, x: table.resolve(1, pid_ns=x),
    "ancestors pid_ns": lambda table, x: table.ancestors(1, pid_ns=x),
    "ancestors limit": lambda table, x: table.ancestors(1, limit=x),
    "children pid_ns": lambda table, x: table.children(1, pid_ns=x),
    "ancestor_pids_many depth": lambda table, x: table.ancestor_pids_many([1], x),
    "image": lambda table, x: table.image(x),
    "refresh timeout_ms": lambda table, x: table.refresh(x),
    "images after": lambda table, x: table.images(ended_after_boot_ns=x),
    "images before": lambda table, x: table.images(began_before_boot_ns=x),
    "copies kinds": lambda table, x: table.copies(kinds=x),
    "batches size": lambda table, x: table.batches(NAMES, size=x),
    "attach max_age_ms": lambda table, x: ProcessTable.attach(path=table.directory, max_age_ms=x),
}
#: These also take None.
OPTIONAL = {"resolve in pid_ns", "ancestors pid_ns", "children pid_ns"}

UNFIT = st.one_of(
    st.booleans(), st.floats(), st.complex_numbers(), st.text(), st.binary(max_size=4), st.fractions(), st.decimals(),
    st.integers(max_value=-1), st.integers(min_value=1 << 64), st.lists(st.integers(), max_size=2), st.none(),
    st.builds(object), st.datetimes(), st.sampled_from([np.bool_(True), np.float32(1), np.datetime64(1, "ns"), 1j]),
)  # fmt: skip


@pytest.fixture(scope="module")
def tables() -> Iterator[Tables]:
    with tempfile.TemporaryDirectory(prefix="procline-test-", dir="/dev/shm") as directory:
        tables = Tables(Path(directory))
        first = tables.row(1)
        link = tables.link(first)
        tables.row(7, ppid=1, parent=link, ancestor=link, creator=link, exit_boot_ns=9000)
        yield tables


@pytest.fixture(scope="module")
def table(tables: Tables) -> ProcessTable:
    return ProcessTable.attach(path=tables.directory)


@pytest.mark.parametrize("name", NUMBERS)
@given(value=UNFIT)
@example(value=-1)
@example(value=True)
@example(value=1.0)
@example(value=1 << 64)
@example(value=10**5000)
@example(value=Decimal(1))
@example(value=Fraction(1))
def test_what_is_no_number_is_refused(table: ProcessTable, name: str, value: object) -> None:
    if value is None and name in OPTIONAL:
        return
    with pytest.raises((TypeError, ValueError)) as caught:
        NUMBERS[name](table, value)
    assert type(caught.value) in {TypeError, ValueError} and str(caught.value)
    if isinstance(value, int) and not isinstance(value, bool):
        assert type(caught.value) is ValueError and ", not " in str(caught.value)


@pytest.mark.parametrize("name", PIDS)
@pytest.mark.parametrize("value", [1 << 32, np.int64(-1), np.uint64(1 << 40)])
def test_a_number_that_would_wrap_is_no_pid(table: ProcessTable, name: str, value: int) -> None:
    with pytest.raises(ValueError, match="not 0 to 4294967295"):
        PIDS[name](table, value)


@pytest.mark.parametrize("name", PIDS)
@pytest.mark.parametrize("kind", [np.int8, np.uint16, np.int32, np.uint32, np.int64, np.uint64])
def test_integers_of_numpy_are_numbers(table: ProcessTable, name: str, kind: type[np.integer[Any]]) -> None:
    # 7 has ended, so waiting ends too; 9 does not exist.
    assert repr(PIDS[name](table, kind(7))) == repr(PIDS[name](table, 7))
    assert repr(PIDS[name](table, kind(9))) == repr(PIDS[name](table, 9))


def test_every_method_is_covered() -> None:
    """A new method with an argument must be added here, or to what needs no such test."""
    others = {
        "batch", "close", "commit", "count_readers", "find", "newest", "open", "rows", "slots", "stats", "status",
        "walk",
    }  # fmt: skip
    tested = {name.split()[0] for name in NUMBERS} | others
    classes = (ProcessTable, TableReader)  # the first one does not list what is internal
    public = {name for cls in classes for name, _ in inspect.getmembers(cls, callable) if not name.startswith("_")}
    assert public <= tested, public - tested
    assert tested - {"in"} <= public
    assert issubclass(ProcessTable, TableReader)


# -- bulk ----------------------------------------------------------------------------------------------------------

BULK: dict[str, Call] = {
    "resolve_many": lambda table, x: table.resolve_many(x),
    "resolve_many fields": lambda table, x: table.resolve_many(x, fields=("ppid",)),
    "ancestors_many": lambda table, x: table.ancestors_many(x),
    "ancestor_pids_many": lambda table, x: table.ancestor_pids_many(x),
    "columns": lambda table, x: table.columns(NAMES, pids=x),
}
WRONG_ARRAYS = [
    np.array([1.0]), np.array([True]), np.array(["1"]), np.array([b"1"]), np.array([1], object), np.array([1j]),
    np.array([1], "datetime64[ns]"), np.array([1], "timedelta64[ns]"), np.empty(0), np.zeros(1, layout.HOT),
    [1, 2.0], [True], [None], ["1"], [b"1"], [Decimal(1)], (1, False),
]  # fmt: skip
WRONG_NUMBERS = [
    np.array([-1]), np.array([1 << 32]), np.array([-1], np.int8), np.array([1 << 63], np.uint64), [-1], [1 << 32],
    [10**400], np.array([-1], ">i8"),
]  # fmt: skip
NO_ARRAYS = [1, None, "1", {1}, iter([1]), {1: 2}, np.uint32(1)]
WRONG_SHAPES = [np.zeros((1, 1), np.uint32), np.uint32(1), 1, [[1]], [[1], [1, 2]], None, "1", b"1", {1}, iter([1])]


@pytest.mark.parametrize("name", BULK)
def test_arrays_of_something_else_are_refused(table: ProcessTable, name: str) -> None:
    call = BULK[name]
    for wrong in WRONG_ARRAYS:
        with pytest.raises(TypeError, match=r"must be (integers|an int)"):
            call(table, wrong)
    for wrong in WRONG_NUMBERS:
        with pytest.raises(ValueError, match=r"pids.* is .*, not 0 to 4294967295"):
            call(table, wrong)
    for wrong in WRONG_SHAPES:
        if name == "columns" and wrong is None:
            continue  # all processes
        with pytest.raises((TypeError, ValueError)) as caught:
            call(table, wrong)
        assert type(caught.value) in {TypeError, ValueError}


@pytest.mark.parametrize("name", BULK)
def test_the_error_for_a_wrong_list_of_pids_names_the_right_type(table: ProcessTable, name: str) -> None:
    for wrong in NO_ARRAYS:
        if name == "columns" and wrong is None:
            continue  # all processes
        with pytest.raises(TypeError, match="must be a list or an array of pids, not "):
            BULK[name](table, wrong)


@pytest.mark.parametrize("name", PIDS)
def test_a_process_in_place_of_a_pid_is_refused_with_what_to_write(table: ProcessTable, name: str) -> None:
    with subprocess.Popen(["true"]) as child, pytest.raises(TypeError, match=r"Popen: write popen\.pid$"):
        PIDS[name](table, child)


@given(st.lists(st.integers(-10, 1 << 33)), st.sampled_from(["list", "tuple", "<i8", ">i8", "<u8", "strided"]))
def test_pids_are_converted_exactly_or_refused(numbers: list[int], form: str) -> None:
    pids: Any
    if form in {"list", "tuple"}:
        pids = numbers if form == "list" else tuple(numbers)
    elif form == "strided":
        pids = np.repeat(np.array(numbers, np.int64), 2)[::2]
    else:
        pids = np.array([abs(each) for each in numbers] if "u" in form else numbers, form)
    expected = [int(each) for each in pids]
    if all(0 <= each < 1 << 32 for each in expected):
        found = pids_of(pids)
        assert found.dtype == np.uint32 and found.flags.c_contiguous and found.tolist() == expected
    else:
        with pytest.raises(ValueError, match="not 0 to 4294967295"):
            pids_of(pids)


def test_narrow_and_empty_pids_are_pids() -> None:
    for kind in ("u1", "i1", "<u2", ">u2", "<i4", ">u4"):
        assert pids_of(np.array([1, 7], kind)).tolist() == [1, 7]
    for nothing in ([], (), range(0), np.empty(0, np.int64)):
        assert pids_of(nothing).dtype == np.uint32 and len(pids_of(nothing)) == 0
    assert pids_of(range(3)).tolist() == [0, 1, 2]


def test_a_list_that_changes_while_it_is_read_is_refused() -> None:
    class Odd:
        def __index__(self) -> int:
            pids.clear()
            return 1

    class Growing:
        def __index__(self) -> int:
            pids.extend([1] * 100)
            return 1

    pids: list[Any] = [Odd(), 2]
    with pytest.raises(ValueError, match="changed"):
        pids_of(pids)
    pids = [Growing(), 2]
    with pytest.raises(ValueError, match="changed"):
        pids_of(pids)


def test_the_result_array_must_fit(table: ProcessTable) -> None:
    out = np.zeros(1, layout.HOT)
    assert table.resolve_many([1], out) is out and out["tgid"][0] == 1
    out.flags.writeable = False
    for wrong, error in [
        (out, ValueError), (np.zeros(2, layout.HOT), ValueError), (np.zeros(1), ValueError), ([0], TypeError),
    ]:  # fmt: skip
        with pytest.raises(error, match="out must be"):
            table.resolve_many([1], wrong)
    with pytest.raises(ValueError, match="contiguous"):
        table.resolve_many([1, 1], np.zeros(4, layout.HOT)[::2])
    for wrong_fields, error in [("ppid", TypeError), (5, TypeError), ([5], ValueError)]:
        with pytest.raises(error):
            table.resolve_many([1], fields=wrong_fields)


def test_buffers_have_the_elements_that_are_read(table: ProcessTable) -> None:
    assert len(table.copies(pids=np.array([1, 7, 9], np.uint32))) == 3
    assert len(table.copies(pids=bytearray(8))) == 2 and len(table.copies(slots=table.slots())) == 2
    for wrong in (np.zeros(2), np.zeros(2, np.int32), np.zeros(2, np.uint64), np.zeros(2, bool), [1], 1, "1"):
        with pytest.raises(TypeError):
            table.copies(pids=wrong)
    for wrong in (bytes(3), np.zeros(4, np.uint32)[::2]):
        with pytest.raises(ValueError):
            table.copies(pids=wrong)
    with pytest.raises(TypeError, match="uint64"):
        table.copies(links=np.zeros(2, np.uint32))
    assert numbers_in("x", memoryview(bytes(8)).cast("Q"), 8).nbytes == 8


@pytest.mark.parametrize("by", ["sibling", "", "Parent", None])
def test_an_unknown_kind_of_link_is_named(table: ProcessTable, by: Any) -> None:
    with pytest.raises(ValueError, match="not 'ancestor', 'origin', 'creator' or 'parent'"):
        table.ancestors(1, by=by)
    with pytest.raises(ValueError, match="not 'ancestor', 'creator' or 'parent'"):
        table.ancestor_rows(1, by=by)
    for many in (table.ancestors_many, table.ancestor_pids_many):
        with pytest.raises(ValueError, match="not 'ancestor', 'creator' or 'parent'"):
            many([1], by=by)
        with pytest.raises(ValueError, match="'origin', which only `ancestors` and `descendants` follow"):
            many([1], by="origin")


def test_names_of_fields_are_a_list(table: ProcessTable) -> None:
    for call in (table.batch, table.batches, table.columns):
        with pytest.raises(TypeError, match=r"write \['pid'\]"):
            call("pid")
        with pytest.raises(ValueError, match="did you mean 'pid'"):
            call(["pidd"])


# -- times ---------------------------------------------------------------------------------------------------------

STARTED = BOOT_UNIX_NS + 7000


def test_a_time_is_a_datetime_with_a_zone_or_nanoseconds(table: ProcessTable) -> None:
    second = datetime.fromtimestamp(BOOT_UNIX_NS // 10**9, UTC)
    at = second + timedelta(microseconds=8)
    for moment in (
        at,
        at.astimezone(timezone(timedelta(hours=-5))),
        BOOT_UNIX_NS + 8000,
        np.int64(BOOT_UNIX_NS + 8000),
    ):
        entry = table.resolve(7, at=moment)
        assert entry is not None and entry.start_time_ns == STARTED
    assert table.resolve(7, at=second + timedelta(microseconds=10)) is None
    with pytest.raises(TooOldError):
        table.resolve(7, at=datetime(1970, 1, 1, tzinfo=UTC))
    for wrong in (datetime(2026, 1, 1), -1, 1 << 63, 1 << 200, datetime(1969, 12, 31, tzinfo=UTC)):
        with pytest.raises(ValueError, match=r"at (is|has)"):
            table.resolve(7, at=wrong)
    for wrong in (True, 1.5, "now", date(2026, 1, 1), timedelta(1), b"1", np.datetime64(1, "ns"), Decimal(1)):
        with pytest.raises(TypeError, match="datetime with a time zone"):
            table.resolve(7, at=wrong)  # type: ignore[arg-type]


@given(st.datetimes(min_value=datetime(1970, 1, 1), max_value=datetime(2260, 1, 1), timezones=st.timezones()))
def test_no_microsecond_of_a_time_is_lost(moment: datetime) -> None:
    seconds = round((moment.replace(microsecond=0) - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds())
    if seconds >= 0:
        assert unix_ns_of("at", moment) == seconds * 10**9 + moment.microsecond * 1000


@pytest.mark.expensive
def test_a_timestamp_of_pandas_keeps_its_nanoseconds() -> None:
    pd = pytest.importorskip("pandas")
    assert unix_ns_of("at", pd.Timestamp(BOOT_UNIX_NS + 123, tz="UTC")) == BOOT_UNIX_NS + 123
    with pytest.raises(ValueError, match="no time zone"):
        unix_ns_of("at", pd.Timestamp(BOOT_UNIX_NS))


def test_periods() -> None:
    good: list[tuple[Any, float | None]] = [
        (None, None), (0, 0.0), (1, 1.0), (0.5, 0.5), (float("inf"), None), (np.float32(0.5), 0.5), (10**400, None),
        (Fraction(1, 2), 0.5),
    ]  # fmt: skip
    for value, seconds in good:
        assert seconds_of("timeout", value) == seconds
    for wrong in (-1, -0.5, float("nan"), float("-inf"), -(10**400)):
        with pytest.raises(ValueError, match="timeout is"):
            seconds_of("timeout", wrong)
    for wrong in (True, "1", b"1", [1], object(), timedelta(1)):
        with pytest.raises(TypeError, match="number of seconds"):
            seconds_of("timeout", wrong)


# -- texts ---------------------------------------------------------------------------------------------------------


def test_texts() -> None:
    assert texts_of("name", None) == () and texts_of("name", "a") == ("a",)
    assert texts_of("name", ["a", "b"]) == ("a", "b")
    assert texts_of("user", 0, with_numbers=True) == ("0",)
    assert texts_of("user", (np.uint32(7), "root"), with_numbers=True) == ("7", "root")
    for wrong in (1, True, b"a", ["a", 1], 1.0, object()):
        with pytest.raises(TypeError, match="name must be a str"):
            texts_of("name", wrong)
    for wrong in ("", " ", [], ["a", ""]):
        with pytest.raises(ValueError, match="empty"):
            texts_of("name", wrong)
    for wrong in (True, 1.0, None.__class__, b"root"):
        with pytest.raises(TypeError, match="user must be a str, an int"):
            texts_of("user", wrong, with_numbers=True)
    with pytest.raises(ValueError):
        texts_of("user", -1, with_numbers=True)

"""Fields of many processes at once: the same values as those of entries, in every form."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

import pipeline
from pipeline.errors import BusyError, StaleError, UnsupportedError
from pipeline.export import json as json_lines
from pipeline.export._json_lines import lines
from pipeline.shm.layout import layout, near_names
from pipeline.shm.reader import columns, entry_dict, values
from pipeline.shm.reader.table import FIELDS, ProcessTable
from tests.sampling import some, times
from tests.shm.full_row import ALL_KNOWN, full_row
from tests.shm.handmade import BOOT_UNIX_NS, Tables


@pytest.fixture
def tables(shm_dir: Path) -> Tables:
    """Processes that differ in everything that a value is made of."""
    tables = Tables(shm_dir, pids=4096)
    full_row(tables)  # pid 7, of 3 and 4
    python = tables.file(b"/usr/bin/python3", file_inode=7, mode=0o100755)
    shared: dict[str, Any] = {"file_ref": python, "inode": 7, "known": ALL_KNOWN, "flags": layout.ROW_HEAD}
    tables.row(100, **shared, args_ref=tables.strings("args", b"python3", b"x.py"), exit_boot_ns=777_000)
    tables.row(101, **shared, args_ref=tables.strings("args", b"a\xff", "ä".encode(), cut=b"cut"), uid=0)
    tables.row(102, **(shared | {"known": 0}), args_ref=tables.strings("args", b"unseen"), uid=0)
    tables.row(103, **shared, args_ref=0, uid=1000, exit_code=9)
    tables.row(104, **(shared | {"flags": layout.ROW_HEAD | layout.ROW_EXIT_KNOWN | layout.ROW_DELETED}),
               exit_boot_ns=900_000, exit_code=11 | 0x80, start_boot_ns=0)  # fmt: skip
    tables.row(105, **shared, name_ref=tables.intern("names", b"./run\0/home/x\0"), auid=0xFFFFFFFF, sid=105)
    tables.row(106, **(shared | {"flags": layout.ROW_HEAD | layout.ROW_KTHREAD | layout.ROW_ADOPTED}), parent=99)
    old = tables.row(107, **(shared | {"flags": layout.ROW_REPLACED}), exit_boot_ns=800_000, insert=False)
    tables.row(107, **(shared | {"flags": layout.ROW_HEAD | layout.ROW_IS_EXEC}), ancestor=tables.link(old))
    tables.row(108, **shared, cap_effective=(1 << 64) - 1, cookie=1 << 63, tty=b"pts7", cgroup_id=3,
               cgroup_ref=tables.intern("names", bytes(16) + b"/system.slice/a.service"))  # fmt: skip
    # One for each flag. With FOREIGN, pids are numbers of another namespace.
    for bit in range(32):
        tables.row(200 + bit, **(shared | {"flags": layout.ROW_HEAD | 1 << bit}), ns_pid=7, pid_ns=8, creator_tgid=9)
    return tables


@pytest.fixture
def table(tables: Tables) -> ProcessTable:
    return ProcessTable.attach(path=tables.directory)


PROPERTIES = [name for name, field in values.ENTRY_FIELDS.items() if field.shown == "property"]


@pytest.mark.parametrize("running", [False, True])
def test_a_batch_has_the_values_of_the_entries(table: ProcessTable, running: bool) -> None:
    entries = [entry.to_dict() for entry in table.walk(exited=not running)]
    found = table.batch(FIELDS, running=running).dicts()
    assert len(entries) == len(found) == (41 if running else 44)
    for entry, batched in zip(entries, found, strict=True):
        for name in FIELDS:
            assert batched[name] == entry[name], name
            assert type(batched[name]) is type(entry[name]), name
    assert list(found[0]) == list(FIELDS)


def test_columns_are_a_mapping_of_named_arrays(table: ProcessTable) -> None:
    found = table.columns(["pid", "uid"], pids=[101, 103])
    assert list(found) == ["pid", "uid"] and len(found) == 2 and found.count == 2
    assert repr(found) == "<Columns of 2 processes: pid, uid>" and found.entry(1).pid == 103
    assert repr(table.batch(["pid"], running=True)) == "<Batch of 41 processes: pid>"


def test_json_lines_are_those_of_the_entries(table: ProcessTable) -> None:
    expected = "; ".join(json_lines.dumps(entry.to_dict()) for entry in table.walk())
    assert json_lines.batch_lines(table.batch(FIELDS), "; ") == expected.encode("ascii")
    assert json_lines.batch_lines(table.batch([]), "; ") == b"; ".join([b"{}"] * 44)


@pytest.mark.parametrize(
    "value",
    [None, True, False, 0, -1, 2**63 - 1, -(2**63), 2**64 - 1, 2**70, 1.5, "", "a", 'a"b', "a\\b", "\x00\x1f\x7f~",
     "ä\udcff€😀", [], (), ["a", ("b", 3, None)], 10, 99, 100, 12345, {"a": [1, {"b": "\n"}]}, "x" * 5000],
)  # fmt: skip
def test_json_of_values_is_that_of_the_encoder(value: Any) -> None:
    codes = bytearray(np.array([1, 0, 1], np.int32))
    found = lines(["a", 'b"'], [[value] * 3, (codes, [value, "other"])], 3, json_lines.dumps)
    other, same = (json_lines.dumps({"a": value, 'b"': each}) for each in ("other", value))
    assert found.decode("ascii").split("\n") == [other, same, other]


def test_batches_read_all_in_parts(table: ProcessTable) -> None:
    for size in (1, 5, 100):
        found = [pid for batch in table.batches(["pid"], size=size) for pid in batch.column("pid")]
        assert found == [entry.pid for entry in table.walk()]


def test_names_of_symbolic_links(shm_dir: Path) -> None:
    tables = Tables(shm_dir)
    known = layout.KNOWN_FILE | layout.KNOWN_ARGS
    box = tables.file(b"/bin/busybox")
    for pid, name in ((10, b"ls"), (11, b"cat")):
        tables.row(pid, file_ref=box, args_ref=tables.strings("args", name), known=known)
    with ProcessTable.attach(path=shm_dir) as table:
        found = table.batch(["symlink_paths", "symlink_basename"]).dicts()
    assert [each["symlink_basename"] for each in found] == ["ls", "cat"]
    assert found[0]["symlink_paths"] == ["/bin/ls", "/usr/bin/ls"]


def test_each_field_alone_reads_what_it_needs(table: ProcessTable) -> None:
    for name in [*FIELDS, *PROPERTIES]:
        expected = [entry.as_dict([name])[name] for entry in table.walk()]
        assert table.batch([name]).column(name) == expected, name


def test_entries_of_a_batch_do_not_read_the_table_again(tables: Tables, table: ProcessTable) -> None:
    expected = [entry.to_dict() for entry in table.walk()]
    batch = table.batch(FIELDS)
    for row in range(1, tables.next_row):
        tables.free(row)
    own = [name for name in FIELDS if name not in {"parent_entity_id", "creator_entity_id"}]  # of other rows
    for place, entry in enumerate(expected):
        assert batch.entry(place).to_dict(own) == {name: entry[name] for name in own}


def test_copies_have_the_numbers_of_foreign_processes(shm_dir: Path) -> None:
    """They are in the cold part of the row, which is read with the rest although the caller did not ask for it."""
    tables = Tables(shm_dir, pids=4096)
    tables.row(5)
    foreign = tables.row(4098, flags=layout.ROW_HEAD | layout.ROW_FOREIGN, ns_pid=7, pid_ns=9)
    with ProcessTable.attach(path=shm_dir) as table:
        copies = [
            table.copies(), table.copies(running=True), table.copies(slots=table.slots()),
            table.copies(processes=table._processes()),
        ]  # fmt: skip
        tables.free(foreign)
        for rows in copies:
            assert [rows.entry(place).pid for place in range(len(rows))] == [5, 7]


def test_a_row_that_stays_busy_is_named(shm_dir: Path) -> None:
    tables = Tables(shm_dir)
    links = np.array([tables.link(tables.row(pid)) for pid in (7, 8, 9)], np.uint64)
    with ProcessTable.attach(path=shm_dir) as table:
        processes = table._processes()
        tables.hot["row_seq"][2] += 1
        with pytest.raises(BusyError, match=r"^index entry 8 is being written"):
            table.copies(slots=np.array([7, 8, 9], np.uint32))
        for choice in ({"links": links}, {"processes": processes}):
            with pytest.raises(BusyError, match=r"^row 2 is being written"):
                table.copies(**choice)


def test_lists_are_values_with_the_place_of_each_process(table: ProcessTable) -> None:
    batch = table.batch(["pid", "argv", "envs"])
    for name in ("argv", "envs"):
        found = batch.lists(name)
        assert found is not None
        codes, values = found
        lists = [values[code] for code in np.frombuffer(codes, np.int32)]
        assert {type(value) for value in lists} == {tuple, type(None)}
        assert [None if value is None else list(value) for value in lists] == batch.column(name)
    assert batch.lists("pid") is None


def test_earlier_images_are_read_by_their_links(tables: Tables, table: ProcessTable) -> None:
    numbers, rows = table.images()
    links = numbers.astype(np.uint64) | rows["generation"].astype(np.uint64) << np.uint64(32)
    batch = table.batch(["pid", "row", "is_replaced"], links=links)
    assert len(batch) == len(links)
    assert batch.column("is_replaced") == [bool(flags & layout.ROW_REPLACED) for flags in rows["flags"].tolist()]
    tables.free(int(numbers[0]))
    assert len(table.batch(["row"], links=links)) == len(links) - 1
    assert len(table.batch(["row"], links=np.array([1 << 32 | 0xFFFFFF], np.uint64))) == 0


def test_columns_have_the_values_of_the_entries(table: ProcessTable) -> None:
    entries = [entry.to_dict() for entry in table.walk()]
    found = table.columns(FIELDS, running=False)
    assert found.count == len(entries) and list(found) == list(FIELDS) and found.found.all()
    for name in FIELDS:
        expected = [entry[name] for entry in entries]
        known = found.known(name)
        assert known.tolist() == [value is not None for value in expected], name
        for value, array_value, is_known in zip(expected, found[name].tolist(), known, strict=True):
            if is_known:
                assert (list(array_value) if isinstance(array_value, tuple) else array_value) == value, name


def test_what_is_unknown_is_not_taken_for_a_value(table: ProcessTable) -> None:
    found = table.columns(["pid", "uid", "exit_code", "exit_time_ns", "exit_time", "path", "argv"], running=False)
    place = found["pid"].tolist().index(102)
    assert found["uid"][place] == 0xFFFFFFFF  # not root
    assert found["exit_code"][place] == np.iinfo(np.int32).min
    assert found["exit_time_ns"][place] == np.iinfo(np.int64).min and np.isnat(found["exit_time"][place])
    assert found["path"][place] is None and found["argv"][place] is None


def test_types(table: ProcessTable) -> None:
    found = table.columns(
        ["pid", "ppid", "uid", "exit_code", "start_time_ns", "start_time", "is_exec", "cap_effective", "path", "argv"],
        running=False,
    )
    assert [found[name].dtype.str for name in found] == [
        "<u4", "<u4", "<u4", "<i4", "<i8", "<M8[ns]", "|b1", "<u8", "|O", "|O",
    ]  # fmt: skip
    place = found["pid"].tolist().index(100)
    assert found["start_time_ns"][place] == BOOT_UNIX_NS + 100_000
    assert found["start_time"][place] == np.datetime64(BOOT_UNIX_NS + 100_000, "ns")
    assert found["argv"][place] == ("python3", "x.py")


def test_equal_texts_are_one_object_and_have_one_code(table: ProcessTable) -> None:
    found = table.columns(["pid", "path"], running=False)
    first, second = (found["path"][found["pid"].tolist().index(pid)] for pid in (100, 101))
    assert first is second
    codes, texts = found.dictionary("path")
    assert len(set(texts)) == len(texts)
    assert [None if code < 0 else texts[code] for code in codes] == found["path"].tolist()
    with pytest.raises(ValueError, match="no dictionary"):
        found.dictionary("pid")


def test_pids_that_are_missing_keep_their_place(table: ProcessTable) -> None:
    names = ["pid", "ppid", "uid", "path", "argv", "start_time", "is_exec", "is_thread", "images", "comm", "entity_id"]
    found = table.columns(names, pids=[103, 2000, 101, 2001])
    assert found["pid"].tolist() == [103, 2000, 101, 2001]
    assert found.found.tolist() == [True, False, True, False]
    for name in names[1:]:
        assert not found.known(name)[[1, 3]].any(), name
    assert not found["is_thread"][1] and found["is_thread"][0]
    assert found["comm"].tolist() == ["p103", None, "p101", None]
    assert table.columns(["pid"], pids=[]).count == 0
    assert table.columns(["pid"], pids=[2**31]).found.tolist() == [False]


def test_unknown_names_are_refused_with_a_suggestion(table: ProcessTable) -> None:
    with pytest.raises(ValueError, match="did you mean 'start_time'"):
        table.columns(["pid", "start_tim"])
    with pytest.raises(ValueError, match="no field 'zzz'"):
        table.batch(["zzz"])
    with pytest.raises(TypeError, match=r"\['pid'\]"):
        table.columns("pid")
    with pytest.raises(KeyError):
        table.columns(["pid"])["ppid"]


def test_an_incomplete_table_is_stale(tables: Tables, table: ProcessTable) -> None:
    tables.control["state"] = layout.STATE_FILLING
    with pytest.raises(StaleError):
        table.columns(["pid"])
    with pytest.raises(StaleError):
        table.columns(["pid"], pids=[2000])
    assert table.columns(["pid"], pids=[103]).found.all()  # a hit is one in any state


def test_a_reference_that_names_another_string_is_not_believed(shm_dir: Path) -> None:
    """Two rows with one reference, of which the first had another string there when it was read."""
    tables = Tables(shm_dir)
    known = layout.KNOWN_FILE | layout.KNOWN_START
    for pid in range(10, 200):
        tables.row(pid, file_ref=tables.file(b"/bin/%d" % pid), known=known)
    with ProcessTable.attach(path=shm_dir) as table:
        assert table.columns(["path"])["path"].tolist() == [f"/bin/{pid}" for pid in range(10, 200)]


def test_arguments_without_access(tables: Tables, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline import trust

    opened = trust.Directory.open

    def refuse(self: Any, name: str) -> int:
        if name == "args":
            raise PermissionError(name)
        return opened(self, name)

    monkeypatch.setattr(trust.Directory, "open", refuse)
    with ProcessTable.attach(path=tables.directory) as table:
        assert set(table.columns(["argv"], running=False)["argv"].tolist()) == {None}
        assert set(table.batch(["argv"]).column("argv")) == {None}


# -- other libraries -------------------------------------------------------------------------------------------------

FORMS = ["pid", "uid", "path", "argv", "start_time", "start_time_ns", "exit_time", "is_exec", "no_new_privs", "marks"]


def rows_of(table: ProcessTable) -> list[dict[str, Any]]:
    return [entry.to_dict() for entry in table.walk()]


def test_arrow(table: ProcessTable) -> None:
    pa = pytest.importorskip("pyarrow")
    found = table.columns([*FORMS, "file"], running=False).to_arrow()
    found.validate(full=True)
    assert pa.types.is_dictionary(found.schema.field("path").type)
    entries = rows_of(table)
    for name in ("pid", "uid", "path", "start_time_ns", "is_exec", "no_new_privs", "marks"):
        assert found[name].to_pylist() == [entry[name] for entry in entries], name
    expected = [
        None if entry["argv"] is None
        else [text.encode("utf-8", "backslashreplace").decode() for text in entry["argv"]]
        for entry in entries
    ]  # fmt: skip
    assert found["argv"].to_pylist() == expected
    assert ["a\\udcff", "ä", "cut"] in expected
    assert str(found.schema.field("start_time").type) == "timestamp[ns, tz=UTC]"
    starts = found["start_time"].cast(pa.int64()).to_pylist()
    assert starts == [entry["start_time_ns"] for entry in entries]


def test_every_column_has_every_form(table: ProcessTable) -> None:
    pytest.importorskip("pyarrow")
    names = (*FIELDS, *PROPERTIES, *columns.DATES)
    for name in some(names, times(len(names), 30)):
        found = table.columns([name], running=False)
        found.to_arrow().validate(full=True)
        assert len(found.to_pandas()) == len(found.to_polars()) == len(found.to_records()) == found.count, name


def test_pandas(table: ProcessTable) -> None:
    pd = pytest.importorskip("pandas")
    frame = table.columns(FORMS, running=False).to_pandas()
    entries = rows_of(table)
    assert isinstance(frame["path"].dtype, pd.CategoricalDtype)
    assert str(frame["start_time"].dtype) == "datetime64[ns, UTC]"
    assert str(frame["uid"].dtype) == "UInt32"  # no float: an id stays a whole number
    assert [None if pd.isna(each) else each for each in frame["uid"]] == [entry["uid"] for entry in entries]
    assert [None if pd.isna(each) else each for each in frame["path"]] == [entry["path"] for entry in entries]
    assert frame.groupby("path", observed=True)["pid"].count()["/usr/bin/python3"] > 3


def test_texts_that_become_equal_by_escapes_break_no_library(shm_dir: Path) -> None:
    """A process can choose both names, and pandas accepts no category twice."""
    pytest.importorskip("pandas")
    tables = Tables(shm_dir)
    tables.row(10, comm=b"a\xff")
    tables.row(11, comm=b"a\\udcff")
    with ProcessTable.attach(path=shm_dir) as table:
        found = table.columns(["comm"])
        assert found["comm"].tolist() == ["a\udcff", "a\\udcff"]
        assert found.to_pandas()["comm"].tolist() == ["a\\udcff"] * 2
        assert found.to_arrow()["comm"].to_pylist() == found.to_polars()["comm"].to_list() == ["a\\udcff"] * 2


def test_polars(table: ProcessTable) -> None:
    pytest.importorskip("polars")
    frame = table.columns(FORMS, running=False).to_polars()
    entries = rows_of(table)
    assert frame["path"].to_list() == [entry["path"] for entry in entries]
    assert frame["uid"].to_list() == [entry["uid"] for entry in entries]


def test_records(table: ProcessTable) -> None:
    records = table.columns(["pid", "path"], running=False).to_records()
    assert records.pid.tolist() == [entry["pid"] for entry in rows_of(table)]
    assert records[records.pid == 100].path.tolist() == ["/usr/bin/python3"]


@pytest.mark.parametrize(
    "form, module", [("arrow", "pyarrow"), ("pandas", "pandas"), ("polars", "polars"), ("polars", "pyarrow")]
)
def test_a_missing_library_is_named_with_its_extra(
    table: ProcessTable, monkeypatch: pytest.MonkeyPatch, form: str, module: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UnsupportedError, match=rf"{module} is not installed: pip install 'procline\[{form}\]'"):
        getattr(table.columns(["pid"]), f"to_{form}")()


def test_a_batch_and_columns_take_the_attributes_of_entries(table: ProcessTable) -> None:
    names = [name for name in values.ATTRIBUTES if name not in {"age", "age_ns"}]  # which change with the clock
    expected = [entry.as_dict(names) for entry in table.walk()]
    assert table.batch(names).dicts() == expected
    found = table.columns(["pid", "age", "duration", "duration_ns", "exit_status", "image_number"], running=False)
    assert found["duration"].dtype == np.dtype("timedelta64[ns]") and not np.isnat(found["age"]).all()
    for name in ("duration_ns", "exit_status", "image_number"):
        known = found.known(name)
        assert [value if is_known else None for value, is_known in zip(found[name].tolist(), known, strict=True)] == [
            each[name] for each in expected
        ]
    assert (np.isnat(found["duration"]) == ~found.known("duration_ns")).all()


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("cmdline", "argv"),
        ("create_time", "start_time"),
        ("exe", "path"),
        ("username", "user"),
        ("durration", "duration"),
    ],
)
def test_an_unknown_name_suggests_the_right_one(table: ProcessTable, wrong: str, right: str) -> None:
    entry = next(iter(table.walk()))
    for call in (table.batch, table.columns, entry.as_dict):
        with pytest.raises(ValueError, match=f"did you mean '{right}'"):
            call([wrong])
    with pytest.raises(AttributeError, match=f"no attribute '{wrong}': did you mean '{right}'"):
        getattr(entry, wrong)
    assert not hasattr(entry, "_no_such_name") and not hasattr(entry, "xyzzy")


def test_names_of_psutil_that_are_not_here_say_what_to_write(table: ProcessTable) -> None:
    entry = next(iter(table.walk()))
    for name in ("num_threads", "cpu_percent", "kill"):
        for of in (entry, table):
            with pytest.raises(AttributeError, match=f"no attribute '{name}': Procline has nothing like it"):
                getattr(of, name)
    for name in pipeline._PSUTIL:
        with pytest.raises(AttributeError, match=f"no attribute '{name}': (with a ProcessTable, write `|Procline has)"):
            getattr(pipeline, name)
    assert not hasattr(pipeline, "no_such_name") and not hasattr(table, "_no_such_name")


@pytest.mark.parametrize(
    ("of", "names", "hint"),
    [
        ("pipeline", "process_iter", ": with a ProcessTable, write `for entry in table`"),
        ("pipeline", "Process NoSuchProcess", ": with a ProcessTable, write `table.resolve(pid)`"),
        ("pipeline", "TimeoutExpired", ": did you mean 'WaitTimeoutError'? (psutil calls it 'TimeoutExpired')"),
        ("pipeline", "boot_time", "`table.boot_unix_ns`"),
        ("pipeline", "STATUS_ZOMBIE STATUS_DEAD", "`entry.is_running`"),
        ("pipeline", "ProcesTable", ": did you mean 'ProcessTable'?"),
        ("table", "pids process_iter", "for entry in table"),
        ("table", "pid_exists", ": write `pid in table`"),
        ("table", "wait wait_procs", ": write `table.wait_exit(process, timeout)`"),
        ("table", "parents", '`table.ancestors(pid, by="parent")`'),
        ("table", "descendants", "`table.resolve(pid).descendants()`"),
        ("table", "resolv", ": did you mean 'resolve'?"),
        ("entry", "wait wait_exit", ": write `table.wait_exit(entry, timeout)`"),
        ("entry", "wait_tree", ": write `table.wait_tree(entry, timeout)`"),
        ("entry", "status is_alive", ": did you mean 'is_running'?"),
        ("entry", "parents", ": did you mean 'ancestors'? (with by=\"parent\" as in psutil)"),
        ("both", "life_time lifetime", ": did you mean 'duration'?"),
        ("both", "sampled_change changed_after_ns", ': write `extra["sampled_change"]`'),
        ("both", "exit_signal_sender killed_by", ': write `extra["exit_signal_sender"]`'),
        ("both", "service cgroup_path unit", ": did you mean 'cgroup'? (table.find(unit=...) selects by unit)"),
        ("both", "program", "`os.path.basename(script_path or path)`; `table.find(name=...)`"),
        ("both", "ended", "'exit_status' and 'exit_signal' say how"),
        ("both", "basename", ': write `file["basename"]`'),
        ("both", "returncode", "os.waitstatus_to_exitcode(entry.exit_code)"),
        ("batch", "is_running is_alive", ": did you mean 'is_exited'? (it has the opposite meaning)"),
        ("batch", "parent", ": did you mean 'ppid'? ('parent_entity_id' is its identity)"),
        ("batch", "creator", ": did you mean 'creator_pid'? ('creator_entity_id' is its identity)"),
        ("find", "cmdline", ": did you mean 'argv'?"),
        ("find", "cgroup service", ": did you mean 'unit'?"),
        ("find", "pid", ": write `table.resolve(pid)`"),
        ("find", "zz", ": it has name, path, argv, user, container, unit, exited"),
        ("resolve_many", "create_time start_time", ": did you mean 'start_time_ns'?"),
    ],
)
def test_the_error_for_a_wrong_name_suggests_the_right_one(table: ProcessTable, of: str, names: str, hint: str) -> None:
    entry = next(iter(table.walk()))
    calls: dict[str, Callable[[str], object]] = {
        "pipeline": lambda name: getattr(pipeline, name), "table": lambda name: getattr(table, name),
        "entry": lambda name: getattr(entry, name), "batch": lambda name: table.batch([name]),
        "find": lambda name: table.find(**{name: "x"}),  # type: ignore[arg-type]
        "resolve_many": lambda name: table.resolve_many([1], fields=(name,)),
    }  # fmt: skip
    for name in names.split():
        for each in ("entry", "batch") if of == "both" else (of,):
            with pytest.raises((AttributeError, ValueError, TypeError), match=re.escape(hint)):
                calls[each](name)


def test_what_a_suggestion_names_exists(table: ProcessTable) -> None:
    entry = next(iter(table.walk()))
    exists = {*dir(entry), *dir(table), *dir(pipeline), *inspect.signature(ProcessTable.find).parameters}
    for names in (near_names._PSUTIL, near_names._OTHERS):
        assert {each for same in names.values() for each in same.split()} <= exists
    for wrong, right in near_names._NOTES:
        assert right in (near_names._PSUTIL | near_names._OTHERS)[wrong].split()


def test_columns_have_the_array_types_of_their_names(table: ProcessTable) -> None:
    found = table.columns(list(columns.DATES) + list(columns.PERIODS) + list(values.ATTRIBUTES))
    kinds = {
        "iu": (entry_dict.Ints, entry_dict.OptionalInts), "b": (entry_dict.Flags, entry_dict.OptionalFlags),
        "O": (entry_dict.Texts, entry_dict.OptionalTexts, entry_dict.Lists, entry_dict.OptionalLists, entry_dict.Maps),
        "M": (entry_dict.Times,), "m": (entry_dict.Periods,),
    }  # fmt: skip
    names = {name: kind for kind, aliases in kinds.items() for alias in aliases for name in get_args(alias)}
    assert set(found) <= set(names)
    assert {name for name in found if found[name].dtype.kind not in names[name]} == set()

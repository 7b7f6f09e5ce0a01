"""Names of cgroups in rows: resolved once, written to all rows of the cgroup, lost by none."""

from __future__ import annotations

import struct
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline.procfs.containers import CgroupTree
from pipeline.procfs.hierarchies import Hierarchies
from pipeline.records import declared, dtypes
from pipeline.records.cgroup_sets import cgroup_set
from pipeline.resolver.apply._applier import Applier
from pipeline.resolver.upkeep.cgroups import TRIES, CgroupNamer
from pipeline.shm.check.validate import validate_tables
from pipeline.shm.layout import layout
from pipeline.shm.writer._opening import open_tables
from pipeline.shm.writer._writer import TableWriter
from tests.sampling import examples

CONTAINER = "a" * 64


@contextmanager
def new_tables() -> Iterator[TableWriter]:
    with tempfile.TemporaryDirectory(prefix="procline-test-", dir="/dev/shm") as directory, open_tables(
        Path(directory), boot_id=bytes(16), capture_id=1, ring_count=1, row_capacity=4096, pid_capacity=32768,
        chunk_rows=4096, key_capacity=1024, names_bytes=1 << 22, args_bytes=1 << 20, envs_bytes=1 << 20,
        boot_unix_ns=0, retention_ns=10**12,
    ) as writer:  # fmt: skip
        yield writer


@pytest.fixture
def tables() -> Iterator[TableWriter]:
    with new_tables() as writer:
        yield writer


class Paths(CgroupTree):
    """Knows only the paths that it was created with."""

    def __init__(self, paths: dict[int, str]) -> None:
        super().__init__(root="/nowhere", mode="unified")
        self.paths = paths

    def path_of(self, cgroup_id: int, tgid: int = 0) -> str | None:
        return self.paths.get(cgroup_id)


def fork(applier: Applier, tgid: int, cgroup_id: int, time: int) -> int:
    header, task, body = (np.zeros(1, dtype) for dtype in (dtypes.HEADER, dtypes.TASK, dtypes.FORK))
    header["kind"], header["tgid"], header["tid"] = declared.KIND_FORK, tgid, tgid
    header["time_boot_ns"] = header["start_boot_ns"] = time
    task["cgroup_id"], task["comm"], task["ns_pid"], task["pid_ns"] = cgroup_id, b"x", tgid, 1
    row: int = applier.apply_records(header.tobytes(), task.tobytes(), body.tobytes(), b"")
    assert row
    return row


def names_of(tables: TableWriter, row: int) -> tuple[bytes, bytes]:
    cold = tables.cold_view()[row]
    record = tables.names.py_bytes(int(cold["cgroup_ref"]))
    return record[layout.CGROUP.itemsize :], tables.names.py_bytes(int(cold["container_ref"]))


def made_of(tables: TableWriter, row: int) -> tuple[int, int]:
    """When the cgroup of a row was created, and the same for its container."""
    times = struct.unpack_from("<QQ", tables.names.py_bytes(int(tables.cold_view()[row]["cgroup_ref"])))
    return times[0], times[1]


def text_of(tables: TableWriter, row: int) -> bytes:
    """The stored path of the cgroup, with its times."""
    return tables.names.py_bytes(int(tables.cold_view()[row]["cgroup_ref"]))


def test_rows_before_and_after_the_name_is_found_have_it(tables: TableWriter) -> None:
    applier = Applier(tables)
    paths: dict[int, str] = {}
    namer = CgroupNamer(applier.cgroups, Paths(paths))
    before = [fork(applier, tgid, 7, tgid * 1000) for tgid in (10, 11)]
    other = fork(applier, 12, 8, 12_000)
    namer()
    assert names_of(tables, before[0]) == (b"", b"")
    paths |= {7: f"/docker/{CONTAINER}", 8: "/user.slice"}
    namer()
    after = fork(applier, 13, 7, 13_000)
    for row in (*before, after):
        assert names_of(tables, row) == (f"/docker/{CONTAINER}".encode(), CONTAINER.encode())
    assert names_of(tables, other) == (b"/user.slice", b"")
    applier.cgroups.forget()
    validate_tables(tables)
    assert names_of(tables, other)[0] == b"/user.slice"


def test_a_removed_cgroup_is_not_searched_forever(tables: TableWriter) -> None:
    applier = Applier(tables)
    namer = CgroupNamer(applier.cgroups, Paths({}))
    fork(applier, 10, 7, 1000)
    assert not namer.is_waiting
    namer()
    assert namer.is_waiting
    for _ in range(TRIES - 1):
        namer()
    assert not namer._tries and not namer.is_waiting


def test_thousands_of_cgroups(tables: TableWriter) -> None:
    applier = Applier(tables)
    namer = CgroupNamer(applier.cgroups, Paths({}))
    for cgroup_id in range(1, 3000):
        namer.learn(cgroup_id, b"/c%d" % cgroup_id)
    assert len(applier.cgroups) == 2999
    rows = {cgroup_id: fork(applier, 100 + cgroup_id, cgroup_id, 10_000 + cgroup_id) for cgroup_id in (1, 1500, 2999)}
    for cgroup_id, row in rows.items():
        assert names_of(tables, row)[0] == b"/c%d" % cgroup_id


class Members(Hierarchies):
    """Knows only the members that it was created with."""

    def __init__(self) -> None:
        super().__init__(proc="/nonexistent")


def set_of(*members: tuple[int, int]) -> int:
    return cgroup_set(members)


def strings_of(named: tuple[int, int], path: bytes, members: list[tuple[int, int]]) -> bytes:
    one, some = np.zeros(1, dtypes.NAMED_CGROUP), np.zeros(len(members), dtypes.MEMBER)
    one["named_hierarchy"], one["named_id"] = named
    one["named_path_bytes"], one["named_members"] = len(path), len(members)
    for i, (hierarchy, number) in enumerate(members):
        some["member_hierarchy"][i], some["member_id"][i] = hierarchy, number
    return one.tobytes() + some.tobytes() + path


def put(
    applier: Applier, kind: int, tgid: int, cgroup_id: int, others: int, time: int,
    strings: bytes = b"", flags: int = 0, creator: int = 0, start: int = 0,
) -> int:  # fmt: skip
    header, task, body = (np.zeros(1, dtype) for dtype in (dtypes.HEADER, dtypes.TASK, dtypes.FORK))
    header["tgid"] = header["tid"] = tgid
    header["kind"], header["flags"], header["var_bytes"] = kind, flags, len(strings)
    header["time_boot_ns"], header["start_boot_ns"] = time, start or time
    header["ppid"] = body["creator_tgid"] = creator
    header["parent_start_boot_ns"] = body["creator_start_boot_ns"] = creator * 1000
    task["cgroup_id"], task["cgroups_v1"], task["comm"], task["ns_pid"], task["pid_ns"] = cgroup_id, others, b"x", 9, 1
    is_fork = kind == declared.KIND_FORK
    row: int = applier.apply_records(header.tobytes(), task.tobytes(), body.tobytes() if is_fork else None, strings)
    return row


ROOTS = declared.CGROUPS_V1_ROOTS
IN_DOCKER, MOVED_TO = set_of((5, 30)), f"/docker/{CONTAINER}".encode()


def test_a_move_names_its_cgroups_and_children_inherit_them(tables: TableWriter) -> None:
    applier = Applier(tables)
    CgroupNamer(applier.cgroups, Paths({}), Members())
    applier.cgroups.name(7, b"/service")
    row = put(applier, declared.KIND_FORK, 10, 7, ROOTS, 10_000)
    told = strings_of((5, 30), MOVED_TO, [(5, 30)])
    put(applier, declared.KIND_CGROUP, 10, 7, IN_DOCKER, 10_100, told, start=10_000)
    assert names_of(tables, row) == (b"/service", CONTAINER.encode())
    child = put(applier, declared.KIND_FORK, 11, 7, IN_DOCKER, 11_000, creator=10)
    # If the creator has moved since or is unknown, the record decides, not the creator.
    outside = put(applier, declared.KIND_FORK, 12, 7, ROOTS, 12_000, creator=10)
    alone = put(applier, declared.KIND_FORK, 13, 7, IN_DOCKER, 13_000)
    assert [names_of(tables, r)[1] for r in (child, outside, alone)] == [CONTAINER.encode(), b"", CONTAINER.encode()]
    # Moved out again: nothing of the container is left. Its child stays where it was.
    put(applier, declared.KIND_CGROUP, 10, 7, ROOTS, 13_100, strings_of((5, 1), b"", []), start=10_000)
    assert names_of(tables, row) == (b"/service", b"") and names_of(tables, child)[1] == CONTAINER.encode()
    assert applier.cgroups.take_wanted() == []
    applier.cgroups.forget()
    validate_tables(tables)


def test_a_known_name_costs_no_pass_over_the_rows(tables: TableWriter) -> None:
    """Each reading of /proc names the cgroup of every process again, also when the tables are full."""
    applier = Applier(tables)
    assert applier.cgroups.name(7, b"/service") == 0
    row = put(applier, declared.KIND_FORK, 10, 0, ROOTS, 10_000)
    hot = tables.hot_view()
    hot["cgroup_id"][row] = 7  # a pass would find this row and name it
    assert applier.cgroups.name(7, b"/service") == 0 and names_of(tables, row) == (b"", b"")
    hot["cgroup_id"][row] = 0
    applier.cgroups.forget()
    validate_tables(tables)


def test_the_first_report_of_a_cgroup_is_its_source(tables: TableWriter) -> None:
    applier = Applier(tables)
    sources = tables.hot_view()["cgroup_source"]

    def look(tgid: int, cgroup_id: int, source: int = layout.SOURCE_SNAPSHOT) -> int:
        header, task = np.zeros(1, dtypes.HEADER), np.zeros(1, dtypes.TASK)
        header["tgid"], header["start_boot_ns"], header["time_boot_ns"] = tgid, tgid * 1000, 500_000
        task["cgroup_id"], task["comm"], task["pid_ns"] = cgroup_id, b"x", 1
        applier.insert_from_proc(header, task, source=source)
        return tables.py_head(tgid)

    event, procfs = layout.CGROUP_SOURCE_EVENT, layout.CGROUP_SOURCE_PROCFS
    forked, found = put(applier, declared.KIND_FORK, 10, 7, 0, 10_000), look(20, 7)
    assert (sources[forked], sources[found]) == (event, procfs)
    unknown, inherited = layout.CGROUP_SOURCE_UNKNOWN, layout.CGROUP_SOURCE_INHERITED
    assert sources[look(21, 7, layout.SOURCE_MAP)] == unknown, "the kernel's maps do not say what filled them"
    # A move reports another cgroup and changes the source; a record that repeats the cgroup does not.
    put(applier, declared.KIND_COMM, 20, 7, 0, 600_000, start=20_000)
    assert sources[found] == procfs
    put(applier, declared.KIND_CGROUP, 20, 8, 0, 610_000, start=20_000)
    assert sources[found] == event
    # A child's own record can name its cgroup. Otherwise the child inherits its parent's, and the source says so.
    found = look(30, 7)
    child = put(applier, declared.KIND_FORK, 31, 7, 0, 31_000, creator=30)
    heir = put(applier, declared.KIND_FORK, 32, 0, 0, 32_000, creator=30)
    assert (sources[child], sources[heir], tables.hot_view()["cgroup_id"][heir]) == (event, inherited, 7)
    grandchild = put(applier, declared.KIND_FORK, 33, 7, 0, 33_000, creator=32)
    assert sources[grandchild] == event, "its own record reported it"
    put(applier, declared.KIND_COMM, 32, 0, 0, 34_000, start=32_000)
    assert sources[heir] == inherited
    assert (look(32, 7), sources[heir]) == (heir, procfs), "the first look at it confirms it"
    heir = put(applier, declared.KIND_FORK, 34, 0, 0, 35_000, creator=30)
    put(applier, declared.KIND_COMM, 34, 7, 0, 36_000, start=35_000)
    assert sources[heir] == event
    heir = put(applier, declared.KIND_FORK, 35, 0, 0, 35_000, creator=30)
    assert (look(35, 8), sources[heir], tables.hot_view()["cgroup_id"][heir]) == (heir, procfs, 8), "or corrects it"
    # Sources without BPF read /proc at the event. If a snapshot finds a lost move, the snapshot is the source.
    partial = put(applier, declared.KIND_FORK, 40, 7, 0, 40_000, flags=declared.FLAG_PARTIAL)
    assert sources[partial] == procfs
    assert sources[look(10, 9)] == procfs


def test_a_pid_that_is_used_again_inherits_nothing(tables: TableWriter) -> None:
    applier = Applier(tables)
    CgroupNamer(applier.cgroups, Paths({}), Members())
    applier.cgroups.name(7, b"/service")
    put(applier, declared.KIND_FORK, 10, 7, ROOTS, 10_000)
    put(applier, declared.KIND_CGROUP, 10, 7, IN_DOCKER, 10_100, strings_of((5, 30), MOVED_TO, [(5, 30)]), start=10_000)
    again = put(applier, declared.KIND_FORK, 10, 7, ROOTS, 20_000)
    assert names_of(tables, again) == (b"/service", b"")
    # A record without a cgroup does not mean that the process stayed in its parent's.
    partial = put(applier, declared.KIND_FORK, 10, 7, 0, 30_000)
    assert names_of(tables, partial) == (b"/service", b"")


def test_the_container_of_cgroup_v2_takes_precedence(tables: TableWriter) -> None:
    applier = Applier(tables)
    CgroupNamer(applier.cgroups, Paths({}), Members())
    inner = "b" * 64
    applier.cgroups.name(8, b"/docker-" + inner.encode() + b".scope", inner.encode())
    row = put(applier, declared.KIND_FORK, 10, 8, ROOTS, 10_000)
    put(applier, declared.KIND_CGROUP, 10, 8, IN_DOCKER, 10_100, strings_of((5, 30), MOVED_TO, [(5, 30)]), start=10_000)
    assert names_of(tables, row)[1] == inner.encode()


def test_a_new_cgroup_is_known_before_a_process_is_in_it(tables: TableWriter) -> None:
    applier = Applier(tables)
    namer = CgroupNamer(applier.cgroups, Paths({}), Members())
    maker = put(applier, declared.KIND_FORK, 10, 7, ROOTS, 10_000)
    before = tables.counter("events_cgroup")
    for place, path in (((0, 8), b"/new.scope"), ((5, 30), MOVED_TO)):
        put(
            applier, declared.KIND_CGROUP, 10, 7, IN_DOCKER, 10_100, strings_of(place, path, []),
            declared.FLAG_CGROUP_MADE, start=10_000,
        )  # fmt: skip
    assert tables.counter("events_cgroup") == before and names_of(tables, maker)[1] == b"", (
        "nothing happened to the maker"
    )
    row = put(applier, declared.KIND_FORK, 11, 8, ROOTS, 11_000)
    assert names_of(tables, row) == (b"/new.scope", b"")
    assert [number for number, _ in applier.cgroups.take_wanted()] == [7]
    assert namer._hierarchies is not None and namer._hierarchies.container_of([(5, 30)])[1]


def made(applier: Applier, number: int, path: str, time: int, hierarchy: int = 0) -> None:
    strings = strings_of((hierarchy, number), path.encode(), [])
    put(applier, declared.KIND_CGROUP, 1, 7, 0, time, strings, declared.FLAG_CGROUP_MADE, start=1)


def test_when_cgroup_and_container_were_made_is_kept_with_the_path(tables: TableWriter) -> None:
    applier = Applier(tables)
    namer = CgroupNamer(applier.cgroups, Paths({9: "/old"}), Members())
    for number, path, time in (
        (20, "/plain", 1000), (21, f"/docker/{CONTAINER}", 2000), (22, f"/docker/{CONTAINER}/init", 3000),
        (23, f"/docker/{'b' * 64}/init", 4000),
    ):  # fmt: skip
        made(applier, number, path, time)
    rows = {
        number: put(applier, declared.KIND_FORK, number, number, ROOTS, 10_000 + number) for number in range(20, 24)
    }
    assert {number: made_of(tables, row) for number, row in rows.items()} == {
        20: (1000, 0), 21: (2000, 2000), 22: (3000, 2000),
        23: (4000, 0),  # the container is older than the processes in it
    }  # fmt: skip
    old = put(applier, declared.KIND_FORK, 9, 9, ROOTS, 10_000)
    namer()
    assert (names_of(tables, old)[0], made_of(tables, old)) == (b"/old", (0, 0)), "it was there before"
    # Created again with the same name: another cgroup.
    made(applier, 31, f"/docker/{CONTAINER}", 20_000)
    assert made_of(tables, put(applier, declared.KIND_FORK, 31, 31, ROOTS, 21_000)) == (20_000, 20_000)
    assert made_of(tables, rows[21]) == (2000, 2000)
    applier.cgroups.forget()
    validate_tables(tables)


def test_the_creation_time_of_a_forgotten_cgroup_is_read_from_its_rows(tables: TableWriter) -> None:
    applier = Applier(tables)
    CgroupNamer(applier.cgroups, Paths({}), Members())
    made(applier, 21, f"/docker/{CONTAINER}", 2000)
    first = put(applier, declared.KIND_FORK, 10, 21, ROOTS, 10_000)
    applier.cgroups.forget()  # the state at the start of a successor
    successor = CgroupNamer(applier.cgroups, Paths({21: f"/docker/{CONTAINER}"}), Members())
    row = put(applier, declared.KIND_FORK, 11, 21, ROOTS, 11_000)
    successor()
    assert made_of(tables, row) == made_of(tables, first) == (2000, 2000)
    applier.cgroups.forget()
    validate_tables(tables)


def test_a_survey_that_found_a_cgroup_before_its_record_was_applied(tables: TableWriter) -> None:
    applier = Applier(tables)
    namer = CgroupNamer(applier.cgroups, Paths({}), Members())
    namer.learn(20, b"/plain")
    row = put(applier, declared.KIND_FORK, 10, 20, ROOTS, 10_000)
    assert made_of(tables, row) == (0, 0)
    made(applier, 20, "/plain", 9000)
    later = put(applier, declared.KIND_FORK, 11, 20, ROOTS, 11_000)
    assert made_of(tables, row) == made_of(tables, later) == (9000, 0)
    applier.cgroups.forget()
    validate_tables(tables)


def test_a_set_that_no_record_named_is_found_by_a_process_that_is_still_in_it(
    tables: TableWriter, tmp_path: Path
) -> None:
    applier = Applier(tables)

    class Asked(Members):
        answers = 0

        def set_of_process(self, tgid: int) -> tuple[int, bytes]:
            self.answers += 1
            text = b"5:memory:" + MOVED_TO + b"\n0::/docker-" + b"c" * 64 + b".scope\n"
            return (IN_DOCKER if self.answers > 1 else ROOTS), text

    namer = CgroupNamer(applier.cgroups, Paths({7: "/service"}), Asked())
    row = put(applier, declared.KIND_FORK, 10, 7, IN_DOCKER, 10_000)
    namer()
    assert names_of(tables, row) == (b"/service", b""), "it has moved: what it says is of other cgroups"
    namer()
    assert names_of(tables, row) == (b"/service", CONTAINER.encode())


def test_a_set_is_found_by_any_process_that_is_still_in_it(tables: TableWriter) -> None:
    """The first process has moved on, and no record said so; only the second can still be asked."""
    applier = Applier(tables)

    class Moved(Members):
        def set_of_process(self, tgid: int) -> tuple[int, bytes]:
            return (IN_DOCKER if tgid == 12 else ROOTS), b"5:memory:" + MOVED_TO + b"\n0::/service\n"

    namer = CgroupNamer(applier.cgroups, Paths({7: "/service"}), Moved())
    put(applier, declared.KIND_FORK, 10, 7, IN_DOCKER, 10_000)
    ended = put(applier, declared.KIND_FORK, 11, 7, IN_DOCKER, 11_000)
    tables.hot_view()["exit_boot_ns"][ended] = 11_500
    namer()
    row = put(applier, declared.KIND_FORK, 12, 7, IN_DOCKER, 12_000)
    put(applier, declared.KIND_CGROUP, 10, 7, ROOTS, 12_100, strings_of((5, 1), b"", []), start=10_000)
    namer()
    namer()
    assert names_of(tables, row) == (b"/service", CONTAINER.encode())
    assert not namer._tries


@pytest.mark.parametrize("cut", [0, 15, 16, 31, 40])
def test_strings_that_are_too_short_are_not_believed(tables: TableWriter, cut: int) -> None:
    applier = Applier(tables)
    CgroupNamer(applier.cgroups, Paths({}), Members())
    row = put(applier, declared.KIND_FORK, 10, 7, ROOTS, 10_000)
    told = strings_of((5, 30), MOVED_TO, [(5, 30)])[:cut]
    put(applier, declared.KIND_CGROUP, 10, 7, IN_DOCKER, 10_100, told, start=10_000)
    assert names_of(tables, row)[1] == b""


def test_names_are_bounded(tables: TableWriter) -> None:
    applier = Applier(tables)
    for number in range(1, 65_600):
        applier.cgroups.name(number, b"/one", is_new=True)
    assert len(applier.cgroups) < 65_536
    applier.cgroups.forget()
    validate_tables(tables)


SETS = [IN_DOCKER, set_of((5, 31))]
NAMES = {
    7: (7, b"/service", b"", 0), 8: (8, MOVED_TO, CONTAINER.encode(), 77), 9: (9, b"/made", b"", 0),
    1: (SETS[0], b"", CONTAINER.encode(), 0), 2: (SETS[1], b"", b"", 0),
}  # fmt: skip


@settings(deadline=None, max_examples=examples(40))
@given(
    rows=st.lists(st.tuples(st.sampled_from([0, 7, 8, 9]), st.integers(0, 3), st.booleans()), max_size=12),
    known=st.lists(st.sampled_from([7, 8, 9, 1, 2]), max_size=2),
    named=st.lists(st.sampled_from([7, 8, 9, 1, 2]), max_size=5),
)
@example(rows=[(7, 1, False), (7, 0, False), (8, 2, True), (0, 2, False)], known=[], named=[7, 8, 1, 2])
@example(rows=[(7, 1, False), (8, 1, False)], known=[7, 1], named=[1, 8])
def test_many_names_at_once_are_stored_as_one_by_one(
    rows: list[tuple[int, int, bool]], known: list[int], named: list[int]
) -> None:
    """Rows get the same names, and the same creation times, which other rows may have."""
    found = []
    for is_one_by_one in (True, False):
        with new_tables() as tables:
            applier = Applier(tables)
            CgroupNamer(applier.cgroups, Paths({}), Members())
            made(applier, 9, "/made", 500)
            for number in known:
                applier.cgroups.name(*NAMES[number][:3])
            for tgid, (cgroup_id, others, has_ended) in enumerate(rows, 10):
                put(applier, declared.KIND_FORK, tgid, cgroup_id, [0, ROOTS, *SETS][others], 1000 * tgid)
                if has_ended:
                    applier.close_missing(tgid, 1000 * tgid, 1000 * tgid + 1, seen=True)
            applier.cgroups.forget()
            applier.cgroups.take_wanted()
            if is_one_by_one:
                for number in sorted(named, key=lambda number: NAMES[number][0]):  # sets come last
                    cgroup_id, path, container, container_made = NAMES[number]
                    applier.cgroups.name(cgroup_id, path, container, container_made_boot_ns=container_made)
            else:
                applier.cgroups.name_all([NAMES[number] for number in named])
            used = range(1, tables.rows_frontier)
            found.append([(len(applier.cgroups), *names_of(tables, row), text_of(tables, row)) for row in used])
            applier.cgroups.forget()
            validate_tables(tables)
    assert found[0] == found[1]


def test_names_of_many_need_ids_and_room(tables: TableWriter) -> None:
    applier = Applier(tables)
    with pytest.raises(ValueError, match="no cgroup id"):
        applier.cgroups.name_all([(7, b"/a", b"", 0), (0, b"/b", b"", 0)])
    row = fork(applier, 10, 8, 1000)
    large = b"/" + b"x" * (1 << 22)
    assert applier.cgroups.name_all([(7, large, b"", 0), (8, b"/b", b"", 0), (8, b"/c", b"", 0)]) == 1
    assert names_of(tables, row)[0] == b"/b" and len(applier.cgroups) == 1

"""Rows of processes that were read from `/proc` while the kernel's maps know more about them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.host.boot import TICK_NS
from pipeline.procfs.survey import LiveProcess, Survey
from pipeline.records import declared, dtypes
from pipeline.resolver.api.proc_rows import ProcRows
from pipeline.resolver.apply._applier import Applier
from pipeline.resolver.entries.kernel_maps import PID_CACHE, PROC_CACHE, KernelMaps
from pipeline.shm.layout import layout
from tests.resolver.resolver_world import FakeMap, image_of
from tests.resolver.story import instance, make_tables

START = 1000 * TICK_NS


def process(cookie: int, time_boot_ns: int) -> LiveProcess:
    header, task, exec_ = (np.zeros(1, dtype) for dtype in (dtypes.HEADER, dtypes.TASK, dtypes.EXEC))
    header["tgid"] = header["tid"] = 5
    header["start_boot_ns"], header["time_boot_ns"] = START, time_boot_ns
    task["cookie"], task["comm"], task["pid_ns"], task["ns_pid"] = cookie, b"x", 1, 5
    exec_["inode"], exec_["path_bytes"] = 12, 6
    return LiveProcess(header[0], task[0], exec_[0], b"/bin/x", True)


@pytest.mark.parametrize(("cookie", "is_other"), [(77, False), (78, True), (79, False)])
def test_an_exec_of_the_same_file_is_another_image_if_the_maps_know_of_it(cookie: int, is_other: bool) -> None:
    with instance() as directory, make_tables(directory / "tables") as tables:
        images = FakeMap({77: image_of(12, exec_boot_ns=START + 1), 78: image_of(12, exec_boot_ns=START + 77)})
        maps = KernelMaps({PID_CACHE: FakeMap(), PROC_CACHE: images}, lambda name: None)
        maps.bind()
        rows = ProcRows(tables, Applier(tables), maps, 0)
        rows.insert(process(77, START + 5), layout.SOURCE_SNAPSHOT)
        first = tables.py_head(5)
        rows.insert(process(cookie, START + 99), layout.SOURCE_PROCFS)
        assert (tables.py_head(5) != first) is is_other


def survey_of(processes: list[dict[str, int]], time_boot_ns: int) -> Survey:
    columns = [np.zeros(len(processes), dtype) for dtype in (dtypes.HEADER, dtypes.TASK, dtypes.EXEC)]
    for i, facts in enumerate(processes):
        for column in columns:
            for name in set(facts) & set(column.dtype.names or ()):
                column[name][i] = facts[name]
    header, task, exec_ = columns
    header["tid"], header["time_boot_ns"], task["comm"], exec_["path_bytes"] = header["tgid"], time_boot_ns, b"x", 6
    is_exact = (header["flags"] & declared.FLAG_PARTIAL) == 0
    strings = [b"/bin/x"] * len(processes)
    return Survey(header, task, exec_, strings, is_exact, 0, time_boot_ns, {}, list(range(1, len(processes) + 1)))


PROCESSES = st.builds(
    dict, tgid=st.integers(1, 6), ppid=st.integers(0, 6), start_boot_ns=st.sampled_from([START, START + 1, 2 * START]),
    flags=st.sampled_from([0, declared.FLAG_PARTIAL]), cookie=st.sampled_from([0, 77, 78]), uid=st.integers(0, 2),
    mnt_ns=st.sampled_from([0, 5]), user_ns=st.sampled_from([0, 6]), cgroup_id=st.sampled_from([0, 9]),
    inode=st.sampled_from([12, 13]),
)  # fmt: skip


@settings(deadline=None)
@given(st.lists(st.lists(PROCESSES, max_size=8), min_size=1, max_size=3))
def test_a_survey_enters_what_its_processes_enter_one_by_one(surveys: list[list[dict[str, int]]]) -> None:
    images = {77: image_of(12, exec_boot_ns=START + 1), 78: image_of(12, exec_boot_ns=START + 77)}
    found = []
    for is_one_by_one in (False, True):
        with instance() as directory, make_tables(directory / "tables") as tables:
            maps = KernelMaps({PID_CACHE: FakeMap(), PROC_CACHE: FakeMap(images)}, lambda name: None)
            maps.bind()
            rows = ProcRows(tables, Applier(tables), maps, 2 * START)
            results = []
            for number, processes in enumerate(surveys, 1):
                survey = survey_of(processes, (2 + number) * START)
                if is_one_by_one:
                    each = range(len(survey))
                    results.append([rows.insert(survey.process(i), layout.SOURCE_PROCFS, layout.ROW_GAP) for i in each])
                else:
                    results.append(list(rows.insert_all(survey, layout.SOURCE_PROCFS, layout.ROW_GAP, lambda: None)))
            hot, cold = tables.hot_view()[: tables.rows_frontier], tables.cold_view()[: tables.rows_frontier]
            counters = {name: tables.counter(name) for name in ("added_procfs", "reparents", "exits_unseen")}
            digests = [rows._applier.py_digest(row) for row in range(1, tables.rows_frontier)]
            found.append((results, hot.tobytes(), cold.tobytes(), counters, digests))
    # Keys of digests and of hashes are those of this process, so the tables are equal byte by byte.
    assert found[0] == found[1]


def test_a_survey_that_does_not_fit_is_rejected() -> None:
    with instance() as directory, make_tables(directory / "tables") as tables:
        rows = ProcRows(tables, Applier(tables), KernelMaps({}, lambda name: None), 0)
        for change, message in (
            ({"strings": []}, "different lengths"), ({"strings": [b"/bin"]}, "shorter than the record says"),
            ({"digests": [1, 2]}, "different lengths"),
        ):  # fmt: skip
            survey = replace(survey_of([{"tgid": 5, "start_boot_ns": START}], START), **change)
            with pytest.raises(ValueError, match=message):
                rows.insert_all(survey, layout.SOURCE_SNAPSHOT, 0, lambda: None)
        survey = survey_of([{"tgid": 1 << 30, "start_boot_ns": START}], START)
        with pytest.raises(ValueError, match="outside the table's pids"):
            rows.insert_all(survey, layout.SOURCE_SNAPSHOT, 0, lambda: None)
        assert tables.heads_live == 0

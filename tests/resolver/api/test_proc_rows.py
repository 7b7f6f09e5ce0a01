"""What is entered of a process that was read from `/proc` while the kernel's maps know more about it."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.host.boot import TICK_NS
from pipeline.procfs.survey import LiveProcess
from pipeline.records import events
from pipeline.resolver.api.proc_rows import ProcRows
from pipeline.resolver.apply._applier import Applier
from pipeline.resolver.entries.kernel_maps import PID_CACHE, PROC_CACHE, KernelMaps
from pipeline.shm.layout import layout
from tests.resolver.resolver_world import FakeMap, image_of
from tests.resolver.story import instance, make_tables

START = 1000 * TICK_NS


def process(cookie: int, time_boot_ns: int) -> LiveProcess:
    head, task, exec_ = (np.zeros(1, dtype) for dtype in (events.HEAD, events.TASK, events.EXEC))
    head["tgid"] = head["tid"] = 5
    head["start_boot_ns"], head["time_boot_ns"] = START, time_boot_ns
    task["cookie"], task["comm"], task["pid_ns"], task["ns_pid"] = cookie, b"x", 1, 5
    exec_["inode"], exec_["path_bytes"] = 12, 6
    return LiveProcess(head[0], task[0], exec_[0], b"/bin/x", True)


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

"""The facts about a process in the kernel's maps, without a kernel."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pipeline.bpf import maps
from pipeline.host.boot import TICK_NS
from pipeline.records import dtypes
from pipeline.resolver.entries.kernel_maps import PID_CACHE, PROC_CACHE, KernelMaps, is_rounded
from tests.resolver.resolver_world import FakeMap, image_of

START = 1000 * TICK_NS + 5


def owner(**fields: int) -> np.void:
    made = np.zeros(1, maps.PID_ENTRY)
    for name, value in ({"cookie": 77, "start_boot_ns": START, "fork_boot_ns": START} | fields).items():
        made[name] = value
    return made[0]


class Refusing(FakeMap):
    """A map that the kernel does not let this process read."""

    def get(self, key: int, default: Any = None) -> Any:
        raise PermissionError


def bound(pids: FakeMap, images: FakeMap) -> KernelMaps:
    made = KernelMaps({PID_CACHE: pids, PROC_CACHE: images}, lambda name: None)
    made.bind()
    return made


def test_when_an_image_was_loaded() -> None:
    made = bound(FakeMap(), FakeMap({77: image_of(12, exec_boot_ns=5)}))
    assert (made.exec_time(77), made.exec_time(78)) == (5, 0)
    assert bound(FakeMap(), Refusing()).exec_time(77) == KernelMaps(None, lambda name: None).exec_time(77) == 0


@pytest.mark.parametrize(
    ("held", "exec_boot_ns", "cookie"),
    [
        (owner(), START + 1, 77),
        (owner(start_boot_ns=START + 2 * TICK_NS), START + 1, 0),  # another process has the pid
        (owner(), START + 9, 0),  # an exec after /proc was read
    ],
)
def test_a_process_that_the_maps_have_keeps_their_cookie(held: np.void, exec_boot_ns: int, cookie: int) -> None:
    made = bound(FakeMap({5: held}), FakeMap({77: image_of(12, exec_boot_ns=exec_boot_ns)}))
    header, task, exec_ = (np.zeros(1, dtype) for dtype in (dtypes.HEADER, dtypes.TASK, dtypes.EXEC))
    header["tgid"], header["start_boot_ns"], header["time_boot_ns"] = 5, START, START + 5
    assert made.fill(header[0], task[0], exec_[0], b"/bin/x") == cookie


def test_a_start_from_proc_is_rounded() -> None:
    assert is_rounded(owner(start_boot_ns=1000 * TICK_NS, fork_boot_ns=0))
    assert not is_rounded(owner(start_boot_ns=1000 * TICK_NS)) and not is_rounded(owner(fork_boot_ns=0))

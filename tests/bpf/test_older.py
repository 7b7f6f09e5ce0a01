"""The programs for older kernels, on this one: every test of records and of shapes of an exec once more.

On x86-64 also those for aarch64, whose barriers are right there too: tests/vm/aarch64 runs few of them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from pipeline.bpf import features
from pipeline.bpf.loader import Capture
from pipeline.records.capture_fds import NO_FD
from tests import older_programs
from tests.bpf import test_exec_shapes, test_records
from tests.bpf.ring_reader import RING_BYTES, Reader

pytestmark = [
    pytest.mark.live,
    pytest.mark.slow,
    pytest.mark.usefixtures("live_kernel"),
    pytest.mark.skipif(os.uname().machine not in features.OLD_MACHINES, reason="no older set for this machine"),
]

MACHINES = tuple(features.OLD_MACHINES) if os.uname().machine == "x86_64" else (os.uname().machine,)


@pytest.fixture(scope="module", autouse=True, params=MACHINES)
def older(request: pytest.FixtureRequest) -> Iterator[None]:
    """Every capture of this module, also one in a child, uses the older set of a machine."""
    if reason := older_programs.why():
        pytest.skip(f"test_records and test_exec_shapes test the older set here: {reason}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(features.FORCE, f"old-{request.param}")
        yield


@pytest.fixture(scope="module")
def capture(live_kernel: None, older: None) -> Iterator[Capture]:
    with Capture(ring_bytes=RING_BYTES, args_bytes=32768, envs_bytes=32768) as running:
        assert running.lacks and (running.fds.pid_exchange == NO_FD) != features.has_locks()
        yield running


@pytest.fixture(scope="module")
def session_reader(capture: Capture) -> Reader:
    return Reader(capture)


for module in (test_records, test_exec_shapes):
    for name, value in vars(module).items():
        # Tests, and the fixtures that only they use.
        if (name.startswith("test_") or isinstance(value, type(session_reader))) and name not in globals():
            globals()[name] = value

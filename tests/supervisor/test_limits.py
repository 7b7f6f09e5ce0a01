"""Resource limits that are too low are reported before anything starts, and soft limits are raised."""

from __future__ import annotations

import resource
import subprocess
import sys

import numpy as np
import pytest

from pipeline.shm.writer.declared import LAYOUTS
from pipeline.supervisor import limits
from tests.resolver import _inside

CHECK = """
import resource, sys
from pipeline.config.loading import load, parse_option
from pipeline.errors import UnsupportedError
from pipeline.supervisor import limits
number, soft, hard = map(int, sys.argv[1:4])
resource.setrlimit(number, (soft, hard))
try:
    limits.check(load(options=dict(map(parse_option, sys.argv[4:])), environ={}), cpus=4, pid_max=32768)
except UnsupportedError as error:
    print(f"{error.feature}: {error}")
else:
    print(*resource.getrlimit(number))
"""


def check(limit: int, soft: int, hard: int, *options: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", CHECK, *map(str, (limit, soft, hard)), *options], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize(
    ("limit", "hard", "name", "needed"),
    [
        (resource.RLIMIT_NOFILE, 32, "RLIMIT_NOFILE", "1168 descriptors"),
        (resource.RLIMIT_AS, 300_000 << 10, "RLIMIT_AS", "bytes"),
        (resource.RLIMIT_FSIZE, 1 << 20, "RLIMIT_FSIZE", f"{256 << 20} bytes"),
    ],
)
@pytest.mark.programs
def test_a_too_low_hard_limit_is_named_with_the_needed_value(limit: int, hard: int, name: str, needed: str) -> None:
    said = check(limit, hard, hard)
    assert said.startswith(f"resource limits: the hard limit {name} is {hard}, but a daemon with these settings needs ")
    assert needed in said and "raise it (ulimit -" in said


@pytest.mark.programs
@pytest.mark.slow
def test_a_soft_limit_is_raised_as_far_as_needed() -> None:
    assert check(resource.RLIMIT_NOFILE, 64, 4096) == "1168 4096"
    assert check(resource.RLIMIT_NOFILE, 2000, 4096) == "2000 4096"


@pytest.mark.programs
def test_smaller_tables_need_less() -> None:
    small = ("tables.args_bytes=1048576", "tables.envs_bytes=1048576", "tables.names_bytes=1048576")
    limit = 700 << 20
    assert "needs" in check(resource.RLIMIT_AS, limit, limit)
    assert check(resource.RLIMIT_AS, limit, limit, *small) == f"{limit} {limit}"


@pytest.mark.programs
def test_other_sources_need_fewer_descriptors() -> None:
    assert check(resource.RLIMIT_NOFILE, 950, 950, "source=tracer") == "950 950"


def test_private_memory_is_that_of_the_writer_and_of_the_applier() -> None:
    digest, lineage = np.dtype(np.uint64).itemsize, np.dtype(np.uint32).itemsize
    assert LAYOUTS["ROW_STATE"].size + digest + lineage == limits._PRIVATE_ROW_BYTES
    assert LAYOUTS["FAMILY"].size + _inside.PID_STATE_BYTES == limits._PRIVATE_PID_BYTES

"""Resource limits that are too low are reported before anything starts, and soft limits are raised."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from pipeline.shm.writer.declared import LAYOUTS
from pipeline.supervisor import limits
from tests.resolver import _inside

#: Each line is a question, a list in JSON: a limit, its soft and its hard value, and options. A child answers it.
CHECK = """
import json, os, resource, sys
from pipeline.config.loading import load, parse_option
from pipeline.errors import UnsupportedError
from pipeline.supervisor import limits
for line in sys.stdin:
    if os.fork():
        assert os.wait()[1] == 0
        continue
    number, soft, hard, *options = json.loads(line)
    resource.setrlimit(number, (soft, hard))
    try:
        limits.check(load(options=dict(map(parse_option, options)), environ={}), cpus=4, pid_max=32768)
    except UnsupportedError as error:
        print(f"{error.feature}: {error}", flush=True)
    else:
        print(*resource.getrlimit(number), flush=True)
    os._exit(0)
"""

Check = Callable[..., str]


@pytest.fixture(scope="module")
def check() -> Iterator[Check]:
    """Return the result of a check in a process with the limit `(number, soft, hard)`, with these options."""
    with subprocess.Popen(
        [sys.executable, "-c", CHECK], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        questions, answers = process.stdin, process.stdout

        def ask(limit: int, soft: int, hard: int, *options: str) -> str:
            print(json.dumps([limit, soft, hard, *options]), file=questions, flush=True)
            return answers.readline().strip()

        yield ask
        questions.close()
        assert process.wait(60) == 0


@pytest.mark.parametrize(
    ("limit", "hard", "name", "needed"),
    [
        (resource.RLIMIT_NOFILE, 32, "RLIMIT_NOFILE", "1168 descriptors"),
        (resource.RLIMIT_AS, 300_000 << 10, "RLIMIT_AS", "bytes"),
        (resource.RLIMIT_FSIZE, 1 << 20, "RLIMIT_FSIZE", f"{256 << 20} bytes"),
    ],
)
def test_a_too_low_hard_limit_is_named_with_the_needed_value(
    check: Check, limit: int, hard: int, name: str, needed: str
) -> None:
    said = check(limit, hard, hard)
    assert said.startswith(f"resource limits: the hard limit {name} is {hard}, but a daemon with these settings needs ")
    assert needed in said and "raise it (ulimit -" in said


def test_a_soft_limit_is_raised_as_far_as_needed(check: Check) -> None:
    assert check(resource.RLIMIT_NOFILE, 64, 4096) == "1168 4096"
    assert check(resource.RLIMIT_NOFILE, 2000, 4096) == "2000 4096"


def test_smaller_tables_need_less(check: Check) -> None:
    small = ("tables.args_bytes=1048576", "tables.envs_bytes=1048576", "tables.names_bytes=1048576")
    limit = 700 << 20
    assert "needs" in check(resource.RLIMIT_AS, limit, limit)
    assert check(resource.RLIMIT_AS, limit, limit, *small) == f"{limit} {limit}"


def test_other_sources_need_fewer_descriptors(check: Check) -> None:
    assert check(resource.RLIMIT_NOFILE, 950, 950, "source=tracer") == "950 950"


def test_private_memory_is_that_of_the_writer_and_of_the_applier() -> None:
    digest, lineage = np.dtype(np.uint64).itemsize, np.dtype(np.uint32).itemsize
    assert LAYOUTS["ROW_STATE"].size + digest + lineage == limits._PRIVATE_ROW_BYTES
    assert LAYOUTS["FAMILY"].size + _inside.PID_STATE_BYTES == limits._PRIVATE_PID_BYTES

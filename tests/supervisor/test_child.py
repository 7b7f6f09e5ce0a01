"""A worker that cannot be started leaves nothing: no process and no descriptor."""

from __future__ import annotations

import subprocess
import sys

#: Prints how many descriptors could not be had before a start succeeded, and which were left open by a failure.
PROGRAM = """
import os, resource, sys
from pathlib import Path
from pipeline.config.schema import Config
from pipeline.supervisor.child import Child
from pipeline.worker.description import WorkerDescription

def is_open(fd):
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True

description = WorkerDescription(
    instance="test", dir="/nonexistent", role="resolver", source="ebpf", config=Config(), boot_id="00" * 16,
    capture_id=1, supervisor_tgid=os.getpid(), group_id=-1, ring_count=1,
)
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
before = [fd for fd in range(100) if is_open(fd)]
first = max(before) + 1
for free in range(100):
    resource.setrlimit(resource.RLIMIT_NOFILE, (first + free, hard))
    try:
        child = Child(description, (sys.executable, "-S", "-c", "import time; time.sleep(600)"))
    except OSError as error:
        assert [fd for fd in range(100) if is_open(fd)] == before, (free, error)
        if free:  # else it cannot be read
            assert Path(f"/proc/self/task/{os.getpid()}/children").read_text() == ""
        continue
    child.send(9)
    child.wait(60)
    child.close()
    break
assert [fd for fd in range(100) if is_open(fd)] == before
print(free)
"""


def test_a_lack_of_descriptors_leaves_nothing() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 2

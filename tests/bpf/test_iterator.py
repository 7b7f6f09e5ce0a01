"""The task iterator compared with /proc, and in a process that has only the descriptors."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.bpf import iterator, syscall
from pipeline.bpf.loader import Capture
from pipeline.records import declared
from tests.bpf.acts import waiting
from tests.bpf.ring_reader import Parts, Record
from tests.bpf.task_check import LEADERLESS, check_task
from tests.proc import live_pids, namespace
from tests.waiting import eventually

pytestmark = [pytest.mark.live, pytest.mark.usefixtures("live_kernel")]


@pytest.fixture(autouse=True)
def link(capture: Capture, missing) -> int:
    if capture.fds.iter_link < 0:
        missing("no task iterator")
    return capture.fds.iter_link


def tasks_by_tgid(link: int) -> dict[int, Record]:
    tasks = iterator.read_tasks(link)
    rows = zip(tasks.header, tasks.task, tasks.exec, tasks.paths, strict=True)
    found = {int(header["tgid"]): Record(0, header=header, parts=Parts(*rest)) for header, *rest in rows}
    assert len(found) == len(tasks)
    return found


def test_a_process_of_the_iterator_equals_proc(link: int, actions: Path) -> None:
    with waiting(actions, "wait", "x" * 100, env={"A": "b"}) as pid:
        row = tasks_by_tgid(link)[pid]
        check_task(row, pid)
        file = actions.stat()
        assert row.path == os.fsencode(actions)
        assert row.body["path_bytes"] == len(row.path)
        assert (row.body["inode"], row.task["exe_inode"]) == (file.st_ino, file.st_ino)
        assert (row.body["ctime_ns"], row.body["mode"]) == (file.st_ctime_ns, file.st_mode)
        assert row.body["args_full_bytes"] == len(Path(f"/proc/{pid}/cmdline").read_bytes())
        assert row.body["envs_full_bytes"] == len(b"A=b\0")
        assert row.header["kind"] == 0
        assert row.header["flags"] == 0


def test_every_process_of_proc_is_there(link: int) -> None:
    """Except pid 1, which some kernels hide from iterators.

    Other tests give one pid to many processes in turn. It can be free during a pass, and used before and after that.
    """

    def compare() -> None:
        before = live_pids()
        seen = set(tasks_by_tgid(link))
        after = live_pids()
        assert (before & after) - seen <= {1}
        assert {pid for pid in seen - before if pid in live_pids()} <= after

    eventually(compare)


def test_a_process_with_an_ended_leader(link: int, actions: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", LEADERLESS], stdout=subprocess.PIPE, stdin=subprocess.PIPE)
    assert child.stdout is not None
    child.stdout.readline()
    row = tasks_by_tgid(link)[child.pid]
    assert row.header["flags"] == declared.FLAG_LEADER_DEAD
    assert row.task["ns_pid"] == child.pid
    for name in ("pid", "mnt", "net", "user"):
        assert row.task[f"{name}_ns"] == namespace(os.getpid(), name), name
    assert row.path == b""
    child.communicate(timeout=60)


UNPRIVILEGED = """
import json, os, sys
from pipeline.bpf import iterator, maps
link, shared, settings, owners, pids, images, pid = map(int, sys.argv[1:])
status = open("/proc/self/status").read()
tasks = iterator.read_tasks(link)
entry = maps.PidMap(owners, pids).get(pid)
image = maps.proc_cache(images).get(int(entry["cookie"]))
print(json.dumps({
    "capabilities": status.split("CapEff:")[1].split()[0],
    "tasks": pid in tasks.header["tgid"].tolist(),
    "rings": maps.cpu_states(shared)["ring"][:2].tolist(),
    "args_bytes": int(maps.settings(settings)["args_bytes"][0]),
    "inode": int(image["inode"]),
    "entries": len(maps.PidMap(owners, pids).items()[0]) > 0,
    "modules": [name for name in ("pylibbpf", "msgspec", "pythonjsonlogger", "zmq") if name in sys.modules],
}))
"""


def test_descriptors_suffice_without_capabilities(capture: Capture, link: int) -> None:
    import json

    fds = [
        link, capture.fds.shared, capture.fds.settings, capture.fds.pid_owners, capture.fds.pid_cache,
        capture.fds.proc_cache,
    ]  # fmt: skip
    pid = os.getpid()
    # Its packages may be in a directory that only root can enter, so it starts as root and then drops all privileges.
    program = (
        "import numpy, os, pipeline.bpf.iterator, pipeline.bpf.maps, ctypes\n"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534); ctypes.CDLL(None).prctl(38, 1, 0, 0, 0)\n" + UNPRIVILEGED
    )
    result = subprocess.run(
        [sys.executable, "-c", program, *map(str, [*fds, pid])],
        pass_fds=fds, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    if syscall.needs_capability():
        # Linux 5.10 with kernel.unprivileged_bpf_disabled: there the resolver keeps CAP_BPF.
        assert result.returncode != 0 and "PermissionError" in result.stderr
        return
    assert result.returncode == 0, result.stderr
    answer = json.loads(result.stdout)
    assert int(answer["capabilities"], 16) == 0
    assert answer["tasks"] and answer["entries"]
    assert answer["rings"][0] == 0
    assert answer["args_bytes"] == 32768
    assert answer["inode"] == Path("/proc/self/exe").resolve().stat().st_ino
    assert answer["modules"] == []


def test_a_descriptor_of_something_else_is_refused(capture: Capture) -> None:
    with pytest.raises(OSError):
        iterator.read_tasks(capture.fds.shared)

"""The programs in an inner pid namespace: all numbers of all records are those of the namespace, with each tier.

The capture runs in this module as a program of its own, inside the namespace.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pipeline import proc_text
from pipeline.bpf import maps
from pipeline.bpf.iterator import read_tasks
from pipeline.bpf.loader import CAPABILITY, CREDENTIALS, Capture
from pipeline.errors import UnsupportedError
from pipeline.records import declared
from tests.actor import Actor
from tests.bpf.ring_reader import RING_BYTES, Reader, Record
from tests.bpf.tiers import ALL

pytestmark = [pytest.mark.live, pytest.mark.usefixtures("live_kernel")]

CHECKOUT = Path(__file__).parents[2]
INNER = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")


@pytest.fixture(scope="module", params=ALL)
def seen(request: pytest.FixtureRequest, live_kernel: None) -> dict[str, Any]:
    outside = subprocess.Popen(["sh", "-c", "while :; do (:); setsid true; done"], start_new_session=True)
    try:
        done = subprocess.run(
            [*INNER, sys.executable, "-P", "-m", "tests.bpf.test_scope", request.param],
            env=dict(os.environ, PYTHONPATH=str(CHECKOUT)), capture_output=True, text=True, check=False,
        )  # fmt: skip
    finally:
        os.killpg(outside.pid, 9)
        outside.wait()
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_only_processes_inside_are_recorded_by_their_numbers_there(seen: dict[str, Any]) -> None:
    """A process outside has none of these numbers, and would have other names."""
    assert seen["is_on"]
    assert {record["tgid"] for record in seen["records"]} <= set(range(1, seen["last_pid"] + 1))
    for record in seen["records"]:
        assert 0 <= record["ppid"] <= seen["last_pid"] and 0 < record["tid"] <= seen["last_pid"]
        assert record["sid"] <= seen["last_pid"] and record["pgid"] <= seen["last_pid"]
    assert set(seen["map"]) <= set(range(1, seen["last_pid"] + 1)) and seen["actor"] in seen["map"]
    assert [pid for pid, _ in seen["tasks"]] == [1, seen["actor"]]
    assert dict(map(tuple, seen["tasks"])) == {1: 0, seen["actor"]: 1}


def test_a_life_inside(seen: dict[str, Any]) -> None:
    actor, init = seen["actor"], 1
    of_actor = [r for r in seen["records"] if r["tgid"] == actor and r["kind"] != declared.KIND_CAPS]
    kinds = [record["kind"] for record in of_actor]
    assert kinds[:2] == [declared.KIND_FORK, declared.KIND_EXEC] and kinds[-1] == declared.KIND_EXIT
    fork, exec_ = of_actor[:2]
    assert (fork["ppid"], fork["creator_tgid"], fork["creator_tid"]) == (init, init, init)
    assert (exec_["exec_tid"], exec_["prev_tid"]) == (actor, actor)
    assert {record["uid"] for record in of_actor if record["kind"] == declared.KIND_CRED} == {1234}
    # The actor was in the session of a process outside, which has no number inside, and began its own.
    assert fork["sid"] == 0 and fork["pgid"] == 0
    (change,) = [record for record in of_actor if record["kind"] == declared.KIND_SID]
    assert (change["sid"], change["pgid"]) == (actor, actor)


def test_an_orphan_inside_names_the_reaper(seen: dict[str, Any]) -> None:
    (middle, orphan) = seen["orphan"]
    ends = {record["tgid"]: record for record in seen["records"] if record["kind"] == declared.KIND_EXIT}
    assert ends[middle]["reaper_tgid"] == 1
    (fork,) = [r for r in seen["records"] if (r["tgid"], r["kind"]) == (orphan, declared.KIND_FORK)]
    assert (fork["ppid"], fork["creator_tgid"]) == (middle, middle)
    assert ends[orphan]["ppid"] == 1


def test_a_thread_that_executes_has_no_number_any_more(seen: dict[str, Any]) -> None:
    (first, second) = [r for r in seen["records"] if (r["tgid"], r["kind"]) == (seen["threaded"], declared.KIND_EXEC)]
    assert first["exec_tid"] == seen["threaded"] and second["exec_tid"] == second["prev_tid"] == 0
    assert second["tid"] == seen["threaded"]


def test_capabilities_inside(seen: dict[str, Any]) -> None:
    if not seen["has_capability"]:
        pytest.skip("this kernel does not report capability checks")
    assert [r for r in seen["records"] if (r["tgid"], r["kind"]) == (seen["actor"], declared.KIND_CAPS)]


def test_another_namespace_than_the_own_is_refused(live_kernel: None) -> None:
    with pytest.raises(UnsupportedError, match="not in 1"):
        Capture(ring_bytes=4096, pid_ns=1)


# -- inside the namespace ----------------------------------------------------------------------------------------------

_ORPHAN = """
r, w = os.pipe()
if os.fork() == 0:
    middle = os.getpid()
    if os.fork() == 0:
        while os.getppid() == middle:
            time.sleep(0.001)
        os.write(w, f"{middle} {os.getpid()}".encode())
        os._exit(0)
    os._exit(0)
os.wait()
orphan = os.read(r, 100).decode()
open("/dev/shm/procline-test-%d" % os.getpid(), "w").write(orphan)
"""


def _numbers(record: Record) -> dict[str, int]:
    found = {name: int(record.header[name]) for name in ("tgid", "tid", "ppid", "kind")}
    for part, names in (
        (record.task, ("sid", "pgid", "uid")),
        (record.body, ("creator_tgid", "creator_tid", "exec_tid", "prev_tid", "reaper_tgid")),
    ):
        if part is not None:
            found |= {name: int(part[name]) for name in names if name in (part.dtype.names or ())}
    return found


def main(credentials: str) -> None:
    """Capture the lives of some processes and print what was recorded."""
    with Capture(
        ring_bytes=RING_BYTES, credentials=credentials, capabilities_usage="on", pid_ns=proc_text.own_pid_ns()
    ) as capture:
        reader = Reader(capture)
        with Actor() as actor:
            actor.do(_ORPHAN)
            notes = Path(f"/dev/shm/procline-test-{actor.pid}")
            orphan = [int(number) for number in notes.read_text().split()]
            notes.unlink()
            os.waitpid(orphan[1], 0)
            actor.do("libc.setsid()")
            actor.do("libc.setresuid(1234, 1234, 1234)")
            tasks = read_tasks(capture.fds.iter_link)
            program = "import os, threading; threading.Thread(target=os.execv, args=('/bin/true', ['true'])).start()"
            threaded = subprocess.Popen([sys.executable, "-c", program])
            assert threaded.wait() == 0
            pids, _ = maps.PidMap(capture.fds.pid_owners, capture.fds.pid_cache).items()
            last = subprocess.Popen(["true"])
            last.wait()
        reader.until(lambda: [r for r in reader.of(actor.pid) if r.kind == declared.KIND_EXIT])
        on = {tier.name for tier in capture.tiers if tier.is_on}
        print(json.dumps({
            "records": [_numbers(r) for r in sorted(reader.records, key=lambda r: int(r.header["time_boot_ns"]))],
            "map": pids.tolist(), "last_pid": last.pid + 1,
            "tasks": [[int(header["tgid"]), int(header["ppid"])] for header in tasks.header],
            "actor": actor.pid, "orphan": orphan, "threaded": threaded.pid,
            "is_on": CREDENTIALS[credentials].name in on, "has_capability": CAPABILITY.name in on,
        }))  # fmt: skip


if __name__ == "__main__":
    main(sys.argv[1])

"""A daemon in an inner pid namespace records the processes of that namespace, by their numbers there, and no others."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pipeline import ProcessTable
from tests.live.harness import CHECKOUT, Daemon, resolve, run_workload
from tests.live.namespaced_daemon import INIT, NAMESPACE, Inside, inside
from tests.proc import namespace
from tests.waiting import eventually

pytestmark = [pytest.mark.live, pytest.mark.usefixtures("live_kernel")]


@pytest.fixture
def outsider(workload: Path, tmp_path: Path) -> Path:
    """The workload under a name that no process inside has."""
    return Path(shutil.copy(workload, tmp_path / "outsider"))


@pytest.fixture(scope="module")
def there(live_kernel: None, workload: Path) -> Iterator[Inside]:
    """A daemon in a namespace, for the tests that leave it as it is."""
    with inside(workload) as running:
        yield running


@contextmanager
def storms_outside(outsider: Path, depth: int = 1) -> Iterator[None]:
    """Run storms on the host and in another namespace of the same level, which has the same numbers, meanwhile."""
    # With pauses: otherwise three storms share the CPUs with everything else that is tested.
    storm = ("sh", "-c", 'while "$0" storm 60 20; do sleep 0.2; done', str(outsider))
    running = [
        subprocess.Popen([*prefix, *storm], stdout=subprocess.DEVNULL, start_new_session=True)
        for prefix in ((), NAMESPACE * depth)
    ]
    try:
        yield
        assert [one.poll() for one in running] == [None, None]
    finally:
        for one in running:
            os.killpg(one.pid, 9)
            one.wait()


@pytest.mark.parametrize("depth", [1, 2])
def test_storms_inside_and_outside(workload: Path, outsider: Path, depth: int) -> None:
    """Every process inside is counted once, none outside; the table agrees with the inner /proc."""
    with inside(workload, depth) as there:
        assert there.facts["level"] == 1  # its /proc shows nothing above
        assert there.facts["pid_ns"] == there.facts["own_pid_ns"] != namespace("self", "pid")
        with storms_outside(outsider, depth):
            made = there.ask("storm", 700, 170, 1)
            assert made["fork"] > 800 and made["exec"] > 170
            (orphan,) = there.ask("hold", str(workload), "doublefork", "60000")
            assert orphan[0] in {"orphan", "middle"}
            # The same one namespace below, where another init adopts the orphan; and a child without its own init.
            there.ask("hold", *NAMESPACE, *INIT, str(workload), "doublefork", "60000")
            there.ask("hold", *NAMESPACE, *NAMESPACE, *INIT, str(workload), "nest", "3", "60000")
            there.ask("hold", str(workload), "pidns", "60000")
            assert there.ask("agree") >= 15
            made = there.ask("storm", 300, 70, 0)
            assert there.ask("agree") >= 15
        assert there.ask("mentions", "outsider") == []
        pids = there.ask("pids")
        # A host's pid would be far above the numbers that the young namespace has given out.
        assert pids[0] == 0 and 1 in pids and pids[-1] <= there.ask("last_pid")
        assert there.ask("release") == 4
        assert there.ask("agree") >= 5


def test_a_daemon_that_reads_proc_only(workload: Path, outsider: Path) -> None:
    """Without the task iterator the kernel's maps are filled from /proc; both have the same numbers."""
    with inside(workload, 1, "--set", "capture.task_iterator=off") as there:
        with storms_outside(outsider):
            there.ask("hold", *NAMESPACE, *INIT, str(workload), "doublefork", "60000")
            there.ask("storm", 300, 70, 0)
            assert there.ask("agree") >= 8
        assert there.ask("mentions", "outsider") == []


def test_a_killed_resolver_is_replaced(workload: Path, outsider: Path) -> None:
    with inside(workload) as there:
        there.ask("hold", *NAMESPACE, *INIT, str(workload), "doublefork", "60000")
        with storms_outside(outsider):
            assert there.ask("kill", "resolver") == 1
            there.ask("storm", 300, 70, 0)
            assert there.ask("agree") >= 8
        assert there.ask("mentions", "outsider") == []


def test_a_process_that_enters_from_outside_has_no_parent(there: Inside) -> None:
    """Its parent has no number inside: getppid() is 0 there. A parent is not invented."""
    enter = ("nsenter", "--target", str(there.init), "--pid", "--mount")
    commands = [
        # One executes a program, the other one only forks: then no event has its path.
        [*enter, "bash", "-c", "exec -a entered sleep 60"],
        [sys.executable, "-c", "import os, sys, time\n"
         f"os.setns(os.open('/proc/{there.init}/ns/pid', os.O_RDONLY), os.CLONE_NEWPID)\n"
         "if os.fork() == 0:\n open('/proc/self/comm', 'w').write('forked')\n time.sleep(60)\nos.wait()"],
    ]  # fmt: skip
    entered = [subprocess.Popen(command, start_new_session=True) for command in commands]
    try:
        for comm, name in (("sleep", "sleep"), ("forked", "python")):
            entry = there.ask("entry", comm)
            assert entry["ppid"] == 0 and entry["parent_entity_id"] is None, dict(entry)
            eventually(lambda comm=comm: bool(there.ask("entry", comm)["path"]))
            assert name in Path(there.ask("entry", comm)["path"]).name
            assert entry["creator_pid"] is None
        there.ask("agree")
    finally:
        for process in entered:
            os.killpg(process.pid, 9)
            process.wait()
    there.ask("agree")


def test_pid_2_is_an_ordinary_process(there: Inside, workload: Path) -> None:
    """On the host it is the parent of the kernel's threads, which are left out."""
    # The first child of the init is the helper; its children have ppid 2.
    assert there.facts["init"] == "bash"
    (line,) = there.ask("hold", str(workload), "nest", "0", "60000")
    assert line[0] == "leaf" and line[2] == "2"
    entry = there.ask("entry", "workload")
    assert entry["pid"] == int(line[1]) and entry["ppid"] == 2 and not entry.get("is_kworker")
    assert there.ask("release") == 1


def test_a_reader_outside_is_warned(there: Inside) -> None:
    """The table names its pid namespace. A reader elsewhere gets the answer with a warning that pids differ."""
    directory = Path(there.facts["directory"])
    with ProcessTable.attach(path=directory) as table:
        assert not table.view.pids_are_ours and table.view.pid_ns == there.facts["pid_ns"]
        init = table.resolve(1)
        assert init.comm == "bash" and init.ppid == 0
        assert table.resolve(1, pid_ns=there.facts["pid_ns"]).entity_id == init.entity_id
    done = subprocess.run(
        [sys.executable, "-m", "pipeline.cli.main", "resolve", "1", "--name", directory.name], text=True,
        env=dict(os.environ, PROCLINE_RUNTIME_DIR=str(directory.parent), PYTHONPATH=str(CHECKOUT)),
        capture_output=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0 and "another pid namespace" in done.stderr


def test_the_scope_of_the_initial_namespace_is_the_host(workload: Path) -> None:
    with Daemon("", "--scope", "namespace") as daemon, daemon.attach() as table:
        ((_, orphan, creator), *_) = [
            line for line in run_workload(workload, "doublefork", "1500") if line[0] == "orphan"
        ]
        entry = resolve(table, orphan)
        assert entry.creator_pid == creator
        assert resolve(table, os.getpid()).ppid == os.getppid()


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("proc-connector", "the kernel's process events exist only in the initial pid namespace"),
        ("tracer", "--scope namespace cannot limit it"),
    ],
)
def test_a_source_that_cannot_be_limited_is_refused(tmp_path: Path, source: str, reason: str) -> None:
    command = ("pipeline.cli.main", "run", "--scope", "namespace", "--source", source)
    done = subprocess.run(
        [*NAMESPACE, sys.executable, "-P", "-m", *command],
        env=dict(os.environ, PYTHONPATH=str(CHECKOUT), PROCLINE_RUNTIME_DIR=str(tmp_path)),
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 2 and reason in done.stderr


def test_the_daemon_can_be_the_init_of_its_namespace(tmp_path: Path) -> None:
    daemon = Daemon("", "--scope", "namespace")
    daemon.wrapper = NAMESPACE
    try:
        daemon.start()
        with daemon.attach() as table:
            assert {entry.pid for entry in table.walk() if entry.exit_time_ns is None} >= {1}
            assert table.resolve(1).ppid == 0
        began = time.monotonic()
        inner = Path(f"/proc/{daemon.process.pid}/task/{daemon.process.pid}/children").read_text().split()[0]
        os.kill(int(inner), 15)
        assert daemon.process.wait(60) == 0 and time.monotonic() - began < 15
    finally:
        daemon.close()

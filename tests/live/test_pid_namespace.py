"""Outside the initial pid namespace, or with a /proc of another one, a capture fails before it creates an instance."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.live.harness import CHECKOUT, Daemon
from tests.waiting import eventually

pytestmark = [pytest.mark.live, pytest.mark.usefixtures("live_kernel")]

INNER = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")
INNER_WITH_OUTER_PROC = INNER[:-1]
PROCLINE = (sys.executable, "-P", "-m", "pipeline.cli.main")


def run(*command: str) -> subprocess.CompletedProcess[str]:
    """Run a command with an empty runtime directory, in which nothing may remain but the note for `procline wait`."""
    with tempfile.TemporaryDirectory(prefix="procline-test-", dir="/dev/shm") as parent:
        root = Path(parent, "root")
        environment = dict(os.environ, PROCLINE_RUNTIME_DIR=str(root), PYTHONPATH=str(CHECKOUT))
        environment.pop("PROCLINE_CONFIG", None)
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=90, stdin=subprocess.DEVNULL, check=False
        )
        assert {path.name for path in root.rglob("*")} <= {".default~failed"}
    return done


def assert_refused(done: subprocess.CompletedProcess[str], reason: str) -> None:
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert reason in line


@contextmanager
def proc_of_an_inner_namespace() -> Iterator[tuple[str, ...]]:
    """Return the prefix that runs a command in the initial pid namespace with the /proc of another one."""
    outer = subprocess.Popen([*INNER, "sleep", "60"])
    try:
        children = Path(f"/proc/{outer.pid}/task/{outer.pid}/children")
        inner = eventually(lambda: children.read_text().split())[0]
        eventually(lambda: Path(f"/proc/{inner}/comm").read_text() == "sleep\n")
        yield ("nsenter", "--mount", "--target", inner, "--")
    finally:
        outer.send_signal(signal.SIGKILL)
        outer.wait(60)


@pytest.mark.parametrize("source", ["ebpf", "proc-connector"])
@pytest.mark.parametrize("inside", [INNER, INNER_WITH_OUTER_PROC], ids=["own proc", "outer proc"])
def test_run_is_refused_in_an_inner_pid_namespace(inside: tuple[str, ...], source: str) -> None:
    assert_refused(run(*inside, *PROCLINE, "run", "--source", source), "this is not the initial pid namespace")


@pytest.mark.parametrize("source", ["ebpf", "proc-connector"])
def test_record_is_refused_in_an_inner_pid_namespace(tmp_path: Path, source: str) -> None:
    file = tmp_path / "x.rec"
    done = run(*INNER, *PROCLINE, "record", str(file), "--source", source, "--seconds", "1")
    assert_refused(done, "this is not the initial pid namespace")
    assert not file.exists()


def test_a_proc_of_another_namespace_is_refused_and_reported_by_doctor() -> None:
    with proc_of_an_inner_namespace() as inside:
        assert_refused(run(*inside, *PROCLINE, "run"), "/proc was mounted for another pid namespace")
        done = run(*inside, *PROCLINE, "doctor")
        assert done.returncode == 1 and "missing  pid namespace" in done.stdout, done.stderr


def test_doctor_finds_an_inner_pid_namespace() -> None:
    done = run(*INNER, *PROCLINE, "doctor")
    assert done.returncode == 1 and "missing  pid namespace" in done.stdout, done.stderr


def test_the_tracer_source_runs_in_an_inner_pid_namespace() -> None:
    """It has no events of the kernel, so all pids are those of its own namespace."""
    daemon = Daemon("", "--source", "tracer")
    daemon.wrapper = INNER
    try:
        daemon.start()
        assert daemon.stat()["state"] == "ready"
        # unshare ignores SIGTERM, so it is for its child.
        assert daemon.process is not None
        outer = daemon.process.pid
        os.kill(int(Path(f"/proc/{outer}/task/{outer}/children").read_text()), signal.SIGTERM)
        assert daemon.process.wait(60) == 0
    finally:
        daemon.close()

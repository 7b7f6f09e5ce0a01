"""The commands of docs/operations.md, "In a container", run as they stand there, in podman.

The image is the root directory of this machine with a writable layer, so nothing is downloaded. Skipped where podman or
its runtime cannot start any container.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pipeline import ProcessTable
from tests.docs.blocks import run_by
from tests.live.harness import CHECKOUT, Daemon, resolve
from tests.live.podman import ROOTFS, podman, runtime
from tests.proc import namespace
from tests.waiting import eventually

pytestmark = [pytest.mark.live, pytest.mark.usefixtures("live_kernel")]

#: The commands of the documents.
BLOCKS = run_by("tests/live/test_podman.py")
PROCLINE = (sys.executable, "-P", "-m", "pipeline.cli.main")


def documented(name: str) -> list[str]:
    """Return the documented command whose container has this name."""
    commands = [shlex.split(each.script.replace("\\\n", " ")) for each in BLOCKS if each.page == "docs/operations.md"]
    (found,) = [command for command in commands if command[command.index("--name") + 1] == name]
    return found


@contextmanager
def container(name: str, *options: str) -> Iterator[tuple[Path, str]]:
    """Run the documented command; yield the instance's directory on the host and the container's name."""
    command = documented(name)
    own_name = f"{name}-test-{os.getpid()}"
    with tempfile.TemporaryDirectory(prefix="procline-test-", dir="/dev/shm") as directory:
        Path(directory).chmod(0o755)
        command[command.index("--name") + 1] = own_name
        command[command.index("--volume=/run/procline:/run/procline")] = f"--volume={directory}:/run/procline"
        image = command.index("IMAGE")
        assert command[image + 1] == "procline"
        places = {str(CHECKOUT), sys.prefix, sys.base_prefix} - {"/usr"}
        command[image : image + 2] = [
            f"--env=PYTHONPATH={CHECKOUT}", *(f"--volume={place}:{place}:ro" for place in sorted(places)),
            *options, *ROOTFS, *PROCLINE,
        ]  # fmt: skip
        log = Path(directory, "log")
        with log.open("wb") as file:
            running = subprocess.Popen(
                [command[0], *runtime(), *command[1:]], stdin=subprocess.DEVNULL, stdout=file, stderr=file,
                env=dict(os.environ, PODMAN_IGNORE_CGROUPSV1_WARNING="1"),
            )  # fmt: skip
        try:
            instance = command[command.index("run", image) :]
            one = instance[instance.index("--name") + 1] if "--name" in instance else "default"
            done = subprocess.run(
                [*PROCLINE, "wait", "--name", one, "--timeout", "30"], capture_output=True, text=True, check=False,
                env=dict(os.environ, PROCLINE_RUNTIME_DIR=directory, PYTHONPATH=str(CHECKOUT)),
            )  # fmt: skip
            assert done.returncode == 0, f"{done.stderr}\n{log.read_text()}"
            yield Path(directory, one), own_name
            assert podman("stop", "--time", "20", own_name).returncode == 0
            assert running.wait(60) == 0, log.read_text()
        finally:
            podman("rm", "--force", "--time", "1", own_name)
            running.wait(60)


def test_the_processes_of_the_host() -> None:
    with container("procline") as (directory, _), ProcessTable.attach(path=directory) as table:
        assert table.view.pids_are_ours
        child = subprocess.Popen(["sleep", "60"])
        try:
            entry = resolve(table, child.pid)
            assert eventually(lambda: resolve(table, child.pid).argv == ["sleep", "60"])
            assert (entry.ppid, resolve(table, os.getpid()).ppid) == (os.getpid(), os.getppid())
            assert table.resolve(1).ppid == 0 and entry.pid_ns == namespace("self", "pid")
        finally:
            child.kill()
            child.wait()


def test_the_processes_of_the_container_only() -> None:
    with container("procline-inside") as (directory, name), ProcessTable.attach(path=directory) as table:
        outside = subprocess.Popen(["sleep", "61"])
        try:
            assert not table.view.pids_are_ours
            assert podman("exec", "--detach", name, "sleep", "62").returncode == 0

            def sleeps() -> list[list[str]]:
                return [entry.argv for entry in table.walk() if entry.comm == "sleep"]

            eventually(lambda: sleeps() == [["sleep", "62"]])
            daemon = table.resolve(1)
            assert daemon.pid_ns == table.view.pid_ns and daemon.ppid == 0 and "--scope" in daemon.argv
            (entry,) = [entry for entry in table.walk() if entry.comm == "sleep"]
            assert entry.ppid == 0 and entry.ns_pid == entry.pid
            shown = podman("exec", name, "cat", f"/proc/{entry.pid}/cmdline").stdout
            assert shown == "sleep\x0062\x00"
        finally:
            outside.kill()
            outside.wait()


def test_names_and_images_in_lists() -> None:
    """The commands of docs/guides/containers.md find a container by its name.

    podman's files have no labels, and there is no pod here: tests/host has the files of other runtimes.
    """
    (block,) = (each for each in BLOCKS if each.page == "docs/guides/containers.md")
    columns, by_name, by_pod = block.script.splitlines()
    name = f"web-{os.getpid()}"
    assert "container_name == 'web'" in by_name and "container_labels.tier ~ 'front'" in by_name
    options = (*runtime(), "run", "--detach", "--rm", "--network=none", "--name", name)
    with Daemon() as daemon:
        environment = dict(daemon.environment, PROCLINE_INSTANCE=daemon.name, COLUMNS="200")
        environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"

        def run(command: str) -> tuple[int, str]:
            done = subprocess.run(["sh", "-c", command], env=environment, capture_output=True, text=True, timeout=60)
            assert done.stderr == "" or done.returncode == 1, done.stderr
            return done.returncode, done.stdout

        started = podman(*options, *ROOTFS, "sleep", "7391")
        assert started.returncode == 0, started.stderr
        try:
            own = by_name.replace("'web'", f"'{name}'")
            assert eventually(lambda: "sleep 7391" in run(own)[1], 30)
            # Another container may have this name here, but none of this test.
            assert run(by_name)[0] in (0, 1) and "sleep 7391" not in run(by_name)[1]
            code, shown = run(columns)
            (line,) = (each for each in shown.splitlines() if each.endswith("sleep 7391"))
            assert code == 0 and name in line
            assert run(by_pod)[0] in (0, 1) and "sleep 7391" not in run(by_pod)[1]
        finally:
            podman("rm", "--force", "--time", "1", name)

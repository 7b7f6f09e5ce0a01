"""Facts that the resolver reads a little after the event: details of containers, and the files of scripts."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import NoReturn

import pytest

from pipeline import Subscriber
from tests.hierarchy import cgroup_v2_root, remove_cgroups
from tests.live.harness import Daemon, resolve
from tests.waiting import eventually

pytestmark = [pytest.mark.live, pytest.mark.usefixtures("live_kernel")]

CGROUPS = cgroup_v2_root()
#: Where containerd keeps the bundles of its containers, by namespace.
BUNDLES = Path("/run/containerd/io.containerd.runtime.v2.task")


@pytest.fixture(scope="module")
def daemon(live_kernel: None) -> Iterator[Daemon]:
    with Daemon("[contexts]\nscript_files = true\n", name="later") as one:
        yield one


@contextmanager
def bundle(container_id: str) -> Iterator[Path]:
    """The configuration of a container as containerd writes it; nothing of it is left behind."""
    directory = BUNDLES / f"procline-test-{os.getpid()}" / container_id
    above = [each for each in (directory, *directory.parents) if not each.exists()]
    directory.mkdir(parents=True)
    notes = {"io.kubernetes.cri.container-name": "web", "io.kubernetes.cri.image-name": "nginx:1.27", "tier": "front"}
    (directory / "config.json").write_text(json.dumps({"annotations": notes}))
    try:
        yield directory / "config.json"
    finally:
        (directory / "config.json").unlink()
        for each in above:
            with suppress(OSError):  # another test has files there
                each.rmdir()


@contextmanager
def cgroup(path: str) -> Iterator[Path]:
    """A cgroup below the v2 root, which ends with the processes in it."""
    assert CGROUPS is not None
    directory = CGROUPS / path
    directory.mkdir(parents=True)
    try:
        yield directory
    finally:
        remove_cgroups(CGROUPS / path.partition("/")[0], CGROUPS)


def test_entries_and_events_have_the_details_of_a_container(daemon: Daemon, missing: Callable[[str], NoReturn]) -> None:
    if CGROUPS is None:
        missing("no cgroup v2 hierarchy is mounted")
    container_id = secrets.token_hex(32)
    roots = f"procline-test-{os.getpid()}.slice/cri-containerd-{container_id}.scope"
    claimed = f"procline-test-{os.getpid()}.service/docker/{container_id}"
    expected = {
        "name": "web", "image": "nginx:1.27", "pod": None, "namespace": None,
        "labels": {
            "io.kubernetes.cri.container-name": "web", "io.kubernetes.cri.image-name": "nginx:1.27", "tier": "front"
        },
    }  # fmt: skip
    with ExitStack() as stack:
        stack.enter_context(bundle(container_id))
        table = stack.enter_context(daemon.attach())
        subscriber = stack.enter_context(Subscriber(daemon.name, ["proc.exit"], path=daemon.directory, idle_timeout=30))
        children = []
        for path in (roots, claimed):
            group = stack.enter_context(cgroup(path))
            child = subprocess.Popen(["/bin/sleep", "600"])
            stack.callback(child.wait)
            stack.callback(child.kill)
            (group / "cgroup.procs").write_text(str(child.pid))
            children.append(child)
        ours, theirs = children
        eventually(lambda: resolve(table, theirs.pid).container_id == container_id, limit_s=30)
        eventually(lambda: resolve(table, ours.pid).container_details == expected, limit_s=30)
        assert resolve(table, theirs.pid).container_details is None, "a service names the cgroups below its own"
        for child in children:
            child.kill()
        seen = {}
        for event in subscriber:
            seen[event["pid"]] = event
            if {child.pid for child in children} <= set(seen):
                break
        assert seen[ours.pid]["container_details"] == expected
        assert seen[theirs.pid]["container_id"] == container_id and seen[theirs.pid]["container_details"] is None
        shown = daemon.cli("ps", "--exited", "-o", "pid,container_name", "--where", "container_image == 'nginx:1.27'")
        assert str(ours.pid) in shown.stdout and "web" in shown.stdout and str(theirs.pid) not in shown.stdout
        assert ", image nginx:1.27" in daemon.cli("resolve", str(ours.pid)).stdout


def test_the_file_of_a_script_is_in_its_entry_and_its_exit(daemon: Daemon, tmp_path: Path) -> None:
    script = tmp_path / "run.sh"
    script.write_text("#!/bin/sh\nread nothing\n")
    script.chmod(0o755)
    with (
        daemon.attach() as table,
        Subscriber(daemon.name, ["proc.exit"], path=daemon.directory, idle_timeout=30) as subscriber,
    ):
        child = subprocess.Popen(["./run.sh"], stdin=subprocess.PIPE, cwd=tmp_path)
        eventually(lambda: "script_file" in (resolve(table, child.pid).extra or {}), limit_s=30)
        entry = resolve(table, child.pid)
        found, status = entry.extra["script_file"], script.stat()
        assert (found["inode"], found["mode"], found["uid"]) == (status.st_ino, status.st_mode, status.st_uid)
        assert Path(found["path"]).samefile(script) and entry.inode != status.st_ino
        assert found["looked_at_ns"] > entry.exec_time_ns
        child.communicate(b"\n")
        event = next(event for event in subscriber if event.get("pid") == child.pid)
        assert event["extra"]["script_file"] == found
    assert str(status.st_ino) in daemon.cli("resolve", str(child.pid), "-v").stdout

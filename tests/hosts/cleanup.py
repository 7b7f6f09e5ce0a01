"""A run leaves no process, mount, network, cgroup or file, however it ends.

Boots hosts several times, so it is not collected by itself: .venv/bin/python -m pytest tests/hosts/cleanup.py
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

RUN = Path(__file__).with_name("run")
CACHE = Path("/var/cache/procline-fresh")
#: Places where systemd-nspawn, ip, ssh and Ansible keep files.
PLACES = ("/run", "/var/lib/machines", "/var/lib/systemd", "~/.ssh", "~/.ansible", "/etc/netns")
TIMEOUT_S = 300

pytestmark = [
    pytest.mark.timeout(3 * TIMEOUT_S),
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can make hosts"),
]


def machine() -> dict[str, list[str]]:
    """Return what a run could leave on this machine."""
    files = [str(path) for place in PLACES for path in sorted(Path(place).expanduser().rglob("*"))]
    return {
        "networks": subprocess.run(["ip", "netns"], capture_output=True, text=True).stdout.splitlines(),
        "devices": sorted(path.name for path in Path("/sys/class/net").iterdir()),
        "mounts": sorted(line.split(" ", 2)[2] for line in Path("/proc/self/mountinfo").read_text().splitlines()),
        "files": files,
    }


def processes(run: str) -> list[str]:
    """Return the commands of all processes of a run, those of its hosts too."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                if f"/procline-hosts-{run}" in (entry / "cgroup").read_text():
                    found.append((entry / "cmdline").read_bytes().replace(b"\0", b" ").decode())
            except OSError:
                continue
    return found


def left(run: str) -> list[str]:
    """Return what there is of a run."""
    cgroups = [str(path) for path in Path("/sys/fs/cgroup").glob(f"**/procline-hosts-{run}")]
    return [*processes(run), *cgroups, *map(str, CACHE.glob(f"run-hosts-{run}"))]


class Run:
    """A run that executes a command, which says when it has begun."""

    def __init__(self, command: str) -> None:
        script = f"echo run $(basename $PROCLINE_HOSTS_WORK) begins; {command}"
        self.process = subprocess.Popen(
            [RUN, "--exec", script], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        assert self.process.stdout is not None
        self.output = ""
        for line in self.process.stdout:
            self.output += line
            if found := re.match(r"run run-hosts-(\S+) begins", line):
                self.name = found[1]
                break
        else:
            pytest.fail(self.output)

    def end(self) -> int:
        """Wait for its end; return its exit code."""
        self.output += self.process.communicate(timeout=TIMEOUT_S)[0]
        return self.process.returncode


@pytest.fixture
def unchanged() -> Iterator[None]:
    subprocess.run([RUN, "--exec", "true"], check=True, timeout=3 * TIMEOUT_S)  # the cache exists
    before = machine()
    yield
    assert machine() == before


@pytest.mark.parametrize("code", [0, 3])
@pytest.mark.usefixtures("unchanged")
def test_nothing_is_left_after_an_end(code: int) -> None:
    """Also not a process that left the session of the command."""
    run = Run(f"setsid sleep 4714 > /dev/null 2>&1 & sleep 1; exit {code}")
    seen = processes(run.name)
    assert any("sleep 4714" in each for each in seen), seen
    assert len([each for each in seen if each.endswith("/systemd ")]) >= 2, "both hosts are found by their cgroup"
    assert run.end() == code
    assert left(run.name) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.usefixtures("unchanged")
def test_nothing_is_left_after_a_signal(number: signal.Signals) -> None:
    """The terminal sends the signal of Ctrl-C to the whole process group."""
    run = Run("trap '' TERM INT; sleep 4715; sleep 4716")
    os.killpg(run.process.pid, number)
    assert run.end() == 99
    assert left(run.name) == []


@pytest.mark.usefixtures("unchanged")
def test_nothing_is_left_after_a_host_has_died() -> None:
    run = Run("kill -KILL $(pidof systemd-nspawn); sleep 1; exit 4")
    assert run.end() == 4
    assert left(run.name) == []


@pytest.mark.usefixtures("unchanged")
def test_of_a_killed_run_only_what_the_next_one_removes_is_left() -> None:
    run = Run("sleep 4717")
    run.process.kill()
    run.process.wait()
    deadline = time.monotonic() + 30
    while processes(run.name):
        assert time.monotonic() < deadline, processes(run.name)
        time.sleep(0.1)
    subprocess.run([RUN, "--exec", "true"], check=True, timeout=TIMEOUT_S)
    assert left(run.name) == []


@pytest.mark.usefixtures("unchanged")
def test_runs_do_not_disturb_each_other() -> None:
    command = "sleep {}; ssh -F $PROCLINE_HOSTS_SSH_CONFIG host2 cat /etc/machine-id"
    first, second = Run(command.format(10)), Run(command.format(1))
    assert (first.end(), second.end()) == (0, 0)
    identities = [re.findall(r"^[0-9a-f]{32}$", run.output, re.MULTILINE) for run in (first, second)]
    assert [len(each) for each in identities] == [1, 1] and identities[0] != identities[1]
    assert left(first.name) == left(second.name) == []

"""The unit under a real systemd: privileges, readers, restart, watchdog, journal, and doctor's report of a failure."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import pytest

from tests.packaging.namespaces import remove_cgroup, require_systemd
from tests.proc import status
from tests.waiting import until

pytestmark = [pytest.mark.live, pytest.mark.slow, pytest.mark.usefixtures("live_kernel")]

ROOT = Path(__file__).resolve().parents[2]
PACKAGING = ROOT / "packaging"
UNIT = "procline.service"
MANAGER = Path(__file__).with_name("manager.sh")
TIMEOUT_S = 120
CAPABILITIES = 1 << 39 | 1 << 38 | 1 << 19  # CAP_BPF, CAP_PERFMON, CAP_SYS_PTRACE

#: /opt/procline as the package has it, but with the modules of this checkout.
COMMAND = """#!/bin/sh
PYTHONPATH=/opt/procline/checkout exec /opt/procline/checkout/.venv/bin/python -P -m pipeline.cli.main "$@"
"""

#: Options that need a mount namespace. A user's systemd would also make a user namespace for them, in which no
#: capability for BPF is worth anything. INSTALL does what they do for all processes of the test's own namespace.
MOUNTED = (
    "ProtectSystem", "ProtectHome", "PrivateTmp", "PrivateDevices", "PrivateIPC", "ProtectClock",
    "ProtectControlGroups", "ProtectHostname", "ProtectKernelLogs", "ProtectKernelModules", "ProtectKernelTunables",
)  # fmt: skip

#: ExecStartPre: a user's systemd does not give RuntimeDirectory= to User=, as pid 1 does.
DROP_IN = "\n".join(
    ["[Service]", *(f"{name}=no" for name in MOUNTED),
     "ExecStartPre=+/usr/bin/systemd-tmpfiles --create /opt/procline/checkout/packaging/tmpfiles.d/procline.conf", ""]
)  # fmt: skip

INSTALL = rf"""set -e
mount -t tmpfs -o mode=755 tmpfs /opt
mkdir -p /opt/procline/checkout /opt/procline/bin /etc/procline /run/systemd/user/{UNIT}.d
mount --bind {ROOT} /opt/procline/checkout
cp "$1/command" /opt/procline/bin/procline
chmod 755 /opt/procline/bin/procline
cd /opt/procline/checkout/packaging
systemd-sysusers sysusers.d/procline.conf
systemd-tmpfiles --create tmpfiles.d/procline.conf
cp systemd/{UNIT} /run/systemd/user/
cp "$1/drop-in" /run/systemd/user/{UNIT}.d/namespace.conf
printf '#!/bin/sh\nexec /usr/bin/systemctl --user "$@"\n' > /run/systemctl
chmod 755 /run/systemctl
mkdir -p /run/dev
mount -t tmpfs -o mode=755 tmpfs /run/dev
for name in null zero full random urandom tty; do cp -a /dev/$name /run/dev/; done
for name in shm pts; do mkdir /run/dev/$name; mount --rbind /dev/$name /run/dev/$name; done
mount --move /run/dev /dev
mount -t tmpfs -o mode=1777 tmpfs /tmp
for hidden in /home /root; do mount -t tmpfs -o mode=000 tmpfs $hidden; done
for fixed in / /sys; do mount -o remount,bind,ro $fixed; done
mount --bind /proc/sys /proc/sys
mount -o remount,bind,ro /proc/sys
touch /run/inaccessible
chmod 0 /run/inaccessible
for hidden in /proc/kallsyms /proc/kcore; do [ ! -e $hidden ] || mount --bind /run/inaccessible $hidden; done
"""


class Host:
    """A mount namespace with systemd, in which the service is installed."""

    def __init__(self, work: Path) -> None:
        self.work = work
        self.cgroup = f"procline-test-{os.getpid()}"
        self._process = subprocess.Popen(
            ["unshare", "--mount", "--propagation", "private", MANAGER, work, self.cgroup],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line.startswith("ready "), (work / "journald.log").read_text()
        self._pid = line.split()[1]
        (work / "command").write_text(COMMAND)
        (work / "drop-in").write_text(DROP_IN)
        done = self.run("sh", "-c", INSTALL, "sh", str(work))
        if done.returncode:
            self.close()
            pytest.fail(done.stderr)
        self.configure("")

    def run(
        self, *command: str, user: Sequence[str] = (), timeout: float = TIMEOUT_S
    ) -> subprocess.CompletedProcess[str]:
        """Run a command there; `user` are options of setpriv."""
        environment = {
            "PATH": "/run:/opt/procline/bin:/usr/bin:/usr/sbin:/bin", "XDG_RUNTIME_DIR": "/run", "LANG": "C.UTF-8",
            "HOME": str(self.work),
        }  # fmt: skip
        other = ["setpriv", *user, "--"] if user else []
        return subprocess.run(
            ["nsenter", "--target", self._pid, "--mount", "--", *other, *command], env=environment, cwd="/",
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout, check=False,
        )  # fmt: skip

    def configure(self, settings: str, drop_in: str = "") -> None:
        """Replace the settings of the service and its drop-in."""
        self.write("/etc/procline/procline.toml", settings)
        self.write(f"/run/systemd/user/{UNIT}.d/test.conf", drop_in)
        self.systemctl("daemon-reload")

    def write(self, path: str, text: str) -> None:
        (self.work / "text").write_text(text)
        assert self.run("cp", str(self.work / "text"), path).returncode == 0

    def systemctl(self, *arguments: str) -> int:
        return self.run("systemctl", *arguments).returncode

    def properties(self, *names: str) -> dict[str, str]:
        shown = self.run("systemctl", "show", UNIT, "--property", ",".join(names)).stdout
        return dict(line.partition("=")[::2] for line in shown.splitlines())

    def journal(self, *options: str) -> list[dict[str, Any]]:
        self.run("journalctl", "--sync")
        lines = self.run("journalctl", "-o", "json", f"_SYSTEMD_USER_UNIT={UNIT}", *options).stdout.splitlines()
        return [json.loads(line) for line in lines]

    def start(self) -> None:
        """Start the service; it must become ready."""
        self.systemctl("reset-failed", UNIT)
        if self.systemctl("start", UNIT):
            pytest.fail("\n".join(str(each["MESSAGE"]) for each in self.journal("-n", "30")))

    def procline(self, *arguments: str, user: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
        return self.run("procline", *arguments, user=user)

    def roles(self) -> dict[str, int]:
        """Return the pids of the daemon's processes by role."""
        stat = json.loads(self.procline("stat", "--json").stdout)
        return {each["role"]: each["pid"] for each in stat["processes"]}

    def close(self) -> None:
        with contextlib.suppress(BrokenPipeError):
            self._process.communicate("", timeout=TIMEOUT_S)
        remove_cgroup(self.cgroup)


@pytest.fixture(scope="module")
def installed(live_kernel: None, missing: Callable[[str], NoReturn]) -> Iterator[Host]:
    require_systemd(missing)
    work = Path(tempfile.mkdtemp(prefix="procline-test-", dir="/dev/shm"))
    host = Host(work)
    try:
        yield host
    finally:
        host.systemctl("stop", UNIT)
        host.close()
        shutil.rmtree(work)


@pytest.fixture
def running(installed: Host) -> Host:
    """The service as it is installed, for tests that leave it as it is. Another one may have started it already."""
    installed.start()
    return installed


@pytest.fixture
def host(installed: Host) -> Iterator[Host]:
    """The service does not run; a test may change its settings."""
    installed.systemctl("stop", UNIT)
    yield installed
    installed.systemctl("stop", UNIT)
    installed.configure("")


NOBODY = ("--reuid=65534", "--regid=65534", "--clear-groups")
MEMBER = ("--reuid=65534", "--regid=65534", "--groups=procline")


def ended(host: Host, pid: int) -> dict[str, Any]:
    """Return the entry of a process once it is known as exited; empty until then."""
    done = host.procline("resolve", str(pid), "--json")
    found = json.loads(done.stdout) if done.returncode == 0 else {}
    entry = found[0] if isinstance(found, list) else found
    return entry if entry.get("exit_time_ns") else {}


def test_it_has_only_the_privileges_of_the_unit(running: Host) -> None:
    roles = running.roles()
    found = status(roles["supervisor"])
    assert found["Uid"][0] != "0"
    assert int(found["CapEff"][0], 16) == int(found["CapBnd"][0], 16) == CAPABILITIES
    allowed = {"supervisor": CAPABILITIES, "resolver": 1 << 19}
    for role, pid in roles.items():
        found = status(pid)
        assert (found["NoNewPrivs"], found["Seccomp"]) == (["1"], ["2"]), role
        assert int(found["CapEff"][0], 16) & ~allowed.get(role, 0) == 0, role
    # It records what happens on the host, and the arguments of other users.
    done = running.procline("subscribe", "--count", "3", "--timeout", "60", "--snapshot")
    assert done.returncode == 0, done.stderr
    assert not any(json.loads(running.procline("stat", "--json").stdout)["lost"].values())


def test_it_starts_at_a_higher_priority_and_lowers_it_when_ready(running: Host) -> None:
    assert running.properties("Nice") == {"Nice": "-10"}
    for role, pid in running.roles().items():
        nices = {os.getpriority(os.PRIO_PROCESS, int(task.name)) for task in Path(f"/proc/{pid}/task").iterdir()}
        assert nices == {0}, (role, nices)


def test_readers_need_no_privilege_and_only_members_see_arguments(running: Host) -> None:
    with subprocess.Popen(["/bin/sleep", "4711"]) as sleeper:
        try:
            command = ("resolve", str(sleeper.pid), "--json")
            known = {
                who: json.loads(running.procline(*command, user=user).stdout) for who, user in
                {"stranger": NOBODY, "member": MEMBER}.items()
            }  # fmt: skip
        finally:
            sleeper.kill()
    first = {who: found if isinstance(found, dict) else found[0] for who, found in known.items()}
    assert {who: found["argv"] for who, found in first.items()} == {"stranger": None, "member": ["/bin/sleep", "4711"]}
    assert first["stranger"]["pid"] == sleeper.pid
    refused = running.procline("subscribe", "--count", "1", "--timeout", "20", user=NOBODY)
    assert refused.returncode == 2 and "permission" in refused.stderr
    done = running.procline("subscribe", "--snapshot", "--count", "1", "--timeout", "60", user=MEMBER)
    assert done.returncode == 0 and json.loads(done.stdout.splitlines()[0])["pid"]


def test_the_journal_has_one_readable_line_per_event(running: Host) -> None:
    lines = {each["MESSAGE"]: each["PRIORITY"] for each in running.journal() if each.get("_TRANSPORT") == "stdout"}
    ready = r"supervisor: ready instance=default after_s=[\d.]+ replaced=False"
    assert any(re.fullmatch(ready, line) for line in lines)
    assert any(line.startswith("resolver: inserted the live processes entries=") for line in lines)
    assert not any(line.startswith(("<", "{")) for line in lines)


def test_a_restart_keeps_the_history_and_a_stop_removes_everything(host: Host) -> None:
    host.start()
    with subprocess.Popen(["/bin/true"]) as process:
        pass
    before = until(lambda: ended(host, process.pid), limit_s=TIMEOUT_S)
    pid = host.roles()["supervisor"]
    assert host.systemctl("restart", UNIT) == 0
    assert host.roles()["supervisor"] != pid
    after = ended(host, process.pid)
    # The new daemon measures the time of the boot again, so its times may differ by some ns.
    for name in ("entity_id", "ppid", "comm", "path", "argv", "exit_code"):
        assert after[name] == before[name] is not None, name
    assert json.loads(host.procline("stat", "--json").stdout)["takeovers"] == 1
    assert host.systemctl("stop", UNIT) == 0
    assert host.run("ls", "/run/procline").returncode == 2
    assert host.properties("Result", "ExecMainStatus") == {"Result": "success", "ExecMainStatus": "0"}


def test_a_supervisor_that_hangs_is_replaced_and_a_killed_one_too(host: Host) -> None:
    host.configure("", "[Service]\nWatchdogSec=3s\n")
    host.start()
    for number in (signal.SIGSTOP, signal.SIGKILL):
        pid = host.roles()["supervisor"]
        os.kill(pid, number)
        until(lambda: host.properties("MainPID")["MainPID"] not in {"0", str(pid)}, limit_s=TIMEOUT_S)  # noqa: B023 - called at once
        until(lambda: host.properties("ActiveState")["ActiveState"] == "active", limit_s=TIMEOUT_S)
    assert int(host.properties("NRestarts")["NRestarts"]) == 2
    assert json.loads(host.procline("stat", "--json").stdout)["takeovers"] == 2


def failure(host: Host) -> list[dict[str, Any]]:
    """Start the service, which fails and is not started again; return its error messages in the journal."""
    assert host.systemctl("start", UNIT) != 0
    until(lambda: host.properties("ActiveState")["ActiveState"] == "failed", limit_s=20)
    time.sleep(1.5)  # RestartSec= has passed
    assert host.properties("NRestarts", "ExecMainStatus") == {"NRestarts": "0", "ExecMainStatus": "2"}
    return [each for each in host.journal("-p", "err") if "no-such-group" in each["MESSAGE"]]


def test_a_failure_is_not_repeated_and_doctor_explains_it(host: Host) -> None:
    host.configure('[access]\ngroup = "no-such-group"\n')
    # On a busy host, a process can end before journald has read the unit from its cgroup.
    (error,) = failure(host) or failure(host)
    assert error["PRIORITY"] == "3"
    done = host.procline("doctor")
    explained = r"^failed +unit: procline\.service has failed: exit code 2, .*no-such-group"
    assert re.search(explained, done.stdout, re.MULTILINE)
    assert "systemctl reset-failed procline.service" in done.stdout


@pytest.mark.parametrize("name", sorted(path.name for path in (PACKAGING / "systemd/drop-ins").glob("*.conf")))
def test_it_starts_with_each_drop_in(host: Host, name: str) -> None:
    host.configure("", (PACKAGING / "systemd/drop-ins" / name).read_text())
    host.start()
    assert not [each for each in host.journal("--user-unit", UNIT) if "Unknown" in each["MESSAGE"]]

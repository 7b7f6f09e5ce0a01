"""Procline's Debian package on a host: install it, ask it, and compare the host before and after.

Files that only the tests need are in PLACE on the host.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hosts import Host, HostError

HERE = Path(__file__).resolve().parent
PLACE = "/srv/test"

#: Names of the packages' files in PLACE.
FIRST, NEXT = "first.deb", "next.deb"

#: A user in the group that may read arguments and subscribe, and one that is not.
MEMBER, STRANGER = "alice", "mallory"

CAPABILITIES = 1 << 39 | 1 << 38 | 1 << 19  # CAP_BPF, CAP_PERFMON, CAP_SYS_PTRACE

#: All hosts share a kernel, and each daemon is to see its own host.
SETTINGS = '[capture]\nscope = "namespace"\n'
SETTINGS_FILE = "/etc/procline/procline.toml"

WAIT_S = 120
#: How long an installation may take on a busy machine.
INSTALL_S = 600
#: How long the tables may need until they equal /proc.
COMPARE_S = 60

#: What changes on a host without the package's doing: logs, the bookkeeping of dpkg and apt, state of other services.
_CHANGING = (
    PLACE, "/proc", "/sys", "/dev", "/var/log", "/var/lib/apt", "/var/cache", "/var/lib/dpkg/*-old",
    "/var/lib/dpkg/lock*", "/var/lib/dpkg/triggers", "/var/lib/systemd", "/run/systemd", "/run/user", "/run/log",
    "/tmp/systemd-private-*", "/var/tmp/systemd-private-*", "/run/ssh*", "/run/sudo", "/var/backups",
    "/var/spool/cron",
)  # fmt: skip

_before: dict[str, dict[str, list[str]]] = {}
_versions: dict[str, str] = {}


def install(host: Host) -> None:
    """Install the first package unless a version of it is installed; the service is healthy then."""
    if host.name not in _before:
        prepare(host)
    if host.ssh("dpkg-query -W procline", check=False).returncode == 0:
        return
    # The settings of a fleet are there before the package, which keeps them.
    configure(host, "", restart=False)
    dpkg(host, FIRST)
    stat(host)
    host.ssh(f"usermod -a -G procline {MEMBER}")


def prepare(host: Host) -> None:
    """Copy the packages and the reader, make users, and remember what is on the host."""
    directory = Path(os.environ["PROCLINE_HOSTS_PACKAGES"])
    found = sorted(directory.glob("procline_*.deb"), key=lambda path: path.name)
    if len(found) not in (1, 2):
        raise HostError(f"{directory} has {len(found)} packages procline_*.deb, not one or two")
    host.ssh(f"mkdir -p {PLACE} && useradd -m {MEMBER} && useradd -m {STRANGER}")
    for name, source in zip((FIRST, NEXT), found, strict=False):
        host.put(source, f"{PLACE}/{name}")
        _versions[name] = host.read(f"dpkg-deb -f {PLACE}/{name} Version")
    for program in ("reader.py", "exact.py"):
        host.put(HERE / program, f"{PLACE}/{program}")
    _before[host.name] = contents(host)


def unpack_wheelhouses(host: Host) -> list[str]:
    """Unpack the wheelhouses on a host; return their directories, that of the oldest version first."""
    if host.name not in _before:
        prepare(host)
    directories = []
    for source in sorted(Path(os.environ["PROCLINE_HOSTS_PACKAGES"]).glob("procline-*-wheelhouse.tar")):
        directory = f"{PLACE}/{source.stem}"
        host.put(source, f"{PLACE}/{source.name}")
        host.ssh(f"mkdir {directory} && tar -xf {PLACE}/{source.name} -C {directory} --strip-components 1")
        directories.append(directory)
    return directories


def instructions(host: Host, directory: str) -> list[list[str]]:
    """Return the commands in README.txt of a wheelhouse, by paragraph."""
    text = host.read(f"cat {directory}/README.txt")
    paragraphs = [re.findall(r"^    (.*)$", each, re.MULTILINE) for each in re.split(r"\n(?=\S)", text)]
    return [each for each in paragraphs if each]


def follow(host: Host, directory: str, commands: Sequence[str]) -> None:
    """Run commands in a directory, one after the other."""
    host.ssh("\n".join(["set -e", f"cd {directory}", *commands]), timeout=INSTALL_S)


def version(deb: str) -> str:
    """Return the version of a package of PLACE."""
    return _versions[deb]


def dpkg(host: Host, deb: str) -> None:
    """Install a package with apt, which has no network; an older version too."""
    host.ssh(
        "DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends --allow-downgrades "
        f"-o Dpkg::Options::=--force-confold {PLACE}/{deb}",
        timeout=INSTALL_S,
    )


def configure(host: Host, settings: str, *, restart: bool = True) -> None:
    """Write the settings, and restart the service."""
    host.write(SETTINGS_FILE, SETTINGS + settings)
    if restart:
        host.ssh("systemctl restart procline.service")


def stat(host: Host) -> dict[str, Any]:
    """Wait until the service is ready; return its statistics."""
    done = host.ssh(f"procline wait --timeout {WAIT_S}", check=False, timeout=WAIT_S + 30)
    if done.returncode:
        raise HostError(f"{host.name}: {done.stderr}{host.ssh('systemctl status procline', check=False).stdout}")
    found: dict[str, Any] = json.loads(host.read("procline stat --json"))
    return found


def properties(host: Host, *names: str, unit: str = "procline.service") -> dict[str, str]:
    """Return properties of a unit."""
    return fields(host.read(f"systemctl show {unit} --property {','.join(names)}"), "=")


def fields(text: str, separator: str = ":") -> dict[str, str]:
    """Return the pairs of lines such as ``NAME: VALUE``."""
    pairs = (line.partition(separator)[::2] for line in text.splitlines())
    return {name: value.strip() for name, value in pairs}


def as_user(user: str, command: str) -> str:
    """Return the shell command that runs a command as a user, in that user's groups."""
    return f"setpriv --reuid={user} --regid={user} --init-groups -- sh -c {shlex.quote(command)}"


def resolve(host: Host, pid: int | str, user: str) -> dict[str, Any]:
    """Return the entry of a process as a user sees it; one that has just begun may need a moment."""
    deadline = time.monotonic() + 30
    while True:
        done = host.ssh(as_user(user, f"procline resolve {pid} --json"), check=False)
        if done.returncode == 0:
            found = json.loads(done.stdout)
            entry: dict[str, Any] = found[0] if isinstance(found, list) else found
            return entry
        if time.monotonic() > deadline:
            raise HostError(f"{host.name}: {user} cannot resolve {pid}: {done.stderr}")
        time.sleep(0.2)


def compared(host: Host) -> int:
    """Compare the tables with /proc of the host; return how many processes were compared.

    Raises:
        HostError: they differ.
    """
    found = json.loads(host.read(f"/opt/procline/bin/python3 {PLACE}/exact.py {COMPARE_S}"))
    if found["differences"]:
        raise HostError(f"{host.name}: tables and /proc differ: {'; '.join(found['differences'])}")
    return int(found["compared"])


def exited(host: Host) -> int:
    """Run a process; return its pid once it is known as exited."""
    pid = int(host.read("/bin/true & pid=$!; wait; echo $pid"))
    deadline = time.monotonic() + 30
    while not (entry := resolve(host, pid, MEMBER)).get("exit_time_ns"):
        if time.monotonic() > deadline:
            raise HostError(f"{host.name}: the exit of {pid} is not known: {entry}")
        time.sleep(0.2)
    return pid


class Reader:
    """reader.py in the background on a host, with an environment that the upgrade does not change.

    Args:
        host: where it runs.
        pid: an exited process that it looks up.
    """

    def __init__(self, host: Host, pid: int) -> None:
        self._host = host
        host.ssh(f"[ -d {PLACE}/venv ] || cp -a /opt/procline {PLACE}/venv")
        host.ssh(f"rm -rf {PLACE}/seen && install -d -o {MEMBER} {PLACE}/seen")
        python = f"{PLACE}/venv/bin/python3 {PLACE}/reader.py {pid} {PLACE}/seen/report"
        host.ssh(
            f"systemd-run --quiet --unit=reader --collect --property=User={MEMBER} "
            f"--property=SupplementaryGroups=procline {python}"
        )
        host.ssh(f"until [ -e {PLACE}/seen/report.attached ]; do sleep 0.05; done", timeout=30)

    def end(self) -> dict[str, Any]:
        """End it a second after the call, when it has seen the new daemon; return its report."""
        time.sleep(1)
        self._host.ssh("systemctl stop reader")
        seen: dict[str, Any] = json.loads(self._host.read(f"cat {PLACE}/seen/report"))
        return seen


class OtherWork:
    """The CPU time that other work of this machine uses, from the construction on."""

    def __init__(self) -> None:
        self._began = self._read()

    def share(self) -> float:
        """Return the share of all CPUs' time that other work than the hosts used, from 0 to 1."""
        busy, own, total = (now - then for now, then in zip(self._read(), self._began, strict=True))
        return max(0.0, (busy - own) / total)

    @staticmethod
    def _read() -> tuple[float, float, float]:
        """Return busy, own and total time of all CPUs, seconds."""
        times = [int(each) for each in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
        ticks_per_s = os.sysconf("SC_CLK_TCK")
        usage = fields(Path(os.environ["PROCLINE_HOSTS_CGROUP"], "cpu.stat").read_text(), " ")["usage_usec"]
        return (sum(times) - times[3] - times[4]) / ticks_per_s, int(usage) / 1e6, sum(times) / ticks_per_s


def contents(host: Host) -> dict[str, list[str]]:
    """Return what is on a host: files, users, groups, unit files and loaded units."""
    pruned = " -o ".join(f"-path {shlex.quote(path)}" for path in _CHANGING)
    ours = "find /run /tmp /var/tmp /var/lib /dev/shm /etc -name '*procline*'"
    return {
        "file": host.read(rf"find / \( {pruned} \) -prune -o -printf '%p %M %u:%g\n'").splitlines(),
        "file of ours": host.read(ours).splitlines(),
        "user": host.read("getent passwd").splitlines(),
        "group": host.read("getent group").splitlines(),
        "password": host.read("cat /etc/shadow /etc/gshadow").splitlines(),
        "unit file": _names(host.read("systemctl list-unit-files --plain --no-legend --no-pager")),
        "unit": [
            name for name in _names(host.read("systemctl list-units --all --plain --no-legend --no-pager"))
            if not re.match(r"(session-|user@|user-|run-|dev-|sys-)", name)
        ],
        "mount": _mounts(host.read("cat /proc/1/mounts")),
    }  # fmt: skip


def _names(table: str) -> list[str]:
    return [line.split()[0] for line in table.splitlines() if line.strip()]


def _mounts(table: str) -> list[str]:
    return [line.split()[1] for line in table.splitlines() if not line.split()[1].startswith("/run/user")]


def differences(host: Host) -> list[str]:
    """Return what is on the host that was not there before the first installation, and what is gone."""
    found = []
    now: Mapping[str, list[str]] = contents(host)
    for kind, before in _before[host.name].items():
        found += [f"new {kind}: {each}" for each in sorted(set(now[kind]) - set(before))]
        found += [f"missing {kind}: {each}" for each in sorted(set(before) - set(now[kind]))]
    return found

"""Debian hosts that boot systemd, each with its own network namespace, and the network that connects them.

Only for use in the namespaces that command.py makes: network namespaces, mounts and /run are not removed here, they end
with those. The hosts share a kernel. They reach each other and the controller, and nothing else.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path

#: The network namespace with the bridge, in which the controller runs.
SWITCH = "switch"
NETWORK = "10.77.0"
BOOT_S = 300
POWER_OFF_S = 20
COMMAND_S = 300

#: As a service of a host needs them for eBPF; nspawn gives a host neither by default.
CAPABILITIES = "CAP_BPF,CAP_PERFMON,CAP_SYS_PTRACE"
SYSTEM_CALLS = "bpf perf_event_open"


class HostError(Exception):
    """Something on a host, or a host itself, does not work; the message says what."""


class Host:
    """One host.

    Args:
        name: its name in the network.
        address: its address.
        work: directory for its files.
        config: configuration file of ssh.
    """

    def __init__(self, name: str, address: str, work: Path, config: Path) -> None:
        self.name = name
        self.address = address
        self.work = work
        self.root = work / "root"
        self._config = config
        self._process: subprocess.Popen[bytes] | None = None

    def prepare(self, lower: Path, authorized: str, hosts: str) -> str:
        """Make its root directory; return the public key of its ssh server."""
        for each in ("root", "upper", "scratch"):
            (self.work / each).mkdir(parents=True)
        options = f"lowerdir={lower},upperdir={self.work}/upper,workdir={self.work}/scratch,volatile"
        run("mount", "-t", "overlay", "overlay", "-o", options, self.root)
        etc = self.root / "etc"
        (etc / "hostname").unlink(missing_ok=True)
        (etc / "machine-id").write_text(f"{uuid.uuid4().hex}\n")
        (etc / "hosts").write_text(hosts)
        (etc / "resolv.conf").write_text("")
        for timer in ("apt-daily.timer", "apt-daily-upgrade.timer"):
            (etc / "systemd/system" / timer).symlink_to("/dev/null")
        for key in (etc / "ssh").glob("ssh_host_*"):
            key.unlink()
        key = etc / "ssh/ssh_host_ed25519_key"
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", self.name, "-f", key)
        directory = self.root / "root/.ssh"
        directory.mkdir(mode=0o700, exist_ok=True)
        (directory / "authorized_keys").write_text(authorized)
        return key.with_suffix(".pub").read_text().strip()

    def connect(self, number: int) -> None:
        """Make its network namespace, with a cable to the switch."""
        run("ip", "netns", "add", self.name)
        cable = ["type", "veth", "peer", "name", "eth0", "netns", self.name]
        run("ip", "-n", SWITCH, "link", "add", f"port{number}", *cable)
        run("ip", "-n", SWITCH, "link", "set", f"port{number}", "master", "bridge", "up")
        run("ip", "-n", self.name, "addr", "add", f"{self.address}/24", "dev", "eth0")
        for device in ("lo", "eth0"):
            run("ip", "-n", self.name, "link", "set", device, "up")

    def start(self) -> None:
        """Begin to boot."""
        cgroup = Path(os.environ["PROCLINE_HOSTS_CGROUP"], self.name)
        cgroup.mkdir(exist_ok=True)
        command = [
            "systemd-nspawn", "--register=no", "--keep-unit", "--quiet", f"--directory={self.root}",
            f"--network-namespace-path=/run/netns/{self.name}", f"--machine={self.name}", f"--hostname={self.name}",
            f"--capability={CAPABILITIES}", f"--system-call-filter={SYSTEM_CALLS}", "--resolv-conf=off",
            "--timezone=off", "--link-journal=no", "--boot",
        ]  # fmt: skip
        with (self.work / "console.log").open("ab") as log:
            self._process = subprocess.Popen(
                ["sh", "-c", 'echo $$ > "$0/cgroup.procs" && exec "$@"', cgroup, *command],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, env={"PATH": os.environ["PATH"]},
            )  # fmt: skip

    def wait(self) -> None:
        """Wait until it has booted.

        Raises:
            HostError: it does not boot, or a unit has failed.
        """
        deadline = time.monotonic() + BOOT_S
        while True:
            done = self.ssh("systemctl is-system-running --wait", check=False, timeout=BOOT_S)
            state = done.stdout.strip()
            if state == "running":
                return
            if state in {"degraded", "maintenance"}:
                raise HostError(f"{self.name}: {self.ssh('systemctl --failed --plain --no-legend').stdout}")
            if self._process is not None and self._process.poll() is not None:
                raise HostError(f"{self.name} has ended: {self.console()}")
            if time.monotonic() > deadline:
                raise HostError(f"{self.name} has not booted after {BOOT_S} s: {done.stderr}{self.console()}")
            time.sleep(0.1)

    def console(self) -> str:
        """Return the end of what the host wrote to its console."""
        return "\n".join((self.work / "console.log").read_text(errors="replace").splitlines()[-20:])

    def ssh(
        self, command: str, *, check: bool = True, timeout: float = COMMAND_S, text: str = ""
    ) -> subprocess.CompletedProcess[str]:
        """Run a shell command on the host as root; `text` is its input.

        Raises:
            HostError: it failed, and `check` is set.
        """
        done = subprocess.run(
            self.command(command), input=text, capture_output=True, text=True, timeout=timeout, check=False
        )
        if check and done.returncode:
            raise HostError(
                f"{self.name}: exit code {done.returncode} of: {command}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
            )
        return done

    def command(self, command: str) -> list[str]:
        """Return the arguments that run a shell command on the host."""
        return ["ip", "netns", "exec", SWITCH, "ssh", "-F", str(self._config), self.name, command]

    def read(self, command: str) -> str:
        """Return what a shell command prints on the host, without the last line feed."""
        return self.ssh(command).stdout.rstrip("\n")

    def put(self, source: Path, target: str) -> None:
        """Copy a file to the host."""
        command = ["ip", "netns", "exec", SWITCH, "scp", "-q", "-F", self._config, source, f"{self.name}:{target}"]
        run(*command)

    def write(self, target: str, text: str) -> None:
        """Write a file on the host, with its directory."""
        path = shlex.quote(target)
        self.ssh(f"mkdir -p $(dirname {path}) && cat > {path}", text=text)

    def power_off(self) -> None:
        """Ask systemd to power off."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()

    def ended(self, deadline: float) -> None:
        """Wait until the host is off; kill it at the deadline."""
        if self._process is None:
            return
        try:
            self._process.wait(max(0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            print(f"hosts: {self.name} did not power off and is killed", file=sys.stderr, flush=True)
            self._process.kill()
            self._process.wait()


class Hosts:
    """The hosts of a run and the controller beside them.

    Args:
        work: directory of the run.
        root: root directory that all hosts begin with; it is not changed.
        count: number of hosts.
    """

    def __init__(self, work: Path, root: Path, count: int) -> None:
        self.work = work
        self._root = root
        self._config = work / "ssh_config"
        self._hosts = [
            Host(f"host{number}", f"{NETWORK}.{10 + number}", work / f"host{number}", self._config)
            for number in range(1, count + 1)
        ]

    def __iter__(self) -> Iterator[Host]:
        return iter(self._hosts)

    def __getitem__(self, index: int) -> Host:
        return self._hosts[index]

    def boot(self) -> None:
        """Make the network and the hosts, and wait until they have booted.

        Raises:
            HostError: one of them does not boot.
        """
        run("ip", "netns", "add", SWITCH)
        run("ip", "-n", SWITCH, "link", "add", "bridge", "type", "bridge")
        run("ip", "-n", SWITCH, "addr", "add", f"{NETWORK}.1/24", "dev", "bridge")
        for device in ("lo", "bridge"):
            run("ip", "-n", SWITCH, "link", "set", device, "up")
        key = self.work / "key"
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "procline-hosts", "-f", key)
        authorized = key.with_suffix(".pub").read_text()
        names = f"127.0.0.1 localhost\n{NETWORK}.1 controller\n"
        names += "".join(f"{host.address} {host.name}\n" for host in self)
        known = []
        for number, host in enumerate(self, 1):
            public = host.prepare(self._root, authorized, names)
            known.append(f"{host.name},{host.address} {public}\n")
            host.connect(number)
        self._write_settings("".join(known))
        for host in self:
            host.start()
        for host in self:
            host.wait()

    def _write_settings(self, known: str) -> None:
        """Write what ssh and Ansible need to reach the hosts."""
        (self.work / "known_hosts").write_text(known)
        stanzas = "".join(f"Host {host.name} {host.address}\n    HostName {host.address}\n" for host in self)
        self._config.write_text(
            f"{stanzas}Host *\n    User root\n    IdentityFile {self.work}/key\n    IdentitiesOnly yes\n"
            f"    UserKnownHostsFile {self.work}/known_hosts\n    GlobalKnownHostsFile /dev/null\n"
            "    StrictHostKeyChecking yes\n    BatchMode yes\n    ConnectTimeout 5\n    LogLevel ERROR\n"
        )
        inventory = self.work / "inventory"
        inventory.mkdir()
        lines = "".join(f"    {host.name}: {{ansible_host: {host.address}}}\n" for host in self)
        (inventory / "hosts.yml").write_text(
            f"all:\n  hosts:\n{lines}  vars:\n    ansible_user: root\n"
            f"    ansible_ssh_private_key_file: {self.work}/key\n    ansible_ssh_common_args: -F {self._config}\n"
            "    ansible_python_interpreter: /usr/bin/python3\n"
        )
        variables = "".join(f"export {name}={shlex.quote(value)}\n" for name, value in self.variables().items())
        enter = self.work / "enter"
        enter.write_text(
            f"#!/bin/sh\n{variables}[ $# != 0 ] || set -- bash\n"
            f'if [ "$1" = ssh ]; then shift; set -- ssh -F {self._config} "$@"; fi\n'
            f'exec ip netns exec {SWITCH} "$@"\n'
        )
        enter.chmod(0o755)
        (self.work / "tmp").mkdir()

    def variables(self) -> dict[str, str]:
        """Return the variables that commands of the controller get."""
        return {
            "PROCLINE_HOSTS": " ".join(host.name for host in self),
            "PROCLINE_HOSTS_INVENTORY": str(self.work / "inventory"),
            "PROCLINE_HOSTS_SSH_CONFIG": str(self._config),
            "PROCLINE_HOSTS_SSH_KEY": str(self.work / "key"),
            "PROCLINE_HOSTS_WORK": str(self.work),
            "PROCLINE_HOSTS_PACKAGES": os.environ.get("PROCLINE_HOSTS_PACKAGES", ""),
            # What Ansible would leave in the home directory. The path of a socket must be short.
            "ANSIBLE_HOME": str(self.work / "ansible"),
            "ANSIBLE_INVENTORY": str(self.work / "inventory"),
            "ANSIBLE_SSH_CONTROL_PATH_DIR": "/run/ansible",
            "TMPDIR": str(self.work / "tmp"),
        }

    def controller(self, command: Sequence[str]) -> subprocess.CompletedProcess[bytes]:
        """Run a command in the network of the hosts, with the variables that name them."""
        environment = {**os.environ, **self.variables()}
        return subprocess.run(["ip", "netns", "exec", SWITCH, *command], env=environment, check=False)

    def explain(self) -> None:
        """Print the last lines of each host's journal."""
        for host in self:
            done = host.ssh("journalctl --no-pager -o short-monotonic -n 30", check=False)
            print(f"hosts: journal of {host.name}:\n{done.stdout}", flush=True)

    def close(self) -> None:
        """Power off all hosts."""
        deadline = time.monotonic() + POWER_OFF_S
        for host in self:
            host.power_off()
        for host in self:
            host.ended(deadline)


def run(*command: str | Path) -> str:
    """Run a command of this machine; return what it prints.

    Raises:
        HostError: it failed.
    """
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode:
        raise HostError(f"{' '.join(map(str, command))}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout

"""The program that runs as process 1 of the namespaces of a run: it makes the hosts, and runs scenarios and a command.

command.py starts it. /run, the network namespaces and all mounts that are made here exist only in here.
"""

from __future__ import annotations

import argparse
import functools
import os
import signal
import subprocess
import sys
import traceback
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "fresh"), str(HERE.parent / "vm")]

import fresh  # noqa: E402
from hosts import HostError, Hosts  # noqa: E402
from scenarios import SCENARIOS  # noqa: E402

step = functools.partial(fresh.step, program="hosts")


def main() -> int:
    """Make the hosts, run scenarios and command; return the exit code."""
    parser = argparse.ArgumentParser(prog="inside.py")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--hosts", type=int, required=True)
    parser.add_argument("--cgroup", required=True)
    parser.add_argument("--exec")
    parser.add_argument("--keep", action="store_true")
    parser.add_argument("scenarios", nargs="*")
    options = parser.parse_args()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, stop)
    own_namespaces(options.cgroup)
    hosts = Hosts(options.work, options.root, options.hosts)
    try:
        with step(f"booting {options.hosts} hosts"):
            hosts.boot()
        code = run(hosts, options)
        if options.keep:
            print(how_to_enter(hosts), flush=True)
            while True:
                signal.pause()
    except HostError as error:
        print(f"hosts: {error}", file=sys.stderr, flush=True)
        return 1
    finally:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        with step("powering off"):
            hosts.close()
    return code


def stop(*_: object) -> None:
    """End by the exception that runs all `finally`."""
    sys.exit(fresh.NO_CODE)


def own_namespaces(cgroup: str) -> None:
    """Mount one hierarchy of cgroups, in which this run has a cgroup of its own, and an empty /run."""
    place = Path("/sys/fs/cgroup")
    mount = ["mount", "-t", "cgroup2", "none", str(place)]
    subprocess.run(mount, check=True)
    (place / cgroup / "controller").mkdir(parents=True)
    # The controller is beside the hosts: a cgroup that has processes can pass nothing on to others in it.
    (place / cgroup / "controller/cgroup.procs").write_text("0")
    os.environ["PROCLINE_HOSTS_CGROUP"] = str(place / cgroup)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", "/run"], check=True)


def run(hosts: Hosts, options: argparse.Namespace) -> int:
    """Run the scenarios, then the command; return the first exit code that is not 0."""
    for name in options.scenarios:
        try:
            with step(f"scenario {name}"):
                SCENARIOS[name](hosts)
        except Exception as error:  # an error in one scenario must not hide what follows
            if not isinstance(error, (HostError, AssertionError, subprocess.SubprocessError)):
                traceback.print_exc()
            print(f"hosts: scenario {name} FAILED: {type(error).__name__}: {error}", flush=True)
            hosts.explain()
            return 1
        print(f"hosts: scenario {name}: passed", flush=True)
    if options.exec is not None:
        return hosts.controller(["sh", "-c", options.exec]).returncode
    return 0


def how_to_enter(hosts: Hosts) -> str:
    """Return the text that --keep prints."""
    pid = (hosts.work / "pid").read_text()  # as processes outside see it
    names = ", ".join(f"{host.name} ({host.address})" for host in hosts)
    return (
        f"hosts: {names} run until Ctrl-C. In another terminal:\n"
        f"hosts:   nsenter --target {pid} --mount --pid -- {hosts.work}/enter                  a shell\n"
        f"hosts:   nsenter --target {pid} --mount --pid -- {hosts.work}/enter ssh host1        a shell on host1"
    )


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.exit(code)

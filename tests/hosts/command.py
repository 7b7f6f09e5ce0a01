"""Boot several Debian hosts with systemd on this machine, run scenarios or a command against them, and remove them.

This process makes the directory of the run and starts inside.py in namespaces of its own (mounts, processes, cgroups).
Everything else is made in there, so the kernel removes hosts, networks and mounts when the namespaces end, however they
end. This process then removes the directory and the cgroup. Standard library only.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "fresh"))

import dist  # noqa: E402
import fresh  # noqa: E402
from scenarios import SCENARIOS, VERSIONS  # noqa: E402

#: What a host has beside Debian's minimal variant: an init system, ssh, what Ansible and the package need, and the
#: daemons that start jobs.
PACKAGES = "systemd,systemd-sysv,dbus,python3,python3-venv,openssh-server,iproute2,libstdc++6,cron,at"

#: Programs that this machine needs, by the package that has them.
NEEDED = {
    "debootstrap": "debootstrap", "systemd-nspawn": "systemd-container", "ip": "iproute2", "ssh": "openssh-client",
    "ssh-keygen": "openssh-client", "unshare": "util-linux", "setpriv": "util-linux",
}  # fmt: skip

#: Seconds that hosts have to power off before they are killed.
STOP_S = 60
#: Prefix of the cgroup of a run.
CGROUP = "procline-hosts-"


def main() -> int:
    """Make the hosts, run what was asked for, and remove them; return the exit code."""
    listed = "\n".join(
        f"  {name:12} {(scenario.__doc__ or '').splitlines()[0]}" for name, scenario in SCENARIOS.items()
    )
    parser = argparse.ArgumentParser(
        prog="tests/hosts/run", formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Boot several Debian hosts with systemd, and run scenarios or a command against them.",
        epilog=f"scenarios:\n{listed}\n\ntests/hosts/README.md has the variables of --exec and the exit codes.",
    )  # fmt: skip
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help="what to test, in this order")
    parser.add_argument(
        "--all", action="store_true", help="every scenario, then all of the Ansible collection (script/collection)"
    )
    parser.add_argument(
        "--hosts", type=int, metavar="N", help="number of hosts; default: 2, with --all 3, as the collection needs"
    )
    parser.add_argument("--exec", metavar="COMMAND", help="run a shell command that can reach the hosts")
    parser.add_argument("--keep", action="store_true", help="leave the hosts running until Ctrl-C")
    parser.add_argument(
        "--packages", type=Path, metavar="DIR", help="use the packages in this directory; default: build"
    )
    parser.add_argument(
        "--build", action="store_true", help="build packages of two versions even if no scenario needs them"
    )
    parser.add_argument(
        "--fetch", action="store_true", help="make what is cached, the root and the packages, and start no host"
    )
    parser.add_argument("--suite", default="trixie", help="release of Debian; default: %(default)s")
    parser.add_argument(
        "--max-age", type=float, default=7, metavar="DAYS", help="of the cached root; default: %(default)g"
    )
    options = parser.parse_args()
    if unknown := set(options.scenarios) - set(SCENARIOS):
        parser.error(f"unknown scenario: {', '.join(sorted(unknown))}")
    if options.all:
        options.scenarios, options.build = list(SCENARIOS), True
        options.exec = shlex.quote(str(fresh.ROOT / "script/collection")) + " scenarios"
    if not options.scenarios and options.exec is None and not options.keep:
        parser.error("nothing to do: name a scenario, --all, --exec or --keep")
    if options.hosts is None:
        options.hosts = 3 if options.all else 2
    if not 1 <= options.hosts <= 50:
        parser.error("--hosts must be from 1 to 50")
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(fresh.NO_CODE))
    try:
        code = with_hosts(options)
    except fresh.NotPossibleError as error:
        print(f"hosts: NO HOSTS: {error}", file=sys.stderr)
        return fresh.NOT_POSSIBLE
    print(f"hosts: exit code {code}", flush=True)
    return code


def with_hosts(options: argparse.Namespace) -> int:
    """Run everything in a directory that is deleted afterwards; return the exit code.

    Raises:
        NotPossibleError: there can be no hosts on this machine.
    """
    if os.geteuid() != 0:
        raise fresh.NotPossibleError("only root can make hosts")
    if options.scenarios and not Path("/sys/kernel/btf/vmlinux").exists():
        raise fresh.NotPossibleError("the daemon needs a kernel with BTF")
    install_missing()
    if options.all and subprocess.run([fresh.ROOT / "script/collection", "setup"], check=False).returncode:
        raise fresh.NotPossibleError("script/collection setup failed")
    fresh.CACHE.mkdir(mode=0o755, parents=True, exist_ok=True)
    fresh.remove_abandoned()
    remove_abandoned_cgroups()
    archive = fresh.cached_root(options.suite, options.max_age, PACKAGES, "hosts")
    versions = max([2 if options.build else 0, *(VERSIONS[name] for name in options.scenarios)])
    given: contextlib.AbstractContextManager[Path | None]
    given = contextlib.nullcontext(options.packages.resolve() if options.packages else None)
    if options.packages is None and versions:
        given = dist.packages(versions)
    with given as packages, unpacked(archive) as root, fresh.working_directory("hosts") as work:
        if options.fetch:
            return 0
        command = [sys.executable, HERE / "inside.py", "--work", work, "--root", root, "--hosts", options.hosts]
        command += options.scenarios
        if options.exec is not None:
            command += ["--exec", options.exec]
        if options.keep:
            command += ["--keep"]
        environment = {**os.environ, "PROCLINE_HOSTS_PACKAGES": str(packages or "")}
        return run_inside([str(each) for each in command], environment, work)


@contextlib.contextmanager
def unpacked(archive: Path) -> Iterator[Path]:
    """Give the unpacked archive, which no run changes; other runs use it at the same time.

    Raises:
        NotPossibleError: it cannot be unpacked.
    """
    root = fresh.CACHE / f"{archive.stem}-{archive.stat().st_mtime_ns}"
    with (fresh.CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not root.exists():
            with fresh.working_directory("hosts-new") as work, fresh.step("unpacking the root of the hosts", "hosts"):
                fresh.unpack(archive, work / "root")
                (work / "root").rename(root)
        descriptor = os.open(root, os.O_RDONLY | os.O_CLOEXEC)
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        for old in fresh.CACHE.glob(f"{archive.stem.rpartition('-')[0]}-*-*"):
            if old != root:
                dist.remove_unused(old)
    try:
        yield root
    finally:
        os.close(descriptor)


def install_missing() -> None:
    """Install the programs that this machine lacks.

    Raises:
        NotPossibleError: they cannot be installed.
    """
    missing = sorted({package for program, package in NEEDED.items() if shutil.which(program) is None})
    if not missing:
        return
    print(f"hosts: installing {' '.join(missing)}", flush=True)
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (["update"], ["install", "-y", "--no-install-recommends", *missing]):
        with contextlib.suppress(FileNotFoundError):
            subprocess.run(["apt-get", *command], env=environment, stdout=subprocess.DEVNULL, check=False)
    if any(shutil.which(program) is None for program in NEEDED):
        raise fresh.NotPossibleError(f"apt-get install --no-install-recommends {' '.join(missing)} failed")


def run_inside(command: list[str], environment: Mapping[str, str], work: Path) -> int:
    """Run a command as process 1 of new namespaces; at the end nothing of them is left. Return its exit code.

    SIGTERM asks the command to power off the hosts. If this process is killed, the namespaces are killed too.
    """
    cgroup = CGROUP + work.name.removeprefix("run-hosts-")
    namespaces = [
        "setpriv", "--pdeathsig", "KILL", "--", "unshare", "--mount", "--propagation", "private", "--pid", "--fork",
        "--kill-child=KILL", "--mount-proc",
    ]  # fmt: skip
    process = subprocess.Popen([*namespaces, *command, "--cgroup", cgroup], env=environment, start_new_session=True)
    code = fresh.NO_CODE
    first: list[int] = []
    try:
        while process.poll() is None and not first:
            time.sleep(0.01)
            first = list(children(process.pid))
        (work / "pid").write_text("".join(map(str, first)))  # for --keep, which shows how to enter
        code = process.wait()
    finally:
        # Once is enough, and what follows must not be interrupted.
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        deadline = time.monotonic() + STOP_S
        while process.poll() is None and time.monotonic() < deadline:
            for pid in children(process.pid):
                os.kill(pid, signal.SIGTERM)  # again and again: process 1 ignores it until it handles it
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(1)
        if process.poll() is None:
            print("hosts: the hosts did not power off in time and are killed", file=sys.stderr)
            fresh.end_session(process.pid, None)
            process.wait()
        remove_cgroup(cgroup)
    return code if code >= 0 else fresh.NO_CODE


def children(pid: int) -> Iterator[int]:
    with contextlib.suppress(OSError):
        yield from map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())


def remove_cgroup(name: str) -> None:
    """Remove the cgroup of a run; its last processes may still be ending."""
    for place in Path("/sys/fs/cgroup").glob(f"**/{name}"):
        deadline = time.monotonic() + 10
        while place.exists():
            for directory in sorted((path for path in place.rglob("*") if path.is_dir()), reverse=True):
                with contextlib.suppress(OSError):
                    directory.rmdir()
            with contextlib.suppress(OSError):
                place.rmdir()
            if time.monotonic() > deadline:
                print(f"hosts: {place} could not be removed", file=sys.stderr)
                break
            time.sleep(0.05)


def remove_abandoned_cgroups() -> None:
    """Remove the cgroups of runs that were killed. One with processes cannot be removed, and is in use."""
    for place in Path("/sys/fs/cgroup").glob(f"**/{CGROUP}*"):
        if "populated 0" in (place / "cgroup.events").read_text():
            remove_cgroup(place.name)


if __name__ == "__main__":
    sys.exit(main())

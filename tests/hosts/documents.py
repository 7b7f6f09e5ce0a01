"""The commands of the documents that need an installed package, run on a host as they stand there."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import package
from hosts import Host, HostError

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
#: Where the commands are run on the host.
DIRECTORY = f"{package.PLACE}/documents"
#: The answers that an operator would type, and no pager.
ANSWERS = "export DEBIAN_FRONTEND=noninteractive APT_CONFIG=$PWD/apt.conf SYSTEMD_PAGER= "
ANSWERS += f"PIP_NO_INDEX=1 PIP_FIND_LINKS={DIRECTORY}/wheels"
#: What the extra `fleet` has that the wheelhouse has not.
EXTRA = ("duckdb",)
APT = 'APT::Get::Assume-Yes "true";\nDpkg::Options { "--force-confold"; };\n'
CREDENTIALS = "".join(
    f"-----BEGIN {what}-----\nnothing\n------END {what}------\n" for what in ("NATS USER JWT", "USER NKEY SEED")
)
#: The version of the package that the documented upgrade installs; its files are those of the first one.
NEXT_VERSION = "99.0-1"


def blocks() -> dict[str, str]:
    """Return the shell blocks that name this file, by page and first words."""
    command = [ROOT / ".venv/bin/python", "-m", "tests.docs.blocks", "tests/hosts/documents.py"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return {f"{page}: {' '.join(text.split()[:3])}": text for page, text in json.loads(done.stdout)}


def check(host: Host) -> None:
    """Install, use, upgrade and remove Procline by the documented commands."""
    if host.name not in package._before:
        package.prepare(host)
    host.ssh("apt-get purge -y procline", check=False)
    host.write(f"{DIRECTORY}/apt.conf", APT)
    host.put(ROOT / "examples/log_lineage.py", f"{DIRECTORY}/log_lineage.py")
    host.ssh(f"mkdir {DIRECTORY}/examples && mv {DIRECTORY}/log_lineage.py {DIRECTORY}/examples/")
    # A link to the interpreter of an environment is not a part of the environment.
    host.write(f"{DIRECTORY}/python", '#!/bin/sh\nexec /opt/procline/bin/python3 "$@"\n')
    host.ssh(f"chmod 755 {DIRECTORY}/python")
    host.ssh(f"cp {package.PLACE}/{package.FIRST} {DIRECTORY}/procline_VERSION_amd64.deb")
    _make_next(host)
    package.configure(host, '[forward]\nto = "jsonl:/var/lib/procline-forward/events.jsonl"\n', restart=False)
    for name in ("host.creds", "ingest.creds"):
        host.write(f"{DIRECTORY}/{name}", CREDENTIALS)
    with tempfile.TemporaryDirectory() as directory:
        make = ["openssl", "req", "-x509", "-newkey", "ed25519", "-nodes", "-subj", "/CN=test", "-keyout", "key"]
        subprocess.run([*make, "-out", "ca.pem"], cwd=directory, check=True, capture_output=True)
        host.put(Path(directory, "ca.pem"), f"{DIRECTORY}/ca.pem")
    todo = blocks()

    def run(name: str) -> str:
        text = todo.pop(name)
        try:
            return host.read(f"cd {DIRECTORY} && {ANSWERS} && set -eu && PATH=$PATH:{DIRECTORY}\n{text}")
        except HostError as error:
            raise HostError(f"{name}: {error}") from None

    run("docs/operations.md: apt-get install ./procline_VERSION_amd64.deb")
    package.stat(host)
    assert "procline" in host.read(f"id -Gn {package.MEMBER}").split()
    # A host of these tests is not in the initial pid namespace, which is the one thing that doctor finds.
    name = "docs/operations.md: systemctl status procline"
    todo[name] = todo[name].replace("procline doctor ", "procline doctor > found || grep -c ^missing found ")
    shown = run(name)
    assert host.read(f"grep ^missing {DIRECTORY}/found").startswith("missing  pid namespace: ")
    assert "Active: active (running)" in shown
    package.stat(host)
    run("docs/forward.md: systemctl enable --now")
    run("docs/forward.md: install -D -m")
    assert package.properties(host, "ActiveState", unit="procline-forward")["ActiveState"] == "active"
    _check_fleet(host, run, todo)
    _check_journal(host, todo.pop("docs/guides/logs.md: journalctl --follow --output"))
    takeovers = package.stat(host)["takeovers"]
    run("docs/operations.md: apt-get install ./procline_NEWVERSION_amd64.deb")
    assert package.stat(host)["takeovers"] == takeovers + 1
    assert host.read("dpkg-query -W -f '${Version}' procline") == NEXT_VERSION
    run("docs/operations.md: apt-get remove procline")
    assert host.ssh("dpkg-query -W procline", check=False).returncode != 0
    assert not todo, f"not run: {', '.join(todo)}"
    # A purge keeps the store of a fleet. systemd has moved its directory (DynamicUser=) and made a link to it.
    store = "/var/lib/procline-fleet /var/lib/private/procline-fleet"
    host.ssh(f"rm -rf {DIRECTORY} {store} /opt/procline-fleet /etc/procline /etc/credstore/procline-*")
    print(f"hosts: {host.name}: the documented commands work", flush=True)


def _make_next(host: Host) -> None:
    """Make a package of a higher version."""
    host.ssh(
        f"cd {DIRECTORY} && dpkg-deb -R procline_VERSION_amd64.deb tree && "
        f"sed -i 's/^Version: .*/Version: {NEXT_VERSION}/' tree/DEBIAN/control && "
        "dpkg-deb -Znone -b tree procline_NEWVERSION_amd64.deb && rm -rf tree",
        timeout=package.INSTALL_S,
    )


def _check_fleet(host: Host, run: Callable[[str], str], todo: dict[str, str]) -> None:
    """Install the store with pip, and start it. The hub of the page does not answer; the service waits for it."""
    with tempfile.TemporaryDirectory() as directory:
        command = [ROOT / ".venv/bin/python", HERE / "wheels.py", directory, *EXTRA]
        subprocess.run(command, check=True)
        host.ssh(f"mkdir -p {DIRECTORY}/wheels")
        for wheel in Path(directory).iterdir():
            host.put(wheel, f"{DIRECTORY}/wheels/{wheel.name}")
    host.ssh(f"cp {package.unpack_wheelhouses(host)[0]}/wheels/*.whl {DIRECTORY}/wheels/")
    # The store knows no host yet, which is exit code 1.
    name = "docs/fleet.md: python3 -m venv"
    todo[name] = todo[name].rstrip() + " 2> found || grep 'the store has no host yet' found\n"
    assert "the store has no host yet" in run(name)
    shown = package.properties(host, "ActiveState", "NRestarts", unit="procline-fleet-ingest")
    assert shown == {"ActiveState": "active", "NRestarts": "0"}, shown
    host.ssh("systemctl disable --now procline-fleet-ingest procline-forward")


def _check_journal(host: Host, command: str) -> None:
    """A line of the journal gets the ancestors of its process."""
    assert command.startswith("journalctl --follow ")
    seen = f"grep -q 'of-the-test.*\\[from ' {DIRECTORY}/lines"
    write = "logger --id=$$ --tag procline-test of-the-test"
    host.ssh(
        f"cd {DIRECTORY} && PATH=$PATH:{DIRECTORY} && ({command.strip()}) > lines 2>&1 &\n"
        f"i=0; until {seen}; do [ $i -lt 60 ] || break; i=$((i + 1)); {write}; sleep 1; done; "
        f"kill $(pidof journalctl); {seen} || {{ tail -n 5 {DIRECTORY}/lines; exit 1; }}"
    )

"""The tests on the hosts. A scenario gets the hosts; an AssertionError or a HostError is its failure."""

from __future__ import annotations

import json
from collections.abc import Callable

import documents as pages
import jobs
import package
from hosts import Host, Hosts

#: Seconds for which look-ups of absent processes may be stale over an upgrade, on a machine that does nothing else. A
#: start needs CPU time, so on a busy machine only a wide limit can hold.
STALE_MAX_S = 2.0
STALE_BUSY_MAX_S = 30.0
#: Share of the machine's CPU time for other work, during an upgrade, from which on it is busy.
BUSY = 0.2
#: How often the service is upgraded and rolled back on each host.
ROUNDS = 3
#: Exposure of the unit by systemd-analyze security; 0 is best, 10 worst.
EXPOSURE_MAX = 2.0
#: Processes that a storm on a host executes, and the shell command that makes them.
STORM_PROCESSES = 1000
STORM = f"seq {STORM_PROCESSES} | xargs -n 1 -P 4 /bin/true"


def install(hosts: Hosts) -> None:
    """Install the package: it runs as it ships, users see what the settings allow, and `why` names cron and at."""
    package.install(hosts[0])
    jobs.begin(hosts[0])
    for host in hosts:
        package.install(host)
        check_service(host)
        check_readers(host)
        check_forwarder(host)
    check_doctor(hosts[0])
    check_scope(hosts)
    jobs.check(hosts[0])
    check_strict_tables(hosts[0])


def documents(hosts: Hosts) -> None:
    """Install, use, upgrade and remove by the commands of the documents."""
    pages.check(hosts[-1])


def upgrade(hosts: Hosts) -> None:
    """Upgrade and roll back while a reader is attached: it loses nothing, and is stale for 2 s at most."""
    quiet: list[float] = []
    for host in hosts:
        package.install(host)
        # More often than StartLimitBurst= allows a daemon that fails.
        for _ in range(ROUNDS):
            for version in (package.NEXT, package.FIRST):
                others = package.OtherWork()
                seconds = change_version(host, version)
                busy = others.share()
                print(
                    f"hosts: {host.name}: to {package.version(version)}: stale for {seconds:.2f} s "
                    f"(other work: {busy:.0%} of all CPUs)",
                    flush=True,
                )
                assert seconds <= (STALE_MAX_S if busy < BUSY else STALE_BUSY_MAX_S), f"stale for {seconds:.2f} s"
                if busy < BUSY:
                    quiet.append(seconds)
    if quiet:
        print(
            f"hosts: on a quiet machine, {len(quiet)} of the changes: stale for {min(quiet):.2f} to {max(quiet):.2f} s"
        )
    else:
        print(
            f"hosts: NOT TESTED: that an upgrade is stale for at most {STALE_MAX_S} s: the machine was busy each time"
        )


def purge(hosts: Hosts) -> None:
    """Purge the package: files, users, groups and units are those from before its installation."""
    for host in hosts:
        package.install(host)
        host.ssh("procline resolve 1 > /dev/null")
        host.ssh("systemctl enable procline-forward procline-fleet-ingest")
        host.ssh("DEBIAN_FRONTEND=noninteractive apt-get purge -y procline")
        differences = package.differences(host)
        assert not differences, f"{host.name}: after purge:\n" + "\n".join(differences)


def wheelhouse(hosts: Hosts) -> None:
    """Install, upgrade and remove a wheelhouse by the commands in its README.txt."""
    host = hosts[0]
    directories = package.unpack_wheelhouses(host)
    host.ssh("dpkg --purge procline")
    install, service, *_, removal = package.instructions(host, directories[0])
    package.follow(host, directories[0], [*install, *service[:-1]])
    package.configure(host, "", restart=False)
    package.follow(host, directories[0], service[-1:])
    check_service(host)
    if len(directories) > 1:
        install, _, upgrade, _ = package.instructions(host, directories[1])
        takeovers = package.stat(host)["takeovers"]
        package.follow(host, directories[1], [*install, *upgrade])
        assert package.stat(host)["takeovers"] == takeovers + 1, "the new version did not take over the tables"
        assert host.read("procline --version").split()[1] in directories[1], "another version runs"
    package.follow(host, "/", removal)
    differences = package.differences(host)
    assert not differences, f"{host.name}: after the removal:\n" + "\n".join(differences)


def check_service(host: Host) -> None:
    """The service is healthy and has the unit's privileges."""
    stat = package.stat(host)
    assert host.read("systemctl is-enabled procline.service") == "enabled"
    shown = package.properties(host, "ActiveState", "NRestarts", "Result", "MainPID", "User")
    assert shown["ActiveState"] == "active" and shown["NRestarts"] == "0" and shown["User"] == "procline", shown
    assert not any(stat["lost"].values()), stat["lost"]
    assert host.ssh("journalctl -I -u procline -p warning -o cat --no-pager").stdout.strip() in {"", "-- No entries --"}
    status = package.fields(host.read(f"cat /proc/{shown['MainPID']}/status"))
    assert status["Uid"].split()[0] != "0" and status["NoNewPrivs"] == "1" and status["Seccomp"] == "2", status
    assert int(status["CapBnd"], 16) == int(status["CapEff"], 16) == package.CAPABILITIES, status
    for namespace in ("mnt", "ipc"):
        links = host.read(f"readlink /proc/1/ns/{namespace} /proc/{shown['MainPID']}/ns/{namespace}").split()
        assert links[0] != links[1], f"the service is in the namespace {namespace} of the host"
    exposure = host.read("systemd-analyze security --no-pager procline.service | tail -n 1")
    print(f"hosts: {host.name}: {exposure.lstrip('→ ')}", flush=True)
    assert float(exposure.split(":")[1].split()[0]) <= EXPOSURE_MAX, exposure


def check_readers(host: Host) -> None:
    """A member of the group sees arguments and events, a stranger neither; both see the tables."""
    host.ssh("systemd-run --quiet --unit=sleeper sleep 4711")
    pid = package.properties(host, "MainPID", unit="sleeper")["MainPID"]
    try:
        seen = {user: package.resolve(host, pid, user) for user in (package.MEMBER, package.STRANGER)}
    finally:
        host.ssh("systemctl stop sleeper")
    assert seen[package.MEMBER]["argv"][-2:] == ["sleep", "4711"] or seen[package.MEMBER]["argv"][-1] == "4711", seen
    assert seen[package.STRANGER]["argv"] is None and seen[package.STRANGER]["comm"] == "sleep", seen
    refused = host.ssh(package.as_user(package.STRANGER, "procline subscribe --count 1 --timeout 20"), check=False)
    assert refused.returncode == 2 and "permission" in refused.stderr, refused
    subscribe = "procline subscribe --snapshot --json --count 1 --timeout 60"
    event = json.loads(host.read(package.as_user(package.MEMBER, subscribe)).splitlines()[0])
    assert event["pid"], event
    lineage = (
        "from pipeline import ProcessTable as T; t = T.attach(); print([e.pid for e in t.ancestors(t.resolve(1))])"
    )
    host.ssh(package.as_user(package.STRANGER, f"/opt/procline/bin/python3 -c '{lineage}'"))


def check_forwarder(host: Host) -> None:
    """The forwarder is off unless somebody enables it, and reads the stream as its unit confines it."""
    for unit in ("procline-forward", "procline-fleet-ingest"):
        assert host.read(f"systemctl is-enabled {unit} || true") == "disabled"
    file = "/var/lib/procline-forward/events.jsonl"
    package.configure(host, f'[forward]\nto = "jsonl:{file}"\n', restart=False)
    seen = f"for i in $(seq 100); do /bin/true; grep -q /usr/bin/true {file} && exit; sleep 0.2; done; exit 1"
    try:
        host.ssh("systemctl start procline-forward")
        written = host.ssh(seen, check=False)
        shown = package.properties(host, "ActiveState", "NRestarts", "Result", unit="procline-forward")
        journal = host.ssh("journalctl -I -u procline-forward -o cat --no-pager").stdout
    finally:
        package.configure(host, "", restart=False)
        host.ssh(f"systemctl stop procline-forward; rm -f {file}")
    assert written.returncode == 0 and shown["ActiveState"] == "active" and shown["NRestarts"] == "0", (shown, journal)


def check_doctor(host: Host) -> None:
    """`procline doctor` explains why the forwarder and the store of a fleet failed, and what to do."""
    package.configure(host, '[forward]\nto = "nats://127.0.0.1:4222"\ncredentials = "/nowhere"\n', restart=False)
    try:
        host.ssh("systemctl start procline-forward procline-fleet-ingest", check=False)
        host.ssh("while systemctl is-active procline-forward | grep -q activating; do sleep 0.1; done")
        report = json.loads(host.ssh("procline doctor --json", check=False).stdout)
    finally:
        package.configure(host, "", restart=False)
        host.ssh("systemctl reset-failed procline-forward procline-fleet-ingest")
    found = {check["name"]: check for check in report["checks"]}
    assert found["unit"]["ok"], found["unit"]
    forwarder, store = found["unit procline-forward"], found["unit procline-fleet-ingest"]
    assert forwarder["ok"] is store["ok"] is False, (forwarder, store)
    assert "exit code 2" in forwarder["detail"] and "/nowhere" in forwarder["detail"], forwarder
    assert "procline forward --check" in forwarder["hint"], forwarder
    assert "could not provide" in store["detail"] and "/etc/procline/fleet-ingest.env" in store["hint"], store


def check_scope(hosts: Hosts) -> None:
    """Each host sees exactly its own processes after a storm on all of them, although they share a kernel."""
    for number, host in enumerate(hosts):
        host.ssh(f"systemd-run --quiet --unit=marker{number} sleep 47110{number}")
        host.ssh(f"systemd-run --quiet --unit=storm{number} sh -c '{STORM}'")
    for number, host in enumerate(hosts):
        host.ssh(f"while systemctl is-active --quiet storm{number}; do sleep 0.1; done")
    for number, host in enumerate(hosts):
        print(f"hosts: {host.name}: {package.compared(host)} processes, as in its /proc", flush=True)
        seen = [" ".join(entry.get("argv") or ()) for entry in json.loads(host.read("procline dump --json"))["entries"]]
        markers = {text.rpartition(" ")[2] for text in seen if "sleep 47110" in text}
        assert markers == {f"47110{number}"}, f"{host.name} sees {markers}"
        stat = package.stat(host)
        assert not any(stat["lost"].values()), stat["lost"]
        assert stat["events"]["exec"] >= STORM_PROCESSES, stat["events"]
    for number, host in enumerate(hosts):
        host.ssh(f"systemctl stop marker{number}")


def check_strict_tables(host: Host) -> None:
    """With access.tables_mode 0640 a stranger cannot read the tables, and a member can."""
    package.configure(host, '[access]\ntables_mode = "0640"\n')
    try:
        package.stat(host)
        refused = host.ssh(package.as_user(package.STRANGER, "procline resolve 1"), check=False)
        assert refused.returncode == 2 and "permission" in refused.stderr.lower(), refused
        host.ssh(package.as_user(package.MEMBER, "procline resolve 1"))
    finally:
        package.configure(host, "")


def change_version(host: Host, deb: str) -> float:
    """Install another version while a reader is attached; return for how long it was stale, in seconds."""
    before = package.stat(host)
    pid = package.exited(host)
    entry = package.resolve(host, pid, package.MEMBER)
    reader = package.Reader(host, pid)
    package.dpkg(host, deb)
    package.stat(host)
    assert host.read("procline --version") == f"procline {package.version(deb)}", "another version runs"
    seen = reader.end()
    assert seen["missed"] == 0 and not seen["errors"], seen
    assert seen["stale_s"] and not seen["is_stale"] and seen["sees_pid_1"], seen
    assert seen["epoch"] == before["epoch"] and seen["takeovers"] == before["takeovers"] + 1, (before, seen)
    after = package.resolve(host, pid, package.MEMBER)
    for name in ("entity_id", "ppid", "comm", "path", "argv", "exit_code"):
        assert after[name] == entry[name] is not None, (name, entry, after)
    return float(max(seen["stale_s"]))


#: Scenarios by name, and how many versions of the packages each needs.
SCENARIOS: dict[str, Callable[[Hosts], None]] = {
    "install": install, "documents": documents, "upgrade": upgrade, "purge": purge, "wheelhouse": wheelhouse,
}  # fmt: skip
VERSIONS = {"install": 1, "documents": 1, "upgrade": 2, "purge": 1, "wheelhouse": 2}

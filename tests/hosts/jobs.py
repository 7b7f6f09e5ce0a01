"""Jobs of cron, at and a systemd timer on a host, su in an ssh session, and what `procline why` says about them."""

from __future__ import annotations

import json
import time
from typing import Any

from hosts import NETWORK, Host, HostError
from package import MEMBER

#: What each of them runs is `sleep` for this time, by which the process is found.
CRON, AT, SSH, TIMER = "4801", "4802", "4803", "4804"
#: cron reads crontabs once a minute.
BEGIN_S = 150


def begin(host: Host) -> None:
    """Ask the daemons for the jobs. A job of cron begins with the next minute."""
    host.ssh(f"crontab -u {MEMBER} -", text=f"* * * * * sleep {CRON}\n")
    # A job begins in the directory in which it was asked for; root's is closed to the member.
    host.ssh(f"cd / && su {MEMBER} -c 'echo sleep {AT} | at now'")
    host.ssh(f"systemd-run --quiet --on-active=1 --timer-property=AccuracySec=100ms --unit=nightly sleep {TIMER}")
    # The process outlives the session, and so does what is known of it.
    host.ssh(f"su {MEMBER} -c 'sleep {SSH}' > /dev/null 2>&1 < /dev/null &")


def check(host: Host) -> None:
    """The story of each process names the program that started it, and the user."""
    pids = {seconds: _pid(host, seconds) for seconds in (AT, SSH, TIMER, CRON)}
    host.ssh(f"crontab -u {MEMBER} -r")
    try:
        stories = {seconds: json.loads(host.read(f"procline why {pid} --json")) for seconds, pid in pids.items()}
    finally:
        host.ssh(f"systemctl stop nightly.timer nightly.service; kill {pids[AT]} {pids[SSH]} {pids[CRON]}")
    _check_job(stories[CRON], "cron_job", "cron", ["/bin/sh", "-c", f"sleep {CRON}"])
    _check_job(stories[AT], "at_job", "atd", ["sh"])
    timer = _finding(stories[TIMER], "triggered_by")
    assert timer["facts"]["unit"] == "nightly.timer" and timer["proof"] == "root", timer
    assert "triggered by nightly.timer" in stories[TIMER]["summary"], stories[TIMER]["summary"]
    session = _finding(stories[SSH], "ssh_session")
    assert session["facts"]["client_ip"] == f"{NETWORK}.1" and session["facts"]["username"] == "root", session
    assert session["proof"] == "root", session
    assert _user(stories[SSH]) == MEMBER, stories[SSH]["process"]
    changes = [each for each in stories[SSH]["findings"] if each["kind"] == "user_change"]
    assert any("/usr/bin/su" in each["facts"]["candidates"] for each in changes), changes
    print(f"hosts: {host.name}: the stories name cron, at, a timer, and su in an ssh session", flush=True)


def _check_job(story: dict[str, Any], kind: str, daemon: str, argv: list[str]) -> None:
    job = _finding(story, kind)
    assert job["proof"] == "root" and job["facts"]["program"] == daemon, job
    assert job["facts"]["job_argv"] == argv and f"as {MEMBER} " in job["text"], job
    assert job["facts"]["daemon_pid"] == job["pid"], job
    assert f"as part of a job of {'at' if kind == 'at_job' else daemon}" in story["summary"], story["summary"]
    assert _user(story) == MEMBER, story["process"]
    # Both daemons run as root and give up its rights for the job.
    change = _finding(story, "user_change")
    assert any(path.endswith(f"/{daemon}") for path in change["facts"]["candidates"]), change
    assert (change["facts"]["from"]["user"], change["facts"]["to"]["user"]) == ("root", MEMBER), change


def _finding(story: dict[str, Any], kind: str) -> dict[str, Any]:
    found: list[dict[str, Any]] = [each for each in story["findings"] if each["kind"] == kind]
    assert len(found) == 1, (kind, story["summary"], story["findings"])
    return found[0]


def _user(story: dict[str, Any]) -> str | None:
    user: str | None = story["process"]["images"][-1]["user"]
    return user


def _pid(host: Host, seconds: str) -> int:
    """Wait until a process sleeps for that time; return its pid."""
    # The brackets keep the command from finding itself.
    command = f"grep -lzx '{seconds[:-1]}[{seconds[-1]}]' /proc/[0-9]*/cmdline"
    deadline = time.monotonic() + BEGIN_S
    while not (found := host.ssh(command, check=False).stdout.split()):
        if time.monotonic() > deadline:
            journal = host.ssh("journalctl -n 20 --no-pager", check=False).stdout
            raise HostError(f"{host.name}: nothing sleeps for {seconds} s:\n{journal}")
        time.sleep(0.5)
    return int(found[0].split("/")[2])

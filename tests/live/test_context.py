"""Context events in a running daemon: agents send them, the tables and `proc.context` show them, and they expire."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, NoReturn

import pytest

from pipeline import paths
from pipeline.bus.context_events import ContextSender
from tests.hierarchy import cgroup_v2_root
from tests.live.harness import Daemon, Recorder
from tests.waiting import eventually

pytestmark = [pytest.mark.live, pytest.mark.usefixtures("live_kernel")]

#: A process that stores tracer metadata in a sealed memfd, prints its descriptor, and starts children on request.
TRACED = """
import fcntl, os, subprocess, sys
import msgpack
fd = os.memfd_create("datadog-tracer-info-live", os.MFD_ALLOW_SEALING)
os.write(fd, msgpack.packb({"schema_version": 2, "tracer_language": "python", "service_name": "shop"}))
fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
print(fd, flush=True)
for line in sys.stdin:
    child = os.fork()
    if child == 0:
        if line.strip() == "exec":
            os.execv("/bin/sleep", ["sleep", "300"])
        import time
        time.sleep(300)
    print(child, flush=True)
"""


@pytest.fixture(scope="module")
def told(live_kernel: None) -> Iterator[Daemon]:
    with Daemon(name="told") as running:
        yield running


@contextmanager
def traced() -> Iterator[tuple[subprocess.Popen[str], int]]:
    process = subprocess.Popen(
        [sys.executable, "-c", TRACED], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        yield process, int(process.stdout.readline())
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def child_of(process: subprocess.Popen[str], how: str) -> int:
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(f"{how}\n")
    process.stdin.flush()
    return int(process.stdout.readline())


def extra_of(daemon: Daemon, pid: int) -> dict[str, Any]:
    return daemon.resolved(pid)["extra"] or {}


def of(events: list[dict[str, Any]], kind: str, pid: int) -> list[dict[str, Any]]:
    return [event for event in events if event["event"] == kind and event["pid"] == pid]


def test_tracer_metadata_is_read_from_the_memfd_and_inherited_by_forks_only(told: Daemon) -> None:
    with (
        traced() as (process, fd),
        Recorder(told, "proc.context", "proc.exec") as recorder,
        ContextSender("test", directory=told.directory) as sender,
    ):
        recorder.started()
        sender.send("tracer_memfd_seal", process.pid, fd=fd)
        recorder.wait_for(lambda events: of(events, "tracer_memfd_seal", process.pid))
        (event,) = of(recorder.events, "tracer_memfd_seal", process.pid)
        metadata = event["extra"]["tracer_metadata"]
        assert (metadata["service_name"], metadata["tracer_language"]) == ("shop", "python")
        assert event["context"] == {"fd": fd, "error": None}
        assert (event["ppid"], event["lineage"][0]["pid"]) == (os.getpid(), process.pid)
        assert extra_of(told, process.pid)["tracer_metadata"] == metadata
        forked, executed = child_of(process, "stay"), child_of(process, "exec")
        eventually(lambda: told.resolved(executed)["is_exec"])
        assert extra_of(told, forked) == {"tracer_metadata": metadata}
        assert extra_of(told, executed) == {}
        # A descriptor that is not a memfd, and one that does not exist: the event has the reason, and nothing changes.
        sender.send("tracer_memfd_seal", process.pid, fd=0)
        sender.send("tracer_memfd_seal", process.pid, fd=4000)
        recorder.wait_for(lambda events: len(of(events, "tracer_memfd_seal", process.pid)) == 3)
        errors = [one["context"]["error"] for one in of(recorder.events, "tracer_memfd_seal", process.pid)]
        assert errors[0] is None and "memfd" in errors[1] and "descriptor 4000" in errors[2]
        assert extra_of(told, process.pid)["tracer_metadata"] == metadata


def imds(key: str, expires_in_s: float) -> dict[str, str]:
    at = datetime.now(UTC) + timedelta(seconds=expires_in_s)
    return {
        "access_key_id": key, "code": "Success", "type": "AWS-HMAC", "last_updated": "2026-01-01T00:00:00Z",
        "expiration": at.isoformat(),
    }  # fmt: skip


def keys_of(daemon: Daemon, pid: int) -> dict[str, str]:
    known = extra_of(daemon, pid).get("aws_security_credentials", [])
    return {one["access_key_id"]: one["expiration_raw"] for one in known}


def test_cloud_credentials_appear_are_refreshed_and_expire(told: Daemon) -> None:
    with (
        subprocess.Popen(["/bin/sleep", "300"]) as process,
        Recorder(told, "proc.context", "proc.exec") as recorder,
        ContextSender("test", directory=told.directory) as sender,
    ):
        try:
            recorder.started()
            long, short = imds("AKIALONG", 3600), imds("AKIASHORT", 4)
            sender.send("imds", process.pid, **long)
            sender.send("imds", process.pid, **short)
            recorder.wait_for(lambda events: len(of(events, "imds", process.pid)) == 2)
            first, second = of(recorder.events, "imds", process.pid)
            # The event shows the process before the update, for rules.
            assert first["extra"] is None and first["context"] == {**long, "error": None}
            assert [one["access_key_id"] for one in second["extra"]["aws_security_credentials"]] == ["AKIALONG"]
            eventually(lambda: keys_of(told, process.pid).keys() == {"AKIALONG", "AKIASHORT"})
            later = imds("AKIALONG", 7200)
            sender.send("imds", process.pid, **later)
            eventually(lambda: keys_of(told, process.pid)["AKIALONG"] == later["expiration"])
            eventually(lambda: keys_of(told, process.pid).keys() == {"AKIALONG"})
        finally:
            process.kill()


def test_reported_credentials_outlive_the_resolver_and_expire(live_kernel: None) -> None:
    with Daemon(name="killed") as daemon, subprocess.Popen(["/bin/sleep", "300"]) as process:
        try:
            # Facts about an image do not apply to the image after an exec; Popen returns before the exec ends.
            eventually(lambda: daemon.resolved(process.pid)["is_exec"])
            with ContextSender("test", directory=daemon.directory) as sender:
                sender.send("imds", process.pid, **imds("AKIALONG", 3600))
                sender.send("imds", process.pid, **imds("AKIASHORT", 12))
                eventually(lambda: keys_of(daemon, process.pid).keys() == {"AKIALONG", "AKIASHORT"})
            (resolver,) = daemon.pids("resolver")
            os.kill(resolver, signal.SIGKILL)
            eventually(lambda: daemon.pids("resolver") not in ([], [resolver]))
            eventually(lambda: keys_of(daemon, process.pid).keys() == {"AKIALONG"}, 40)
        finally:
            process.kill()


def test_an_ssh_session_is_inherited(told: Daemon) -> None:
    with traced() as (process, _), ContextSender("test", directory=told.directory) as sender:
        sender.send(
            "user_session", process.pid, id=77, type=2, ssh_session_id=9876, ssh_username="ada",
            ssh_client_ip="10.0.0.9", ssh_client_port=50022,
        )  # fmt: skip
        eventually(lambda: "ssh" in extra_of(told, process.pid))
        found = told.resolved(process.pid)
        assert found["user_session"] == 77 and found["extra"]["session"] == {"id": 77, "session_type": 2}
        forked, executed = child_of(process, "stay"), child_of(process, "exec")
        eventually(lambda: told.resolved(executed)["is_exec"])
        ssh = found["extra"]["ssh"]
        assert (ssh["ssh_session_id"], ssh["ssh_username"]) == (9876, "ada")
        eventually(lambda: extra_of(told, forked) == {"ssh": ssh})
        eventually(lambda: extra_of(told, executed) == {"ssh": ssh})


def test_capabilities_add_up_and_targets_are_published(told: Daemon) -> None:
    with (
        subprocess.Popen(["/bin/sleep", "300"]) as process,
        Recorder(told, "proc.context", "proc.exec") as recorder,
        ContextSender("test", directory=told.directory) as sender,
    ):
        try:
            recorder.started()
            sender.send("capabilities", process.pid, attempted=0b110, used=0b010)
            sender.send("capabilities", process.pid, attempted=1 << 40, used=0)
            sender.send("signal", os.getpid(), target=process.pid, signal=15)
            sender.send("setrlimit", os.getpid(), target=0, resource=7, soft=10, hard=20)
            sender.send("ptrace", os.getpid(), target=(1 << 22) - 1)
            sender.send("ptrace", os.getpid(), start_boot_ns=1, target=process.pid)
            recorder.wait_for(lambda events: len([e for e in events if e["event"] == "ptrace"]) == 2)
            found = told.resolved(process.pid)
            assert (found["caps_attempted"], found["caps_used"]) == (0b110 | 1 << 40, 0b010)
            (sent,) = of(recorder.events, "signal", os.getpid())
            target = sent["context"].pop("target")
            assert sent["context"] == {"signal": 15, "error": None}
            assert (target["pid"], target["comm"], target["entity_id"]) == (process.pid, "sleep", found["entity_id"])
            (limit,) = of(recorder.events, "setrlimit", os.getpid())
            assert limit["context"] == {"target": 0, "resource": 7, "soft": 10, "hard": 20, "error": None}
            nobody, stranger = of(recorder.events, "ptrace", os.getpid())
            assert nobody["context"]["target"]["comm"] is None
            # Another process has the pid now, so the event contains no facts about it.
            assert stranger["context"]["error"] == "no_process_context" and stranger["comm"] is None
        finally:
            process.kill()


def test_a_traced_cgroup_is_resolved(told: Daemon, missing: Callable[[str], NoReturn]) -> None:
    root = cgroup_v2_root()
    if root is None:
        missing("no cgroup v2 hierarchy is mounted")
    group = root / f"procline-test-{os.getpid()}"
    try:
        group.mkdir()
    except OSError as error:
        missing(f"no cgroup can be made below {root}: {error}")
    try:
        with (
            subprocess.Popen(["/bin/sleep", "300"]) as process,
            ContextSender("test", directory=told.directory) as sender,
        ):
            counted = told.stat()["counters"]["context_events"]
            sender.send("cgroup_tracing", process.pid, cgroup_id=group.stat().st_ino)
            eventually(lambda: (told.resolved(process.pid)["cgroup"] or "").endswith(f"/{group.name}"))
            assert told.resolved(process.pid)["cgroup_id"] == group.stat().st_ino
            # The counter follows a moment later, and the next test compares it.
            eventually(lambda: told.stat()["counters"]["context_events"] > counted)
            process.kill()
    finally:
        group.rmdir()


def test_unreadable_messages_are_refused_and_counted_like_frames(told: Daemon) -> None:
    import msgpack

    from pipeline.bus.sockets import Bus

    assert paths.frames_socket(told.directory).stat().st_mode & 0o777 == 0o600
    assert paths.frames_socket(told.directory).parent.stat().st_mode & 0o777 == 0o700
    before = told.stat()["counters"]
    with Bus() as bus:
        socket = bus.push(paths.frames_socket(told.directory))
        for message in (
            {"context": 2, "boot": bytes(16), "src": "x", "events": [{"kind": "imds", "pid": 1}]},
            {"context": 1, "boot": bytes(16), "src": "x", "events": [{"kind": "signal", "pid": 1, "target": 1}]},
            {"context": 1, "boot": bytes(15), "src": "x", "events": []},
        ):
            socket.send(msgpack.packb(message))
        eventually(lambda: told.stat()["counters"]["frames_refused"] == before["frames_refused"] + 3)
        after = told.stat()["counters"]
        assert after["context_events"] == before["context_events"] and after["frames_gap"] == before["frames_gap"]
    with ContextSender("test", directory=told.directory) as sender:
        sender.send("capabilities", os.getpid(), attempted=0, used=0)
        eventually(lambda: told.stat()["counters"]["context_events"] == before["context_events"] + 1)


def test_an_event_of_a_process_that_has_just_ended_is_still_its_own(told: Daemon) -> None:
    with (
        Recorder(told, "proc.context", "proc.exec") as recorder,
        ContextSender("test", directory=told.directory) as sender,
    ):
        recorder.started()
        process = subprocess.Popen(["/bin/sleep", "300"])
        sender.send("capabilities", process.pid, attempted=1, used=1)
        process.kill()
        process.wait()
        recorder.wait_for(lambda events: of(events, "capabilities", process.pid))
        (event,) = of(recorder.events, "capabilities", process.pid)
        assert event["comm"] in ("sleep", "python", "python3") and event["context"]["error"] is None

"""A daemon that finds changes of live processes by comparison: which changes, when, and how it marks them."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from pipeline.bpf.sampling import CPU_SHARE
from pipeline.host.boot import now_boot_ns
from pipeline.load.measuring import cpu_ns
from pipeline.screen.times import moment
from pipeline.shm.reader._entry import Entry
from tests.actor import Actor
from tests.live.agreement import assert_agrees
from tests.live.harness import BY_COMPARISON, Daemon, Recorder
from tests.live.recordings import record
from tests.live.watch import Watch
from tests.proc import namespace
from tests.waiting import eventually

pytestmark = pytest.mark.live

INTERVAL_S = 2.0
#: Enough for a busy machine, where a pass or a record can be late.
PATIENCE_S = 60


@pytest.fixture(scope="module")
def watch(live_kernel: None) -> Iterator[Watch]:
    with (
        Daemon(BY_COMPARISON) as daemon,
        daemon.attach() as table,
        Recorder(daemon, "proc").started() as recorder,
    ):
        yield Watch(daemon, recorder, table)
        recorder.stop()


def test_a_change_is_seen_and_marked_as_sampled(watch: Watch, actor: Actor) -> None:
    began_ns = time.time_ns()
    actor.do("libc.setresgid(12, 13, 14); libc.setresuid(2, 3, 4)")
    changed_ns = time.time_ns()
    entry = watch.until(actor.pid, uid=2, euid=3, suid=4, gid=12, egid=13, sgid=14)
    assert "change_sampled" in entry.marks
    (event,) = eventually(lambda: watch.events(actor.pid, "cred") or False)
    assert (event["uid"], event["gid"]) == (2, 12) and "change_sampled" in event["marks"]
    assert event["time_ns"] >= began_ns
    # The time is that of the comparison: after the change, by one interval at most. The margin is for a busy machine.
    assert event["time_ns"] <= changed_ns + (INTERVAL_S + PATIENCE_S / 2) * 1e9
    shown = watch.daemon.cli("resolve", str(actor.pid)).stdout
    assert "(found by a comparison)" in shown
    assert f" and {moment(event['time_ns'])} " in shown
    shown = watch.daemon.cli("why", str(actor.pid)).stdout
    assert "A comparison found the last change of its credentials or session" in " ".join(shown.split())


def test_each_change_is_between_the_limits_of_its_event(watch: Watch, actor: Actor) -> None:
    """Changes at any moment of the interval between two comparisons, of both kinds."""
    entry = watch.until(actor.pid, uid=0)
    began_ns = entry.start_time_ns - entry.start_boot_ns  # on the clock of events, which no change of the clock moves
    changes = {}
    for number in range(1, 31):
        before = now_boot_ns()
        actor.do(f"os.setresgid({number}, 0, 0)")
        changes[number] = before, now_boot_ns()
        time.sleep(0.3)
    watch.until(actor.pid, gid=number)
    eventually(lambda: watch.events_of("cred", pid=actor.pid, gid=number) or False)
    events = watch.events(actor.pid, "cred")
    assert len(events) > 2
    for event in events:
        (before, after), limit = changes[event["gid"]], event["changed_after_ns"]
        assert limit - began_ns < after and before < event["time_ns"] - began_ns
        assert limit >= entry.start_time_ns
    seen = len(watch.events(actor.pid, "sid"))
    before = now_boot_ns()
    actor.do("os.setsid()")
    after = now_boot_ns()
    (event,) = eventually(lambda: watch.events(actor.pid, "sid")[seen:] or False)
    assert event["changed_after_ns"] - began_ns < after and before < event["time_ns"] - began_ns
    actor.do("libc.prctl(15, b'renamed', 0, 0, 0)")
    (event,) = eventually(lambda: watch.events(actor.pid, "comm") or False)
    assert "changed_after_ns" not in event, "it is exact"


def limits_of(entry: Entry) -> tuple[int, int]:
    """Between which times the last change of a process happened."""
    change: Any = (entry.extra or {})["sampled_change"]
    return change["changed_after_ns"], change["changed_before_ns"]


def test_the_row_says_between_which_times_its_last_change_happened(watch: Watch, actor: Actor) -> None:
    """The same as the event of the change, and as JSON; a child does not have it."""
    entry = watch.until(actor.pid, uid=0)
    assert "sampled_change" not in (entry.extra or {})
    began_ns = entry.start_time_ns - entry.start_boot_ns
    for number in (1, 2):
        before = now_boot_ns()
        actor.do(f"os.setresgid({number}, 0, 0)")
        after = now_boot_ns()
        entry = watch.until(actor.pid, gid=number)
        first, last = limits_of(entry)
        assert first - began_ns < after and before < last - began_ns
        (event,) = eventually(lambda: watch.events_of("cred", pid=actor.pid, gid=number) or False)  # noqa: B023
        assert (event["changed_after_ns"], event["time_ns"]) == (first, last)
        assert event["extra"] == entry.extra
        shown = json.loads(watch.daemon.cli("resolve", str(actor.pid), "--json").stdout)
        assert shown["extra"] == entry.extra
    actor.do("child = os.fork()\nif not child:\n    time.sleep(60)\n    os._exit(0)")
    (child,) = map(int, Path(f"/proc/{actor.pid}/task/{actor.pid}/children").read_text().split())
    try:
        entry = watch.until(child, gid=number)
        assert "change_sampled" not in entry.marks and "sampled_change" not in (entry.extra or {})
    finally:
        actor.do("os.kill(child, 9); os.waitpid(child, 0)")


def test_statistics_say_how_soon_a_change_is_found(watch: Watch) -> None:
    eventually(lambda: watch.table.stats()["sampling_interval_s"] == INTERVAL_S)
    assert "found within 2 s, by comparison" in watch.daemon.cli("stat").stdout


def test_session_terminal_and_namespaces(watch: Watch, actor: Actor) -> None:
    actor.do("import fcntl, signal, termios; signal.signal(signal.SIGHUP, signal.SIG_IGN)")
    actor.do("os.setsid(); master, slave = os.openpty(); fcntl.ioctl(slave, termios.TIOCSCTTY, 0)")
    entry = watch.until(actor.pid, sid=actor.pid, pgid=actor.pid)
    eventually(lambda: (watch.table.resolve(actor.pid).tty or "").startswith("pts"), limit_s=PATIENCE_S)
    assert "change_sampled" in entry.marks
    actor.do("os.unshare(os.CLONE_NEWNS)")
    inode = namespace(actor.pid, "mnt")
    watch.until(actor.pid, mnt_ns=inode)


def sessions_since(watch: Watch, pid: int, boot_ns: int) -> list[dict]:
    """The `sid` events after a time. Earlier ones may still be on their way when a reader sees what they say."""
    entry = watch.table.resolve(pid)
    began_ns = entry.start_time_ns - entry.start_boot_ns
    return [event for event in watch.events(pid, "sid") if event["time_ns"] > boot_ns + began_ns]


def test_a_terminal_that_a_session_loses_is_one_event_for_each_process(watch: Watch) -> None:
    """The resolver removes it from all of them at once; the comparison that follows finds nothing new."""
    with Actor() as member:
        member.do("import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)")
        leader = member.join_session()
        watch.until(member.pid, sid=leader)
        eventually(lambda: (watch.table.resolve(member.pid).tty or "").startswith("pts"), limit_s=PATIENCE_S)
        before = now_boot_ns()
        subprocess.run(["kill", "-KILL", str(leader)], check=True)
        watch.until(member.pid, tty=None)
        time.sleep(2 * INTERVAL_S)
        assert len(sessions_since(watch, member.pid, before)) == 1


def test_a_terminal_that_is_hung_up(watch: Watch, actor: Actor) -> None:
    """The leader ignores the signal that the kernel sends, which no program sees with this method."""
    actor.do("import fcntl, signal, termios; signal.signal(signal.SIGHUP, signal.SIG_IGN)")
    actor.do("os.setsid(); master, slave = os.openpty(); fcntl.ioctl(slave, termios.TIOCSCTTY, 0)")
    watch.until(actor.pid, sid=actor.pid)
    assert eventually(lambda: watch.table.resolve(actor.pid).tty or False, limit_s=PATIENCE_S).startswith("pts")
    actor.do("os.close(master)")
    assert "change_sampled" in watch.until(actor.pid, tty=None).marks


def test_a_hangup_is_one_event_with_limits_for_each_process_of_the_session(watch: Watch) -> None:
    """Whether the comparison comes to the leader first, whose record stands for all, or to the other process."""
    with Actor() as member:
        member.do("import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)")
        leader = member.join_session()
        entry = watch.until(member.pid, sid=leader)
        both = leader, member.pid
        for pid in both:
            eventually(lambda pid=pid: (watch.table.resolve(pid).tty or "").startswith("pts"), limit_s=PATIENCE_S)
        began_ns = entry.start_time_ns - entry.start_boot_ns
        before = now_boot_ns()
        member.do("fcntl.ioctl(slave, 0x5437)")  # TIOCVHANGUP
        after = now_boot_ns()
        for pid in both:
            watch.until(pid, tty=None)
            # They follow the terminal.
            eventually(lambda pid=pid: "sampled_change" in (watch.table.resolve(pid).extra or {}))
            first, last = limits_of(watch.table.resolve(pid))
            assert first - began_ns < after and before < last - began_ns
        time.sleep(2 * INTERVAL_S)
        for pid in both:
            (event,) = sessions_since(watch, pid, before)
            assert event["changed_after_ns"] - began_ns < after and before < event["time_ns"] - began_ns


def test_an_exec_is_exact_again(watch: Watch) -> None:
    code = "import os, sys; os.setuid(9); sys.stdin.readline(); os.execv('/bin/sleep', ['sleep', '60'])"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE) as child:
        try:
            assert child.stdin is not None
            entry = watch.until(child.pid, uid=9)
            assert "change_sampled" in entry.marks and limits_of(entry)
            child.stdin.write(b"\n")
            child.stdin.flush()
            entry = watch.until(child.pid, comm="sleep")
            assert entry.uid == 9 and "change_sampled" not in entry.marks
            assert "sampled_change" not in (entry.extra or {})
        finally:
            child.kill()


def test_what_ends_before_the_comparison_is_in_its_last_records(watch: Watch) -> None:
    """The change has no event of its own. The exit contains it, and so does an exec of another process."""
    done = subprocess.Popen([sys.executable, "-c", "import os; os.setuid(8)"])
    assert done.wait() == 0
    # A process of other tests that ended before may have had the pid.
    (_,) = eventually(lambda: watch.events_of("exit", pid=done.pid, uid=8) or False, limit_s=PATIENCE_S)
    changed = subprocess.Popen([sys.executable, "-c", "import os; os.setuid(7); os.execv('/bin/true', ['true'])"])
    assert changed.wait() == 0
    eventually(lambda: watch.events(changed.pid, "exit") or False, limit_s=PATIENCE_S)
    assert [event["uid"] for event in watch.events(changed.pid, "exec") if event["comm"] == "true"] == [7]


def test_a_killed_resolver_misses_nothing(watch: Watch, actor: Actor) -> None:
    """The supervisor makes the comparisons, so what they find waits in the ring. What was found before stays."""
    with Actor() as other:
        other.do("os.setresgid(9, 0, 0)")
        limits = limits_of(watch.until(other.pid, gid=9))
        (resolver,) = watch.daemon.pids("resolver")
        subprocess.run(["kill", "-KILL", str(resolver)], check=True)
        actor.do("libc.setuid(1077)")
        with watch.daemon.attach() as table:
            eventually(lambda: table.resolve(actor.pid).uid == 1077, limit_s=3 * PATIENCE_S)
            assert limits_of(table.resolve(other.pid)) == limits


@pytest.mark.alone  # processes of other tests change meanwhile
def test_the_table_agrees_with_proc_after_many_changes(watch: Watch) -> None:
    with ExitStack() as stack:
        actors = [stack.enter_context(Actor()) for _ in range(5)]
        for number in range(20):
            for one in actors:
                one.do(f"os.setresgid({number}, 0, 0); libc.setfsuid({number})")
        for one in actors:
            watch.until(one.pid, gid=19, fsuid=19)
        eventually(lambda: assert_agrees(watch.table), limit_s=PATIENCE_S)


@pytest.mark.alone
def test_comparisons_take_little(watch: Watch) -> None:
    """A daemon without comparisons, beside it, shows what a supervisor costs on this machine."""
    with Daemon(BY_COMPARISON.replace('"sampled"', '"off"')) as other, Recorder(other, "proc").started() as recorder:
        supervisors = [pid for daemon in (watch.daemon, other) for pid in daemon.pids("supervisor")]
        before, began = [cpu_ns(pid) for pid in supervisors], time.monotonic()
        time.sleep(4 * INTERVAL_S)
        with_them, without = (cpu_ns(pid) - first for pid, first in zip(supervisors, before, strict=True))
        share = (with_them - without) / 1e9 / (time.monotonic() - began)
        recorder.stop()
    # The other half is for the supervisor's own part, which begins a pass.
    assert share < 2 * CPU_SHARE


def test_a_recording_contains_what_comparisons_found(tmp_path: Path, live_kernel: None) -> None:
    file = tmp_path / "changes.rec"
    with Actor() as actor:
        recording = record(
            file, "--set", "capture.credentials=sampled", "--set", "capture.sampling_interval_s=0.5", "--seconds", "5"
        )
        actor.do("libc.setuid(1088)")
        recording.communicate(timeout=60)
        with Daemon("", "--source", f"replay:{file}") as replayed:
            entry = json.loads(replayed.cli("resolve", str(actor.pid), "--json").stdout)
    assert entry["uid"] == 1088 and "change_sampled" in entry["marks"]
    change = entry["extra"]["sampled_change"]
    assert entry["start_time_ns"] <= change["changed_after_ns"] < change["changed_before_ns"]

"""The commands with a running instance, and their error messages."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest

from tests.live.harness import Daemon, Recorder, unused_pid
from tests.waiting import eventually

pytestmark = pytest.mark.live


def one_line(done: subprocess.CompletedProcess[str], code: int, *words: str) -> None:
    """Check that the command exited with `code` and printed one line with `words` and no traceback."""
    assert done.returncode == code, done
    lines = done.stderr.strip().splitlines()
    assert 1 <= len(lines) <= 4 and "Traceback" not in done.stderr, done.stderr
    for word in words:
        assert word in done.stderr, (word, done.stderr)


def test_resolve_shows_the_entry_of_the_design(daemon: Daemon) -> None:
    done = daemon.cli("resolve", str(os.getpid()), "--json")
    assert done.returncode == 0, done.stderr
    entry = json.loads(done.stdout)
    names = (
        "pid tid ppid start_time_ns fork_time_ns exec_time_ns exit_time_ns comm path script_path argv envs uid gid "
        "euid egid auid cap_effective cap_permitted tty inode entity_id cpid parent_entity_id creator_pid source "
        "is_exec is_exec_exec is_parent_missing container_id cgroup"
    )
    assert not [name for name in names.split() if name not in entry]
    assert entry["pid"] == os.getpid() and entry["ppid"] == os.getppid()
    assert entry["comm"] == Path("/proc/self/comm").read_text().strip()


def test_an_exited_process_is_found_and_marked_as_exited(daemon: Daemon) -> None:
    child = subprocess.Popen(["true"])
    child.wait()
    eventually(lambda: json.loads(daemon.cli("resolve", str(child.pid), "--json").stdout)["exit_time_ns"] is not None)


def test_an_unused_pid(daemon: Daemon) -> None:
    assert daemon.cli("resolve", str(unused_pid())).returncode == 1


def test_usage_errors(daemon: Daemon) -> None:
    one_line(daemon.cli("resolve", "abc"), 1, "abc")
    one_line(daemon.cli("tree", "abc"), 1, "abc")
    one_line(daemon.cli("resolve", "-5"), 2)
    one_line(daemon.cli("resolve", "0"), 2)


def test_no_such_instance(daemon: Daemon) -> None:
    for command in (["resolve", "1"], ["ancestors", "1"], ["children", "1"], ["tree"], ["dump", "--json"], ["stat"],
                    ["subscribe", "--timeout", "1"], ["wait", "--timeout", "0.2"]):  # fmt: skip
        done = subprocess.run(
            [sys.executable, "-m", "pipeline.cli.main", command[0], "--name", "nobody", *command[1:]],
            env=daemon.environment, capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        one_line(done, 3, "nobody")


def test_a_second_run_of_the_instance_is_refused(daemon: Daemon) -> None:
    one_line(daemon.cli("run"), 2, daemon.name)
    assert daemon.cli("resolve", "1").returncode == 0


def test_a_reader_without_permission_gets_an_error(live_kernel: None) -> None:
    with Daemon('[access]\ntables_mode = "0600"\nargs_mode = "0600"\n') as daemon:
        done = subprocess.run(
            [sys.executable, "-m", "pipeline.cli.main", "resolve", "--name", daemon.name, "1"],
            env=daemon.environment, capture_output=True, text=True, user=65534, group=65534, extra_groups=[],
            timeout=60,
        )  # fmt: skip
        one_line(done, 2, "permission")


def test_a_reader_without_root_reads_by_default(daemon: Daemon) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pipeline.cli.main", "resolve", "--name", daemon.name, str(os.getpid()), "--json"],
        env=daemon.environment, capture_output=True, text=True, user=65534, group=65534, extra_groups=[], timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["pid"] == os.getpid()


@pytest.mark.parametrize(
    ("config", "word"),
    [("[capture]\nring_byte = 1\n", "ring_byte"), ("[capture\n", "TOML"), ("[capture]\nring_bytes = 5000\n", "5000")],
)
def test_a_broken_configuration_file(live_kernel: None, config: str, word: str) -> None:
    daemon = Daemon(config)
    try:
        daemon.start(wait=False)
        assert daemon.process is not None
        assert daemon.process.wait(60) == 2
        said = daemon.log.read_text()
        assert word in said and "Traceback" not in said, said
    finally:
        daemon.close()


def test_a_table_of_another_layout_version(live_kernel: None) -> None:
    with Daemon() as daemon:
        control = daemon.directory / "control"
        with control.open("r+b") as file:
            file.seek(8)
            file.write((99).to_bytes(4, "little"))
        one_line(daemon.cli("resolve", "1"), 2, "99", "layout")


def test_no_capability(live_kernel: None, tmp_path: Path) -> None:
    """A daemon without root reports the missing capability."""
    root = Path("/dev/shm") / f"procline-nocap-{os.getpid()}"
    root.mkdir()
    os.chown(root, 65534, 65534)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "pipeline.cli.main", "run", "--name", "nocap"],
            env=dict(os.environ, PROCLINE_RUNTIME_DIR=str(root)), capture_output=True, text=True, user=65534,
            group=65534, extra_groups=[], timeout=60,
        )  # fmt: skip
        one_line(done, 2, "CAP_BPF")
    finally:
        subprocess.run(["rm", "-rf", root], check=True)


def test_a_full_tmpfs(live_kernel: None, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "none", small], check=True)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "pipeline.cli.main", "run", "--name", "full"],
            env=dict(os.environ, PROCLINE_RUNTIME_DIR=str(small)), capture_output=True, text=True, timeout=90,
        )  # fmt: skip
        assert done.returncode == 2, done
        assert "tmpfs" in done.stderr or "space" in done.stderr
        assert "Traceback" not in done.stderr
    finally:
        subprocess.run(["umount", small], check=True)


@pytest.mark.alone
def test_sigterm_and_ctrl_c_leave_nothing_behind(live_kernel: None, missing: Callable[[str], NoReturn]) -> None:
    """This test runs alone, because it lists all BPF objects of the host."""
    if shutil.which("bpftool") is None:
        missing("bpftool, which lists BPF objects")

    def bpf_objects() -> dict[str, set[int]]:
        shown = {
            kind: subprocess.run(["bpftool", kind, "show", "--json"], capture_output=True, text=True, check=True).stdout
            for kind in ("prog", "map", "link")
        }
        return {kind: {one["id"] for one in json.loads(text or "[]")} for kind, text in shown.items()}

    before = bpf_objects()

    for number in (signal.SIGTERM, signal.SIGINT):
        with Daemon() as daemon:
            pids = [p["pid"] for p in daemon.stat()["processes"]]
            assert len(pids) >= 3
            assert any(now - before[kind] for kind, now in bpf_objects().items())
            assert daemon.process is not None
            daemon.process.send_signal(number)
            assert daemon.process.wait(60) == 0
            assert not daemon.directory.exists()
            assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]
            log = daemon.log.read_text()
            assert "Traceback" not in log, log
        # The kernel frees them a moment after their last descriptor is closed.
        eventually(lambda: all(now <= before[kind] for kind, now in bpf_objects().items()))


def test_subscribe_counts_and_times_out(daemon: Daemon) -> None:
    with Recorder(daemon, options=("--count", "3")) as recorder:
        for _ in range(100):
            if recorder._process.poll() is not None:
                break
            subprocess.run(["true"])
            time.sleep(0.1)
        assert recorder._process.wait(60) == 0
        recorder._thread.join(60)
        assert len(recorder.events) == 3
        assert all(event["seq"] > 0 and event["time_ns"] > 0 and event["entity_id"] for event in recorder.events)


def test_events_follow_a_snapshot(daemon: Daemon) -> None:
    with Recorder(daemon, options=("--snapshot",)) as recorder:
        recorder.wait_for(lambda events: any(e["event"] == "snapshot" and e["pid"] == os.getpid() for e in events))
        child = subprocess.Popen(["true"])
        child.wait()
        recorder.wait_for(lambda events: any(e["event"] == "exit" and e["pid"] == child.pid for e in events))


def test_stat_has_the_fields_of_the_design(daemon: Daemon) -> None:
    stats = daemon.stat()
    for name in ("events", "lost", "late", "frames", "entries", "watermark_lag_ns", "repairs", "evictions", "readers",
                 "processes"):  # fmt: skip
        assert name in stats, name
    assert stats["entries"]["live"] > 3
    roles = {p["role"] for p in stats["processes"]}
    assert {"supervisor", "resolver", "shard-0"} <= roles
    assert all(p["pss_bytes"] > 0 and p["cpu_seconds"] >= 0 for p in stats["processes"])


def test_readers_are_counted(daemon: Daemon) -> None:
    def count() -> int:  # of processes, so another one must ask
        return int(json.loads(daemon.cli("stat", "--json").stdout)["readers"])

    before = count()
    with daemon.attach(), daemon.attach():
        assert eventually(lambda: count() > before)


def test_doctor(daemon: Daemon) -> None:
    done = daemon.cli("doctor", "--json")
    assert done.returncode in (0, 1), done.stderr
    findings = json.loads(done.stdout)
    text = json.dumps(findings)
    for word in ("BTF", "tp_btf", "fentry", "tmpfs", "CAP_BPF"):
        assert word in text, word


def test_dump(daemon: Daemon) -> None:
    entries = json.loads(daemon.cli("dump", "--json").stdout)
    assert any(entry["pid"] == os.getpid() for entry in (entries["entries"] if isinstance(entries, dict) else entries))
    dot = daemon.cli("dump", "--dot").stdout
    assert dot.startswith("digraph") and dot.rstrip().endswith("}")

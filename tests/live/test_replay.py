"""`procline record` and `procline replay`: the replay shows the recorded processes, and none of this host."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import pytest

from pipeline.errors import StaleError, UnsupportedError
from pipeline.sources.proc_connector.netlink import close_socket, open_socket
from pipeline.sources.recording.file import Recording
from tests.live.harness import Daemon, Recorder, run_workload
from tests.live.recordings import finish, record
from tests.waiting import eventually

pytestmark = pytest.mark.live

FORKS, EXECS = 211, 53


@pytest.fixture(scope="module", params=["ebpf", "proc-connector"])
def recorded(
    request: pytest.FixtureRequest, live_kernel: None, missing: Callable[[str], NoReturn], workload: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Path, int]:  # fmt: skip
    """A recording of a storm, and the pid of the workload."""
    if request.param == "proc-connector":
        try:
            close_socket(open_socket(1 << 16))
        except UnsupportedError as error:
            missing(str(error))
    file = tmp_path_factory.mktemp(request.param) / "storm.rec"
    process = record(file, "--source", request.param)
    made = run_workload(workload, "storm", FORKS, EXECS)
    # The exit of the workload is included.
    time.sleep(0.2)
    said = finish(process)
    assert "lost: none" in said
    return file, made[0][2]


@pytest.fixture(scope="module")
def replayed(recorded: tuple[Path, int]) -> Iterator[tuple[Daemon, int]]:
    file, parent = recorded
    with Daemon('[args]\nshow = "raw"\n', "--source", f"replay:{file}") as daemon:
        yield daemon, parent


def test_what_was_recorded_is_data_for_a_program(live_kernel: None, tmp_path: Path) -> None:
    file, result = tmp_path / "short.rec", tmp_path / "result.json"
    process = record(file, "--json", output=result)
    subprocess.run(["true"], check=True)
    time.sleep(0.2)
    assert "lost" not in finish(process)
    found = json.loads(result.read_text())
    assert found.keys() == {"file", "events", "frames", "bytes", "lost"}
    assert (found["file"], found["bytes"], found["lost"]) == (str(file), file.stat().st_size, {})
    assert found["events"] >= 3 and found["frames"] >= 2


@pytest.mark.parametrize("raw", [False, True])
def test_secrets_are_in_a_recording_only_with_the_option(
    live_kernel: None, workload: Path, tmp_path: Path, raw: bool
) -> None:
    file = tmp_path / "secret.rec"
    script = ["sh", "-c", "sleep 0.2; : --password=hun1ter2 mysql -phun1ter2"]
    environment = {**os.environ, "SOME_VALUE": "hun1ter2"}
    settings = ("--set", "capture.envs_bytes=4096")
    with subprocess.Popen(["sh", "-c", "sleep 60; : --token=hun1ter2"], env=environment) as before:
        process = record(file, *settings, *(("--raw",) if raw else ()))
        try:
            for _ in range(3):
                assert subprocess.run(script, env=environment).returncode == 0
            made = run_workload(workload, "storm", 23, 7)
            time.sleep(0.2)
        finally:
            before.kill()
            finish(process)
    written = file.read_bytes()
    assert (b"hun1ter2" in written) is raw and b"SOME_VALUE" in written
    with Daemon('[args]\nshow = "raw"\n', "--source", f"replay:{file}") as daemon, daemon.attach() as table:
        assert all(table.resolve(pid) is not None for _, pid, _ in made)
        hidden = [entry.argv for entry in table.walk() if entry.argv and entry.argv[-1].endswith("-p********")]
        assert len({tuple(argv) for argv in hidden}) == (not raw)


def test_a_recording_is_its_owners_only(recorded: tuple[Path, int]) -> None:
    assert recorded[0].stat().st_mode & 0o777 == 0o600


def test_everything_that_was_recorded_is_in_the_table(replayed: tuple[Daemon, int], workload: Path) -> None:
    daemon, parent = replayed
    with daemon.attach() as table:
        children = [entry for entry in table.walk() if entry.ppid == parent]
        assert Counter(entry.is_exec for entry in children) == {False: FORKS, True: EXECS}
        assert all(entry.exit_time_ns for entry in children)
        storm = table.resolve(parent)
        assert storm is not None and storm.path == str(workload)
        chain = [entry.pid for entry in table.ancestors(parent)]
        assert os.getpid() in chain and chain[-1] == 1


def test_times_are_those_of_the_recording(replayed: tuple[Daemon, int]) -> None:
    daemon, parent = replayed
    with daemon.attach() as table:
        entry = table.resolve(parent)
        assert entry is not None
        assert abs(time.time_ns() - entry.start_time_ns) < 600e9
        at = (entry.start_time_ns + entry.exit_time_ns) // 2
        assert table.resolve(parent, at=at) is not None


def test_nothing_of_this_host_is_in_it(replayed: tuple[Daemon, int]) -> None:
    daemon, _ = replayed
    with subprocess.Popen(["sleep", "600"]) as sleeper:
        try:
            with daemon.attach() as table:
                time.sleep(0.5)
                assert table.resolve(sleeper.pid) is None
                assert table.resolve(daemon.pids("resolver")[0]) is None
                assert table.stats()["repairs"] == 0
        finally:
            sleeper.kill()


def test_all_commands_work(replayed: tuple[Daemon, int]) -> None:
    daemon, parent = replayed
    assert json.loads(daemon.cli("resolve", str(parent), "--json").stdout)["pid"] == parent
    assert json.loads(daemon.cli("ancestors", str(parent), "--json").stdout)[-1]["pid"] == 1
    assert daemon.cli("children", "1").returncode == 0
    assert daemon.cli("tree").returncode == 0
    assert len(json.loads(daemon.cli("dump", "--json").stdout)["entries"]) > FORKS + EXECS
    stat = daemon.stat()
    assert stat["watermark_lag_ns"] == 0 and sum(stat["lost"].values()) == 0


def test_a_killed_resolver_replays_the_rest_once(replayed: tuple[Daemon, int]) -> None:
    daemon, _ = replayed
    with daemon.attach() as table:
        before = sorted((entry.pid, entry.start_time_ns, entry.is_exec) for entry in table.walk())
        os.kill(daemon.pids("resolver")[0], signal.SIGKILL)

        def same() -> bool:
            try:
                now = sorted((entry.pid, entry.start_time_ns, entry.is_exec) for entry in table.walk())
            except StaleError:  # the table has no writer, so a missing process may exist nevertheless
                return False
            return now == before and table.stats()["takeovers"] == 1

        eventually(same, pause_s=0.2)


def test_replay_is_a_command_of_its_own(recorded: tuple[Path, int]) -> None:
    file, parent = recorded
    daemon = Daemon()
    with daemon.log.open("wb") as log:
        daemon.process = subprocess.Popen(
            [sys.executable, "-m", "pipeline.cli.main", "replay", str(file), "--name", daemon.name],
            env=daemon.environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
        )  # fmt: skip
    try:
        assert daemon.cli("wait", "--timeout", "60").returncode == 0, daemon.log.read_text()
        assert daemon.cli("resolve", str(parent)).returncode == 0
        with Recorder(daemon):
            assert daemon.stop() == 0
    finally:
        daemon.close()


def test_a_killed_recorder_leaves_a_readable_file(live_kernel: None, workload: Path, tmp_path: Path) -> None:
    file = tmp_path / "cut.rec"
    process = record(file)
    made = run_workload(workload, "storm", 23, 7)
    time.sleep(0.3)
    process.kill()
    process.communicate()
    with Daemon("", "--source", f"replay:{file}") as daemon, daemon.attach() as table:
        for _, pid, _ in made:
            assert table.resolve(pid) is not None


def test_seconds_end_a_recording(live_kernel: None, tmp_path: Path) -> None:
    process = record(tmp_path / "short.rec", "--seconds", "0.5")
    assert process.wait(60) == 0


def test_an_existing_file_is_not_overwritten(live_kernel: None, tmp_path: Path) -> None:
    file = tmp_path / "there.rec"
    file.write_bytes(b"precious")
    done = subprocess.run(
        [sys.executable, "-m", "pipeline.cli.main", "record", str(file)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2 and "does not overwrite" in done.stderr
    assert file.read_bytes() == b"precious"


def test_a_file_that_is_no_recording_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "no.rec"
    file.write_bytes(b"x" * 100)
    done = subprocess.run(
        [sys.executable, "-m", "pipeline.cli.main", "replay", str(file)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2 and "not a recording" in done.stderr


def test_a_full_disk_is_reported_and_the_recording_so_far_can_be_replayed(
    workload: Path, live_kernel: None, tmp_path: Path
) -> None:
    script = (
        'mount -t tmpfs -o size=4m none /mnt && "$@" /mnt/storm.rec --seconds 60; code=$?; cp /mnt/storm.rec "$OUT"; '
        "exit $code"
    )
    file = tmp_path / "storm.rec"
    process = subprocess.Popen(
        ["unshare", "--mount", "sh", "-c", script, "sh", sys.executable, "-m", "pipeline.cli.main", "record"],
        stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=dict(os.environ, OUT=str(file)),
    )  # fmt: skip
    assert process.stderr is not None and process.stderr.readline().startswith("recording from")
    while process.poll() is None:
        run_workload(workload, "storm", FORKS, EXECS)
    said = process.stderr.read()
    assert process.returncode == 2, said
    [line] = said.splitlines()
    assert line.startswith("procline: cannot write /mnt/storm.rec: No space left on device; the ")
    assert "can be replayed" in line and "free some space" in line
    frames = list(Recording(file))
    assert len(frames) > 1 and f"the {len(frames)} frames before" in line


def test_an_early_interrupt_leaves_no_file(live_kernel: None, tmp_path: Path) -> None:
    file = tmp_path / "storm.rec"
    process = subprocess.Popen(
        [sys.executable, "-m", "pipeline.cli.main", "record", str(file)],
        stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    eventually(file.exists, 30)
    process.send_signal(signal.SIGINT)
    assert "Traceback" not in process.communicate(timeout=60)[1]
    assert process.returncode == 130 and not file.exists()

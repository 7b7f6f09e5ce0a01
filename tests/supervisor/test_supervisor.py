"""A supervisor over fake workers: the order of start and end, restarts, giving up, and that nothing is left behind."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import datetime
from pathlib import Path

import pytest

from pipeline.host import processes, retention, sampling_interval
from pipeline.host.vitals import read_vitals
from tests.supervisor.run_supervisor import CHECK_S, HANG_S
from tests.waiting import until

pytestmark = [pytest.mark.expensive, pytest.mark.slow]

PROGRAM = Path(__file__).with_name("run_supervisor.py")
TIMEOUT_S = 120


class Run:
    """One supervisor in its own process."""

    def __init__(self, root: Path, *options: str, fake: str = "", **environ: str) -> None:
        self.root = root
        self.directory = root / "test"
        self.log = root / "log"
        environment = dict(os.environ, PROCLINE_RUNTIME_DIR=str(root), PROCLINE_FAKE=fake, **environ)
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, str(PROGRAM), "test", *options], env=environment, stderr=log, stdin=subprocess.DEVNULL
            )

    def events(self) -> list[dict]:
        return [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]

    def journal(self) -> list[str]:
        file = self.root / "journal"
        return file.read_text().splitlines() if file.exists() else []

    def until(self, condition: Callable[[], bool]) -> Run:
        def must_run() -> None:
            assert self.process.poll() is None or condition(), f"it ended:\n{self.log.read_text()}"

        until(condition, lambda: f"{self.log.read_text()}\n{self.journal()}", TIMEOUT_S, meanwhile=must_run)
        return self

    def ready(self, times: int = 1) -> Run:
        return self.until(lambda: sum(event["event"] == "ready" for event in self.events()) >= times)

    def checks(self) -> int:
        """How often the supervisor has checked its workers: it updates the counts of the source each time."""
        file = self.root / "looks"  # the first check, which makes it, may come after it is ready
        return len(file.read_text().splitlines()) if file.exists() else 0

    def checked(self, times: int) -> Run:
        """Wait until the supervisor has checked its workers this many times more."""
        before = self.checks()
        return self.until(lambda: self.checks() >= before + times)

    def pids(self) -> dict[str, int]:
        return {row["role"]: row["pid"] for row in processes.measure(self.directory, with_memory=False)}

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(TIMEOUT_S)

    def kill(self) -> None:
        """Kill it and its workers, of which one may get so little CPU time that it would not end by itself for long."""
        self.process.kill()
        self.process.wait(TIMEOUT_S)
        for pid in self.pids().values():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        until(lambda: not self.pids(), lambda: f"still there: {self.pids()}", TIMEOUT_S)


@pytest.fixture
def root() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="procline-test-", dir="/dev/shm"))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def start(root: Path) -> Iterator[Callable[..., Run]]:
    runs: list[Run] = []

    def begin(*options: str, **keywords: str) -> Run:
        runs.append(Run(root, *options, **keywords))
        return runs[-1]

    yield begin
    for run in runs:
        run.kill()


def alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_shards_end_before_the_resolver_and_nothing_is_left(start: Callable[..., Run], number: signal.Signals) -> None:
    run = start("shards.count=3").ready()
    run.until(lambda: len(run.journal()) == 4)
    pids = run.pids()
    assert set(pids) == {"supervisor", "resolver", "shard-0", "shard-1", "shard-2"}
    assert pids["supervisor"] == run.process.pid
    assert run.stop(number) == 0
    assert run.journal()[-1] == "resolver end"
    assert sorted(run.journal()[4:7]) == ["shard-0 end", "shard-1 end", "shard-2 end"]
    assert not run.directory.exists()
    assert not any(alive(pid) for pid in pids.values())


def test_directories_have_the_modes_that_keep_frames_private(start: Callable[..., Run]) -> None:
    run = start().ready()
    modes = {path.name: path.stat().st_mode & 0o7777 for path in run.directory.iterdir()}
    assert modes["frames"] == 0o700
    assert modes["stream"] == modes["requests"] == 0o755
    assert modes["supervisor.lock"] == 0o600
    assert modes["processes"] == modes["tiers"] == modes["retention"] == modes["sampling"] == 0o644
    assert retention.read(run.directory) == 300.0
    assert run.directory.stat().st_mode & 0o7777 == 0o755


def test_a_second_run_of_the_instance_is_refused_and_disturbs_nothing(start: Callable[..., Run]) -> None:
    run = start().ready()
    second = subprocess.run(
        [sys.executable, str(PROGRAM), "test"],
        env=dict(os.environ, PROCLINE_RUNTIME_DIR=str(run.root)),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )
    assert second.returncode == 3
    assert second.stderr.startswith("WriterExistsError: instance 'test' is already running")
    assert f"pid {run.process.pid}" in second.stderr and "--name" in second.stderr
    assert run.stop() == 0


def begun(root: Path) -> list[int]:
    """Return the pids of the workers in the order in which they began."""
    file = root / "begun"
    return [int(line) for line in file.read_text().splitlines()] if file.exists() else []


def test_the_resolver_begins_while_the_source_is_opened(start: Callable[..., Run], root: Path) -> None:
    """Its imports take as long as half of the BPF programs, and nothing can be called absent before both are done."""
    run = start("shards.count=2", PROCLINE_FAKE_OPENING="works").ready()
    run.until(lambda: len(run.journal()) == 3)
    pids = run.pids()
    assert begun(root)[0] == pids["resolver"]
    assert sorted(begun(root)) == sorted(pid for role, pid in pids.items() if role != "supervisor"), "each once"
    # Another one is started as ever.
    os.kill(pids["resolver"], signal.SIGKILL)
    run.ready(2).until(lambda: len(begun(root)) == 4)
    assert run.stop() == 0


def test_if_the_source_cannot_be_opened_no_worker_is_left(start: Callable[..., Run], root: Path) -> None:
    run = start(PROCLINE_FAKE_OPENING="fails")
    assert run.process.wait(TIMEOUT_S) == 3
    assert "LoadError: the kernel rejected it" in run.log.read_text()
    (pid,) = begun(root)
    assert not alive(pid)
    assert run.journal() == []


def test_a_supervisor_that_dies_while_it_opens_the_source_leaves_no_worker(
    start: Callable[..., Run], root: Path
) -> None:
    run = start(PROCLINE_FAKE_OPENING="hangs").until(lambda: bool(begun(root)))
    (pid,) = begun(root)
    assert alive(pid)
    run.process.kill()
    run.process.wait(TIMEOUT_S)
    until(lambda: not alive(pid), limit_s=TIMEOUT_S)
    assert "the supervisor ended before it described this worker" in run.log.read_text()


def test_a_resolver_that_died_while_the_source_was_opened_is_replaced(start: Callable[..., Run], root: Path) -> None:
    run = start(PROCLINE_FAKE_OPENING="works", PROCLINE_FAKE_UNDESCRIBED="die").ready()
    assert run.pids()["resolver"] != begun(root)[0]
    assert run.stop() == 0


@pytest.mark.parametrize("role", ["shard-0", "resolver"])
def test_a_killed_worker_is_replaced_at_once(start: Callable[..., Run], role: str) -> None:
    run = start().ready()
    run.until(lambda: len(run.pids()) == 3 and f"{role} start" in run.journal())
    victim = run.pids()[role]
    killed = time.monotonic()
    os.kill(victim, signal.SIGKILL)
    run.until(lambda: run.pids().get(role, victim) != victim and run.journal().count(f"{role} start") == 2)
    assert time.monotonic() - killed < 10
    assert not alive(victim)
    if role == "resolver":
        run.ready(times=2)
    assert any("was killed by SIGKILL" in event["event"] for event in run.events())
    assert run.stop() == 0


def test_a_lack_of_descriptors_is_outlasted(start: Callable[..., Run]) -> None:
    run = start().ready()
    run.until(lambda: len(run.pids()) == 3 and len(run.journal()) == 2)
    victim = run.pids()["resolver"]
    limits = resource.prlimit(run.process.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(run.process.pid, resource.RLIMIT_NOFILE, (3, limits[1]))
    os.kill(victim, signal.SIGKILL)
    texts = {"cannot start resolver: Too many open files; trying again",
             "cannot read the state of the tables: Too many open files; trying again"}  # fmt: skip
    run.until(lambda: any(event["event"] in texts for event in run.events()))
    time.sleep(1.5)  # it tries again in vain
    assert run.process.poll() is None
    resource.prlimit(run.process.pid, resource.RLIMIT_NOFILE, limits)
    run.ready(times=2)
    run.until(lambda: run.pids().get("resolver", victim) != victim)
    warnings = [event["event"] for event in run.events() if event["event"] in texts]
    assert len(warnings) == len(set(warnings))
    assert run.stop() == 0


def test_a_worker_that_keeps_dying_ends_the_daemon_with_a_reason(start: Callable[..., Run]) -> None:
    run = start("supervision.early_deaths_max=4", "supervision.healthy_ms=60000", fake="shard-0=die:0")
    assert run.process.wait(TIMEOUT_S) == 3
    assert run.journal().count("shard-0 start") == 4
    last = run.log.read_text().splitlines()[-1]
    assert last.startswith("GivingUpError: shard-0 exited with code 1: it ended 4 times in a row before or soon after")
    assert not run.directory.exists()


def test_a_worker_that_dies_before_it_is_ready_has_died_early(
    start: Callable[..., Run],
) -> None:
    run = start("supervision.early_deaths_max=3", "supervision.healthy_ms=100", fake="shard-0=early:0.15")
    assert run.process.wait(TIMEOUT_S) == 3
    assert run.journal().count("shard-0 start") == 3
    pauses = [event["pause_s"] for event in run.events() if "pause_s" in event]
    assert pauses == [0.0, 0.1], "the second start came at once, the third did not"


def test_a_worker_that_was_ready_may_die_as_often(start: Callable[..., Run]) -> None:
    run = start("supervision.early_deaths_max=3", "supervision.healthy_ms=100", fake="shard-0=die:0.15").ready()
    run.until(lambda: run.journal().count("shard-0 start") == 5)
    assert run.stop() == 0


def test_a_worker_that_cannot_work_is_not_tried_again(start: Callable[..., Run]) -> None:
    run = start(fake="resolver=hopeless")
    assert run.process.wait(TIMEOUT_S) == 3
    assert run.journal().count("resolver start") == 1
    assert "it cannot run" in run.log.read_text()


def test_a_start_that_takes_too_long_is_aborted(start: Callable[..., Run]) -> None:
    run = start("supervision.start_timeout_s=1", fake="resolver=unready")
    assert run.process.wait(TIMEOUT_S) == 3
    assert "not complete 1 s after the start" in run.log.read_text()


def test_a_resolver_that_hangs_is_killed_and_replaced(start: Callable[..., Run]) -> None:
    run = start(fake="resolver=hang").ready(times=2)
    assert any("no sign of life" in event["event"] for event in run.events())


def test_a_resolver_that_computes_without_a_sign_of_life_is_killed_and_replaced(start: Callable[..., Run]) -> None:
    run = start(fake="resolver=spin").ready(times=2)
    assert any("no sign of life" in event["event"] for event in run.events())


def test_a_resolver_that_computes_for_long_and_shows_signs_of_life_is_left_alone(start: Callable[..., Run]) -> None:
    run = start(fake="resolver=busy:0.5").ready()
    run.checked(times=5)
    assert run.journal().count("resolver start") == 1


def test_a_start_logs_at_once_what_takes_long(start: Callable[..., Run]) -> None:
    """The time until it is ready counts from the start of the process, not from that of the resolver."""
    events = {event["event"]: event for event in reversed(start().ready().events())}
    names = [name for name in reversed(events) if name in {"checking what the kernel offers", "starting", "ready"}]
    assert names == ["checking what the kernel offers", "starting", "ready"]
    first, last = (datetime.fromisoformat(events[name]["timestamp"]) for name in (names[0], names[-1]))
    assert events["ready"]["after_s"] >= (last - first).total_seconds() - 0.05


def test_a_resolver_that_gets_no_cpu_time_is_left_alone(start: Callable[..., Run]) -> None:
    """It is as silent as a worker that hangs, for several times the limit for a hanging worker."""
    run = start("supervision.share_cpu=false", fake="resolver=starved:0.5").ready()
    run.until(lambda: read_vitals(run.directory).heartbeat_boot_ns > 0)
    rivals = [
        subprocess.Popen([sys.executable, "-c", "import os\nos.sched_setaffinity(0, {0})\nwhile True: pass"])
        for _ in range(2)
    ]
    try:
        heartbeat = read_vitals(run.directory).heartbeat_boot_ns
        time.sleep(3 * HANG_S)
        assert run.journal().count("resolver start") == 1
        assert read_vitals(run.directory).heartbeat_boot_ns - heartbeat < 1.7e9 * HANG_S, (
            "it was not starved: the test shows nothing"
        )
        os.kill(run.pids()["resolver"], signal.SIGSTOP)
    finally:
        # Without CPU time it could not even stop. It stops before it could show a sign of life.
        for rival in rivals:
            rival.kill()
            rival.wait()
    run.until(lambda: run.journal().count("resolver start") == 2)  # but a worker that hangs is still detected


def test_only_a_shard_with_stalled_rings_is_replaced(start: Callable[..., Run]) -> None:
    run = start("shards.count=2", fake="resolver=stalling")
    run.until(lambda: run.journal().count("shard-1 start") == 2)
    assert run.journal().count("shard-0 start") == 1
    assert run.journal().count("resolver start") == 1
    assert any("shard-1 shows no sign of life" in event["event"] for event in run.events())


#: About a sixth of a CPU. `PROCLINE_FAKE_EAGER` makes a shard busy with a fiftieth.
BUSY = "busy:0.002"


def changes(run: Run) -> list[tuple[int, int]]:
    """Return (before, after) of each change of the number of shards."""
    named = [event for event in run.events() if event["event"] == "number of shards changed"]
    return [(event["before"], event["shards"]) for event in named]


def test_the_number_of_shards_follows_their_work(start: Callable[..., Run]) -> None:
    run = start("shards.auto_max=2", fake=f"shard-0={BUSY}", PROCLINE_FAKE_EAGER="1").ready()
    first = run.until(lambda: "shard-0" in run.pids()).pids()
    run.until(lambda: len(changes(run)) >= 2)
    assert changes(run)[:2] == [(1, 2), (2, 1)]
    assert run.pids()["resolver"] == first["resolver"], "the resolver stays"
    lines = run.journal()
    assert lines[2] == "shard-0 end" and set(lines[3:5]) == {"shard-0 start", "shard-1 start"}
    # No shard begins while one of those before it still reads.
    running: set[str] = set()
    is_ending = False
    for role, what in (line.split() for line in lines):
        if role != "resolver":
            assert what == "end" or not is_ending
            running ^= {role}
            is_ending = what == "end" and bool(running)
    assert not any("starting it again" in event["event"] for event in run.events())
    assert run.stop() == 0
    assert not run.directory.exists()


def test_a_shard_that_does_not_drain_is_killed_at_a_change(start: Callable[..., Run]) -> None:
    """Its records are in the rings, and the next one reads them."""
    run = start("supervision.stop_timeout_s=0.5", fake=f"shard-0=stubborn-{BUSY}", PROCLINE_FAKE_EAGER="1").ready()
    run.until(lambda: len(changes(run)) >= 1)
    assert any("was killed by SIGKILL while the number of shards changed" in event["event"] for event in run.events())
    assert run.stop() in {0, 1}


def test_if_new_shards_do_not_start_the_old_one_continues(start: Callable[..., Run], root: Path) -> None:
    run = start(fake=f"shard-0={BUSY}", PROCLINE_FAKE_EAGER="1", PROCLINE_FAKE_NEWCOMER="dies").ready()
    pid = run.until(lambda: "shard-0" in run.pids()).pids()["shard-0"]
    said = "cannot start 2 shards; continuing with 1"
    run.until(lambda: any(said in event["event"] for event in run.events()))
    assert run.pids()["shard-0"] == pid and changes(run) == []
    tried = len(begun(root))
    run.checked(times=4)  # one more than it needed to see that the shard is busy
    assert len(begun(root)) == tried, "it does not try again at once"
    assert run.stop() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_an_end_during_a_change_leaves_no_process(
    start: Callable[..., Run], root: Path, number: signal.Signals
) -> None:
    run = start("shards.auto_max=4", fake=f"shard-0={BUSY},shard-1={BUSY}", PROCLINE_FAKE_EAGER="1").ready()
    run.until(lambda: len(begun(root)) > 2)  # the processes of two shards, which may wait for the end of the first
    run.process.send_signal(number)
    assert run.process.wait(TIMEOUT_S) == (0 if number == signal.SIGTERM else -number)
    until(lambda: not any(alive(pid) for pid in begun(root)), limit_s=TIMEOUT_S)


def test_shards_that_have_just_begun_drain_at_the_end(start: Callable[..., Run]) -> None:
    """Records from during the change are in the rings; a shard without a handler of SIGTERM would leave them there."""
    fake = f"shard-0=slow-{BUSY},shard-1=slow-{BUSY}"
    run = start("supervision.stop_timeout_s=60", fake=fake, PROCLINE_FAKE_EAGER="1").ready()
    run.until(lambda: "shard-1 start" in run.journal() and bool(changes(run)))
    assert run.stop() == 0
    lines = run.journal()
    assert [lines.count(f"{role} start") for role in ("shard-0", "shard-1")] == [2, 1]
    assert [lines.count(f"{role} end") for role in ("shard-0", "shard-1")] == [2, 1]
    assert lines[-1] == "resolver end"


@pytest.mark.parametrize("times", [1, 2])
def test_a_change_whose_old_shards_are_ending_is_finished_before_the_end(start: Callable[..., Run], times: int) -> None:
    patient = "supervision.stop_timeout_s=60", "merge.stall_ms=60000"
    run = start(*patient, fake=f"shard-0=lingering-{BUSY}", PROCLINE_FAKE_EAGER="1").ready()
    run.until(lambda: "shard-0 told" in run.journal())
    assert "shard-1 start" not in run.journal()
    began = time.monotonic()
    for _ in range(times - 1):
        run.process.send_signal(signal.SIGTERM)
        time.sleep(0.2)
    status = run.stop()
    if times == 1:
        lines = run.journal()
        assert status == 0 and changes(run) == [(1, 2)]
        assert [lines.count(f"shard-1 {what}") for what in ("start", "end")] == [1, 1]
        assert [lines.count(f"shard-0 {what}") for what in ("start", "end")] == [2, 2]
    else:
        assert status == 1 and time.monotonic() - began < 30, "a second signal does not wait"
    assert not run.directory.exists()


def test_a_number_that_is_set_stays(start: Callable[..., Run]) -> None:
    run = start("shards.count=2", fake=f"shard-0={BUSY}", PROCLINE_FAKE_EAGER="1").ready()
    run.checked(times=4)  # one more than it would need to see that the shard is busy
    assert changes(run) == [] and set(run.pids()) == {"supervisor", "resolver", "shard-0", "shard-1"}
    assert run.stop() == 0


def test_a_stopped_resolver_is_replaced(start: Callable[..., Run]) -> None:
    run = start().ready()
    run.until(lambda: "resolver" in run.pids())
    os.kill(run.pids()["resolver"], signal.SIGSTOP)
    run.ready(times=2)
    assert run.stop() == 0


def test_a_worker_that_does_not_drain_is_killed_and_the_end_is_not_called_clean(start: Callable[..., Run]) -> None:
    run = start("supervision.stop_timeout_s=0.5", fake="shard-0=stubborn").ready()
    run.until(lambda: "shard-0 start" in run.journal())
    time.sleep(0.1)
    assert run.stop() == 1
    assert run.journal()[-1] == "resolver end"
    assert "did not drain in time" in run.log.read_text()
    assert not run.directory.exists()


def test_a_second_signal_does_not_wait_for_a_stuck_worker(start: Callable[..., Run]) -> None:
    run = start("supervision.stop_timeout_s=60", fake="shard-0=stubborn").ready()
    run.until(lambda: "shard-0 start" in run.journal())
    time.sleep(0.1)
    run.process.send_signal(signal.SIGTERM)
    time.sleep(0.3)
    assert run.stop() == 1
    assert not run.directory.exists()


def test_a_killed_supervisor_leaves_no_worker_and_the_next_one_starts(start: Callable[..., Run]) -> None:
    run = start().ready()
    run.until(lambda: len(run.pids()) == 3)
    pids = run.pids()
    run.process.kill()
    run.process.wait()
    assert run.directory.exists()
    again = start().ready(times=2)
    again.until(lambda: not any(alive(pid) for pid in pids.values()))
    assert again.stop() == 0
    assert not run.directory.exists()


def test_tables_stay_for_the_next_daemon_if_they_are_to_be_kept(start: Callable[..., Run]) -> None:
    run = start("supervision.keep_tables=true").ready()
    assert run.stop() == 0
    assert (run.directory / "control").exists()
    again = start().ready(times=2)
    assert again.stop() == 0
    assert not run.directory.exists()


def test_stopping_while_starting_is_clean(start: Callable[..., Run]) -> None:
    run = start(fake="resolver=unready")
    run.until(lambda: "resolver start" in run.journal())
    time.sleep(0.1)
    assert run.stop() == 0
    assert not run.directory.exists()


def test_the_source_is_checked_periodically(start: Callable[..., Run], root: Path) -> None:
    """The kernel reports some counts only on request, so the supervisor reads them regularly."""
    run = start().ready().checked(times=3)
    times = [float(line) for line in (root / "looks").read_text().splitlines()]
    assert times[-1] - times[-2] > 0.1, "at the pace of a daemon that is ready"
    assert run.stop() == 0


def test_readers_can_see_within_which_time_a_change_is_found(start: Callable[..., Run], root: Path) -> None:
    run = start().ready()
    file = run.directory / sampling_interval.FILE
    assert file.read_text() == "null\n" and sampling_interval.read(run.directory) is None
    for text in ("2.0", "7.5"):
        (root / "chosen").write_text(text)
        (root / "chosen").rename(root / "interval")
        run.until(lambda text=text: sampling_interval.read(run.directory) == float(text))
    written = file.stat().st_ino
    run.checked(times=2)
    assert file.stat().st_ino == written, "written again only if it has changed"
    assert run.stop() == 0


def test_processes_are_compared_when_the_source_wants_it(start: Callable[..., Run], root: Path) -> None:
    run = start().ready()
    samples = root / "samples"

    def count() -> int:
        return len(samples.read_text().splitlines())

    def files_read() -> int:
        return int(Path(f"/proc/{run.process.pid}/io").read_text().partition("syscr: ")[2].split()[0])

    run.until(lambda: count() > 5)
    before, read, began = count(), files_read(), time.monotonic()
    run.until(lambda: count() >= before + 10)
    assert time.monotonic() - began < 10 * CHECK_S, "more often than the other checks"
    # A check of the two workers reads ten files.
    checks_max = 1 + (time.monotonic() - began) / (0.75 * CHECK_S)
    assert files_read() - read < 10 * checks_max, "they do not cause other checks"
    # A kernel without memory for it is reported once, and asked again.
    (root / "refuse").touch()
    warning = "processes cannot be compared with their last records: Cannot allocate memory"
    run.until(lambda: warning in run.log.read_text())
    before = count()
    (root / "refuse").unlink()
    run.until(lambda: count() >= before + 3)
    assert run.log.read_text().count(warning) == 1
    assert run.stop() == 0


def test_systemd_is_notified(start: Callable[..., Run], root: Path) -> None:
    manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    manager.bind(str(root / "notify"))
    manager.settimeout(TIMEOUT_S)
    run = start(NOTIFY_SOCKET=str(root / "notify"), WATCHDOG_USEC="400000")
    assert run.process.poll() is None
    messages: list[str] = []
    while not any("READY=1" in message for message in messages):
        messages.append(manager.recv(4096).decode())
    while "WATCHDOG=1" not in messages:
        messages.append(manager.recv(4096).decode())
    assert run.stop() == 0
    while not any("STOPPING=1" in message for message in messages):
        messages.append(manager.recv(4096).decode())
    manager.close()

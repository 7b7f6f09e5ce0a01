"""`procline load` with a real instance: all that was made is seen, losses are found, and nothing is left behind."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.load import fields
from pipeline.load.scenarios import SCENARIOS
from tests.docs.blocks import run_by
from tests.linux import SKIPS_RUNS
from tests.live.harness import Daemon, exact_method
from tests.live.ssh_server import Server
from tests.load.test_program import left
from tests.nobody import NOBODY
from tests.waiting import eventually, until

pytestmark = pytest.mark.live

COMMAND = [sys.executable, "-m", "pipeline.cli.main", "load"]


def report_of(done: subprocess.CompletedProcess[str], code: int = 0) -> dict[str, Any]:
    assert done.returncode == code, done.stderr + done.stdout[-2000:]
    assert done.stderr == ""
    report: dict[str, Any] = json.loads(done.stdout)
    assert fields.fault_of(report) is None
    return report


@pytest.fixture
def idle(live_kernel: None) -> Iterator[Daemon]:
    """A daemon that does not run: a directory for instances that the command starts."""
    daemon = Daemon()
    yield daemon
    daemon.close()


def own(idle: Daemon, *arguments: str, timeout: float = 200) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments, "--own"], env=idle.environment, capture_output=True, text=True, timeout=timeout,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip


@pytest.mark.parametrize("name", SCENARIOS)
def test_all_events_of_a_scenario_are_seen_once(daemon: Daemon, idle: Daemon, name: str) -> None:
    arguments = ["--rate", "300", "--duration", "1", "--concurrency", "2", "--json"]
    if name == "credentials":
        report = report_of(own(idle, name, *arguments, "--set", f"capture.credentials={exact_method()}"))
    else:
        report = report_of(daemon.cli("load", name, *arguments))
    made = {kind: count for kind, count in report["made"].items() if kind != "thread"}
    assert report["seen"] == made and made["fork"] == made["exit"] > 10
    for what in ("lost", "extra", "wrong"):
        assert not any(report[what].values()), (what, report["examples"])
    assert report["alive_in_table"] == report["missed_by_subscriber"] == 0
    assert report["kernel"]["forks"] >= made["fork"] + report["made"]["thread"]
    assert report["host_events"]["threads"] >= report["made"]["thread"]
    assert report["host_events"]["applied"] >= sum(made.values())
    assert set(report["cpu_us_per_event"]) >= {"supervisor", "resolver", "shard-0"}
    assert report["ring"]["size_bytes"] and report["ring"]["fill_max_bytes"] is not None
    assert report["latency_us"]["subscriber"]["fork"]["count"] == made["fork"]
    assert 0 < report["latency_us"]["subscriber"]["fork"]["p50_us"] < 10_000_000
    assert report["latency_us"]["table"]["fork"]["count"] > 0 and report["latency_us"]["table"]["not_shown"] == 0
    assert len(report["samples"]) >= 5


def test_changes_of_credentials_need_an_instance_that_sees_each(idle: Daemon) -> None:
    done = own(idle, "credentials", "--duration", "1", "--set", "capture.credentials=sampled")
    assert done.returncode == 2 and done.stdout == ""
    assert "does not see each change of credentials" in done.stderr and "capture.credentials=syscalls" in done.stderr


def test_the_table_and_the_page_of_a_run(daemon: Daemon, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    done = daemon.cli("load", "forks", "--rate", "200", "--duration", "0.5", "--report", str(page))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("forks at 200 events/s for 0.5 s") and "were seen, each once" in done.stdout
    assert "fork to subscriber" in done.stdout and "CPU per event" in done.stdout
    assert page.read_text().endswith("</html>\n")


def cli_of_nobody(daemon: Daemon, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command as a user without privileges."""
    return subprocess.run(
        [*COMMAND, *arguments, "--name", daemon.name], env=daemon.environment, capture_output=True, text=True,
        user=NOBODY, group=NOBODY, extra_groups=[], timeout=60,
    )  # fmt: skip


def test_a_user_who_may_read_the_stream_can_test_a_running_instance(live_kernel: None) -> None:
    arguments = ["mix", "--rate", "200", "--duration", "0.5", "--json"]
    with Daemon('[access]\nstream_mode = "0666"\n') as open_daemon:
        report = report_of(cli_of_nobody(open_daemon, *arguments))
    assert report["ring"] == {"size_bytes": None, "fill_max_bytes": None}
    assert not any(report["lost"].values()) and sum(report["seen"].values()) > 50


def test_what_a_user_may_not_do_is_explained(daemon: Daemon) -> None:
    for arguments, word in (
        (["forks"], "permission to read the stream"), (["namespaces"], "CAP_SYS_ADMIN"),
        (["forks", "--own"], "only root may"),
    ):  # fmt: skip
        done = cli_of_nobody(daemon, *arguments)
        assert (done.returncode, done.stdout) == (2, "") and word in done.stderr
        assert len(done.stderr.splitlines()) == 1


def test_no_instance(idle: Daemon) -> None:
    done = subprocess.run(
        [*COMMAND, "forks", "--name", "nobody"], env=idle.environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 3 and "procline run --name nobody" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_an_instance_that_cannot_start_says_why(idle: Daemon) -> None:
    done = own(idle, "forks", "--set", "capture.ring_bytes=5000")
    assert done.returncode == 2 and "5000" in done.stderr and len(done.stderr.splitlines()) == 1


@pytest.mark.alone
@pytest.mark.tolerant
def test_losses_are_found(idle: Daemon) -> None:
    """A ring of one page cannot hold what two workers make at full speed."""
    done = own(
        idle, "forks", "--rate", "max", "--duration", "2", "--concurrency", "8", "--json", "--set",
        "capture.ring_bytes=4096",
    )  # fmt: skip
    report = report_of(done, 1)
    assert sum(report["lost"].values()) > 0 and sum(report["host_events"]["lost"].values()) > 0
    for kind in ("fork", "exit"):
        assert report["seen"][kind] + report["lost"][kind] == report["made"][kind]
    assert report["examples"]
    assert report["instance"] == {"name": "load", "is_own": True}


@pytest.mark.alone
@pytest.mark.tolerant
def test_the_slowdown(idle: Daemon) -> None:
    done = own(idle, "mix", "--paired", "--pairs", "2", "--duration", "0.5", "--json", timeout=280)
    assert done.returncode in (0, 1), done.stderr  # at full speed the test's subscriber may be too slow
    report = report_of(done, done.returncode)
    assert report["settings"]["rate_events_per_s"] is None
    assert [each["is_with"] for each in report["paired"]["rounds"]] == [True, False, False, True]
    for part in ("time", "cpu"):
        found = report["paired"][part]
        assert -90 < found["low_percent"] <= found["slowdown_percent"] <= found["high_percent"] < 1000
        assert found["confidence_percent"] == 50
    assert not left("load") and not (idle.root / "load").exists()


@pytest.mark.alone
@pytest.mark.tolerant
def test_the_highest_rate(idle: Daemon) -> None:
    report = report_of(own(idle, "forks", "--find-limit", "--rate", "400", "--duration", "0.3", "--json", timeout=280))
    found = report["limit"]
    assert found["events_per_s"] > 300 and 2 <= len(found["steps"]) <= 16
    good = [step["rate_events_per_s"] for step in found["steps"] if step["reason"] is None]
    assert report["settings"]["rate_events_per_s"] == max(good)


def processes_of(place: Path) -> list[str]:
    """Return the processes that belong to a directory of instances: the daemon's have it in their environment."""
    found = []
    for environment in Path("/proc").glob("[0-9]*/environ"):
        try:
            if str(place).encode() in environment.read_bytes():
                found.append((environment.parent / "cmdline").read_text().replace("\0", " "))
        except OSError:
            continue
    return found


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_nothing_is_left_after_a_signal(idle: Daemon, number: signal.Signals, tmp_path: Path) -> None:
    environment = {**idle.environment, "TMPDIR": str(tmp_path)}
    with (tmp_path / "errors").open("w+") as errors:
        process = subprocess.Popen(
            [*COMMAND, "mix", "--rate", "500", "--duration", "100", "--own"], env=environment,
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=errors,
        )  # fmt: skip
        deadline = time.monotonic() + 90
        while not any(
            " run " in line and "/load-" in line and " guard " not in line for line in processes_of(idle.root)
        ):
            assert process.poll() is None, (tmp_path / "errors").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.1)
        eventually(lambda: len(processes_of(idle.root)) > 6)
        process.send_signal(number)
        assert process.wait(60) == {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGKILL: -9}[number]
    until(lambda: not processes_of(idle.root), lambda: processes_of(idle.root), limit_s=40, pause_s=0.1)
    assert not (idle.root / "load").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["errors"]
    assert (tmp_path / "errors").read_text().strip() == ""  # click ends the line after Ctrl-C


# -- docs/load.md ------------------------------------------------------------------------------------------------------

#: What the documented tests run with, so that they take seconds; each also runs in others with more.
SHORT = {
    "--own --paired": "--pairs 2 --duration 0.3",
    "--find-limit": "--rate 400 --duration 0.3",
    "": "--duration 0.5",
}


def documented(word: str) -> str:
    """Return the block of docs/load.md that contains a word, in a short form."""
    (block,) = (each for each in run_by("tests/live/test_load.py") if word in each.script)
    text = block.script.replace("--rate 5000 --duration 30", "--rate 500")
    for line in [each for each in text.splitlines() if "procline load " in each and "--compare" not in each]:
        options = next(short for has, short in SHORT.items() if has in line)
        text = text.replace(line, line.replace("procline load ", f"procline load {options} "))
    return text


#: Where the kernel skips events, a load can end with 1, the code for a loss; every other command must end with 0.
ALLOW_LOSSES = """
allow() { status=0; command "$@" || status=$?; [ "$status" -le 1 ]; }
procline() { if [ "$2" = --compare ]; then command procline "$@"; else allow procline "$@"; fi; }
ssh() { allow ssh "$@"; }
"""


def shell(daemon: Daemon, text: str, directory: Path, programs: str = "") -> str:
    """Run commands, and return their output."""
    environment = dict(daemon.environment)
    environment["PATH"] = f"{programs}:{Path(sys.executable).parent}:{environment['PATH']}"
    done = subprocess.run(
        ["sh", "-euc", (ALLOW_LOSSES if SKIPS_RUNS else "") + text], env=environment, cwd=directory,
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr + done.stdout[-2000:]
    return done.stdout


@pytest.mark.slow
def test_the_documented_tests(live_kernel: None, tmp_path: Path) -> None:
    # The second report comes from another host.
    compare = "procline load --compare"
    text = documented("--find-limit").replace(compare, f"cp host1.json host2.json\n{compare}")
    with Daemon(name="default") as daemon:
        shown = shell(daemon, text, tmp_path)
    assert "Slowdown, 2 pairs" in shown and "Highest rate without loss: " in shown
    assert (tmp_path / "hosts.html").read_text().endswith("</html>\n")


def test_the_documented_tests_of_other_hosts(daemon: Daemon, server: Server, tmp_path: Path) -> None:
    """Both hosts are this one, by a real ssh. Only there, `procline` must be found without a PATH of the caller."""
    programs = tmp_path / "bin"
    programs.mkdir()
    variables = f"PROCLINE_RUNTIME_DIR={daemon.root} PROCLINE_INSTANCE={daemon.name} PATH={Path(sys.executable).parent}"
    options = " ".join(map(str, server.options))
    (programs / "ssh").write_text(f'#!/bin/sh\nshift\nexec /usr/bin/ssh {options} root@127.0.0.1 {variables} "$@"\n')
    (programs / "ssh").chmod(0o755)
    (tmp_path / "hosts").write_text("web-1 web-2\n")
    shown = shell(daemon, documented("ssh"), tmp_path, str(programs))
    assert "web-1" in shown and "web-2" in shown and (tmp_path / "hosts.html").exists()

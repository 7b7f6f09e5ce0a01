"""A real daemon is scraped by Prometheus' client, and pushes over DogStatsD."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import urllib.request

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.live.harness import Daemon
from tests.ports import free_port
from tests.waiting import eventually

pytestmark = [pytest.mark.live, pytest.mark.usefixtures("live_kernel")]


def scrape(port: int) -> dict[tuple[str, str], float]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as answer:
        text = answer.read().decode()
    return {
        (sample.name, ",".join(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_a_scrape_agrees_with_stat() -> None:
    port = free_port()
    with Daemon(f'[metrics]\nlisten = "127.0.0.1:{port}"\n', name="scraped") as daemon:
        before = scrape(port)
        assert before["procline_up", ""] == 1
        for _ in range(23):
            subprocess.run(["/bin/true"], check=True)
        after = eventually(lambda: _has_forked(port, before, 23))
        assert after["procline_lag_seconds", ""] < 5
        ours = [os.getpid(), *daemon.pids("")]
        assert after["procline_entries", "live"] >= len(ours) > 3
        assert after["procline_process_cpu_seconds_total", "resolver"] > 0
        rings = {label for name, label in after if name == "procline_ring_size_bytes"}
        assert rings and {label for name, label in after if name == "procline_cpu_lost_samples_total"} == rings
        for ring in rings:
            assert 0 <= after["procline_ring_fill_bytes", ring] <= after["procline_ring_size_bytes", ring]
        stat = daemon.stat()
        assert after["procline_table_rows_capacity", ""] == stat["memory"]["rows_capacity"]
        assert after["procline_events_total", "fork"] <= stat["events"]["fork"]
        # The same address twice is an error of one line.
        other = Daemon(f'[metrics]\nlisten = "127.0.0.1:{port}"\n', name="second")
        try:
            other.start(wait=False)
            assert other.process is not None and other.process.wait(60) == 2
            assert "metrics.listen" in other.log.read_text()
        finally:
            other.close()
        assert daemon.stop() == 0


#: Forks a child that forks a child and exits, so that the grandchild gets another parent; prints its pid.
ORPHAN = """
import os, time
if os.fork() == 0:
    pid = os.fork()
    if pid == 0:
        os.closerange(0, 3)
        time.sleep(300)
    print(pid, flush=True)
    os._exit(0)
os.wait()
"""


def test_events_of_the_kernel_move_the_resolvers_counters() -> None:
    port = free_port()
    config = f'[metrics]\nlisten = "127.0.0.1:{port}"\n[capture]\nargs_bytes = 1024\nenvs_bytes = 4096\n'
    with Daemon(config, name="counted") as daemon:
        before = scrape(port)
        for _ in range(23):
            subprocess.run(["/bin/true", *"abcdef"], check=True, env={"ONE": "1", "TWO": "2"})
        subprocess.run(["/bin/true", "x" * 5000], check=True)
        orphan = int(subprocess.run([sys.executable, "-c", ORPHAN], capture_output=True, check=True, text=True).stdout)
        try:

            def moved() -> dict[tuple[str, str], float]:
                # Other processes of the host fork too, so no number of events says that these have all arrived.
                after = scrape(port)

                def grown(name: str, label: str = "") -> float:
                    return after[f"procline_{name}_total", label] - before[f"procline_{name}_total", label]

                assert grown("args_size") >= 23 * 7 + 2 and grown("envs_size") >= 23 * 2
                assert grown("args_truncated") >= 1
                assert grown("reparent_success", "do_exit") >= 1
                assert grown("added", "event") >= 26 * 2
                return after

            after = eventually(moved)
            with daemon.attach() as table:
                entry = table.resolve(orphan)
                assert entry is not None and "adopted" in entry.marks
            # `stat` has the same source and the same numbers.
            stat = daemon.stat()["counters"]
            again = scrape(port)
            for name in ("args_size", "args_truncated", "envs_size", "reparent_success_do_exit", "flushed"):
                metric, label = name.removesuffix("_do_exit"), "do_exit" if name.endswith("_do_exit") else ""
                key = f"procline_{metric}_total", label
                assert after[key] <= stat[name] <= again[key]
        finally:
            os.kill(orphan, signal.SIGKILL)


def test_counters_are_pushed() -> None:
    pytest.importorskip("datadog.dogstatsd", reason="procline[statsd] is not installed")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind(("127.0.0.1", 0))
        receiver.settimeout(60)
        port = receiver.getsockname()[1]
        config = f'[metrics]\nstatsd = "127.0.0.1:{port}"\nstatsd_interval_s = 0.5\nstatsd_prefix = "mine"\n'
        with Daemon(config, name="pushed") as daemon:
            assert daemon.cli("resolve", "4194304", "--ask").returncode == 1
            seen: set[str] = set()
            while not any(line.startswith("mine.process_resolver.miss:1|c") for line in seen):
                seen.add(receiver.recv(4096).decode().strip())
            assert any(line.startswith("mine.process_resolver.cache_size:") for line in seen)


def _has_forked(port: int, before: dict[tuple[str, str], float], count: int) -> dict[tuple[str, str], float]:
    after = scrape(port)
    assert after["procline_events_total", "fork"] >= before["procline_events_total", "fork"] + count
    return after

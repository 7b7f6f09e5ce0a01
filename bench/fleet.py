"""How many events of how many hosts can one NATS server and one ingester take, and how long do questions take?

Method
    Stream: a build is recorded once with the daemon's own applier and encoder. `--hosts` simulated hosts send this
    recording in batches, compressed with zstd as `procline forward` does, from `--senders` processes to one real
    nats-server with JetStream in files. `publish` is the rate of the senders alone. Then `ingest` is the rate of one
    `procline fleet ingest --once` that finds everything waiting. In `live`, both run at the same time, and the senders
    keep to `--rate` events/s: the lag of a message is the time from its storing in the server to its commit.
    Questions: DuckDB makes a store with `--events` events of 1,000 hosts in five days. Three files of a million events
    are made, and the others are copies of these. Each question runs as its command, `--runs` times; the files are in
    the page cache if they fit.
Command
    python bench/fleet.py [--hosts N] [--recorded N] [--rate N] [--events N] [--runs N] [--store DIR] [--json]
How to read it
    `wire bytes/event` has subject and headers. `server bytes/event` is what JetStream keeps, `store bytes/event` what
    the Parquet files need. Memory is the peak of resident memory. Times of questions include the start of the command,
    about half a second, and the opening of the store; `CPU s` is the user and system time of the same command. With
    `--store`, the questions are asked of a store that exists.
What it does not show
    A network, disks that are slower than this one, replicas, TLS, and cold files. Senders, server and ingester share
    the cores of this machine.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import common
import fleet_data

from pipeline.fleet.catalogue import Catalogue
from tests.nats_server import NatsServer
from tests.waiting import until

SMALL = {"hosts": 3, "recorded": 2000, "rate": 4000, "seconds": 2, "events": 6000, "runs": 1, "senders": 1}
TARGET_S = 2.0
QUESTIONS = (
    ("where", ["where", fleet_data.RARE]),
    ("where, common", ["where", "tool7"]),
    ("ancestry", ["ancestry", "host-0007", "PID"]),
    ("new", ["new", "1h"]),
    ("lineage", ["lineage", "sshd", "shell", "curl"]),
    ("spawners", ["spawners", "5"]),
    ("lifetimes", ["lifetimes"]),
    ("lost", ["lost"]),
    ("SQL over all events", ["SELECT topic, count(*), max(time) FROM events GROUP BY topic"]),
)


def send(url: str, recorded: Any, hosts: Sequence[int], rate: float, window: int = 256) -> None:
    """Send the recording of some hosts, in turn, at `rate` events/s; 0: as fast as possible."""

    async def run() -> None:
        import nats
        import zstandard

        client = await nats.connect(url)
        stream = client.jetstream(publish_async_max_pending=window)
        compressor = zstandard.ZstdCompressor(3)
        recording = [(topic, first, count, compressor.compress(data)) for topic, first, count, data in recorded]
        begin, sent = time.monotonic(), 0
        for batches in zip(*(fleet_data.messages_of(recording, host) for host in hosts), strict=True):
            for subject, headers, data in batches:
                await stream.publish_async(subject, data, headers=headers)
                sent += int(headers["Procline-Count"])
            if rate and (ahead := begin + sent / rate - time.monotonic()) > 0:
                await asyncio.sleep(ahead)
        await stream.publish_async_completed()
        await client.close()

    asyncio.run(run())


def sent_by(url: str, recorded: Any, hosts: Sequence[int], senders: int, rate: float) -> tuple[float, list[Any]]:
    """Start the senders; returns when, and the processes."""
    context = get_context("spawn")
    parts = [part for part in (hosts[number::senders] for number in range(senders)) if part]
    processes = [context.Process(target=send, args=(url, recorded, part, rate / len(parts))) for part in parts]
    begin = time.monotonic()
    for process in processes:
        process.start()
    return begin, processes


def joined(processes: Sequence[Any]) -> None:
    for process in processes:
        process.join()
        assert process.exitcode == 0, "a sender failed"


def ingester(url: str, store: Path, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "pipeline.cli.main", "fleet", "ingest", "--from", url, "--store", str(store)]
    return subprocess.Popen([*command, "--json", *options], stdout=subprocess.PIPE, text=True)


def peak_bytes(pid: int) -> int:
    """Return the peak of the resident memory of a process."""
    [line] = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) << 10


def cpu_s(pid: int) -> float:
    """Return the CPU time of a running process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def children_cpu_s() -> float:
    """Return the CPU time of the processes that were waited for."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def state_of(url: str) -> Any:
    """Return the state of the stream, after it was created if it is missing."""

    async def run() -> Any:
        import nats

        client = await nats.connect(url)
        stream = client.jetstream()
        await stream.add_stream(name="PROCLINE", subjects=["procline.*.*"])
        info = await stream.stream_info("PROCLINE")
        await client.close()
        return info.state

    return asyncio.run(run())


def stored(store: Path) -> tuple[int, int]:
    """Return the events and the bytes of a store."""
    catalogue = Catalogue.open(store)
    files = catalogue.files()
    catalogue.close()
    return sum(file.rows for file in files), sum(file.bytes for file in files)


def measure_stream(root: Path, options: argparse.Namespace, report: common.Report) -> None:
    """Measure the senders, the ingester, and both at the same time."""
    recorded = fleet_data.record(options.recorded, options.batch)
    per_host = sum(count for _, _, count, _ in recorded)
    hosts = list(range(options.hosts))
    total = per_host * len(hosts)
    with NatsServer(root) as server:
        state_of(server.url)
        before = cpu_s(server.pid)
        begin, processes = sent_by(server.url, recorded, hosts, options.senders, 0)
        joined(processes)
        seconds = time.monotonic() - begin
        state, used = state_of(server.url), cpu_s(server.pid) - before
        wire = sum(
            len(data) + len(subject) + sum(len(key) + len(value) + 4 for key, value in headers.items())
            for subject, headers, data in fleet_data.messages_of(_compressed(recorded), 0)
        )
        report.rows.append({
            "case": "publish", "hosts": len(hosts), "events": total, "events/s": total / seconds,
            "events/message": total / state.messages, "wire bytes/event": wire / per_host,
            "server bytes/event": state.bytes / total, "server us CPU/event": used / total * 1e6,
            "server MB": peak_bytes(server.pid) / 1e6,
        })  # fmt: skip
        before = children_cpu_s()
        told, memory = _watched(ingester(server.url, root / "store", "--once"))
        used = children_cpu_s() - before
        seconds = told["seconds"]
        events, size = stored(root / "store")
        assert events == total == told["events"], "an event is missing"
        report.rows.append({
            "case": "ingest", "hosts": len(hosts), "events": total, "events/s": total / seconds,
            "us CPU/event": used / total * 1e6, "store bytes/event": size / events, "ingester MB": memory / 1e6,
        })  # fmt: skip
    with NatsServer(root, name="live") as server:
        state_of(server.url)
        process = ingester(server.url, root / "live-store", "--commit-seconds", "2")
        used = [hosts[at] for at in range(min(len(hosts), max(1, int(options.rate * options.seconds // per_host))))]
        begin, processes = sent_by(server.url, recorded, used, options.senders, options.rate)
        joined(processes)
        seconds = time.monotonic() - begin
        wanted = per_host * len(used)
        until(lambda: _stored_events(root / "live-store") >= wanted, "the ingester keeps up", 240, 0.2)
        process.terminate()
        told = json.loads(process.communicate()[0])
        assert told["refused"] == told["doubles"] == 0
        report.rows.append({
            "case": "live", "hosts": len(used), "events": told["events"], "events/s": told["events"] / seconds,
            "lag p50 s": told["lag_s"]["p50"], "lag p99 s": told["lag_s"]["p99"], "lag max s": told["lag_s"]["max"],
            "server MB": peak_bytes(server.pid) / 1e6,
        })  # fmt: skip


def _compressed(recorded: Any) -> Any:
    import zstandard

    compressor = zstandard.ZstdCompressor(3)
    return [(topic, first, count, compressor.compress(data)) for topic, first, count, data in recorded]


def _stored_events(store: Path) -> int:
    return stored(store)[0] if (store / "catalogue.sqlite").exists() else 0


def _watched(process: subprocess.Popen[str]) -> tuple[dict[str, Any], int]:
    """Wait for an ingester; returns what it printed, and the peak of its memory."""
    memory = 0
    while process.poll() is None:
        try:
            memory = max(memory, peak_bytes(process.pid))
        except (OSError, ValueError):
            break
        time.sleep(0.05)
    out, _ = process.communicate()
    assert process.returncode == 0, "the ingester failed"
    return json.loads(out), memory


def measure_questions(root: Path, options: argparse.Namespace, report: common.Report) -> None:
    """Measure each question as a command."""
    store = options.store
    if store is None:
        store = root / "large"
        begin = time.monotonic()
        fleet_data.make_store(store, options.events, 1000, 5, time.time_ns(), 4 << 30)
        report.notes.append(f"the store was made in {time.monotonic() - begin:.0f} s")
    events, size = stored(store)
    report.notes.append(f"the store has {events:,} events in {size / 1e9:.2f} GB")
    command = [sys.executable, "-m", "pipeline.cli.main", "fleet", "query", "--store", str(store), "--format", "csv"]
    found = subprocess.run(
        [*command, "SELECT pid FROM events WHERE host = 'host-0007' AND topic = 'exec' LIMIT 1"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    pid = found.stdout.splitlines()[1]
    for name, arguments in QUESTIONS:
        seconds, used, rows = [], [], 0
        for _ in range(options.runs):
            begin, before = time.monotonic(), children_cpu_s()
            done = subprocess.run(
                [*command, *(argument.replace("PID", pid) for argument in arguments)], capture_output=True, text=True
            )
            seconds.append(time.monotonic() - begin)
            used.append(children_cpu_s() - before)
            assert done.returncode == (1 if name == "lost" else 0), done.stderr
            rows = len(done.stdout.splitlines()) - 1
        report.rows.append({
            "case": name, "median s": statistics.median(seconds), "max s": max(seconds),
            "CPU s": statistics.median(used), "rows": rows,
        })  # fmt: skip
        report.target(name, statistics.median(seconds), TARGET_S, "s")


def main(argv: list[str] | None = None) -> int:
    """Run all cases; returns the exit code."""
    parser = common.parser(__doc__)
    parser.add_argument("--hosts", type=int, default=50, help="simulated hosts")
    parser.add_argument("--recorded", type=int, default=10_000, help="events of the recording that each host sends")
    parser.add_argument("--batch", type=int, default=1536, help="events in a step of the recording, of three topics")
    parser.add_argument("--senders", type=int, default=2, help="processes that send")
    parser.add_argument("--rate", type=float, default=5000, help="events/s of all hosts together (live)")
    parser.add_argument("--seconds", type=float, default=20, help="duration of the sending (live)")
    parser.add_argument("--events", type=int, default=50_000_000, help="events of the store for questions")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--store", type=Path, help="a store for the questions, instead of a new one")
    parser.add_argument("--only", choices=("stream", "questions"))
    options = common.parse(parser, argv, SMALL)
    report = common.begin(__file__, __doc__, options)
    root = Path(tempfile.mkdtemp(prefix="procline-bench-"))
    os.environ["PYTHONPATH"] = str(common.ROOT)
    try:
        if options.only != "questions":
            measure_stream(root, options, report)
        if options.only != "stream":
            measure_questions(root, options, report)
    finally:
        shutil.rmtree(root, ignore_errors=True)
    return common.finish(report, as_json=options.json)


if __name__ == "__main__":
    sys.exit(main())

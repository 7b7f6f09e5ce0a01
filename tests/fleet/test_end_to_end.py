"""From a publishing host through `procline forward`, a real server and `procline fleet ingest` to an answer."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import pytest

from pipeline.bus.stream.messages import MAJOR, MINOR
from pipeline.fleet.open_store import OpenStore
from tests.fleet.jetstream import ingest, ingesting
from tests.forward.world import Command, all_stored, begin, published, wait_for
from tests.nats_server import NatsServer
from tests.nats_server import nats_server as nats_server


@pytest.mark.expensive
@pytest.mark.slow
def test_every_published_event_is_stored_once_whoever_is_killed(tmp_path: Path, nats_server: NatsServer) -> None:
    store = tmp_path / "store"
    with (
        tempfile.TemporaryDirectory(prefix="procline-test-", dir="/dev/shm") as directory,
        published(Path(directory)) as host,
    ):
        forward = Command(host.runtime, "--to", nats_server.url, log=tmp_path / "log")
        assert forward.run("--create-stream").returncode == 0
        try:
            after = begin(host, forward, nats_server)
            host.go(1000)
            with ingesting(nats_server.url, store, "--commit-seconds", "0.2"):
                wait_for(lambda: (store / "events").exists(), "a stored batch")
                forward.kill()
                forward.start()
                host.go(1000)
            host.settle()
            wait_for(all_stored(host, nats_server), "all events at the server")
            assert forward.stop() == 0
        finally:
            forward.kill()
        expected = {
            (kind, number, made.time_ns)
            for kind, events in host.events.items()
            for number, made in events.items()
            if kind in {"fork", "exec", "exit"} and number > after.get(f"proc.{kind}", 0)
        }
    done = ingest(nats_server.url, store, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["refused"] == 0
    with OpenStore(store) as opened:
        found = Counter(opened.query("SELECT topic, seq, time_ns FROM events WHERE topic IN ('fork', 'exec', 'exit')"))
        assert set(found.values()) == {1} and set(found) == expected
        [(snapshots,)] = opened.query("SELECT count(*) FROM events WHERE topic = 'snapshot'")
        assert snapshots > 0
        assert list(opened.query("SELECT cause, count FROM losses WHERE cause <> 'begin'")) == []
    command = [sys.executable, "-m", "pipeline.cli.main", "fleet", "hosts", "--store", str(store), "--format", "json"]
    [facts] = json.loads(subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout)
    assert (facts["name"], facts["lost"], facts["gaps"], facts["version"]) == ("host.1", 0, 0, f"{MAJOR}.{MINOR}")

"""The hub is away during load: nothing is lost within the limits, and a loss beyond them is counted and shown.

`PROCLINE_HUB_AWAY_S` sets for how long; the default suits CI. For five minutes: 300, and --timeout 3600.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest

from pipeline.fleet.open_store import OpenStore
from tests.fleet.jetstream import ingest
from tests.forward.world import LIMIT_S, Command, Published, all_stored, begin, check_stored, host, messages, wait_for
from tests.nats_server import NatsServer, hub_and_leaf, nats_server, require_nats_server, source_from_leaf

__all__ = ["host", "nats_server"]
pytestmark = [pytest.mark.expensive, pytest.mark.slow]

AWAY_S = float(os.environ.get("PROCLINE_HUB_AWAY_S", "2"))
#: Small enough to be full while the hub is away for the shortest time.
SMALL_SPOOL_BYTES = 1 << 20


def away(host: Published, hub: NatsServer) -> int:
    """Make events while the hub is killed, for AWAY_S; return how many."""
    before = host.count
    host.go(200)
    hub.kill()
    host.begin(step=20, pause_s=0.01)
    time.sleep(AWAY_S)
    host.settle()
    hub.start()
    return host.count - before


def facts_of(hub: NatsServer, store: Path) -> dict[str, Any]:
    """Fill a store from the hub, and return what `procline fleet hosts` shows."""
    done = ingest(hub.url, store, "--json")
    assert done.returncode == 0, done.stderr
    command = [sys.executable, "-m", "pipeline.cli.main", "fleet", "hosts", "--store", str(store), "--format", "json"]
    [facts] = json.loads(subprocess.run(command, capture_output=True, text=True, check=True, timeout=LIMIT_S).stdout)
    return dict(facts)


def stored(store: Path) -> int:
    """Number of events of processes in a store that have a number."""
    with OpenStore(store) as opened:
        [(count,)] = opened.query("SELECT count(*) FROM events WHERE topic IN ('fork', 'exec', 'exit')")
    return int(count)


@pytest.mark.parametrize("is_small", [False, True], ids=["spool", "small spool"])
def test_the_spool_keeps_what_is_made_while_the_hub_is_away(
    host: Published, nats_server: NatsServer, tmp_path: Path, is_small: bool
) -> None:
    """Beyond the limit of the spool, the oldest events are lost, and the loss is shown."""
    forward = Command(host.runtime, "--to", nats_server.url, "--spool", str(tmp_path / "spool"), log=tmp_path / "log")
    if is_small:
        forward.add("--set", f"forward.spool_bytes={SMALL_SPOOL_BYTES}", "--set", "forward.compress=false")
    assert forward.run("--create-stream").returncode == 0
    try:
        after = begin(host, forward, nats_server)
        made = away(host, nats_server)
        began_s = time.monotonic()
        wait_for(all_stored(host, nats_server), "all events at the hub", AWAY_S * 5 + LIMIT_S, pause_s=0.5)
        caught_up_s = time.monotonic() - began_s
        assert forward.stop() == 0
    finally:
        forward.kill()
    missing = check_stored(messages(nats_server), host, after=after)
    facts = facts_of(nats_server, tmp_path / "store")
    print(f"away for {AWAY_S:g} s: {made} events, {missing} lost, all there {caught_up_s:.0f} s after the return")
    assert (missing > 0) == is_small
    assert facts["lost"] == missing and (facts["gaps"] > 0) == is_small
    assert stored(tmp_path / "store") + missing == host.count - sum(
        after.get(f"proc.{kind}", 0) for kind in host.events
    )


@pytest.mark.expensive(seconds=45)
def test_a_leaf_node_keeps_what_is_made_while_the_hub_is_away(
    host: Published, tmp_path: Path, missing: Callable[[str], NoReturn]
) -> None:
    """The forwarder does not notice that the hub is away, and needs no spool."""
    require_nats_server(missing)
    hub, edge = hub_and_leaf(tmp_path)
    with hub, edge:
        forward = Command(host.runtime, "--to", edge.url, log=tmp_path / "log")
        assert forward.run("--create-stream").returncode == 0
        asyncio.run(source_from_leaf(hub))
        try:
            after = begin(host, forward, edge)
            made = away(host, hub)
            began_s = time.monotonic()
            wait_for(all_stored(host, edge), "all events at the leaf", AWAY_S * 5 + LIMIT_S, pause_s=0.5)
            wanted = len(messages(edge))
            assert forward.stop() == 0
        finally:
            forward.kill()
        # The hub tries again to reach the leaf at intervals of up to a minute.
        wait_for(lambda: len(messages(hub)) >= wanted, "all messages at the hub", AWAY_S * 5 + 2 * LIMIT_S, pause_s=1)
        print(f"away for {AWAY_S:g} s: {made} events, all there {time.monotonic() - began_s:.0f} s after the return")
        assert check_stored(messages(hub), host, after=after) == 0
        assert forward.log.count("connected") == 1, "the forwarder lost its server"
        facts = facts_of(hub, tmp_path / "store")
        assert (facts["lost"], facts["gaps"]) == (0, 0)
        assert stored(tmp_path / "store") == host.count - sum(after.get(f"proc.{kind}", 0) for kind in host.events)

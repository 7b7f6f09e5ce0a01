"""The memory of an instance: the estimate, the table of the documentation, and a live instance."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.bpf.host import online_cpus, possible_cpus
from pipeline.config import loading
from pipeline.config.schema import Capture, Config
from pipeline.supervisor.footprint import estimate
from tests.live.harness import Daemon
from tests.live.memory import kernel_bytes, process_bytes

OPERATIONS = Path(__file__).parents[2] / "docs" / "operations.md"
KIB, MIB = 1 << 10, 1 << 20


@pytest.mark.parametrize("cpus", [2, 8, 32, 128, 256])
def test_the_sizing_table_has_the_estimate(cpus: int) -> None:
    need = estimate(Config(), cpus, cpus)
    rings = need.ring_count * need.ring_bytes
    row = f"| {cpus} | {need.ring_bytes // KIB} KiB | {rings // MIB} MiB | {need.start_bytes / MIB:.0f} MiB |"
    assert row in OPERATIONS.read_text().splitlines(), row


@pytest.mark.parametrize("possible", [128, 256])
def test_a_host_with_128_cpus_pays_less_than_200_mb(possible: int) -> None:
    assert estimate(Config(), 128, possible).start_bytes <= 200e6


def test_the_settings_count() -> None:
    base = estimate(Config(), 8, 8)
    assert estimate(Config(capture=Capture(ring_bytes=16 * MIB)), 8, 8).kernel_bytes > base.kernel_bytes + 64 * MIB
    more = loading.load(None, {"shards.count": 4}, {})
    assert estimate(more, 8, 8).processes_bytes > base.processes_bytes
    other = estimate(loading.load(None, {"source": "proc-connector"}, {}), 8, 8)
    assert (other.ring_count, other.kernel_bytes) == (1, 8 * MIB)
    envs = loading.load(None, {"capture.envs_bytes": 4096}, {})
    assert estimate(envs, 8, 8).tables_bytes > base.tables_bytes


@pytest.mark.live
@pytest.mark.slow
def test_a_running_instance_takes_what_was_estimated(live_kernel: None) -> None:
    need = estimate(Config(), len(online_cpus()), len(possible_cpus()))
    with Daemon() as daemon:
        pids = {process["role"]: process["pid"] for process in daemon.stat()["processes"]}
        kernel = sum(kernel_bytes(pids["supervisor"]))
        processes = sum(process_bytes(pid) for pid in pids.values())
    assert kernel == pytest.approx(need.kernel_bytes, rel=0.1)
    # Other programs with the same libraries make the part of each smaller.
    assert 0.4 * need.processes_bytes < processes < 1.15 * need.processes_bytes

"""Estimate the memory of an instance from the settings and the number of CPUs, before it runs.

Sizes of maps are those of the BPF programs, as the kernel counts them (`memlock` in /proc/PID/fdinfo). Sizes of
processes were measured (docs/performance.md).
"""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.config.schema import Config
from pipeline.shm.layout import control_header

#: A ring's pages of positions, and its list of pages, which has each data page twice: 16 bytes for 4 KiB.
_RING_BASE_BYTES = 12 << 10
_RING_LIST_PART = 256
#: BPF maps with a fixed size, mostly the caches of processes, and the buffers of each possible CPU.
_MAPS_BYTES = 11 << 20
_MAPS_CPU_BYTES = 112 << 10
#: Proportional memory of supervisor, resolver and one shard, without rings and tables; and of each further shard.
_PROCESSES_BYTES = 70 << 20
_SHARD_BYTES = 14 << 20


@dataclass(frozen=True, kw_only=True)
class Footprint:
    """Memory in bytes.

    Attributes:
        ring_count: number of rings.
        ring_bytes: size of each.
        kernel_bytes: all rings and BPF maps.
        processes_bytes: the processes at the start.
        tables_bytes: ceiling of the tables.
    """

    ring_count: int
    ring_bytes: int
    kernel_bytes: int
    processes_bytes: int
    tables_bytes: int

    @property
    def start_bytes(self) -> int:
        """Everything that a new instance has at its start, except the tables, which grow with the processes."""
        return self.kernel_bytes + self.processes_bytes


def estimate(config: Config, online: int, possible: int) -> Footprint:
    """Return the memory of an instance.

    Args:
        config: its settings.
        online: number of CPUs that are online.
        possible: number of CPUs that the host can have; virtual machines often have many that are not online.
    """
    is_ebpf = config.source == "ebpf"
    count = online + (possible > online) if is_ebpf else 1
    ring_bytes = config.capture.bytes_of_a_ring(online if is_ebpf else 1)
    kernel = count * ring_bytes
    if is_ebpf:
        kernel += count * (ring_bytes // _RING_LIST_PART + _RING_BASE_BYTES) + _MAPS_BYTES + possible * _MAPS_CPU_BYTES
    tables = config.tables
    ceiling = (
        tables.max_entries * (control_header.ROW_BYTES + control_header.COSTS_BYTES)
        + tables.names_bytes
        + tables.args_bytes
    )
    ceiling += tables.envs_bytes if config.capture.envs_bytes else 0
    return Footprint(
        ring_count=count,
        ring_bytes=ring_bytes,
        kernel_bytes=kernel,
        processes_bytes=_PROCESSES_BYTES + (config.shards.resolve(count) - 1) * _SHARD_BYTES,
        tables_bytes=ceiling,
    )

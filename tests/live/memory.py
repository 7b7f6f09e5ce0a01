"""Memory of a running daemon: that of its rings and maps in the kernel, and that of its processes without those."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_RING = "27"  # BPF_MAP_TYPE_RINGBUF


def fdinfo(pid: int) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield the descriptors of a process, each with what its fdinfo says."""
    for info in Path(f"/proc/{pid}/fdinfo").iterdir():
        with suppress(FileNotFoundError):  # the process may close a file at any time
            lines = (line.split(":", 1) for line in info.read_text().splitlines() if ":" in line)
            yield int(info.name), {name: value.strip() for name, value in lines}


def kernel_bytes(pid: int) -> tuple[int, int]:
    """Return the memory of the rings and of the other BPF maps that a process holds."""
    maps = {}
    for _, fields in fdinfo(pid):
        if "map_id" in fields:
            kind, size = fields["map_type"], int(fields["memlock"])
            # Linux 5.11 to 6.3 multiply the number of entries by their size, which a ring does not have.
            maps[fields["map_id"]] = kind, size or (int(fields["max_entries"]) if kind == _RING else 0)
    rings = sum(size for kind, size in maps.values() if kind == _RING)
    return rings, sum(size for _, size in maps.values()) - rings


def process_bytes(pid: int) -> int:
    """Return the proportional memory of a process without the rings that it maps and the tables on the tmpfs."""
    total, is_counted = 0, False
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == "Pss":
            total += int(value.split()[0]) * 1024 if is_counted else 0
        elif "-" in name.split()[0] and name.split()[0].replace("-", "").isalnum() and " " in name:
            is_counted = "bpf-map" not in line and "/dev/shm/" not in line
    return total

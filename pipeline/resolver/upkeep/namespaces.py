"""Which mount and user namespace are the host's."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.shm.layout import tables as layout

if TYPE_CHECKING:
    from pipeline.shm.writer._writer import TableWriter


def host_namespaces(tables: TableWriter) -> tuple[int, int]:
    """Mount and user namespace of pid 1, as the kernel reported them; of this process where it did not. 0: unknown."""
    row = tables.py_head(1)
    if row and int(tables.hot_view()["known"][row]) & layout.KNOWN_NS:
        cold = tables.cold_view()[row]
        if cold["mnt_ns"] and cold["user_ns"]:
            return int(cold["mnt_ns"]), int(cold["user_ns"])
    return _own("mnt"), _own("user")


def _own(kind: str) -> int:
    try:
        return Path(f"/proc/self/ns/{kind}").stat().st_ino
    except OSError:
        return 0

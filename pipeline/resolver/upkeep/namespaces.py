"""The mount namespace and the user namespace of the host."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.shm.layout import layout

if TYPE_CHECKING:
    from pipeline.shm.writer._writer import TableWriter


def host_namespaces(tables: TableWriter) -> tuple[int, int]:
    """Return mount and user namespace of pid 1 if the kernel reported them, else those of this process; 0: unknown."""
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

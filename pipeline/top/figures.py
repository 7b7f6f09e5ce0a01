"""Figures that the instance reports about itself: events a second, losses, lag, and what its processes cost."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from pipeline.host import processes
from pipeline.records.declared import KIND_NAMES
from pipeline.shm.layout import layout
from pipeline.top.sparks import HISTORY

#: How often the memory of the instance is read: the kernel adds up all pages for it, which takes some 10 ms.
_MEMORY_S = 10.0
_KINDS = [kind for kind in KIND_NAMES if kind != "none"]
_EVENTS = [layout.COUNTERS.index(f"events_{kind}") for kind in _KINDS]
_LOST = [layout.COUNTERS.index(f"lost_{kind}") for kind in KIND_NAMES]


@dataclass(slots=True)
class Figures:
    """The figures of the last reading.

    Attributes:
        rates: events a second by kind, of the last reading.
        history: events a second of the last readings, oldest first.
        lost: events that the kernel could not write, since the start of the instance.
        lost_here: the same since the first reading.
        lag_ns: how far the tables are behind the clock.
        live, exited: processes in the tables.
        cpu_percent: of one core, all processes of the instance; None: not known yet, or not allowed to know.
        memory_bytes: PSS of the same processes; None: not allowed to know.
    """

    rates: dict[str, float] = field(default_factory=dict)
    history: deque[float] = field(default_factory=lambda: deque(maxlen=HISTORY))
    lost: int = 0
    lost_here: int = 0
    lag_ns: int = 0
    live: int = 0
    exited: int = 0
    cpu_percent: float | None = None
    memory_bytes: int | None = None

    @property
    def rate(self) -> float:
        """Events a second, of all kinds."""
        return sum(self.rates.values())


class FigureReader:
    """Computes figures from the commits of an instance.

    Args:
        directory: of the instance.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.figures = Figures()
        self._before: tuple[float, list[int]] | None = None
        self._cpu: tuple[float, dict[int, float]] | None = None
        self._first_lost: int | None = None
        self._memory_s = -_MEMORY_S

    def read(self, commit: bytes) -> Figures:
        """Update the figures from a commit slot, and return them."""
        now_s = time.monotonic()
        figures = self.figures
        slot = np.frombuffer(commit, layout.COMMIT, 1)[0]
        counters = slot["counters"].tolist()
        events = [counters[place] for place in _EVENTS]
        figures.lost = sum(counters[place] for place in _LOST)
        if self._first_lost is None or figures.lost < self._first_lost:
            self._first_lost = figures.lost
        figures.lost_here = figures.lost - self._first_lost
        figures.live, figures.exited = int(slot["heads_live"]), int(slot["heads_exited"])
        figures.lag_ns = max(0, time.clock_gettime_ns(time.CLOCK_BOOTTIME) - int(slot["watermark_boot_ns"]))
        if self._before is not None and now_s > self._before[0]:
            seconds = now_s - self._before[0]
            figures.rates = {
                kind: max(0, new - old) / seconds
                for kind, new, old in zip(_KINDS, events, self._before[1], strict=True)
            }
            figures.history.append(figures.rate)
        self._before = now_s, events
        self._measure(now_s)
        return figures

    def _measure(self, now_s: float) -> None:
        with_memory = now_s - self._memory_s >= _MEMORY_S
        usage = processes.measure(self._directory, with_memory=with_memory)
        cpu = {process["pid"]: process["cpu_seconds"] for process in usage}
        if self._cpu is not None and now_s > self._cpu[0]:
            used = sum(seconds - self._cpu[1][pid] for pid, seconds in cpu.items() if pid in self._cpu[1])
            self.figures.cpu_percent = 100 * used / (now_s - self._cpu[0]) if cpu else None
        self._cpu = now_s, cpu
        if with_memory:
            self._memory_s = now_s
            sizes = [process["pss_bytes"] for process in usage if process["pss_bytes"] is not None]
            self.figures.memory_bytes = sum(sizes) if sizes and len(sizes) == len(usage) else None

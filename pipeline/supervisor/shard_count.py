"""How many shards an instance needs, by the CPU time that they use. The supervisor makes the change (shard_change.py).

An instance begins with one shard, however many CPUs the host has: a shard takes less CPU time for an event than the
resolver, and there is only one resolver (docs/performance.md). More shards help only if one of them uses most of a CPU.
Therefore the supervisor considers CPU time only. A shard that is behind, but uses little CPU time,
waits for the resolver or for a CPU, and a second shard would wait with it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from pipeline.config.schema import Shards
from pipeline.supervisor.watchdog import read_times

#: Time between two observations. The kernel counts in ticks of 10 ms.
OBSERVE_S = 2.0
#: A shard is busy if its main thread uses this part of a CPU.
BUSY_SHARE = 0.6
#: After this many observations in a row in which a shard was busy, the number of shards doubles.
BUSY_TIMES = 2
#: The number halves after this time, during which half as many shards would have used less than this part of a CPU.
QUIET_S = 300.0
QUIET_SHARE = 0.25
#: After a change that failed, nothing is tried for this time.
RETRY_S = 60.0
#: A host needs this many CPUs for each shard: on a small one, a second shard would take the resolver's CPU.
CPUS_A_SHARD = 4


def most_shards(settings: Shards, ring_count: int) -> int:
    """Return the largest number of shards that an instance on this host may have by itself."""
    return max(1, min(settings.auto_max, ring_count, len(os.sched_getaffinity(0)) // CPUS_A_SHARD))


class ShardCount:
    """Observes the shards, and decides how many there should be.

    Args:
        most: the largest number.
        proc: where /proc is.

    Attributes:
        count: how many there should be.
    """

    def __init__(self, most: int, proc: Path = Path("/proc")) -> None:
        self.count = 1
        self._most = most
        self._proc = proc
        self._seconds: dict[int, float] = {}
        self._observed_s = float("-inf")
        self._busy_times = 0
        self._quiet_since_s: float | None = None

    def observe(self, pids: Iterable[int], now_s: float) -> int:
        """Return how many shards there should be. Does nothing soon after the last call.

        Args:
            pids: the live shards.
            now_s: monotonic time.
        """
        elapsed_s = now_s - self._observed_s
        if self._most == 1 or elapsed_s < OBSERVE_S:
            return self.count
        before, self._seconds = self._seconds, {}
        for pid in pids:
            used_s = self._cpu_seconds(pid)
            if used_s is not None:
                self._seconds[pid] = used_s
        self._observed_s = now_s
        shares = [(used_s - before[pid]) / elapsed_s for pid, used_s in self._seconds.items() if pid in before]
        if shares:
            self._decide(max(shares), sum(shares), now_s)
        return self.count

    def stay(self, count: int, now_s: float) -> None:
        """Record that a change failed, and that there are still `count` shards. Decides nothing for a while."""
        self._change(count)
        # The next observation only begins to measure: what was used until then is not of its two seconds.
        self._observed_s, self._seconds = now_s + RETRY_S, {}

    def _decide(self, busiest: float, total: float, now_s: float) -> None:
        self._busy_times = self._busy_times + 1 if busiest >= BUSY_SHARE else 0
        if self._busy_times >= BUSY_TIMES and self.count < self._most:
            self._change(min(2 * self.count, self._most))
            return
        half = self.count // 2
        if half == 0 or total / half >= QUIET_SHARE:
            self._quiet_since_s = None
        elif self._quiet_since_s is None:
            self._quiet_since_s = now_s
        elif now_s - self._quiet_since_s >= QUIET_S:
            self._change(half)

    def _change(self, count: int) -> None:
        self.count = count
        self._busy_times, self._quiet_since_s = 0, None

    def _cpu_seconds(self, pid: int) -> float | None:
        """Return the CPU time of a shard's main thread so far; None if it has ended, or unknown."""
        times = read_times(pid, self._proc)
        return None if times is None else times.cpu_s

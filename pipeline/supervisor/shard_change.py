"""A change of the number of shards in a running instance, step by step. shard_count.py decides when.

A ring must never have two readers: one would release records that the other is still reading. So all shards end before
new ones begin. Each new shard starts at the consumer positions of its rings, as after a kill. Records that were handed
over but not applied are sent again, and the merge drops them. The rings hold what happens in between.

That time is short, because the new processes start first and import their modules; then the old shards drain and end;
then the new processes receive their descriptions. An old shard can wait in vain for its records to be applied:
the merge waits for another ring, and the shard of that ring has already ended. After a while the merge passes that ring
over. The old shard is killed before.

If the daemon is stopped while old shards are ending, the supervisor finishes the change first, so that new shards drain
the rings of those that have ended. If that takes more than half of the stop timeout, those rings are not drained.
"""

from __future__ import annotations

import signal
from collections.abc import Iterable, Sequence
from contextlib import ExitStack

from pipeline.supervisor.child import Child, Waiting

#: Time between two checks of processes that import their modules.
_CHECK_S = 0.05
#: The change is cancelled if that takes longer.
_IMPORT_MAX_S = 30.0
#: The part of `merge.stall_ms` that old shards have to drain. The new ones need time to map the rings, too.
_DRAIN_PART = 1 / 4


class ShardChange:
    """One change. The supervisor calls `advance` until it returns true, and then starts the new shards.

    Args:
        command: command of a shard.
        count: number of shards from now on.
        now_s: monotonic time.
        stall_s: time after which the merge passes over a ring that no shard reads. Old shards that have not ended after
            a quarter of it are killed; nothing is lost then.

    Attributes:
        count: as passed.
        waiting: the processes of the new shards; a `Child` takes each.
        due_s: monotonic time of the next step, if no process ends before.
        is_ending: the old shards have received SIGTERM, so their ends are no failures.
        has_failed: a new process ended, or did not import its modules in time; the old shards continue.
    """

    def __init__(self, command: Sequence[str], count: int, now_s: float, stall_s: float) -> None:
        self.count = count
        self.due_s = now_s + _CHECK_S
        self.is_ending = self.has_failed = False
        self._began_s = now_s
        self._drain_s = stall_s * _DRAIN_PART
        with ExitStack() as stack:
            self.waiting = [stack.enter_context(Waiting(command)) for _ in range(count)]
            self._stack = stack.pop_all()

    def advance(self, old: Iterable[Child], now_s: float) -> bool:
        """Make the next step if it is due; return whether the old shards have ended.

        Args:
            old: the shards from before that have not been reaped.
            now_s: monotonic time.
        """
        left = list(old)
        if self.is_ending:
            if now_s >= self.due_s:
                self._end(left, signal.SIGKILL, now_s)
            return not left
        if all(process.is_waiting for process in self.waiting):
            self._end(left, signal.SIGTERM, now_s)
            return not left
        self.has_failed = any(process.has_ended for process in self.waiting) or now_s > self._began_s + _IMPORT_MAX_S
        self.due_s = now_s + _CHECK_S
        return False

    def _end(self, children: Iterable[Child], number: signal.Signals, now_s: float) -> None:
        self.is_ending, self.due_s = True, now_s + self._drain_s
        for child in children:
            child.send(number)

    def close(self) -> None:
        """Kill the new processes that no `Child` owns."""
        self._stack.close()

"""Calls that BPF programs record without an agent (`capture.calls`): from the kernel's queue into the event loop.

The programs are in calls.bpf.c. They queue three calls: a process attaches to another one with ptrace(2), a process
changes a resource limit, and a tracing library seals its memfd. Each becomes the same context event that an agent could
have sent. So the lineage of caller and target is repaired, and the memfd is read, as for an agent's event.

Bounds: the queue holds CALLS_MAX calls, of one kind and user no more than a number in each second. What was dropped is
counted as `calls_unrecorded`, also while no resolver runs. The queue outlives a resolver. Calls that a killed resolver
had removed from it and not dispatched are counted by its successor, as all context events are (`context_dropped`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from pipeline.bpf import declared, syscall
from pipeline.bus import context_events
from pipeline.bus.context_events import ContextEvent

if TYPE_CHECKING:
    from pipeline.resolver.agents.context_loop import ContextLoop
    from pipeline.shm.writer._writer import TableWriter

#: Calls that are read from the queue in one turn of the duty cycle.
CALLS_PER_TURN = 128
_CALL = declared.CALL_LAYOUT.struct(
    "call_time_boot_ns", "call_start_boot_ns", "call_soft", "call_hard", "call_tgid", "call_tid", "call_kind",
    "call_target", "call_number", "call_target_start_boot_ns", whole=True,
)  # fmt: skip


class RecordedCalls:
    """Passes recorded calls on as context events. A part of the resolver's duty cycle.

    Args:
        tables: hold the counters.
        loop: dispatches the events.
        pop: removes and returns the oldest call of the queue; None: it is empty.
        dropped: returns how many calls were dropped so far.
    """

    def __init__(
        self, tables: TableWriter, loop: ContextLoop, pop: Callable[[], bytes | None], dropped: Callable[[], int]
    ) -> None:
        self._tables = tables
        self._loop = loop
        self._pop = pop
        self._dropped = dropped

    @classmethod
    def of(cls, tables: TableWriter, loop: ContextLoop, calls_fd: int, dropped_fd: int) -> RecordedCalls:
        """Return the part for the descriptors of the queue and of the map with what it had no room for."""

        def dropped() -> int:
            value = syscall.lookup(dropped_fd, bytes(4), 8)
            return int.from_bytes(value or b"", "little")

        return cls(tables, loop, lambda: syscall.pop(calls_fd, _CALL.size), dropped)

    def do_work(self, now_boot_ns: int) -> int:
        """Receive the calls that were made since the last call; returns how many there were."""
        done = 0
        while done < CALLS_PER_TURN and (data := self._pop()) is not None:
            done += 1
            self._loop.add((event_of(data),), now_boot_ns)
        return done

    def count_dropped(self) -> None:
        """Store how many calls were dropped.

        This is the kernel's own total for this capture. Nothing is added up here, so a take-over counts no call twice,
        and misses none that was dropped while no resolver ran.
        """
        self._tables.set_counter("calls_unrecorded", self._dropped())


def event_of(data: bytes) -> ContextEvent:
    """Return the context event of a recorded call."""
    time_ns, start_ns, soft, hard, tgid, tid, kind, target, number, target_start_ns = _CALL.unpack(data)
    if kind == declared.CALL_PTRACE:
        name, body = context_events.PTRACE, {"target": target, "request": number}
    elif kind == declared.CALL_SETRLIMIT:
        name, body = context_events.SETRLIMIT, {"target": target, "resource": number, "soft": soft, "hard": hard}
    else:
        name, body = context_events.TRACER_MEMFD_SEAL, {"fd": number}
    return ContextEvent(
        name, tgid, tid=tid, time_boot_ns=time_ns, start_boot_ns=start_ns, body=body,
        target_start_boot_ns=target_start_ns,
    )  # fmt: skip

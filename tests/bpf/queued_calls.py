"""The queue of the calls that programs recorded (capture.calls)."""

from __future__ import annotations

from pipeline.bpf import declared, syscall
from pipeline.bus.context_events import ContextEvent
from pipeline.resolver.agents.recorded_calls import event_of


def take_calls(queue_fd: int) -> list[ContextEvent]:
    """Empty the queue; return its calls, oldest first."""
    found = []
    while (data := syscall.pop(queue_fd, declared.CALL_LAYOUT.size)) is not None:
        found.append(event_of(data))
    return found

"""Where a source learns what the resolver has applied, and what it wants again. The daemon's own is in _acks.pyx."""

from __future__ import annotations

from typing import Protocol


class AckSource(Protocol):
    """Where a shard learns what to release and what to read again."""

    def refresh(self) -> None:
        """Look whether the answers come from somewhere else now. Called once in each duty cycle."""

    def ring(self, number: int) -> tuple[int, int, int] | None:
        """Return (applied_pos, wanted_pos, mark), or None while nobody says anything about the ring.

        When `mark` changes, the ring is to be read again from `wanted_pos`.
        """

"""The interface for reading the positions that the resolver has applied. _acks.pyx implements it for the daemon."""

from __future__ import annotations

from typing import Protocol


class AckReader(Protocol):
    """Reports which positions a shard may release, and which it must read again."""

    def refresh(self) -> None:
        """Check whether another resolver has taken over. Called once in each duty cycle."""

    def ring(self, number: int) -> tuple[int, int, int] | None:
        """Return (applied_pos, wanted_pos, rewind_id), or None while no resolver acknowledges the ring.

        When `rewind_id` changes, the ring must be read again from `wanted_pos`.
        """

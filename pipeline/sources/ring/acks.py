"""The interface by which a source reads what the resolver has applied. _acks.pyx implements it for the daemon."""

from __future__ import annotations

from typing import Protocol


class AckSource(Protocol):
    """Says which positions a shard may release, and which it must read again."""

    def refresh(self) -> None:
        """Check whether another resolver answers now. Called once in each duty cycle."""

    def ring(self, number: int) -> tuple[int, int, int] | None:
        """Return (applied_pos, wanted_pos, mark); None while no resolver answers for the ring.

        When `mark` changes, the ring must be read again from `wanted_pos`.
        """

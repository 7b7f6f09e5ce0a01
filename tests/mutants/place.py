"""Where a mutant is."""

from __future__ import annotations

from dataclasses import dataclass

from tests.mutants.mutants import Mutant
from tests.mutants.results import Key

#: The resolver and the shared tables.
PACKAGES = ("pipeline/resolver", "pipeline/shm")


@dataclass(frozen=True)
class Place:
    """A mutant and its module, relative to ROOT; `number` is that of its `Key`."""

    module: str
    mutant: Mutant
    number: int = 0

    @property
    def key(self) -> Key:
        """Return what identifies the mutant although lines before it come and go."""
        return Key(self.module, self.mutant.before, self.mutant.after, self.number)

    def __str__(self) -> str:
        before, after = self.mutant.before.strip(), self.mutant.after.strip()
        return f"{self.module}:{self.mutant.line}: {before}  ->  {after}"

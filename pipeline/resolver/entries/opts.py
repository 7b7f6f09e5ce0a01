"""Options of the resolvers (specification 3.2)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Self


class ResolverOpts:
    """Options; every method returns the object, so calls chain.

    Attributes:
        envs_resolution_enabled: environments of processes are attached to their entries.
        envs_with_value: names of variables that are shown, and stored, with their value.
        tty_fallback_enabled: a terminal that the kernel did not name is looked up in procfs.
        raw_values: arguments and environments are stored as they are, secrets too. (Not in the reference, which keeps
            them in its own memory only; here they are in files that readers map.)
    """

    def __init__(self) -> None:
        self.envs_resolution_enabled = False
        self.envs_with_value: set[str] = set()
        self.tty_fallback_enabled = False
        self.raw_values = False

    def with_envs_resolution_enabled(self) -> Self:
        """Attach environments."""
        self.envs_resolution_enabled = True
        return self

    def with_envs_value(self, envs_with_value: Iterable[str]) -> Self:
        """Add names of variables that keep their value.

        Raises:
            TypeError: a single text, whose letters would be the names.
        """
        if isinstance(envs_with_value, str):
            raise TypeError(f"names of variables are expected, not one text: [{envs_with_value!r}]")
        self.envs_with_value.update(envs_with_value)
        return self

    def with_tty_fallback_enabled(self) -> Self:
        """Look a missing terminal up in procfs."""
        self.tty_fallback_enabled = True
        return self

    def with_raw_values(self) -> Self:
        """Store arguments and environments unscrubbed."""
        self.raw_values = True
        return self

    def copy(self) -> ResolverOpts:
        """An independent copy: what a resolver keeps."""
        other = ResolverOpts()
        other.envs_resolution_enabled = self.envs_resolution_enabled
        other.envs_with_value = set(self.envs_with_value)
        other.tty_fallback_enabled = self.tty_fallback_enabled
        other.raw_values = self.raw_values
        return other

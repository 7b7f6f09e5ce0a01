"""Options of the resolvers (specification 3.2)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Self


class ResolverOpts:
    """Options. Every method returns the object, so that calls can be chained.

    Attributes:
        envs_resolution_enabled: environments of processes are attached to their entries.
        envs_with_value: names of variables that are shown and stored with their value.
        has_all_envs_values: all variables are. (Not in the reference either, see `raw_values`.)
        tty_fallback_enabled: a terminal that the kernel did not name is read from ``/proc``.
        raw_values: arguments and environments are stored unchanged, with secrets. (The reference has no such option,
            because it stores them only in its own memory; here readers map the files that hold them.)

    Example:
        >>> opts = ResolverOpts().with_envs_resolution_enabled().with_envs_value(["LANG"])
        >>> opts.shown_envs
        {'LANG'}
    """

    def __init__(self) -> None:
        self.envs_resolution_enabled = False
        self.envs_with_value: set[str] = set()
        self.has_all_envs_values = False
        self.tty_fallback_enabled = False
        self.raw_values = False

    def with_envs_resolution_enabled(self) -> Self:
        """Attach environments."""
        self.envs_resolution_enabled = True
        return self

    def with_envs_value(self, envs_with_value: Iterable[str]) -> Self:
        """Add names of variables that keep their value.

        Raises:
            TypeError: the argument is one string; its letters would become the names.
        """
        if isinstance(envs_with_value, str):
            raise TypeError(f"expected a list of names of variables, not one string: use [{envs_with_value!r}]")
        self.envs_with_value.update(envs_with_value)
        return self

    def with_all_envs_values(self) -> Self:
        """Let all variables keep their value."""
        self.has_all_envs_values = True
        return self

    @property
    def shown_envs(self) -> set[str] | None:
        """Names of variables that are shown with their value; None: all are."""
        return None if self.has_all_envs_values else self.envs_with_value

    def with_tty_fallback_enabled(self) -> Self:
        """Read a missing terminal from ``/proc``."""
        self.tty_fallback_enabled = True
        return self

    def with_raw_values(self) -> Self:
        """Store arguments and environments unscrubbed."""
        self.raw_values = True
        return self

    def copy(self) -> ResolverOpts:
        """Return an independent copy, which a resolver stores."""
        other = ResolverOpts()
        other.envs_resolution_enabled = self.envs_resolution_enabled
        other.envs_with_value = set(self.envs_with_value)
        other.has_all_envs_values = self.has_all_envs_values
        other.tty_fallback_enabled = self.tty_fallback_enabled
        other.raw_values = self.raw_values
        return other

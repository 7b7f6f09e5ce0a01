"""A scrubber with the built-in rules, for the tests of its parts."""

from __future__ import annotations

from pipeline.secrets.scrub import Scrubber

#: The mask that replaces a secret value.
M = "********"
SCRUBBER = Scrubber()


def scrub(*args: str, argv0: str = "prog") -> list[str]:
    """Return arguments with their secrets hidden."""
    return SCRUBBER.scrub(args, argv0)[0]

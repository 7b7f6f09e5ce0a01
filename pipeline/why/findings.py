"""All findings about a process, in a fixed order."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.why import about, logins, origins, places
from pipeline.why.proof import Finding, Unknown
from pipeline.why.unknowns import unknowns

if TYPE_CHECKING:
    from pipeline.why.facts import Facts
    from pipeline.why.host import Host


def find(facts: Facts, host: Host) -> tuple[list[Finding], list[Unknown]]:
    """Return what can be said about a process, and what cannot.

    Args:
        facts: from the tables.
        host: this host, or `NoHost` for an instance of another boot.
    """
    placed = list(places.findings(facts, host))
    found = [
        *about.findings(facts, host), *origins.findings(facts), *logins.findings(facts),
        *(each for each in placed if isinstance(each, Finding)),
    ]  # fmt: skip
    missing = [*unknowns(facts, found), *(each for each in placed if isinstance(each, Unknown))]
    return found, missing

"""The methods ("tiers") by which an instance captures: the supervisor writes them to a file, commands read it.

The file `tiers` in the directory of the instance has a JSON object: for each tier what it records, or ``off:`` and why.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

from pipeline import paths, trust

_OFF = "off: "
#: Tiers that record a change of credentials when it happens. The tier "sampled" finds it later, by a comparison.
_EACH_CHANGE = ("cred_fentry", "cred_kprobe", "cred_syscalls")


def describe(tiers: Mapping[str, object]) -> bytes:
    """Return the content of the file."""
    return json.dumps(dict(tiers)).encode() + b"\n"


def read(directory: str | os.PathLike[str]) -> dict[str, str]:
    """Return what each tier of an instance records, or why it is off; empty if that is unknown."""
    found = trust.read_json(Path(directory) / paths.TIERS)
    return {str(tier): str(detail) for tier, detail in found.items()} if isinstance(found, dict) else {}


def is_on(detail: str) -> bool:
    """Whether a tier is used, from the text about it."""
    return not detail.startswith(_OFF)


def reason(detail: str) -> str:
    """Return what a tier records, or why it is off."""
    return detail.removeprefix(_OFF)


def sees_each_change(tiers: Mapping[str, str]) -> bool | None:
    """Whether an instance records each change of credentials when it happens; None: that is unknown."""
    if not any(tier.startswith("cred_") for tier in tiers):
        return None
    return any(is_on(tiers[tier]) for tier in _EACH_CHANGE if tier in tiers)


def is_completed(tiers: Mapping[str, str]) -> bool:
    """Whether comparisons find only those changes of credentials that another method does not see on this kernel."""
    used = {tier for tier, detail in tiers.items() if tier.startswith("cred_") and is_on(detail)}
    return "cred_sampled" in used and len(used) > 1

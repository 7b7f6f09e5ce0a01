"""How long the tables of an instance keep an exited process: the supervisor writes it to a file, commands read it.

The file is `retention` in the directory of the instance. It has a JSON number in seconds, or null if the instance
replays a recording, which evicts nothing by age. Readers import this module, so it uses the standard library only.
"""

from __future__ import annotations

import json
from pathlib import Path

from pipeline import trust

FILE = "retention"


def describe(retention_s: float | None) -> bytes:
    """Return the content of the file."""
    return json.dumps(retention_s).encode() + b"\n"


def is_of_recording(directory: Path) -> bool:
    """Whether an instance replays a recording."""
    return read(directory) == float("inf")


def read(directory: Path) -> float | None:
    """Return how long an exited process is kept, in seconds; infinite in a recording, None if it is unknown."""
    found = trust.read_json(directory / FILE, otherwise="")
    if found is None:
        return float("inf")
    return float(found) if isinstance(found, int | float) else None

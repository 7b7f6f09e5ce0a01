"""How soon an instance finds a change by comparison: the supervisor writes it to a file, `procline stat` reads it.

The file is `sampling` in the directory of the instance. It has a JSON number in seconds: `capture.sampling_interval_s`,
or more if comparisons would otherwise take too much CPU time; or null if the instance compares nothing. Readers import
this module, so it uses the standard library only.
"""

from __future__ import annotations

import json
from pathlib import Path

from pipeline import trust

FILE = "sampling"


def describe(interval_s: float | None) -> bytes:
    """Return the content of the file."""
    return json.dumps(interval_s).encode() + b"\n"


def read(directory: Path) -> float | None:
    """Return within how many seconds a change is found; None: nothing is compared, or it is unknown."""
    found = trust.read_json(directory / FILE)
    return float(found) if isinstance(found, int | float) else None

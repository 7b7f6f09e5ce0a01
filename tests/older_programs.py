"""Whether a capture uses the older set of BPF programs: the environment selects it, or this kernel is old.

Tests of the newer set ask this, by the marker `newer_programs`.
"""

from __future__ import annotations

import functools
import os

from pipeline.bpf import features
from pipeline.errors import UnsupportedError


@functools.cache
def why() -> str:
    """Return the reason why the older set is used, "" if it is not."""
    if features.is_forced():
        return f"{features.FORCE} selects them"
    if os.geteuid() != 0:
        return ""  # without root nothing loads, so the kernel cannot be asked
    try:
        missing = features.needs().lacking
    except UnsupportedError:
        return ""
    return f"this kernel has no {', '.join(missing)}" if missing else ""

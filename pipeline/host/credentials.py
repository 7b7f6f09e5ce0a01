"""Secrets that systemd passes to a service: files in a folder that only the service can read (systemd.exec(5))."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path


def credential(name: str, environ: Mapping[str, str] = os.environ) -> Path | None:
    """Return the file of a credential; None: systemd passes no such file to this process."""
    folder = environ.get("CREDENTIALS_DIRECTORY")
    found = Path(folder, name) if folder else None
    return found if found is not None and found.exists() else None

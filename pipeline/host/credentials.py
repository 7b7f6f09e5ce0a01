"""Secrets that systemd passes to a service: files in a directory that only the service can read (systemd.exec(5))."""

from __future__ import annotations

import os
from pathlib import Path


def credential(name: str) -> Path | None:
    """Return the file of a credential; None: systemd passes no such file to this process."""
    directory = os.environ.get("CREDENTIALS_DIRECTORY")
    found = Path(directory, name) if directory else None
    return found if found is not None and found.exists() else None

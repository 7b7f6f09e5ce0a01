"""A directory of BPF objects to which a test adds one of its own."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from pipeline.bpf import features


def use_copied_objects(monkeypatch: pytest.MonkeyPatch, directory: Path, added: str) -> None:
    """Let the loader find its objects in the directory: some of both sets, copied, and one named `added`."""
    for name in ("procline", "context", "iter"):
        for is_old in (False, True):
            shutil.copy(features.object_path(name, is_old), directory)
    # It is asked which set the kernel needs.
    shutil.copy(features.object_path("probe", False), directory)
    monkeypatch.setattr(features, "OBJECTS", directory)
    monkeypatch.setattr(features, "OLD_NAMES", (*features.OLD_NAMES, added))

"""Settings files for the tests."""

from __future__ import annotations

from pathlib import Path


def write(directory: Path, text: str) -> Path:
    """Write `text` to a settings file in `directory` and return its path."""
    file = directory / "procline.toml"
    file.write_text(text)
    return file

"""Take a picture of a page in a real browser, for the scripts that make the pictures of the documents."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

BYTES_MAX = 200_000


def photograph(address: str, picture: Path, size: tuple[int, int]) -> int:
    """Write what Chromium shows in a window of `size` to a PNG file; return the number of bytes."""
    browser = next(filter(None, map(shutil.which, ("chromium-headless-shell", "chromium"))))
    subprocess.run(
        [
            browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
            f"--window-size={size[0]},{size[1]}", "--virtual-time-budget=3000", f"--screenshot={picture}", address,
        ],
        check=True, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    written = picture.stat().st_size
    assert written < BYTES_MAX, "the picture is too large for the documentation"
    return written

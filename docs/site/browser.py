"""Take pictures of a page in a real browser, for the scripts that make the pictures of the documents."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

IMAGES = Path(__file__).parents[1] / "images"
BYTES_MAX = 200_000


def run(make: Callable[[Path], tuple[Path, str]]) -> None:
    """Run a script that makes pictures of a page, and keep the page if the command line names a file for it.

    Args:
        make: makes the page in the given directory, and the pictures. It returns the page, and what to print.
    """
    os.umask(0o022)
    with tempfile.TemporaryDirectory() as directory:
        page, done = make(Path(directory))
        if len(sys.argv) > 1:
            shutil.copy(page, sys.argv[1])
    print(done)


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

"""The class of the fuzzer's targets, and the directory in memory where it has its files."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

CORPUS = Path(__file__).parent / "corpus"

Check = Callable[[bytes], bool]


@dataclass(frozen=True)
class Target:
    """A decoder.

    Attributes:
        name: on the command line, and of the file in `corpus`.
        seeds: makes the valid inputs from which others are made.
        check: decodes an input, and raises an error if something is wrong.
        is_cheap: an input takes microseconds, so ten million of them are possible.
    """

    name: str
    seeds: Callable[[], list[bytes]]
    check: Check
    is_cheap: bool = True

    def kept(self) -> list[bytes]:
        """Return the inputs that once found something."""
        file = CORPUS / f"{self.name}.hex"
        return [bytes.fromhex(line) for line in file.read_text().split()] if file.exists() else []

    def corpus(self) -> list[bytes]:
        """Return the seeds and the inputs that are kept."""
        return [*self.seeds(), *self.kept()]


class Rewritten:
    """A file that stays open and gets new content: to open a small file takes longer than to decode it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        self._content = b""

    def set(self, content: bytes) -> None:
        """Replace the content."""
        if content == self._content:
            return
        if len(content) < len(self._content):
            os.ftruncate(self._fd, len(content))
        os.pwrite(self._fd, content, 0)
        self._content = content


@cache
def scratch() -> Path:
    """Return a directory in memory for the targets that read files.

    Engines end the process in ways that skip its last steps, so directories of earlier runs are removed here.
    """
    for old in Path("/dev/shm").glob("procline-fuzz-*"):
        if not Path("/proc", old.name.split("-")[2]).exists():
            shutil.rmtree(old, ignore_errors=True)
    made = Path(tempfile.mkdtemp(prefix=f"procline-fuzz-{os.getpid()}-", dir="/dev/shm"))
    atexit.register(_remove, made, os.getpid())
    return made


def _remove(made: Path, owner: int) -> None:
    if os.getpid() == owner:
        shutil.rmtree(made, ignore_errors=True)

"""`procline record`, run by a test."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from tests.live.harness import CHECKOUT


def record(file: Path, *options: str, output: Path = Path(os.devnull)) -> subprocess.Popen[str]:
    """Start `procline record`, and wait until it records."""
    with output.open("w") as standard_output:
        process = subprocess.Popen(
            [sys.executable, "-m", "pipeline.cli.main", "record", str(file), *options], cwd=CHECKOUT,
            stdin=subprocess.DEVNULL, stdout=standard_output, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
    assert process.stderr is not None
    line = process.stderr.readline()
    assert line.startswith("recording from"), line + process.stderr.read()
    return process


def finish(process: subprocess.Popen[str], number: int = signal.SIGINT) -> str:
    """Stop the recording; returns its output."""
    process.send_signal(number)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 0, said
    return said

"""script/run."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("option", ["--help", "-h"])
def test_help_installs_nothing(tmp_path: Path, option: str) -> None:
    """In a fresh clone there is no environment yet: help must not make one."""
    (tmp_path / "script").mkdir()
    shutil.copy(ROOT / "script" / "run", tmp_path / "script" / "run")
    setup = tmp_path / "script" / "setup"
    setup.write_text(f"#!/bin/sh\ntouch {tmp_path}/was_set_up\nexit 9\n")
    setup.chmod(0o755)
    done = subprocess.run([tmp_path / "script/run", option], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "") and not (tmp_path / "was_set_up").exists()
    assert done.stdout.startswith("Start an instance") and "--seconds S" in done.stdout and "set -eu" not in done.stdout

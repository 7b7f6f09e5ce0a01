"""Containers of podman, with this host's own root directory below a layer that is thrown away."""

from __future__ import annotations

import os
import shutil
import subprocess
from functools import cache

import pytest

#: What the image of the commands consists of here: the root directory below a layer that is thrown away.
ROOTFS = ("--rootfs", "/:O")


@cache
def runtime() -> tuple[str, ...]:
    """Return the options that select a runtime which works here.

    crun needs cgroup v2 alone, or no controllers in it; runc does not.
    """
    if shutil.which("podman") is None:
        pytest.skip("podman is not installed")
    errors = []
    for options in ((), ("--runtime", "runc")):
        done = podman(*options, "run", "--rm", "--network=none", *ROOTFS, "true")
        if done.returncode == 0:
            return options
        errors.append(done.stderr.strip())
    pytest.skip(f"podman cannot start a container here: {errors}")


def podman(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["podman", *arguments], env=dict(os.environ, PODMAN_IGNORE_CGROUPSV1_WARNING="1"),
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip

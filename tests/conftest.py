"""What tests of all folders share: whether this host lets us load eBPF, and how a test says that it needs something."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import NoReturn

import pytest

from tests import sampling

sampling.load_profile()


def _missing(reason: str) -> NoReturn:
    if os.environ.get("PROCLINE_REQUIRE_LIVE") == "1":
        pytest.fail(f"PROCLINE_REQUIRE_LIVE=1, but {reason}", pytrace=False)
    pytest.skip(f"not on this host: {reason}")


@pytest.fixture(scope="session")
def missing() -> Callable[[str], NoReturn]:
    """Call it with what is not there: skips the test, or fails it where the host should be able to run it."""
    return _missing


@pytest.fixture(scope="session")
def live_kernel() -> None:
    """Needed by every test that loads eBPF into the running kernel (marker `live`)."""
    from pipeline.bpf import host, libbpf
    from pipeline.errors import UnsupportedError

    try:
        host.require()
        libbpf.library()
    except UnsupportedError as error:
        _missing(str(error))

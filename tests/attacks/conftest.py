"""A daemon for the attacks of one module, so that a successful attack does not affect the tests of another."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.live.conftest import workload
from tests.live.harness import Daemon

__all__ = ["daemon", "workload"]


@pytest.fixture(scope="module")
def daemon(live_kernel: None) -> Iterator[Daemon]:
    with Daemon(name="attacked") as running:
        yield running

"""A daemon for the attacks of one module: a successful attack must not spoil another module's tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.live.harness import Daemon


@pytest.fixture(scope="module")
def daemon(live_kernel: None) -> Iterator[Daemon]:
    with Daemon(name="attacked") as running:
        yield running

"""A scene for each test of what agents report."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.resolver.agents.scene import Scene
from tests.resolver.resolver_world import world


@pytest.fixture
def s() -> Iterator[Scene]:
    with world() as w:
        yield Scene(w)

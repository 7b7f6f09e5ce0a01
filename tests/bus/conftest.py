"""A ZeroMQ context for the other ends of the sockets under test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import zmq


@pytest.fixture
def peers() -> Iterator[zmq.Context]:
    """A ZeroMQ context for the peers; its sockets discard everything when they are closed."""
    context = zmq.Context()
    yield context
    context.destroy(linger=0)

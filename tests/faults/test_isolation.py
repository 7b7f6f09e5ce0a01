"""A healthy subscriber beside bad ones, for a few seconds. `python -m tests.faults.isolation` measures more."""

from __future__ import annotations

import pytest

from tests.faults import isolation

pytestmark = [
    pytest.mark.live,
    pytest.mark.slow,
    pytest.mark.timeout(1800),  # twenty seconds on an idle machine
    pytest.mark.usefixtures("live_kernel"),
]

RATE, SECONDS, BUSY = 600.0, 3.0, 12


@pytest.mark.parametrize("host", isolation.hosts(BUSY), ids=lambda host: host.name.replace(" ", "-"))
def test_a_healthy_subscriber_loses_nothing_beside_bad_ones(host: isolation.Host) -> None:
    rows = isolation.run(host, RATE, SECONDS, is_crowded=True)
    assert [row.name for row in rows] == ["healthy", "slow", "frozen", "killed"]
    for row in rows:
        assert row.made > RATE
        row.check()

"""When a worker is restarted: times and counts only."""

from __future__ import annotations

import pytest

from pipeline.config.schema import Supervision
from pipeline.errors import GivingUpError, HopelessError
from pipeline.supervisor.restart import RestartPolicy


def test_the_first_death_is_answered_at_once_and_a_loop_with_growing_pauses() -> None:
    policy = RestartPolicy("shard-0", Supervision(early_deaths_max=10, backoff_max_ms=1000))
    pauses = [policy.after(float(n), n + 0.1, "exited") for n in range(8)]
    assert pauses == [0.0, 0.1, 0.2, 0.4, 0.8, 1.0, 1.0, 1.0]


def test_a_life_that_was_long_enough_ends_the_loop() -> None:
    policy = RestartPolicy("shard-0", Supervision())
    for n in range(5):
        policy.after(float(n), n + 0.1, "exited")
    assert policy.after(10.0, 20.0, "was killed") == 0.0
    assert policy.after(20.0, 20.1, "was killed") == 0.0
    assert policy.after(20.1, 20.2, "was killed") > 0.0


def test_early_deaths_in_a_row_are_the_end() -> None:
    policy = RestartPolicy("resolver", Supervision(early_deaths_max=3))
    policy.after(0, 0.1, "exited with code 1")
    policy.after(0.1, 0.2, "exited with code 1")
    with pytest.raises(GivingUpError, match="resolver exited with code 1: it ended 3 times in a row") as caught:
        policy.after(0.2, 0.3, "exited with code 1")
    assert caught.value.role == "resolver"


def test_twenty_kills_of_a_worker_that_worked_are_no_loop() -> None:
    policy = RestartPolicy("shard-0", Supervision())
    assert all(policy.after(2.0 * n, 2.0 * n + 1.9, "was killed by SIGKILL") == 0 for n in range(20))


def test_a_death_before_it_was_ready_is_early_however_late() -> None:
    policy = RestartPolicy("shard-0", Supervision(early_deaths_max=4))
    pauses = [policy.after(10.0 * n, 10.0 * n + 5, "exited", was_ready=False) for n in range(3)]
    assert pauses == [0.0, 0.1, 0.2]
    with pytest.raises(GivingUpError, match="4 times in a row before or soon after") as caught:
        policy.after(30, 35, "exited", was_ready=False)
    assert not isinstance(caught.value, HopelessError)


def test_too_many_deaths_of_any_kind_are_the_end_but_old_ones_are_forgotten() -> None:
    policy = RestartPolicy("shard-0", Supervision(restarts_max=5))
    for n in range(20):
        policy.after(1000.0 * n, 1000.0 * n + 990, "was killed")
    for n in range(4):
        policy.after(20_000 + 2.0 * n, 20_001.9 + 2 * n, "was killed")
    with pytest.raises(GivingUpError, match="6 times in 10 minutes"):
        for n in range(4):
            policy.after(20_010 + 2.0 * n, 20_011.9 + 2 * n, "was killed")


def test_a_worker_that_reports_a_permanent_error_is_not_restarted() -> None:
    with pytest.raises(HopelessError, match="cannot run"):
        RestartPolicy("resolver", Supervision()).after(0, 100, "exited with code 2", is_hopeless=True)

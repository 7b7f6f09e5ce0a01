"""Forks, execs and exits a second, by group."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.errors import TooOldError
from pipeline.top.model import Model
from pipeline.top.rates import GROUPS_MAX, Rates
from tests.top.host import Host, S


def counted(model: Model, host: Host, grouping: str = "executable") -> dict[str, tuple[int, int, int]]:
    """Return what was counted in the last 10 seconds."""
    rates = Rates(grouping, model._group_name)
    assert model.reading is not None
    rates.count(model.reading.numbers, model.reading.rows, host.ago(10))
    rates.count(model.reading.numbers, model.reading.rows, host.ago(0))
    return {name: tuple(group.totals) for name, group in rates.groups.items()}  # type: ignore[misc]


def test_a_fork_counts_for_the_forking_program_and_an_exec_for_the_new_one(host: Host) -> None:
    host.fork(50, 40, ago=5)
    host.execute(50, "date", ago=4)
    host.end(50, ago=3)
    assert counted(host.model(keep_s=60.0), host) == {
        "/usr/bin/bash": (1, 0, 0), "/usr/bin/date": (0, 1, 1),
    }  # fmt: skip


def test_processes_that_lived_between_two_readings_are_counted(host: Host) -> None:
    for pid in range(50, 70):
        host.fork(pid, 40, ago=5)
        host.end(pid, ago=4.9999)
    assert counted(host.model(keep_s=60.0), host) == {"/usr/bin/bash": (20, 0, 20)}


def test_what_happened_before_is_not_counted(host: Host) -> None:
    host.fork(50, 40, ago=10.5)
    host.end(50, ago=5)
    assert counted(host.model(keep_s=60.0), host) == {"/usr/bin/bash": (0, 0, 1)}


def test_by_user_unit_and_spawner(host: Host) -> None:
    cgroup = host.tables.intern("names", bytes(16) + b"/system.slice/cron.service")
    row = host.fork(50, 40, ago=5)
    host.tables.change(row, cgroup_id=77, cgroup_ref=cgroup, known=0xFFFF, uid=1000)
    model = host.model(keep_s=60.0)
    assert counted(model, host, "user") == {"1000": (1, 0, 0)}
    assert counted(model, host, "unit") == {"cron.service": (1, 0, 0)}
    assert counted(model, host, "spawner") == {"40 bash": (1, 0, 0)}


def test_a_users_unit_is_not_counted_for_the_systems_unit_of_that_name(host: Host) -> None:
    manager = b"/user.slice/user-1000.slice/user@1000.service/app.slice/ssh.service"
    for number, cgroup in enumerate((b"/system.slice/ssh.service", manager)):
        row = host.fork(50 + number, 40, ago=5)
        place = host.tables.intern("names", bytes(16) + cgroup)
        host.tables.change(row, cgroup_id=77 + number, cgroup_ref=place, known=0xFFFF)
    assert counted(host.model(keep_s=60.0), host, "unit") == {
        "ssh.service": (1, 0, 0), "user@1000/ssh.service": (1, 0, 0),
    }  # fmt: skip


def test_no_unit_is_named_as_everywhere(host: Host) -> None:
    for pid, cgroup in ((50, b"/"), (51, b"/docker/ab")):
        row = host.fork(pid, 40, ago=5)
        place = host.tables.intern("names", bytes(16) + cgroup)
        host.tables.change(row, cgroup_id=pid, cgroup_ref=place, known=0xFFFF)
    assert counted(host.model(keep_s=60.0), host, "unit") == {"no unit": (1, 0, 0), "/docker/ab": (1, 0, 0)}


def test_rates_are_means_and_the_busiest_group_is_first(host: Host) -> None:
    host.fork(50, 40, ago=1.5)
    for pid in range(60, 64):
        host.fork(pid, 41, ago=0.5)
    model = host.model(keep_s=60.0)
    rates = Rates("executable", model._group_name)
    assert model.reading is not None
    for ago in (2, 1, 0):
        rates.count(model.reading.numbers, model.reading.rows, host.ago(ago))
    busiest = rates.busiest()
    assert [(group.name, group.rates()) for group in busiest] == [
        ("/usr/bin/sleep", (4.0, 0.0, 0.0)), ("/usr/bin/bash", (0.5, 0.0, 0.0)),
    ]  # fmt: skip
    assert busiest[1].history() == [1.0, 0.0]
    assert rates.last == (4, 0, 0, pytest.approx(1.0))


@pytest.mark.slow
def test_the_number_of_groups_is_bounded(host: Host) -> None:
    model = host.model()
    assert model.reading is not None
    names = iter(range(10**6))
    rates = Rates("user", lambda *_: f"name {next(names)}")
    rates.count(model.reading.numbers, model.reading.rows, 1)
    rows = model.reading.rows[:1].repeat(GROUPS_MAX + 50)
    rows["flags"], rows["uid"] = 0, np.arange(len(rows))
    rows["start_boot_ns"] = rows["uid"] + 2
    for begin in range(0, len(rows), 50):
        some = rows[begin : begin + 50]
        rates.count(model.reading.numbers[:1].repeat(len(some)), some, int(some["start_boot_ns"][-1]))
    assert len(rates.groups) == GROUPS_MAX


def test_after_a_jump_nothing_of_the_time_between_is_counted(host: Host) -> None:
    host.fork(50, 40, ago=5)
    model = host.model(keep_s=60.0)
    rates = Rates("executable", model._group_name)
    assert model.reading is not None
    rates.count(model.reading.numbers, model.reading.rows, host.ago(10))
    rates.restart()
    rates.count(model.reading.numbers, model.reading.rows, host.ago(0))
    assert not rates.groups
    assert S


def test_a_spawner_that_is_evicted_while_it_is_read_is_still_counted(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Evicted:
        pid = 40

        @property
        def argv(self) -> list[str]:
            raise TooOldError("evicted")

    host.fork(50, 40, ago=5)
    model = host.model(keep_s=60.0)
    monkeypatch.setattr(model.feed, "image", lambda link: Evicted())
    assert counted(model, host, "spawner") == {"40 ?": (1, 0, 0)}

"""The counters of the BPF programs, summed over CPUs. The map of the counters is a file here."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from pipeline.bpf import maps, words
from pipeline.resolver.daemon._losses import SharedCounters

CPUS = 3


@pytest.fixture
def fd() -> Iterator[int]:
    fd = os.memfd_create("counters")
    os.truncate(fd, maps.CPU_STATE.itemsize * (maps.MAX_CPUS + 1))
    yield fd
    os.close(fd)


def test_each_counter_is_the_sum_of_all_cpus(fd: int) -> None:
    states = maps.cpu_states(fd, writable=True)
    counters = SharedCounters(fd, CPUS)
    names = ("threads_forked", "kthreads_forked", "pids_full")
    for name in names:
        assert getattr(counters, name) == 0
        for cpu in (0, CPUS - 1):
            states[name][cpu] += 10 ** (1 + names.index(name))
        states[name][CPUS] += 1  # this host has no such CPU
    assert [getattr(counters, name) for name in names] == [0, 0, 0], "as of the last `read`"
    assert counters.read()
    assert [getattr(counters, name) for name in names] == [20, 200, 2000]
    assert not counters.read() and counters.lost_total == 0


def test_losses_are_summed_by_kind(fd: int) -> None:
    states = maps.cpu_states(fd, writable=True)
    counters = SharedCounters(fd, CPUS)
    for cpu in (0, 2, words.MISSED, CPUS):
        states["lost_samples"][cpu][3] += 1
    states["lost_samples"][1][4] += 5
    assert counters.read() and counters.lost_total == 8
    assert {kind: lost for kind, lost in enumerate(counters.lost.tolist()) if lost} == {3: 3, 4: 5}


@pytest.mark.parametrize("count", [0, words.MISSED + 1])
def test_an_impossible_number_of_cpus_is_refused(fd: int, count: int) -> None:
    with pytest.raises(ValueError, match=f"{count} CPUs"):
        SharedCounters(fd, count)

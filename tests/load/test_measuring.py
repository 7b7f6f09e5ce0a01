from __future__ import annotations

import os
from pathlib import Path

from pipeline.load import measuring


def test_percentiles_are_values_of_the_sample() -> None:
    values = list(range(1, 101))
    assert [measuring.at_part(values, part) for part in (0.0, 0.5, 0.9, 0.99, 1.0)] == [1, 51, 91, 100, 100]
    assert measuring.at_part([7], 0.5) == 7


def test_quartiles() -> None:
    assert measuring.quartiles([5.0]) == (5.0, 5.0, 5.0)
    assert measuring.quartiles([1, 2, 3, 4, 5]) == (2, 3, 4)


def test_cpu_time_of_this_process_grows() -> None:
    before = measuring.cpu_ns(os.getpid())
    sum(range(3_000_000))
    assert measuring.cpu_ns(os.getpid()) > before


def test_use_between_two_moments() -> None:
    before, after = measuring.Usage({"a": 5}, 1.0, 2.0), measuring.Usage({"a": 9, "b": 3}, 1.5, 4.0)
    assert after.since(before) == measuring.Usage({"a": 4, "b": 3}, 0.5, 2.0)


def test_a_directory_without_an_instance_has_no_rings(tmp_path: Path) -> None:
    rings = measuring.Rings(tmp_path)
    assert (len(rings), rings.size_bytes, rings.fill_bytes()) == (0, 0, None)
    rings.close()


def test_facts_about_the_host() -> None:
    host = measuring.host()
    assert host["name"] == os.uname().nodename and host["kernel"] == os.uname().release
    assert host["cpu_count"] == os.cpu_count() and host["memory_bytes"] > 1 << 26


def test_the_kernel_counts_a_fork() -> None:
    before = measuring.kernel_forks()
    pid = os.posix_spawn("/bin/true", ["true"], {})
    os.waitpid(pid, 0)
    assert measuring.kernel_forks() > before > 0

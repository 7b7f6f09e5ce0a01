"""When passes begin, and how they are divided; the kernel's part is in test_cred_sampled.py."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from pipeline.bpf.sampling import CPU_SHARE, Sampler

CPU_OF_A_PART_S = 0.001


class Kernel:
    """Passes with a chosen number of parts, on clocks of the test."""

    def __init__(self, parts: int) -> None:
        self.parts = parts
        self.now_s = 100.0
        self.cpu_s = 5.0
        self.begun_at_s: list[float] = []
        self.refuses = False

    def create(self, link_fd: int) -> int:
        assert link_fd == 7
        if self.refuses:
            raise OSError(12, "Cannot allocate memory")
        self.begun_at_s.append(self.now_s)
        reader, writer = os.pipe()
        os.write(writer, b"." * (self.parts - 1))
        os.close(writer)
        return reader

    def cpu(self) -> float:
        self.cpu_s += CPU_OF_A_PART_S / 2  # read twice a part: half of it passes in the part, half after it
        return self.cpu_s

    def sampler(self, interval_s: float = 2.0) -> Sampler:
        return Sampler(7, interval_s, create=self.create, clock=lambda: self.now_s, cpu_clock=self.cpu)

    def run(self, sampler: Sampler, seconds: float) -> int:
        """Call the sampler when it wants to be called; return how often."""
        end, calls = self.now_s + seconds, 0
        while self.now_s < end:
            self.now_s += sampler.advance()
            calls += 1
        return calls


def open_fds() -> set[str]:
    return {entry.name for entry in Path("/proc/self/fd").iterdir()}


@pytest.fixture(autouse=True)
def no_descriptor_stays_open() -> Iterator[None]:
    before = open_fds()
    yield
    assert open_fds() == before


def gaps(times: list[float]) -> set[float]:
    return {round(after - before, 6) for before, after in pairwise(times)}


def test_passes_end_within_the_interval() -> None:
    kernel = Kernel(parts=1)
    sampler = kernel.sampler()
    assert kernel.run(sampler, 20) == len(kernel.begun_at_s) == 12
    assert gaps(kernel.begun_at_s) == {1.8}
    other = Kernel(parts=1)
    other.run(other.sampler(0.5), 20)
    assert gaps(other.begun_at_s) == {0.45}


def test_each_call_makes_one_part() -> None:
    kernel = Kernel(parts=3)
    sampler = kernel.sampler()
    assert [sampler.advance() for _ in range(2)] == [0.0, 0.0]
    assert sampler.advance() == pytest.approx(1.8)
    assert len(kernel.begun_at_s) == 1
    assert sampler.advance() == pytest.approx(1.8), "called too early"
    assert len(kernel.begun_at_s) == 1


def test_long_passes_become_rare_instead_of_costly() -> None:
    kernel = Kernel(parts=40)
    kernel.run(kernel.sampler(), 300)
    (gap,) = gaps(kernel.begun_at_s)
    cpu_s = 40 * CPU_OF_A_PART_S / 2
    assert gap == pytest.approx(cpu_s / CPU_SHARE)
    assert gap > 2


def test_the_interval_is_the_one_that_was_asked_for_or_longer() -> None:
    kernel = Kernel(parts=40)
    sampler = kernel.sampler()
    assert sampler.interval_s == 2.0, "nothing is known yet"
    kernel.run(sampler, 10)
    assert sampler.interval_s == pytest.approx(40 * CPU_OF_A_PART_S / 2 / CPU_SHARE)
    kernel.parts = 1
    kernel.run(sampler, 10)
    assert sampler.interval_s == 2.0, "there are fewer processes again"


def test_an_error_is_reported_and_the_next_pass_is_tried_after_the_interval() -> None:
    kernel = Kernel(parts=1)
    kernel.refuses = True
    sampler = kernel.sampler()
    with pytest.raises(OSError, match="memory"):
        sampler.advance()
    kernel.refuses = False
    assert sampler.advance() == pytest.approx(1.8) and kernel.begun_at_s == []
    kernel.now_s += 1.8
    assert sampler.advance() == pytest.approx(1.8) and len(kernel.begun_at_s) == 1


def test_a_pass_that_has_begun_can_be_given_up() -> None:
    kernel = Kernel(parts=9)
    sampler = kernel.sampler()
    sampler.advance()
    sampler.close()
    sampler.close()

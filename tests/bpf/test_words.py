"""The loader stores its words at the offsets of the dtypes. Other tests compare these with the C structs."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from pipeline.bpf import maps, words


@pytest.fixture
def fd() -> Iterator[int]:
    fd = os.memfd_create("words")
    os.ftruncate(fd, words.CPU_STATE_LAYOUT.size * words.MAX_CPUS)
    yield fd
    os.close(fd)


def test_settings_are_stored_where_the_programs_read_them(fd: int) -> None:
    stored = words.settings_words(fd)
    stored[words.ARGS_BYTES], stored[words.ENVS_BYTES] = 2, 3
    stored[words.WAKEUP_FILL_BYTES], stored[words.FLAGS] = 5, words.CAPTURE_ON
    words.settings_longs(fd)[words.BEGAN_BOOT_NS] = 7 << 32 | 8
    read = maps.settings(fd)[0]
    assert read["began_boot_ns"] == 7 << 32 | 8
    assert [int(read[name]) for name in ("args_bytes", "envs_bytes", "wakeup_fill_bytes", "flags")] == [2, 3, 5, 1]
    assert not read["root_mnt"] and not read["reserved"].any()


def test_every_cpu_has_its_ring(fd: int) -> None:
    stored = words.cpu_words(fd, words.RING)
    assert len(stored) == words.MAX_CPUS
    for cpu in (0, 1, words.MAX_CPUS - 1):
        stored[cpu] = cpu + 7
    read = maps.cpu_states(fd)
    assert {cpu: int(read["ring"][cpu]) for cpu in read["ring"].nonzero()[0]} == {0: 7, 1: 8, 1023: 1030}
    assert not read["sleeping"].any() and not read["lost_samples"].any()

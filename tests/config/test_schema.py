"""The schema of the settings: immutable, and its defaults are valid."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from pipeline.config import loading
from pipeline.config.schema import Capture, Config, Shards
from pipeline.shm.layout.control_header import COSTS_BYTES, ROW_BYTES


def test_settings_cannot_be_changed_afterwards() -> None:
    with pytest.raises(AttributeError):
        Config().capture.ring_bytes = 4096  # type: ignore[misc]
    hash(Config())


def test_settings_reach_a_worker_unchanged() -> None:
    changed = loading.load(None, {"args.custom_sensitive_words": ["pin*"], "shards.count": 3}, {})
    assert Config.from_json(changed.to_json()) == changed


def test_an_instance_begins_with_one_shard_however_many_cpus_there_are() -> None:
    assert [Config().shards.resolve(rings) for rings in (1, 2, 64, 65, 128, 256)] == [1] * 6
    assert [Shards(count=5).resolve(rings) for rings in (2, 128)] == [2, 5]


def test_the_rings_of_all_cpus_share_a_budget() -> None:
    mib = 1 << 20
    default = Config().capture
    sizes = {count: default.bytes_of_a_ring(count) for count in (1, 2, 8, 9, 16, 96, 128, 256, 1024)}
    assert sizes == {
        1: 8 * mib, 2: 8 * mib, 8: 8 * mib, 9: 4 * mib, 16: 4 * mib, 96: mib // 2, 128: mib // 2, 256: mib // 4,
        1024: mib // 4,
    }  # fmt: skip
    assert Capture(rings_bytes=1 << 30).bytes_of_a_ring(128) == 8 * mib
    assert Capture(rings_bytes=128 * mib).bytes_of_a_ring(2) == 16 * mib, "more helps on a small host too"
    assert Capture(rings_bytes=96 * mib).bytes_of_a_ring(2) == 8 * mib, "a power of two"
    assert Capture(rings_bytes=4096).bytes_of_a_ring(2) == mib // 4, "never less than what some events need"
    assert Capture(rings_bytes=1 << 40).bytes_of_a_ring(1) == 1 << 30
    assert Capture(ring_bytes=4096).bytes_of_a_ring(128) == 4096, "a size of each ring comes first"


def test_a_ring_wakes_its_shard_before_it_is_full() -> None:
    assert Capture().wakeup_level_bytes(1 << 20) == 1 << 18
    assert Capture(wakeup_fill_bytes=1 << 24).wakeup_level_bytes(1 << 20) == 1 << 20


def test_defaults_need_no_conversion() -> None:
    """Nothing else checks the defaults against their limits; otherwise only a user who sets one would notice."""
    assert msgspec.convert(msgspec.to_builtins(Config()), Config) == Config()


def test_the_size_of_an_entry_is_described_as_it_is() -> None:
    described = (Path(__file__).parents[2] / "docs/procline.toml").read_text()
    assert f"; {ROW_BYTES} bytes each, and {COSTS_BYTES} more for a process that has ended" in described.replace(
        "\n# ", " "
    )

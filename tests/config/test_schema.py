"""The schema of the settings: immutable, and its defaults are valid."""

from __future__ import annotations

import msgspec
import pytest

from pipeline.config import loading
from pipeline.config.schema import Config, Shards


def test_settings_cannot_be_changed_afterwards() -> None:
    with pytest.raises(AttributeError):
        Config().capture.ring_bytes = 4096  # type: ignore[misc]
    hash(Config())


def test_settings_reach_a_worker_unchanged() -> None:
    changed = loading.load(None, {"args.custom_sensitive_words": ["pin*"], "shards.count": 3}, {})
    assert Config.from_json(changed.to_json()) == changed


def test_shards_follow_the_number_of_rings() -> None:
    auto = Config().shards
    assert [auto.resolve(rings) for rings in (1, 2, 4, 8, 9, 64)] == [1, 1, 1, 1, 2, 8]
    assert Shards(count=5).resolve(2) == 2


def test_defaults_need_no_conversion() -> None:
    """Nothing else checks the defaults against their limits; otherwise only a user who sets one would notice."""
    assert msgspec.convert(msgspec.to_builtins(Config()), Config) == Config()

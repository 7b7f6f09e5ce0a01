"""The decoder returns what msgpack does, whatever bodies it has read before and whatever is done with their events."""

from __future__ import annotations

import contextlib
import random
from typing import Any

import msgpack
import pytest

from pipeline.bus.stream._decoder import Decoder

PLAIN = [None, True, False, 0, 127, 128, 70_000, 2**40, -1, -70_000, 1.5, "", "bash", "x" * 40, "z" * 300, "é"]


def value(rng: random.Random, depth: int = 0) -> Any:
    if depth > 2 or rng.random() < 0.8:
        return rng.choice(PLAIN)
    if rng.random() < 0.5:
        return [value(rng, depth + 1) for _ in range(rng.randrange(4))]
    return {f"key{i}": value(rng, depth + 1) for i in range(rng.randrange(4))}


def change(event: dict[str, Any]) -> None:
    """Change all lists and maps of an event, as a subscriber may."""
    for field in event.values():
        for item in field if isinstance(field, list) else [field]:
            if isinstance(item, dict):
                item["pid"] = "changed"
        if isinstance(field, list):
            field.append("changed")


@pytest.mark.parametrize("seed", range(100))
def test_events_that_resemble_each_other_are_those_of_msgpack(seed: int) -> None:
    rng = random.Random(seed)
    decoder = Decoder()
    shapes = [{f"field{i}": value(rng) for i in range(rng.randrange(1, 20))} for _ in range(3)]
    shapes.append({"ancestors": [{"pid": i, "comm": "bash"} for i in range(9)], "x": 1, "file": {"a": 1, "b": [1, 2]}})
    for _ in range(8):
        events = []
        for _ in range(rng.randrange(1, 8)):
            shape = rng.choice(shapes)
            for key in shape:
                if rng.random() < 0.15:
                    shape[key] = value(rng)
            events.append({"seq": rng.randrange(1, 10**6), **shape, "order": rng.randrange(300)})
        body = b"".join(msgpack.packb(event) for event in events)
        expected = [msgpack.unpackb(msgpack.packb(event)) for event in events]
        with contextlib.suppress(ValueError):
            decoder.decode(body[: rng.randrange(len(body))], len(events))
        found = decoder.decode(bytearray(body), len(events))
        assert found == expected
        assert [list(event) for event in found] == [list(event) for event in expected]
        for event in found:
            change(event)


def test_fields_longer_than_what_a_decoder_keeps_are_decoded() -> None:
    decoder = Decoder()
    for length in (10, 32_000, 40_000, 40_000, 100_000, 10):
        event = {"seq": 1, "order": 2, "argv": ["a" * length], "path": "b" * length}
        assert decoder.decode(2 * msgpack.packb(event), 2) == [event, event]

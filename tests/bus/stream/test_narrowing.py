"""Subscriptions with a filter: which there are, and how long they can be."""

from __future__ import annotations

import pytest

from pipeline.bus.stream.declared import FILTER_VALUES_MAX, FILTERS_MAX, SUBSCRIPTION_MAX_BYTES
from pipeline.bus.stream.narrowing import KINDS, Filter, make_filter, parse_subscription, subscription
from tests.written import constant


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("values", [[b"alice"], [b"1000", b"alice"], [b"x" * 100], [b"%d/x" % i for i in range(8)]])
@pytest.mark.parametrize("topic", [b"proc.", b"proc.exec", b"proc.reparent"])
def test_a_subscription_contains_its_filter(kind: bytes, values: list[bytes], topic: bytes) -> None:
    made = make_filter(kind, values)
    if made is None:
        assert kind == b"user" and len(values[0]) == 100, "a part of a name says nothing"
        return
    text = subscription(made, topic)
    assert len(text) <= SUBSCRIPTION_MAX_BYTES
    assert parse_subscription(text) == (made, topic)


def test_long_values_are_shortened_to_what_they_must_have() -> None:
    path = b"/opt/vendor/product/releases/2026-11-28/current/bin/the-program"
    made = make_filter(b"path", [path, b"sh"])
    assert made is not None and made.values[1] == b"sh"
    assert path.endswith(made.values[0]) and len(made.values[0]) >= 8
    made = make_filter(b"container", [b"0123456789abcdef" * 4])
    assert made is not None and (b"0123456789abcdef" * 4).startswith(made.values[0]) and len(made.values[0]) > 20


@pytest.mark.parametrize("values", [[], [b""], [b"a|b"], [b"%d" % i for i in range(FILTER_VALUES_MAX + 1)]])
def test_some_values_make_no_filter(values: list[bytes]) -> None:
    assert make_filter(b"path", values) is None


@pytest.mark.parametrize(
    "prefix",
    [
        b"only|", b"only||||", b"only|user|proc.exec", b"only|user|1|sys.loss", b"only|user||proc.exec",
        b"only|group|1|proc.exec", b"only|user|1|", b"only|user|1|proc", b"|only|user|1|proc.",
        b"only|user|" + b"1|" * (FILTER_VALUES_MAX + 1) + b"proc.", b"only|path|" + b"x" * 64 + b"|proc.",
    ],
)  # fmt: skip
def test_malformed_subscriptions_are_none(prefix: bytes) -> None:
    assert parse_subscription(prefix) is None


def test_one_user_cannot_take_all_filters() -> None:
    of_client, of_user = (
        constant("pipeline/bus/_relay.pyx", name) for name in ("FILTERS_OF_CLIENT", "FILTERS_OF_USER")
    )
    assert of_client < of_user < FILTERS_MAX
    assert parse_subscription(subscription(Filter(b"user", (b"1",)), b"proc.")) is not None

"""The codec of context events: golden bytes, round trips of any event, and only FrameError for arbitrary bytes."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.bus import context_events
from pipeline.bus.context_events import (
    CONTEXT_MAGIC,
    EVENTS_MAX,
    KINDS,
    REQUIRED,
    TEXT_MAX,
    TEXTS_MAX,
    ContextEvent,
    decode_context,
    encode_context,
    parse_time_ns,
)
from pipeline.errors import FrameError, NotRunningError
from tests.bus.frames.frame_samples import BOOT_ID, Sample

#: A message of version 1. These bytes must not change; a changed message needs another version.
GOLDEN = (
    "84a7636f6e7465787401a4626f6f74c410000102030405060708090a0b0c0d0e0fa3737263a56167656e74a66576656e74739184a46b69"
    "6e64a67369676e616ca370696405a67461726765742aa67369676e616c0f"
)


def event_of(kind: str) -> st.SearchStrategy[ContextEvent]:
    text = st.text(st.characters(exclude_categories=("Cs",)), max_size=40)
    texts = st.lists(text, max_size=3)
    of_type = {str: text, list: texts, dict: st.dictionaries(text, texts, max_size=3)}
    values: dict[str, st.SearchStrategy[Any]] = {
        name: st.integers(*allowed) if isinstance(allowed, tuple) else of_type[allowed]  # type: ignore[index]
        for name, allowed in KINDS[kind].items()
    }
    if kind == context_events.IMDS:
        values["expiration"] = st.datetimes().map(lambda at: at.isoformat() + "Z")
    required = {name: values[name] for name in REQUIRED[kind]}
    optional = {name: value for name, value in values.items() if name not in required}
    u64, pid = st.integers(0, (1 << 64) - 1), st.integers(0, context_events.PID_MAX)
    return st.builds(
        ContextEvent, kind=st.just(kind), pid=st.integers(1, context_events.PID_MAX), tid=pid, time_boot_ns=u64,
        start_boot_ns=u64, ppid=pid, inode=u64, body=st.fixed_dictionaries(required, optional=optional),
        target_start_boot_ns=u64,
    )  # fmt: skip


EVENTS = st.lists(st.sampled_from(sorted(KINDS)).flatmap(event_of), min_size=1, max_size=5)


def message(**changes: Any) -> bytes:
    """A valid message with changed keys or values."""
    event = {"kind": "signal", "pid": 5, "target": 42, "signal": 15}
    event |= changes.pop("event", {})
    top = {"context": 1, "boot": BOOT_ID, "src": "agent", "events": [event], **changes}
    packed: bytes = msgpack.packb({name: value for name, value in top.items() if value is not ...})
    return packed


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(EVENTS)
def test_there_and_back(events: list[ContextEvent]) -> None:
    packed = encode_context(events, boot_id=BOOT_ID, source="agent")
    assert packed[1:].startswith(CONTEXT_MAGIC)
    found = decode_context(packed)
    assert (found.boot_id, found.source, list(found.events)) == (BOOT_ID, "agent", events)


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(st.binary(max_size=200), EVENTS, st.integers(0, 400), st.binary(min_size=1, max_size=8))
def test_arbitrary_bytes_are_refused_without_another_error(
    data: bytes, events: list[ContextEvent], at: int, patch: bytes
) -> None:
    packed = encode_context(events, boot_id=BOOT_ID, source="agent")
    for mangled in (data, packed[:at], packed[:at] + patch + packed[at + len(patch) :], packed + patch):
        try:
            decode_context(mangled)
        except FrameError as error:
            assert error.reason


def test_golden_bytes() -> None:
    event = ContextEvent("signal", 5, body={"target": 42, "signal": 15})
    packed = encode_context([event], boot_id=BOOT_ID, source="agent")
    assert packed.hex() == GOLDEN
    assert decode_context(bytes.fromhex(GOLDEN)).events == (event,)


def test_a_frame_is_no_message_of_context_events() -> None:
    assert not Sample().message()[1:].startswith(CONTEXT_MAGIC)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"context": 2}, "version 2"),
        ({"context": True}, "version True"),
        ({"boot": b"short"}, "boot"),
        ({"boot": ...}, "boot"),
        ({"src": 5}, "src"),
        ({"src": ""}, "src"),
        ({"events": []}, "events"),
        ({"events": {"a": 1}}, "events"),
        ({"events": [5]}, "not a map"),
        ({"event": {"kind": "fork"}}, "kind 'fork'"),
        ({"event": {"kind": ["signal"]}}, "kind"),
        ({"event": {"pid": 0}}, "'pid'"),
        ({"event": {"pid": None}}, "'pid' is missing"),
        ({"event": {"pid": True}}, "'pid'"),
        ({"event": {"pid": context_events.PID_MAX + 1}}, "'pid'"),
        ({"event": {"target": None}}, "'target' is missing"),
        ({"event": {"target": 1 << 31}}, "'target'"),
        ({"event": {"signal": -1}}, "'signal'"),
        ({"event": {"signal": "15"}}, "'signal'"),
        ({"event": {"time_ns": -1}}, "'time_ns'"),
        ({"event": {"kind": "imds", "access_key_id": 7, "expiration": "x"}}, "'access_key_id'"),
        ({"event": {"kind": "imds", "access_key_id": "A", "expiration": "soon"}}, "not an RFC 3339 time"),
        ({"event": {"kind": "imds", "access_key_id": "A", "expiration": "2026-01-01T00:00:00"}}, "not an RFC 3339"),
        ({"event": {"kind": "imds", "access_key_id": "A" * (TEXT_MAX + 1), "expiration": "x"}}, "'access_key_id'"),
        ({"event": {"kind": "user_session", "k8s_groups": "dev"}}, "'k8s_groups'"),
        ({"event": {"kind": "user_session", "k8s_groups": ["dev", 5]}}, "'k8s_groups'"),
        ({"event": {"kind": "user_session", "k8s_groups": ["dev"] * (TEXTS_MAX + 1)}}, "'k8s_groups'"),
        ({"event": {"kind": "user_session", "k8s_extra": ["dev"]}}, "'k8s_extra'"),
        ({"event": {"kind": "user_session", "k8s_extra": {"a": "dev"}}}, "'k8s_extra'"),
        ({"events": [{"kind": "signal", "pid": 5, "target": 1}] * (EVENTS_MAX + 1)}, "too large"),
    ],
)
def test_a_message_with_one_invalid_field_is_refused(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(FrameError) as refused:
        decode_context(message(**changes))
    assert reason in refused.value.reason
    assert changes.keys() & {"src", "events"} or refused.value.peer == "agent"


def test_a_message_that_is_too_long_is_refused_unread() -> None:
    with pytest.raises(FrameError, match="more than the limit"):
        decode_context(bytes(context_events.MESSAGE_MAX_BYTES + 1))


def test_a_number_of_the_body_is_typed() -> None:
    event = ContextEvent("cgroup_tracing", 5, body={"cgroup_id": 7, "path": "/x"})
    assert event.number("cgroup_id") == 7
    with pytest.raises(TypeError, match="'path' of a context event of kind 'cgroup_tracing'"):
        event.number("path")
    with pytest.raises(KeyError):
        event.number("target")


def test_keys_that_are_not_known_are_ignored() -> None:
    (event,) = decode_context(message(event={"colour": "red"}, more=1)).events
    assert event == ContextEvent("signal", 5, body={"target": 42, "signal": 15})


def test_a_sender_raises_for_fields_that_a_reader_would_refuse() -> None:
    with pytest.raises(FrameError, match="'fd' is missing"):
        encode_context([ContextEvent("tracer_memfd_seal", 5)], boot_id=BOOT_ID, source="agent")


@pytest.mark.parametrize(
    ("text", "ns"),
    [
        ("1970-01-01T00:00:01Z", 10**9),
        ("2026-11-25T05:20:00.25+01:00", 1_795_580_400_250_000_000),
        ("1969-12-31T23:59:59Z", -(10**9)),
        ("9999-12-31T23:59:59Z", (1 << 63) - 1),
        ("0001-01-01T00:00:00Z", -(1 << 63)),
    ],
)
def test_times_as_metadata_services_write_them(text: str, ns: int) -> None:
    assert parse_time_ns(text) == ns


def test_sending_without_an_instance_is_an_error(tmp_path: Any) -> None:
    with pytest.raises(NotRunningError):
        context_events.ContextSender("agent", directory=tmp_path)

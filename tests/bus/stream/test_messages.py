"""The stream's message format: golden messages of every version, headers, events of any shape, and invalid bytes."""

from __future__ import annotations

import contextlib
import json
import math
import random
from pathlib import Path

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.bus.stream import messages
from pipeline.bus.stream._decoder import Decoder
from pipeline.bus.stream.messages import (
    MAJOR,
    TOPIC_BYTES,
    Header,
    StreamVersionError,
    pack_events,
    prefix_mask,
    subscription_prefixes,
    unpack_events,
)
from pipeline.errors import ConfigError, FrameError
from tests.loading import load
from tests.sampling import examples, times

GOLDEN = Path(__file__).parent / "golden"


def make_golden():
    return load(GOLDEN / "make.py", "golden_make")


def header(**fields) -> Header:
    common = {
        "host": "h",
        "boot": bytes(16),
        "epoch": 1,
        "stream": 9,
        "writer": 0,
        "step": 0,
        "group": 0,
        "rest": 0,
        "first": 1,
        "count": 0,
        "time_ns": 5,
        "watermark_ns": 0,
    }
    return Header(**(common | fields))


# -- golden ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", sorted(GOLDEN.glob(f"{MAJOR}.*.json")), ids=lambda path: path.stem)
def test_messages_of_every_minor_version_are_read(path: Path) -> None:
    """This subscriber decodes the messages of an old instance into the same events as at the time of that version."""
    for each in json.loads(path.read_text()):
        parsed = Header.parse(bytes.fromhex(each["header"]))
        assert [parsed.first, parsed.count, parsed.rest, parsed.end] == [
            each[k] for k in ("first", "count", "rest", "end")
        ]
        assert (None if parsed.seqs is None else list(parsed.seqs)) == each["seqs"]
        assert [list(hole) for hole in parsed.unwatched] == each.get("unwatched", [])  # since 1.1
        assert parsed.since == each.get("since")  # since 1.6
        assert [text.decode() for text in parsed.only] == each.get("only", [])  # since 1.6
        assert (None if parsed.next is None else list(parsed.next)) == each.get("next")  # since 1.8
        if parsed.count:
            assert unpack_events(Decoder(), bytes.fromhex(each["body"]), parsed.count) == each["events"]


def test_messages_of_this_version_are_the_golden_ones() -> None:
    """Fails if a message changes without a new version; see golden/make.py."""
    golden = make_golden()
    assert json.loads(golden.CURRENT.read_text()) == json.loads(json.dumps(golden.build()))


# -- header ------------------------------------------------------------------------------------------------------------


@given(
    st.text(max_size=70),
    st.binary(min_size=16, max_size=16),
    st.integers(0, 2**32 - 1),
    st.integers(0, 2**64 - 1),
    st.integers(1, 2**64 - 2**32),
    st.integers(-(2**63), 2**63 - 1),
    st.one_of(st.none(), st.lists(st.integers(0, 2**64 - 2), max_size=9)),
    st.one_of(st.none(), st.lists(st.integers(0, 2**64 - 1), max_size=9)),
    st.booleans(),
)
def test_headers_come_back(host, boot, small, large, first, time, seqs, following, end) -> None:
    made = header(
        host=host,
        boot=boot,
        epoch=small,
        stream=large,
        writer=small,
        step=large,
        group=large,
        rest=small,
        first=first,
        count=small,
        time_ns=time,
        watermark_ns=time,
        seqs=None if seqs is None else tuple(seqs),
        next=None if following is None else tuple(following),
        end=end,
        minor=small,
    )
    assert Header.parse(made.pack()) == made


def test_keys_of_a_later_minor_version_are_ignored() -> None:
    fields = msgpack.unpackb(header().pack())
    fields |= {"minor": 7, "compression": "zstd", "more": [1, {"a": None}]}
    assert Header.parse(msgpack.packb(fields)).minor == 7


@pytest.mark.parametrize("major", [MAJOR + 1, MAJOR - 1, 99])
def test_another_major_version_is_refused_in_clear_words(major: int) -> None:
    # The other fields of such a header may have any form.
    with pytest.raises(StreamVersionError) as caught:
        Header.parse(msgpack.packb({"major": major, "first": "other"}))
    assert caught.value.found == major
    assert f"version {major}" in str(caught.value) and "upgrade" in str(caught.value)
    assert ("this subscriber" in str(caught.value).split("upgrade procline for")[1]) == (major > MAJOR)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *[
            (key, value)
            for key in ("first", "count", "stream", "rest", "group", "step")
            for value in (-1, "1", None, 1.0, True)
        ],
        ("count", 2**32),
        ("minor", -1),
        ("unwatched", 5),
        ("unwatched", [[1]]),
        ("unwatched", [[1, "2"]]),
        ("unwatched", [1, 2]),
        ("since", -1),
        ("since", "1"),
        ("since", 1 << 40),
        ("only", 5),
        ("only", ["text"]),
        ("next", 5),
        ("next", {"a": 1}),
        ("next", [1, None]),
        ("next", [True]),
        ("next", [1, -1]),
        ("seqs", [2**64 - 1]),
        ("host", b"h"),
        ("boot", "0" * 16),
        ("boot", bytes(15)),
        ("time_ns", None),
        ("watermark_ns", "x"),
        ("seqs", [1, -1]),
        ("seqs", {"a": 1}),
        ("seqs", [None]),
        ("major", "1"),
        ("major", None),
    ],
)
def test_a_malformed_header_is_refused(key, value) -> None:
    fields = msgpack.unpackb(header().pack())
    fields[key] = value
    with pytest.raises(FrameError):
        Header.parse(msgpack.packb(fields))
    if key not in ("seqs", "unwatched", "since", "only", "next"):
        del fields[key]
        with pytest.raises(FrameError):
            Header.parse(msgpack.packb(fields))


@pytest.mark.parametrize(
    ("good", "bad", "count"), [(1, 0, 1), (2**64 - 2, 2**64 - 1, 1), (2**64 - 2**32, 2**64 - 2**32 + 1, 2**32 - 1)]
)
def test_numbers_of_events_begin_at_1_and_have_64_bits(good: int, bad: int, count: int) -> None:
    assert Header.parse(header(first=good, count=count).pack()).first == good
    with pytest.raises(FrameError):
        Header.parse(header(first=bad, count=count).pack())


@given(st.binary(max_size=300))
def test_bytes_without_a_header_raise_frame_error(data: bytes) -> None:
    with pytest.raises(FrameError):
        Header.parse(data)


@given(st.integers(0, 400), st.binary(min_size=1, max_size=6))
def test_a_changed_header_raises_frame_error_or_is_read(at: int, junk: bytes) -> None:
    data = header(seqs=(1, 2, 3)).pack()
    at %= len(data)
    with contextlib.suppress(FrameError):
        Header.parse(data[:at] + junk + data[at + len(junk) :])


# -- events ------------------------------------------------------------------------------------------------------------

VALUES = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**63), 2**64 - 1),
        st.floats(allow_nan=False),
        st.text(max_size=300),
        st.sampled_from(["x" * n for n in (31, 32, 96, 97, 255, 256, 65535, 65536)]),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=20), st.dictionaries(st.text(max_size=40), inner, max_size=20)),
    max_leaves=12,
)
EVENTS = st.lists(
    st.builds(
        lambda fields, seq, order: {**fields, "seq": seq, "order": order},
        st.dictionaries(st.text(max_size=40), VALUES, max_size=20),
        st.integers(1, 2**64 - 2),
        st.integers(0, 2**64 - 1),
    ),
    max_size=4,
)


@settings(deadline=None, max_examples=examples(50))
@given(st.lists(EVENTS, max_size=3))
def test_events_of_any_shape_come_back(batches) -> None:
    """Also if the decoder has seen other shapes before."""
    decoder = Decoder()
    for events in batches:
        body = b"".join(msgpack.packb(event) for event in events)
        got = unpack_events(decoder, body, len(events)) if events else []
        assert got == events
        assert [list(event) for event in got] == [list(event) for event in events]


@settings(deadline=None, max_examples=examples(50))
@given(EVENTS)
def test_messages_of_the_packer_for_rare_events_are_read(events) -> None:
    if events:
        assert unpack_events(Decoder(), pack_events(events), len(events)) == events


def test_bytes_that_are_not_utf8_come_as_surrogate_escapes() -> None:
    event = {"seq": 1, "order": 1, "argv": ["ok", "caf\udce9"], "lineage": [{"comm": "\udc80" * 300}]}
    body = pack_events([event])
    assert b"\xc4\x04caf\xe9" in body
    assert unpack_events(Decoder(), body, 1) == [event]


def test_all_number_forms_are_read() -> None:
    forms = {
        b"\x7f": 127,
        b"\xe0": -32,
        b"\xcc\xff": 255,
        b"\xcd\xff\xff": 65535,
        b"\xce" + b"\xff" * 4: 2**32 - 1,
        b"\xcf" + b"\xff" * 8: 2**64 - 1,
        b"\xd0\x80": -128,
        b"\xd1\x80\x00": -32768,
        b"\xd2\x80\x00\x00\x00": -(2**31),
        b"\xd3\x80" + bytes(7): -(2**63),
        b"\xca\x3f\x80\x00\x00": 1.0,
        b"\xcb\x7f\xf0" + bytes(6): math.inf,
        b"\xd9\x01a": "a",
        b"\xda\x00\x01a": "a",
        b"\xdb\x00\x00\x00\x01a": "a",
        b"\xc5\x00\x01\xff": "\udcff",
        b"\xc6\x00\x00\x00\x01\xff": "\udcff",
        b"\xdc\x00\x01\x05": [5],
        b"\xdd\x00\x00\x00\x01\x05": [5],
        b"\xde\x00\x01\xa1k\x05": {"k": 5},
        b"\xdf\x00\x00\x00\x01\xa1k\x05": {"k": 5},
    }
    for wire, value in forms.items():
        body = b"\x83\xa3seq\x01\xa5order\x01\xa1v" + wire
        assert unpack_events(Decoder(), body, 1)[0]["v"] == value


def test_events_share_no_mutable_values() -> None:
    event = {"seq": 1, "order": 1, "lineage": [{"pid": 1, "comm": "a"}], "argv": ["x"]}
    first, second = unpack_events(Decoder(), pack_events([event, event]), 2)
    first["lineage"][0]["pid"] = 2
    first["argv"].append("y")
    first["new"] = 1
    assert second == event


#: Only a few values, so that neighbouring events share some fields; some values are equal but have different types.
TEXTS = ("", "1", "bash", "b\xe4h", "caf\udce9", "x" * 96, "x" * 97, "x" * 300)
LEAVES = st.sampled_from([None, True, False, 0, 1, 1.0, 7, 300, -1, 2**40, *TEXTS])
ANCESTORS = st.lists(st.fixed_dictionaries({"pid": LEAVES, "comm": LEAVES, "path": LEAVES}), max_size=11)
INNER = st.one_of(
    LEAVES,
    st.lists(LEAVES, max_size=3),
    st.dictionaries(st.sampled_from("abc"), st.one_of(LEAVES, st.lists(LEAVES, max_size=2)), max_size=3),
    st.recursive(LEAVES, lambda inner: st.lists(st.one_of(inner, st.fixed_dictionaries({"k": inner})), max_size=3)),
)
SIMILAR = st.fixed_dictionaries(
    {"event": LEAVES, "seq": st.integers(1, 300), "order": st.integers(0, 2**40), "uid": LEAVES, "comm": LEAVES,
     "argv": INNER, "file": INNER, "marks": INNER, "lineage": ANCESTORS},
    optional={"changed_after_ns": LEAVES, "new_parent": INNER, "context": INNER},
)  # fmt: skip


def said(events) -> str:
    """A form that distinguishes 1, True and 1.0, and also the order of keys."""
    return json.dumps(events)


@settings(deadline=None, max_examples=examples(100))
@given(st.lists(SIMILAR, min_size=1, max_size=8), st.data())
def test_reused_values_equal_those_of_a_new_decoder(events, data) -> None:
    """Also after messages that were rejected halfway, and after a reader has changed the events that it got."""
    decoder = Decoder()
    for event in events:
        body = pack_events([event])
        damaged = data.draw(st.sampled_from(["not", "not", "cut", "changed"]))
        if damaged == "cut":
            with pytest.raises(FrameError):
                unpack_events(decoder, body[: data.draw(st.integers(0, len(body) - 1))], 1)
        elif damaged == "changed":
            at = data.draw(st.integers(0, len(body) - 1))
            changed = body[:at] + bytes([data.draw(st.integers(0, 255))]) + body[at + 1 :]
            assert outcome(decoder, changed) == outcome(Decoder(), changed)
        (got,) = unpack_events(decoder, body, 1)
        assert said(got) == said(event)
        spoil(got)


def outcome(decoder: Decoder, body: bytes) -> str | None:
    try:
        return said(unpack_events(decoder, body, 1))
    except FrameError:
        return None


def spoil(value) -> None:
    """Change everything in an event that is mutable."""
    for inner in value.values() if isinstance(value, dict) else value:
        if isinstance(inner, dict | list):
            spoil(inner)
    value.clear()


def test_an_event_that_is_cut_anywhere_leaves_no_trace() -> None:
    """The decoder remembers the fields before the cut, but they must not appear in a later event."""
    golden = json.loads((GOLDEN / f"{MAJOR}.0.json").read_text())
    each = next(message for message in golden if message["count"] > 1)
    body, count = bytes.fromhex(each["body"]), each["count"]
    decoder = Decoder()
    for end in range(len(body)):
        with pytest.raises(FrameError):
            unpack_events(decoder, body[:end], count)
        if end % times(7, 50) == 0:
            assert said(unpack_events(decoder, body, count)) == said(each["events"])


def test_maps_at_the_last_places_that_are_remembered() -> None:
    """Numbers of fields around the limit, with more items than places, and nested lists."""
    few = times(0, 100)  # fields that are far from the limit, and have no items in a quick run
    for fields in (127, 128, 129, 255, 256, 300):
        names = [f"field {n}" for n in range(fields - 2)]
        decoder = Decoder()
        for turn in range(2):
            items = [[[{"k": turn}] * 9] * 9, *[{"k": turn, "l": [{"k": 1}] * 9}] * 9]
            event = {"seq": 1 + turn, "order": 1, **dict.fromkeys(names, turn), **dict.fromkeys(names[few:], items)}
            assert unpack_events(decoder, msgpack.packb(event) * 2, 2) == [event, event]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\x80",
        b"\xc0",
        b"\x93\x01\x02\x03",
        b"\xc1",
        b"\x81\xa3seq\x01",
        b"\x82\xa3seq\x01\xa5order\xc0",
        b"\x82\xa3seq\x01\xa5order\xcb" + bytes(8),
        b"\x82\xa3seq\xc3\xa5order\x01",
        b"\x82\x01\x01\x02\x02",
        b"\x82\xa3seq\x01\xa5order",
        b"\x82\xa3seq\x01\xa5order\xcf\x00",
        b"\xdf\xff\xff\xff\xff",
        b"\x83\xa3seq\x01\xa5order\x01\xa1v\xdd\xff\xff\xff\xff",
        b"\x83\xa3seq\x01\xa5order\x01\xa1v\xdb\xff\xff\xff\xff",
        b"\x83\xa3seq\x01\xa5order\x01\xa1v\xc7\x01\x01a",
        b"\x83\xa3seq\x01\xa5order\x01\xa1v\xd6" + bytes(5),
        b"\x83\xa3seq\x01\xa5order\x01\xa1v" + b"\x91" * 5000,
        b"\x83\xa3seq\x01\xa5order\x01\xa1v" + b"\x81\xa1k" * 5000,
        b"\x83\xa3seq\x01\xa5order\x01\xa1v\xa1\xff",
        b"\x83\xa3seq\x01\xa5order\x01\xc4\x01k\x01",
        b"\x82\xa3seq\x01\xa5order\x01\xc0",
        b"\x82\xa3seq\x00\xa5order\x01",
        b"\x82\xa3seq\xff\xa5order\x01",
        b"\x82\xa3seq\xcf" + b"\xff" * 8 + b"\xa5order\x01",
    ],
)
def test_a_malformed_body_is_refused(body: bytes) -> None:
    decoder = Decoder()
    good = pack_events([{"seq": 1, "order": 1, "v": "x"}])
    unpack_events(decoder, good, 1)
    for count in (1, 2, 2**32 - 1):
        with pytest.raises(FrameError):
            unpack_events(decoder, body, count)
    assert unpack_events(decoder, good, 1)  # the decoder still works


@settings(deadline=None, max_examples=examples(200))
@given(st.randoms(use_true_random=False))
def test_damaged_bodies_raise_frame_error_or_are_read(rng: random.Random) -> None:
    """Real messages with bytes changed, cut and doubled; the result is the same as with the msgpack library."""
    golden = json.loads((GOLDEN / f"{MAJOR}.0.json").read_text())
    each = rng.choice([message for message in golden if message["count"]])
    data = bytearray.fromhex(each["body"])
    for _ in range(rng.randrange(1, 4)):
        at = rng.randrange(len(data))
        action = rng.randrange(3)
        if action == 0:
            data[at] = rng.randrange(256)
        elif action == 1:
            del data[at : at + rng.randrange(1, 9)]
        else:
            data[at:at] = data[at : at + rng.randrange(1, 9)]
    decoder = Decoder()
    unpack_events(decoder, bytes.fromhex(each["body"]), each["count"])
    try:
        got = unpack_events(decoder, bytes(data), each["count"])
    except FrameError:
        return
    unpacker = msgpack.Unpacker(raw=False, strict_map_key=False, max_buffer_size=1 << 24)
    unpacker.feed(bytes(data))
    assert [list(event) for event in got] == [
        [key if isinstance(key, str) else key.decode("utf-8", "surrogateescape") for key in event] for event in unpacker
    ]


# -- topics ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "prefixes"),
    [
        ((), [b"proc.", b"sys.loss"]),
        (("proc.exec",), [b"proc.exec"]),
        (("exec", "exit"), [b"proc.exec", b"proc.exit"]),
        (("proc",), [b"proc."]),
        (("proc.", "sys"), [b"proc.", b"sys."]),
        (("loss",), [b"sys.loss"]),
    ],
)
def test_topics_are_named_as_users_do(names, prefixes) -> None:
    assert subscription_prefixes(names) == prefixes


@pytest.mark.parametrize("name", ["", "exe", "proc.exe", "proc.execs", "sys.welcome.", "PROC", "."])
def test_an_unknown_topic_is_a_clear_error(name: str) -> None:
    with pytest.raises(ConfigError, match=r"proc\.fork"):
        subscription_prefixes([name])


def test_a_prefix_asks_for_all_topics_that_begin_with_it() -> None:
    assert prefix_mask(b"") == 0xFF
    assert prefix_mask(b"proc.") == 0b00111111
    assert prefix_mask(b"proc.ex") == 0b110
    assert prefix_mask(b"sys.stats") == 0b10000000
    assert prefix_mask(b"proc.exec.") == prefix_mask(b"x") == prefix_mask() == 0
    assert prefix_mask(b"proc.ex", b"sys.stats") == 0b10000110
    for number, topic in enumerate(TOPIC_BYTES):
        assert prefix_mask(topic) == 1 << number


def test_messages_fit_the_limit() -> None:
    assert messages.MESSAGE_MAX_BYTES > 2 * (1 << 20)


def test_text_that_is_not_utf8_is_bin_and_in_keys_escaped() -> None:
    """An agent can send such keys, for example in the annotations of a Kubernetes user; keys of maps must be str."""
    event = {"seq": 1, "order": 1, "context": {"k8s_extra": {"a\udcff": ["\udcfe", "b"]}}}
    (told,) = unpack_events(Decoder(), pack_events([event]), 1)
    assert told["context"] == {"k8s_extra": {"a\\udcff": ["\udcfe", "b"]}}

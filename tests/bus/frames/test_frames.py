"""The frame codec: round trips, views in place, and hostile messages."""

from __future__ import annotations

import tracemalloc

import hypothesis
import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.bus.frames.declared import FRAME_KEYS
from pipeline.bus.frames.encode import FRAME_MAX_BYTES, FrameEncoder, record_span
from pipeline.bus.frames.frame import Frame, decode_frame, decode_frames, record_ends
from pipeline.errors import FrameError
from pipeline.records import declared, dtypes
from tests.bus.frames.frame_samples import BOOT_ID, Sample, assert_consistent, example, family, samples
from tests.record_sizes import PLAIN_BYTES
from tests.sampling import examples

COLUMNS = ("header", "task", "fork", "exec", "exit")
OPTIONAL = {key.name for key in FRAME_KEYS if key.optional}


def _same(frame: Frame, sample: Sample) -> None:
    columns = sample.columns()
    for name in COLUMNS:
        assert getattr(frame, name).tobytes() == columns[name].tobytes(), name
    assert bytes(frame.blob) == columns["blob"].tobytes()


@given(samples())
def test_frame_comes_back_as_it_was_sent(sample: Sample) -> None:
    frame = decode_frame(sample.message())
    assert frame.boot_id == BOOT_ID
    assert (frame.source, frame.ring, frame.frame_seq) == (sample.source, sample.ring, sample.seq)
    assert (frame.from_pos, frame.to_pos, frame.count) == (sample.from_pos, sample.to_pos, len(sample.headers))
    assert (frame.lost, frame.malformed) == (sample.lost, sample.malformed)
    assert frame.watermark_boot_ns == sample.watermark_boot_ns
    _same(frame, sample)


def test_the_encoder_writes_the_declared_keys() -> None:
    names = [key.name for key in FRAME_KEYS]
    assert list(msgpack.unpackb(example().message())) == [name for name in names if name not in OPTIONAL]
    sample = family()
    whole = FrameEncoder(boot_id=BOOT_ID, source="ebpf", capture_id=7).encode(
        ring=0, seq=0, from_pos=0, to_pos=sample.to_pos, count=len(sample.headers), lost={}, malformed=1,
        watermark_boot_ns=1, **sample.columns(),
    )  # fmt: skip
    assert sorted(msgpack.unpackb(whole)) == sorted(names)
    types = {"uint": int, "bin": bytes, "str": str, "map": dict}
    for key in FRAME_KEYS:
        assert type(msgpack.unpackb(whole)[key.name]) is types[key.type.split()[0]], key.name


@given(samples())
def test_the_message_equals_that_of_the_msgpack_library(sample: Sample) -> None:
    message = sample.message()
    assert msgpack.packb(msgpack.unpackb(message)) == message


@given(samples(), st.integers(-2, 14), st.integers(-8, 8))
def test_since_keeps_records_at_or_after_the_position(sample: Sample, index: int, off: int) -> None:
    message = sample.message()
    frame = decode_frame(message)
    positions = [int(header["ring_pos"]) for header in sample.headers]
    position = positions[index % len(positions)] + off if positions else sample.from_pos + off
    position = max(position, 0)
    part = frame.since(position)
    kept = [i for i, at in enumerate(positions) if at >= position]
    expected = Sample()
    for i in kept:
        kind = int(sample.headers[i]["kind"])
        expected.headers.append(sample.headers[i])
        expected.tasks.append(sample.tasks[i])
        expected.strings.append(sample.strings[i])
        if kind in dtypes.BODIES and not sample.headers[i]["flags"] & declared.FLAG_HEAD_ONLY:
            others = [header for header in sample.headers[:i] if header["kind"] == kind]
            before = sum(not header["flags"] & declared.FLAG_HEAD_ONLY for header in others)
            expected.bodies[kind].append(sample.bodies[kind][before])
    assert part.count == len(kept)
    assert part.from_pos == min(max(position, frame.from_pos), frame.to_pos) and part.to_pos == frame.to_pos
    _same(part, expected)


@given(st.binary(max_size=300))
@hypothesis.example(b"")
@hypothesis.example(b"\x80")
@hypothesis.example(b"\xc1")
@hypothesis.example(b"\xdf\xff\xff\xff\xff")
@hypothesis.example(b"\x81\xa1a\xdd\xff\xff\xff\xff")
@hypothesis.example(b"\x81\xa1a" + b"\x91" * 290)
def test_arbitrary_bytes_raise_only_frame_error(message: bytes) -> None:
    with pytest.raises(FrameError):
        decode_frame(message)


@settings(max_examples=examples(500))
@given(st.data())
def test_damaged_frame_is_refused_or_still_consistent(data: st.DataObject) -> None:
    """Changes, removes or adds a few bytes of a good frame: it is rejected, or all columns are still consistent."""
    message = bytearray(data.draw(st.sampled_from([example(), family()])).message())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(message) - 1))
        how = data.draw(st.sampled_from(["change", "remove", "insert", "cut"]))
        if how == "change":
            message[at] = data.draw(st.integers(0, 255))
        elif how == "remove" and len(message) > 1:
            del message[at]
        elif how == "insert":
            message.insert(at, data.draw(st.integers(0, 255)))
        elif at:
            del message[at:]
    try:
        frame = decode_frame(bytes(message))
    except FrameError:
        return
    assert_consistent(frame)


plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 64) - 1)
    | st.floats(allow_nan=False, width=32)
    | st.binary(max_size=80)
    | st.text(max_size=60)
    | st.builds(msgpack.ExtType, st.integers(0, 127), st.binary(max_size=20)),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=examples(300))
@given(
    st.dictionaries(st.text(max_size=30).filter(lambda key: key not in OPTIONAL), plain, max_size=20),
    st.booleans(),
)
def test_keys_that_this_version_does_not_know_are_stepped_over(more: dict[str, object], single_float: bool) -> None:
    entries = msgpack.unpackb(example().message())
    message = msgpack.packb({**more, **entries}, use_single_float=single_float)
    _same(decode_frame(message), example())


@given(st.lists(samples(max_records=4), min_size=1, max_size=5))
def test_a_message_may_hold_several_frames(several: list[Sample]) -> None:
    frames = decode_frames(b"".join(sample.message() for sample in several))
    assert len(frames) == len(several)
    for frame, sample in zip(frames, several, strict=True):
        _same(frame, sample)


def test_one_bad_frame_makes_the_message_bad() -> None:
    with pytest.raises(FrameError, match=r"shard-0.*version 2"):
        decode_frames(example().message() + _changed(v=2), peer="shard-0")
    with pytest.raises(FrameError, match="bytes follow the map"):
        decode_frame(example().message() * 2)


def test_replaced_strings_are_those_of_the_frame_and_of_its_parts() -> None:
    frame = decode_frame(example().message())
    header, exec_, blob = frame.header.tobytes(), frame.exec.tobytes(), bytes(frame.blob).upper()
    digests = bytes(range(8 * frame.exec_count))
    other = frame.replaced(header, exec_, blob, digests)
    assert bytes(other.blob) == blob and other.header.tobytes() == header
    assert other.task.tobytes() == frame.task.tobytes()
    last = int(frame.header["ring_pos"][-1])
    part = other.since(last)
    assert bytes(part.blob) == bytes(frame.since(last).blob).upper()
    assert other.digests.tobytes() == digests and frame.digests.size == 0
    assert part.digests.tobytes() == digests[8 * (frame.exec_count - part.exec_count) :]
    with pytest.raises(ValueError, match="another length"):
        frame.replaced(b"", exec_, blob, digests)
    with pytest.raises(ValueError, match="another length"):
        frame.replaced(header, exec_, blob, digests + b"1")


def test_decoding_reads_the_columns_in_place() -> None:
    sample = Sample()
    for _ in range(2000):
        sample.add(declared.KIND_FORK)
    message = sample.message()
    decode_frame(message)
    tracemalloc.start()
    frame = decode_frame(message)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 10_000 < len(message) // 20
    address = np.frombuffer(message, np.uint8).ctypes.data
    assert address < frame.fork.ctypes.data < address + len(message)


def test_equal_tasks_are_sent_once() -> None:
    """A family of ten records shares one TASK; ten unrelated records have one each."""
    message = msgpack.unpackb(family().message())
    assert len(message["task"]) == dtypes.TASK.itemsize and np.frombuffer(message["task"], dtypes.TASK)["ns_pid"] == 0
    assert np.frombuffer(message["task_of"], np.uint16).tolist() == [0] * 10
    assert np.frombuffer(message["ns_pid"], np.uint32).tolist() == 2 * [100, 101, 102, 103, 104]
    _same(decode_frame(family().message()), family())
    strangers = Sample()
    for i in range(10):
        strangers.add(declared.KIND_FORK, fill=i)
    assert "task_of" not in msgpack.unpackb(strangers.message())


@pytest.mark.parametrize("field", [name for name in dtypes.TASK.names or () if name != "ns_pid"])
def test_tasks_that_differ_in_one_field_are_two(field: str) -> None:
    sample = family()
    sample.tasks[3][field] = b"x" if dtypes.TASK[field].kind in "SV" else 1
    # Three if both hash to the same place in the writer's table, so that one is written twice.
    assert len(msgpack.unpackb(sample.message())["task"]) // dtypes.TASK.itemsize in {2, 3}
    _same(decode_frame(sample.message()), sample)


@pytest.mark.parametrize("capture_id", [0, 1, (1 << 64) - 1])
def test_a_frame_names_the_capture_of_its_rings(capture_id: int) -> None:
    encoder = FrameEncoder(boot_id=BOOT_ID, source="ebpf", capture_id=capture_id)
    message = encoder.encode(ring=0, seq=0, from_pos=0, to_pos=800, count=0, lost={}, malformed=1, watermark_boot_ns=5)
    assert msgpack.unpackb(message).get("cap", 0) == capture_id
    frame = decode_frame(message)
    assert frame.capture_id == capture_id and frame.since(400).capture_id == capture_id
    assert frame.replaced(b"", b"", b"", b"").capture_id == capture_id


def test_more_tasks_than_there_are_numbers_for_are_all_sent() -> None:
    n = 70_000
    header = np.zeros(n, dtypes.HEADER)
    header["kind"], header["record_bytes"] = declared.KIND_CRED, PLAIN_BYTES
    header["ring_pos"] = np.arange(n) * record_span(PLAIN_BYTES)
    task = np.zeros(n, dtypes.TASK)
    task["uid"] = np.arange(n)
    frame = decode_frame(
        FrameEncoder(boot_id=BOOT_ID, source="ebpf").encode(
            ring=0, seq=0, from_pos=0, to_pos=n * record_span(PLAIN_BYTES), count=n, lost={}, header=header, task=task
        )
    )
    assert (frame.task["uid"] == np.arange(n)).all()
    task["uid"] = np.arange(n) // 4  # fewer distinct TASKs than numbers, but more records
    frame = decode_frame(
        FrameEncoder(boot_id=BOOT_ID, source="ebpf").encode(
            ring=0, seq=0, from_pos=0, to_pos=n * record_span(PLAIN_BYTES), count=n, lost={}, header=header, task=task
        )
    )
    assert (frame.task["uid"] == np.arange(n) // 4).all()


@pytest.mark.parametrize(
    ("entries", "reason"),
    [
        ({"task_of": bytes(19)}, "'task_of' or 'ns_pid' does not have 'n' entries"),
        ({"ns_pid": bytes(44)}, "'task_of' or 'ns_pid' does not have 'n' entries"),
        ({"task_of": None}, "only one of"),
        ({"ns_pid": None}, "only one of"),
        ({"task_of": bytes(18) + b"\1\0"}, "record 9 of 10: its TASK is not in"),
        ({"task": bytes(161)}, "whole entries"),
        ({"task": b""}, "record 0 of 10: its TASK is not in"),
        ({"task_of": b"", "ns_pid": b""}, "'task' does not have 'n' entries"),
    ],
)
def test_numbers_of_tasks_that_do_not_fit_are_refused(entries: dict[str, bytes | None], reason: str) -> None:
    message = msgpack.unpackb(family().message()) | entries
    with pytest.raises(FrameError, match=reason):
        decode_frame(msgpack.packb({key: value for key, value in message.items() if value is not None}))


def test_frame_outlives_the_names_of_its_message_and_cannot_be_written() -> None:
    frame = decode_frame(bytearray(example().message()))
    with pytest.raises(ValueError):
        frame.header["tgid"] = 1
    with pytest.raises(TypeError):
        frame.blob[0] = 1
    _same(frame, example())


def test_unknown_keys_are_ignored() -> None:
    entries = msgpack.unpackb(example().message())
    entries |= {"new": [1, {"deep": -1.5}], "x" * 200: b"x", "newer": {"a": {"b": None}}}
    _same(decode_frame(msgpack.packb(entries)), example())


def _changed(**entries: object) -> bytes:
    message = msgpack.unpackb(example().message())
    for key, value in entries.items():
        if value is None:
            del message[key]
        else:
            message[key] = value
    return msgpack.packb(message)


@pytest.mark.parametrize(
    ("entries", "reason"),
    [
        ({"v": 2}, "version 2"),
        ({"v": "1"}, "version none"),
        ({"v": None}, "version none"),
        ({"boot": b"short"}, "'boot' has 5 bytes"),
        ({"boot": "0123456789abcdef"}, "'boot' has the wrong type"),
        ({"src": b"ebpf"}, "'src' has the wrong type"),
        ({"ring": -1}, "'ring' has the wrong type"),
        ({"ring": 1 << 32}, "ring 4294967296 is out of range"),
        ({"ring": True}, "'ring' has the wrong type"),
        ({"seq": None}, "'seq' is missing"),
        ({"to": 0}, "ends before it begins"),
        ({"to": 4096}, "record 0 of 9: it is outside the frame's range"),
        ({"from": 4104}, "record 0 of 9: it is outside the frame's range"),
        ({"n": 7}, "'head' does not have 'n' entries"),
        ({"n": 1 << 60}, "'head' does not have 'n' entries"),
        ({"lost": {"fork": "many"}}, "'lost' contains"),
        ({"lost": {str(i): i for i in range(65)}}, "a map has 65 keys"),
        ({"task": b""}, "'task' does not have 'n' entries"),
        ({"fork": b""}, "fewer bodies"),
        ({"fork": bytes(64)}, "more bodies"),
        ({"exit": bytes(31)}, "fewer bodies"),
        ({"exec": bytes(127)}, "fewer bodies"),
        ({"exec": bytes(128)}, "strings do not add up"),
        ({"blob": b""}, "longer than the blob"),
        ({"blob": bytes(9999)}, "the blob is longer"),
        ({"blob": None}, "'blob' is missing"),
        ({"blob": "text"}, "'blob' has the wrong type"),
    ],
)
def test_wrong_shape_is_refused_whole_with_its_reason(entries: dict[str, object], reason: str) -> None:
    with pytest.raises(FrameError, match=reason) as refusal:
        decode_frame(_changed(**entries), peer="shard-0")
    assert refusal.value.peer == "shard-0" and "shard-0" in str(refusal.value)


@pytest.mark.parametrize(
    ("index", "field", "value", "reason"),
    [
        (0, "kind", 0, "kind is unknown"),
        (6, "kind", declared.KIND_COUNT, "kind is unknown"),
        (3, "record_bytes", 63, "length does not match"),
        (3, "var_bytes", 0, "length does not match"),
        (7, "record_bytes", PLAIN_BYTES, "length does not match"),
        (2, "flags", declared.FLAG_HEAD_ONLY, "length does not match"),
        (1, "ring_pos", 4096, "overlaps the record before it"),
        (1, "ring_pos", (1 << 64) - 8, "outside the frame's range"),
        (0, "ring_pos", 4097, "outside the frame's range"),
    ],
)
def test_disagreeing_head_is_refused(index: int, field: str, value: int, reason: str) -> None:
    sample = example()
    sample.headers[index][field] = value
    with pytest.raises(FrameError, match=f"record {index} of 9: .*{reason}"):
        decode_frame(sample.message())


@pytest.mark.parametrize("field", ["path_bytes", "root_offset", "name_bytes", "args_bytes", "envs_bytes"])
def test_exec_strings_must_add_up(field: str) -> None:
    sample = example()
    sample.bodies[declared.KIND_EXEC][0][field] = 0xFFFF_FFFF
    with pytest.raises(FrameError, match="strings do not add up"):
        decode_frame(sample.message())


def test_key_that_occurs_twice_is_refused() -> None:
    message = example().message()
    assert message[0] & 0xF0 == 0x80 or message[0] == 0xDE
    packer = msgpack.Packer(autoreset=False)
    packer.pack_map_pairs([("v", 1), ("v", 1)])
    with pytest.raises(FrameError, match="'v' occurs twice"):
        decode_frame(packer.bytes())


def test_oversized_message_is_refused_unread() -> None:
    with pytest.raises(FrameError, match="more than the limit"):
        decode_frame(bytes(FRAME_MAX_BYTES + 1))


def test_boot_id_of_another_length_is_a_programming_error() -> None:
    with pytest.raises(ValueError, match="16 raw bytes"):
        FrameEncoder(boot_id=b"x", source="ebpf")


@given(samples())
def test_record_ends_follow_from_position_and_length(sample: Sample) -> None:
    frame = decode_frame(sample.message())
    ends = record_ends(frame.header)
    assert (ends[:-1] <= frame.header["ring_pos"][1:]).all()
    assert all(int(end) % 8 == 0 and int(end) <= frame.to_pos for end in ends)

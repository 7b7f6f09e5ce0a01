"""Draining rings made by hand: every record that the kernel's side wrote comes out once, whole and in order."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import FrameError, UnsupportedError
from pipeline.records import declared, dtypes
from pipeline.sources.ring._drain import CAUGHT_UP, Columns
from pipeline.sources.ring._ring import PAGE_BYTES, Ring, ring_data_bytes
from pipeline.sources.ring._shared import RingMap, Words
from pipeline.sources.ring.handring import make_ring_file
from tests.record_sizes import PLAIN_BYTES
from tests.sampling import examples
from tests.sources._inside import BUSY, CORRUPT, FULL, HEAD_BYTES, TASK_BYTES
from tests.sources.hand_records import drain_frame, record, records_in, strings_of
from tests.sources.kernel_writer import KernelWriter

KINDS = range(1, declared.KIND_COUNT)


@pytest.fixture
def made() -> Iterator[tuple[Ring, KernelWriter]]:
    """A ring of one page with positions that begin just before a wrap-around."""
    fd = make_ring_file(PAGE_BYTES, position=7 * PAGE_BYTES - 40)
    with KernelWriter(fd) as writer, Ring(fd, number=2) as ring:
        os.close(fd)
        yield ring, writer


def has_more(ring: Ring) -> bool:
    """Whether there is a record after the cursor, complete or not."""
    return ring.producer_pos > ring.cursor


def test_rows_have_the_size_of_the_dtypes() -> None:
    assert (dtypes.HEADER.itemsize, dtypes.TASK.itemsize) == (HEAD_BYTES, TASK_BYTES)


def test_every_kind_comes_out_as_it_was_written(made: tuple[Ring, KernelWriter]) -> None:
    ring, writer = made
    written = [record(kind, kind, strings=strings_of(kind, 3 * kind)) for kind in KINDS]
    written.append(record(declared.KIND_EXEC, 99, head_only=True))
    positions = [writer.write(one) for one in written]
    frame = drain_frame(ring, Columns(1 << 16))
    assert records_in(frame) == written
    assert frame.header["ring_pos"].tolist() == positions
    assert (frame.from_pos, frame.to_pos) == (7 * PAGE_BYTES - 40, writer.producer_pos)
    assert ring.stop == CAUGHT_UP and ring.records_total == len(written)


def test_an_empty_ring_makes_an_empty_frame(made: tuple[Ring, KernelWriter]) -> None:
    ring, _ = made
    frame = drain_frame(ring, Columns(1 << 16))
    assert frame.count == 0 and frame.from_pos == frame.to_pos
    assert ring.stop == CAUGHT_UP and not has_more(ring)


def test_busy_record_stops_the_reader_until_it_is_submitted(made: tuple[Ring, KernelWriter]) -> None:
    ring, writer = made
    columns = Columns(1 << 16)
    first, second, third = (record(declared.KIND_FORK, number) for number in range(3))
    writer.write(first)
    busy = writer.reserve(len(second))
    writer.write(third)
    assert busy is not None
    assert records_in(drain_frame(ring, columns)) == [first]
    assert ring.stop == BUSY and ring.cursor == busy and has_more(ring)
    assert records_in(drain_frame(ring, columns)) == []
    writer.commit(busy, second)
    assert records_in(drain_frame(ring, columns)) == [second, third]
    assert ring.stop == CAUGHT_UP


def test_room_behind_a_record_is_skipped(made: tuple[Ring, KernelWriter]) -> None:
    """Programs for older kernels reserve constant sizes."""
    ring, writer = made
    first, second = record(declared.KIND_EXEC, 1, strings=(b"/a", b"b", b"c\0", b"")), record(declared.KIND_FORK, 2)
    head_only = record(declared.KIND_EXEC, 3, head_only=True)
    for one in (first + b"left over" * 20, second, head_only + bytes(8)):
        assert writer.write(one) is not None
    frame = drain_frame(ring, Columns(1 << 16))
    assert records_in(frame) == [first, second, head_only]
    assert frame.malformed == 0 and frame.to_pos == writer.producer_pos


def test_range_with_only_discarded_records_is_covered(made: tuple[Ring, KernelWriter]) -> None:
    ring, writer = made
    for number in range(3):
        writer.write_discarded(record(declared.KIND_EXIT, number))
    frame = drain_frame(ring, Columns(1 << 16))
    assert frame.count == 0 and frame.to_pos == writer.producer_pos > frame.from_pos
    assert ring.discarded_total == 3


def test_a_header_only_record_has_no_strings(made: tuple[Ring, KernelWriter]) -> None:
    ring, writer = made
    said = bytearray(record(declared.KIND_EXEC, 5, head_only=True))
    said[52:56] = struct.pack("<I", 1000)
    writer.write(bytes(said))
    frame = drain_frame(ring, Columns(1 << 16))
    assert records_in(frame) == [record(declared.KIND_EXEC, 5, head_only=True)]


def _wrong(**fields: int) -> bytes:
    one = bytearray(record(declared.KIND_EXEC, 1, strings=(b"/bin/x", b"x", b"x\0", b"")))
    offsets = {"kind": (36, "B"), "flags": (37, "B"), "record_bytes": (48, "<I"), "var_bytes": (52, "<I")}
    for name, offset in (("path_bytes", 56), ("root_offset", 60), ("name_bytes", 64), ("args_bytes", 68)):
        offsets[name] = (PLAIN_BYTES + offset, "<I")
    for name, value in fields.items():
        struct.pack_into(offsets[name][1], one, offsets[name][0], value)
    return bytes(one)


@pytest.mark.parametrize(
    "wrong",
    [
        b"",
        b"x" * 63,
        _wrong(kind=0),
        _wrong(kind=declared.KIND_COUNT),
        _wrong(kind=255),
        _wrong(kind=declared.KIND_FORK),
        _wrong(flags=declared.FLAG_HEAD_ONLY),
        _wrong(record_bytes=64),
        _wrong(record_bytes=0xFFFF_FFFF),
        _wrong(var_bytes=0),
        _wrong(var_bytes=0xFFFF_FFFF),
        _wrong(path_bytes=0xFFFF_FFFF),
        _wrong(path_bytes=0xFFFF_FFFF, name_bytes=8),
        _wrong(root_offset=7),
        _wrong(args_bytes=3),
        record(declared.KIND_FORK, 1)[:-1],
    ],
)
def test_malformed_record_is_counted_and_left_out_alone(made: tuple[Ring, KernelWriter], wrong: bytes) -> None:
    ring, writer = made
    before, behind = record(declared.KIND_FORK, 10), record(declared.KIND_EXEC, 11, strings=(b"/a", b"b", b"c", b"d"))
    for one in (before, wrong, behind):
        assert writer.write(one) is not None
    frame = drain_frame(ring, Columns(1 << 16))
    assert records_in(frame) == [before, behind]
    assert frame.malformed == ring.malformed_total == 1
    assert frame.to_pos == writer.producer_pos and ring.stop == CAUGHT_UP


@pytest.mark.parametrize("header", [4096, 4089, 2000, 0x3FFF_FFFF, 0x3FFF_FFFF | 1 << 30])
def test_after_an_impossible_header_reading_continues_at_the_producer(header: int) -> None:
    fd = make_ring_file(PAGE_BYTES)
    with KernelWriter(fd) as writer, Ring(fd, number=0) as ring:
        good = record(declared.KIND_FORK, 1)
        writer.write(good)
        wrong = writer.write(record(declared.KIND_FORK, 2))
        writer.write(record(declared.KIND_FORK, 3))
        assert wrong is not None
        os.pwrite(fd, struct.pack("<I", header), 2 * PAGE_BYTES + wrong)
        columns = Columns(1 << 16)
        frame = drain_frame(ring, columns)
        assert records_in(frame) == [good] and frame.to_pos == writer.producer_pos
        assert ring.stop == CORRUPT and ring.corrupt_total == ring.malformed_total == 1
        after = record(declared.KIND_EXIT, 4)
        writer.write(after)
        assert records_in(drain_frame(ring, columns)) == [after]
    os.close(fd)


@pytest.mark.parametrize("too_far", [PAGE_BYTES + 8, 1 << 40, (1 << 64) - 8])
def test_after_an_impossible_position_of_the_producer_reading_continues_there(too_far: int) -> None:
    fd = make_ring_file(PAGE_BYTES)
    with KernelWriter(fd) as writer, Ring(fd, number=0) as ring:
        writer.write(record(declared.KIND_FORK, 1))
        os.pwrite(fd, struct.pack("<Q", too_far), PAGE_BYTES)
        frame = drain_frame(ring, Columns(1 << 16))
        assert frame.count == 0 and ring.cursor == too_far
        assert ring.stop == CORRUPT and ring.corrupt_total == ring.malformed_total == 1
    os.close(fd)


def test_frame_is_closed_at_its_size_and_one_record_always_fits() -> None:
    fd = make_ring_file(1 << 20)
    big = record(declared.KIND_EXEC, 1, strings=strings_of(1, 72_000))
    small = [record(declared.KIND_FORK, number) for number in range(2, 40)]
    with KernelWriter(fd) as writer, Ring(fd, number=0) as ring:
        for one in [big, *small]:
            writer.write(one)
        columns = Columns(1000)
        frames = []
        while has_more(ring):
            frames.append(records_in(drain_frame(ring, columns)))
            assert ring.stop == FULL or not has_more(ring)
        assert [one for frame in frames for one in frame] == [big, *small]
        assert len(frames[0]) == 1 and {len(frame) for frame in frames[1:-1]} == {3}
    os.close(fd)


def test_record_longer_than_any_can_be_is_malformed() -> None:
    fd = make_ring_file(1 << 20)
    with KernelWriter(fd) as writer, Ring(fd, number=0) as ring:
        writer.write(record(declared.KIND_EXEC, 1, strings=strings_of(1, 140_000)))
        frame = drain_frame(ring, Columns(1000))
        assert frame.count == 0 and ring.malformed_total == 1
    os.close(fd)


operations = st.one_of(
    st.tuples(st.just("write"), st.sampled_from(KINDS), st.integers(0, 500)),
    st.tuples(st.just("header"), st.sampled_from(KINDS), st.just(0)),
    st.tuples(st.just("discard"), st.sampled_from(KINDS), st.integers(0, 300)),
    st.tuples(st.just("malformed"), st.sampled_from(KINDS), st.integers(0, 200)),
    st.tuples(st.just("reserve"), st.sampled_from(KINDS), st.integers(0, 300)),
    st.tuples(st.just("submit"), st.integers(0, 3), st.booleans()),
    st.tuples(st.just("drain"), st.integers(1, 6), st.integers(1, 2000)),
    st.tuples(st.just("release"), st.floats(0, 1), st.just(0)),
    st.tuples(st.just("rewind"), st.floats(0, 1), st.just(0)),
)


@settings(max_examples=examples(300), deadline=None)
@given(st.lists(operations, max_size=60), st.integers(0, 1 << 40))
def test_any_interleaving_of_writing_reading_and_rewinding_loses_and_repeats_nothing(
    steps: list[tuple], start: int
) -> None:
    """Compared with a model: the list of (position, record) that were submitted and not discarded."""
    start &= ~7
    fd = make_ring_file(PAGE_BYTES, position=start)
    submitted: dict[int, bytes | None] = {}
    open_records: list[tuple[int, bytes]] = []
    received: dict[int, bytes] = {}
    received_pos = start
    boundaries = [start]
    number = 0
    with KernelWriter(fd) as writer, Ring(fd, number=0) as ring:
        os.close(fd)

        def take(max_records: int, max_bytes: int) -> None:
            nonlocal received_pos
            frame = drain_frame(ring, Columns(max_bytes), max_records)
            assert frame.from_pos <= received_pos
            part = frame.since(received_pos)
            for position, one in zip(part.header["ring_pos"].tolist(), records_in(part), strict=True):
                assert position not in received
                received[position] = one
            received_pos = max(received_pos, frame.to_pos)
            boundaries.append(frame.to_pos)

        for name, first, second in steps:
            number += 1
            if name in ("write", "header", "discard", "malformed"):
                one = record(first, number, strings=strings_of(number, second), head_only=name == "header")
                if name == "malformed":
                    one = one[:-1]
                position = writer.write_discarded(one) if name == "discard" else writer.write(one)
                if position is not None:
                    submitted[position] = one if name in ("write", "header") else None
            elif name == "reserve":
                one = record(first, number, strings=strings_of(number, second))
                position = writer.reserve(len(one))
                if position is not None:
                    open_records.append((position, one))
            elif name == "submit" and open_records:
                position, one = open_records.pop(first % len(open_records))
                (writer.discard if second else writer.commit)(position, one)
                submitted[position] = None if second else one
            elif name == "drain":
                take(first, second)
            elif name == "release":
                ring.release(boundaries[round(first * (len(boundaries) - 1))])
            elif name == "rewind":
                ring.rewind(boundaries[round(first * (len(boundaries) - 1))])
            assert start <= ring.consumer_pos == writer.consumer_pos <= ring.cursor <= writer.producer_pos
        for position, one in open_records:
            writer.commit(position, one)
            submitted[position] = one
        while has_more(ring):
            take(100, 1 << 16)
    assert received == {position: one for position, one in submitted.items() if one is not None}
    assert received_pos == writer.producer_pos


pieces = st.one_of(
    st.binary(max_size=80),
    st.builds(
        lambda header, body: struct.pack("<II", header, 0) + body,
        st.integers(0, 400) | st.integers(0, (1 << 32) - 1),
        st.binary(max_size=40),
    ),
    st.builds(
        lambda kind, length, changes: _damaged(record(kind, length, strings=strings_of(length, length)), changes),
        st.sampled_from(KINDS),
        st.integers(0, 100),
        st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=3),
    ),
)


def _damaged(one: bytes, changes: list[tuple[int, int]]) -> bytes:
    changed = bytearray(struct.pack("<II", len(one), 0) + one + bytes(-len(one) % 8))
    for at, value in changes:
        changed[at % len(changed)] = value
    return bytes(changed)


@settings(max_examples=examples(400), deadline=None)
@given(st.lists(pieces, max_size=12), st.integers(0, 511), st.integers(0, PAGE_BYTES))
def test_any_bytes_in_a_ring_end_in_a_frame_that_is_accepted(parts: list[bytes], start: int, filled: int) -> None:
    data = b"".join(parts)[:PAGE_BYTES].ljust(PAGE_BYTES, b"\0")
    cut = 8 * start % PAGE_BYTES
    fd = make_ring_file(PAGE_BYTES, position=8 * start)
    os.pwrite(fd, data[-cut:] + data[:-cut] if cut else data, 2 * PAGE_BYTES)
    os.pwrite(fd, struct.pack("<Q", 8 * start + (filled & ~7)), PAGE_BYTES)
    columns = Columns(2000)
    with Ring(fd, number=0) as ring:
        os.close(fd)
        while True:
            before = ring.cursor
            try:
                drain_frame(ring, columns, 50)
            except FrameError as error:
                raise AssertionError(f"a frame drained from a ring was refused: {error.reason}") from error
            if ring.stop != FULL:
                break
            assert ring.cursor > before


def test_release_frees_only_the_applied_part(made: tuple[Ring, KernelWriter]) -> None:
    ring, writer = made
    start = ring.cursor
    positions = [writer.write(record(declared.KIND_FORK, number)) for number in range(4)]
    drain_frame(ring, Columns(1 << 16))
    assert writer.consumer_pos == start
    ring.release(positions[2] or 0)
    assert writer.consumer_pos == ring.consumer_pos == positions[2]
    ring.release(positions[1] or 0)
    assert writer.consumer_pos == positions[2]


def test_position_of_another_ring_is_not_followed(made: tuple[Ring, KernelWriter]) -> None:
    ring, writer = made
    writer.write(record(declared.KIND_FORK, 1))
    start = ring.cursor
    for position in (writer.producer_pos + 8, writer.producer_pos - 4, 1 << 63):
        ring.release(position)
        assert not ring.rewind(position)
    assert (ring.cursor, writer.consumer_pos) == (start, start)
    assert ring.refused_total == 6


def test_the_cursor_skips_records_that_are_applied_already(made: tuple[Ring, KernelWriter]) -> None:
    ring, writer = made
    writer.write(record(declared.KIND_FORK, 1))
    second = writer.write(record(declared.KIND_FORK, 2))
    ring.release(second or 0)
    assert ring.cursor == second
    assert drain_frame(ring, Columns(1 << 16)).count == 1


def test_a_rewind_reaches_back_to_the_consumer_position(made: tuple[Ring, KernelWriter]) -> None:
    ring, writer = made
    start = ring.cursor
    second = [writer.write(record(declared.KIND_FORK, number)) for number in range(3)][1]
    drain_frame(ring, Columns(1 << 16))
    ring.release(second or 0)
    assert ring.rewind(start) and ring.cursor == second


def test_new_reader_begins_at_the_consumer_position() -> None:
    fd = make_ring_file(PAGE_BYTES)
    with KernelWriter(fd) as writer:
        positions = [writer.write(record(declared.KIND_FORK, number)) for number in range(3)]
        with Ring(fd, number=0) as first:
            drain_frame(first, Columns(1 << 16))
            first.release(positions[1] or 0)
        with Ring(fd, number=0) as second:
            assert second.cursor == positions[1]
            assert drain_frame(second, Columns(1 << 16)).count == 2
    os.close(fd)


def test_only_the_consumer_page_is_writable() -> None:
    """The kernel refuses any other mapping of a real ring; this one is mapped the same way."""
    fd = make_ring_file(PAGE_BYTES)
    inode = os.fstat(fd).st_ino
    with Ring(fd, number=0):
        ours = [line.split() for line in Path("/proc/self/maps").read_text().splitlines() if f" {inode} " in line]
    os.close(fd)
    parts = [(line[1], int(line[2], 16)) for line in ours]
    assert sorted(parts) == [("r--s", PAGE_BYTES), ("r--s", 2 * PAGE_BYTES), ("rw-s", 0)]


def test_length_of_the_data_is_asked_of_the_descriptor() -> None:
    fd = make_ring_file(1 << 16)
    assert ring_data_bytes(fd) == 1 << 16
    reader, writer = os.pipe()
    with pytest.raises(UnsupportedError, match="no ring buffer"):
        ring_data_bytes(reader)
    for one in (fd, reader, writer):
        os.close(one)


@pytest.mark.parametrize("length", [0, 1, PAGE_BYTES - 1, PAGE_BYTES + 8, 3 * PAGE_BYTES])
def test_impossible_length_is_refused(length: int) -> None:
    fd = make_ring_file(4 * PAGE_BYTES)
    with pytest.raises(ValueError, match="power of two"):
        RingMap(fd, length, True)
    os.close(fd)


def test_closed_ring_refuses_instead_of_crashing() -> None:
    fd = make_ring_file(PAGE_BYTES)
    ring = Ring(fd, number=0)
    os.close(fd)
    ring.close()
    ring.close()
    for act in (lambda: ring.drain(Columns(1 << 16), 1), lambda: ring.producer_pos):
        with pytest.raises(ValueError, match="closed"):
            act()


def test_a_full_ring_accepts_records_only_after_a_release() -> None:
    fd = make_ring_file(PAGE_BYTES)
    with KernelWriter(fd) as writer, Ring(fd, number=0) as ring:
        count = 0
        while writer.write(record(declared.KIND_FORK, count)) is not None:
            count += 1
        assert count == PAGE_BYTES // 264
        assert drain_frame(ring, Columns(1 << 16)).count == count
        assert writer.reserve(256) is None
        ring.release(ring.cursor)
        assert writer.reserve(256) is not None
    os.close(fd)


def test_words_check_their_place() -> None:
    memory = bytearray(64)
    words = Words(memory, writable=True)
    words.store64(56, 1 << 60)
    words.store32(4, 7)
    assert (words.load64(56), words.load64(0)) == (1 << 60, 7 << 32)
    for act in (lambda: words.load64(64), lambda: words.load64(4), lambda: words.store32(1 << 40, 1)):
        with pytest.raises(IndexError):
            act()
    with pytest.raises(TypeError):
        Words(bytes(64)).store32(0, 1)
    words.release()
    with pytest.raises(IndexError):
        words.load64(0)

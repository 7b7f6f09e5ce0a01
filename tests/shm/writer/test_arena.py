"""The string arena compared with a dictionary; its ceiling; the state that a successor finds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.shm.check.state import walk_blocks
from pipeline.shm.writer._writer import TableWriter
from tests.sampling import examples
from tests.shm import _inside
from tests.shm.table_host import make_writer

ARENA_BYTES = 64 << 10


@pytest.fixture
def writer(shm_dir: Path) -> Iterator[TableWriter]:
    with make_writer(shm_dir, args_bytes=ARENA_BYTES) as writer:
        yield writer


def blocks_of(writer: TableWriter) -> list[tuple[int, int, int, int]]:
    """(reference, units, length, refcount) of every block of `args`; checks that the blocks tile the arena."""
    arena = writer.args
    blocks, wrong = walk_blocks(np.frombuffer(arena.view(), np.uint8))
    assert not wrong
    assert sum(units for _, units, _, _ in blocks) * 16 + 16 == arena.frontier_bytes
    return blocks


def test_equal_strings_have_one_record(writer: TableWriter) -> None:
    arena = writer.args
    first = arena.py_intern(b"/usr/bin/python3")
    assert arena.py_intern(b"/usr/bin/python3") == first
    assert _inside.intern2(arena, b"/usr/bin", b"/python3") == first
    assert _inside.refcount(arena, first) == 3
    assert arena.py_bytes(first) == b"/usr/bin/python3"
    assert arena.records == 1


def test_reference_0_is_nothing(writer: TableWriter) -> None:
    arena = writer.args
    assert arena.py_intern(b"") == 0
    _inside.hold(arena, 0)
    _inside.release(arena, 0)
    assert arena.py_bytes(0) == b""
    assert arena.used_bytes == 0
    with pytest.raises(IndexError, match="no reference"):
        arena.py_bytes(ARENA_BYTES)


def test_freed_space_is_used_again(writer: TableWriter) -> None:
    arena = writer.args
    first = arena.py_intern(b"a" * 100)
    _inside.release(arena, first)
    assert (arena.used_bytes, arena.records, _inside.find(arena, b"a" * 100)) == (0, 0, 0)
    assert arena.py_intern(b"b" * 99) == first


def test_released_string_that_is_held_twice_stays(writer: TableWriter) -> None:
    arena = writer.args
    ref = arena.py_intern(b"kept")
    _inside.hold(arena, ref)
    _inside.release(arena, ref)
    assert arena.py_bytes(ref) == b"kept"
    assert _inside.find(arena, b"kept") == ref


def test_full_arena_refuses_counts_and_recovers(writer: TableWriter) -> None:
    arena = writer.args
    refs = []
    while ref := arena.py_intern(b"%06d" % len(refs) + b"x" * 250):
        refs.append(ref)
    assert len(refs) > ARENA_BYTES // 320 - 2
    assert arena.full == 1
    assert writer.counter("arena_full") == 1
    assert writer.control_view()[0]["args_allocated_bytes"] == ARENA_BYTES
    for ref in refs:
        _inside.release(arena, ref)
    # 256-byte blocks are free neighbours now: together they have room for a long string.
    long = arena.py_intern(b"y" * 32768)
    assert long
    assert arena.py_bytes(long) == b"y" * 32768
    blocks_of(writer)


def test_a_full_arena_allocates_the_last_free_block_once(writer: TableWriter) -> None:
    arena = writer.args
    for length in (250, 1):  # no room is left, not even for the shortest string
        refs = []
        while ref := arena.py_intern(b"%05d" % len(refs) + b"x" * length):
            refs.append(ref)
    used = arena.used_bytes
    _inside.release(arena, refs[0])
    assert arena.py_intern(b"other!") == refs[0] and arena.used_bytes == used
    assert arena.py_intern(b"nobody") == arena.py_intern(b"y" * 250) == 0
    blocks_of(writer)


def test_string_longer_than_any_block_is_refused(writer: TableWriter) -> None:
    assert writer.args.py_intern(b"x" * (1 << 20)) == 0
    assert _inside.intern2(writer.args, b"x" * (1 << 19), b"y" * (1 << 19)) == 0
    assert writer.args.full == 2


@pytest.mark.parametrize("length", [1, 15, 16, 17, 63, 64, 65, 129, 4095, 4096, 32768, (1 << 20) - 16])
def test_every_length_comes_back(shm_dir: Path, length: int) -> None:
    with make_writer(shm_dir, args_bytes=4 << 20) as writer:
        data = np.random.default_rng(length).integers(0, 256, length, np.uint8).tobytes()
        other = data[:-1] + bytes([data[-1] ^ 1])
        assert writer.args.py_bytes(writer.args.py_intern(data)) == data
        assert writer.args.py_bytes(writer.args.py_intern(other)) == other
        assert writer.args.records == 2


def test_many_strings_are_found_again(shm_dir: Path) -> None:
    """Buckets grow while strings are added, and none is lost during that."""
    with make_writer(shm_dir, args_bytes=16 << 20) as writer:
        arena = writer.args
        refs = [arena.py_intern(b"string %d" % number) for number in range(50_000)]
        assert len(set(refs)) == arena.records == 50_000
        assert all(_inside.find(arena, b"string %d" % number) == ref for number, ref in enumerate(refs))
        for ref in refs[::2]:
            _inside.release(arena, ref)
        assert not any(_inside.find(arena, b"string %d" % number) for number in range(0, 50_000, 2))
        assert all(_inside.find(arena, b"string %d" % number) == refs[number] for number in range(1, 50_000, 2))


def test_growth_is_visible_before_it_is_used(shm_dir: Path) -> None:
    with make_writer(shm_dir, args_bytes=1 << 20) as writer:
        arena, control = writer.args, writer.control_view()[0]
        sizes = {int(control["args_allocated_bytes"])}
        while ref := arena.py_intern(b"%d" % arena.records + b"x" * 2000):
            size = int(control["args_allocated_bytes"])
            assert ref * 16 + 2048 <= size == (shm_dir / "args").stat().st_size
            sizes.add(size)
        assert sorted(sizes) == [256 << 10, 512 << 10, 768 << 10, 1 << 20]


class Model:
    """The expected contents of an arena: a multiset of strings."""

    def __init__(self) -> None:
        self.holders: dict[bytes, int] = {}
        self.refs: dict[bytes, int] = {}


LENGTHS = st.one_of(st.integers(1, 40), st.integers(1, 600), st.sampled_from([1000, 2000, 4000, 9000]))
OPERATIONS = st.lists(
    st.tuples(st.sampled_from(["intern", "intern2", "hold", "release", "drain"]), st.integers(0, 255), LENGTHS),
    min_size=20, max_size=150,
)  # fmt: skip


@settings(max_examples=examples(150), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(operations=OPERATIONS)
def test_arena_behaves_like_a_counted_dictionary(shm_dir: Path, operations: list[tuple[str, int, int]]) -> None:
    with make_writer(shm_dir, args_bytes=32 << 10) as writer:
        arena = writer.args
        model = Model()
        for action, choice, length in operations:
            known = sorted(model.holders)
            if action in ("intern", "intern2"):
                data = bytes([choice % 7]) * length
                cut = choice % (length + 1)
                full = arena.full
                ref = arena.py_intern(data) if action == "intern" else _inside.intern2(arena, data[:cut], data[cut:])
                if ref == 0:
                    assert data not in model.holders
                    assert arena.full == full + 1
                    continue
                assert model.refs.setdefault(data, ref) == ref
                model.holders[data] = model.holders.get(data, 0) + 1
            elif known:
                data = known[choice % len(known)]
                ref = model.refs[data]
                if action == "hold":
                    _inside.hold(arena, ref)
                    model.holders[data] += 1
                    continue
                for _ in range(1 if action == "release" else model.holders[data]):
                    _inside.release(arena, ref)
                    model.holders[data] -= 1
                if not model.holders[data]:
                    del model.holders[data], model.refs[data]
            for data, count in model.holders.items():
                assert arena.py_bytes(model.refs[data]) == data
                assert _inside.refcount(arena, model.refs[data]) == count
        blocks = blocks_of(writer)
        in_use = {ref: refcount for ref, _, _, refcount in blocks if refcount}
        assert in_use == {model.refs[data]: count for data, count in model.holders.items()}
        assert arena.records == len(model.holders)
        assert arena.used_bytes == sum(units * 16 for _, units, _, refcount in blocks if refcount)
        free = sorted(ref for refs in arena.free_blocks().values() for ref in refs)
        assert free == [ref for ref, _, _, refcount in blocks if not refcount]
        for ref, count in in_use.items():
            for _ in range(count):
                _inside.release(arena, ref)
        assert arena.used_bytes == arena.records == 0
        writer.close(remove=True)


def test_successor_finds_the_strings_that_rows_hold_and_frees_the_rest(shm_dir: Path) -> None:
    with make_writer(shm_dir) as writer:
        row = _inside.new_row(writer)
        writer.hot_view()[row]["tgid"] = 7
        writer.hot_view()[row]["flags"] = 1
        writer.py_set_ref("args", row, writer.py_intern_args(b"kept"))
        kept = int(writer.hot_view()[row]["args_ref"])
        writer.py_end(row)
        _inside.set_head(writer, 7, row)
        lost = writer.py_intern_args(b"held by nobody")
    with make_writer(shm_dir) as writer:
        assert writer.is_takeover
        assert _inside.find(writer.args, b"kept") == kept
        assert _inside.refcount(writer.args, kept) == 1
        assert _inside.find(writer.args, b"held by nobody") == 0
        assert lost in [ref for refs in writer.args.free_blocks().values() for ref in refs]

"""Objects of compiled code release what they own: memory, mappings and file descriptors."""

from __future__ import annotations

import ctypes
import gc
import itertools
from collections.abc import Callable
from pathlib import Path

import pytest
import zmq

from pipeline.resolver.apply._applier import Applier
from pipeline.resolver.daemon._turn import FrameReader, Turn
from pipeline.resolver.daemon._waiting import FrameSocket, Openings, TurnWaiter
from pipeline.resolver.merge._merger import Merger
from pipeline.resolver.stream._container_cache import ContainerCache
from pipeline.resolver.stream._encoder import Encoder
from pipeline.resolver.stream._file_cache import FileCache
from pipeline.resolver.stream._name_cache import NameCache, Names
from pipeline.secrets._conceal import Sieve
from pipeline.shm.layout import layout
from pipeline.shm.reader.table import ProcessTable
from pipeline.shm.writer._writer import TableWriter
from tests.resolver.story import BOOT_ID, Story, apply_frame, frame_of, instance, make_tables
from tests.sampling import times
from tests.shm.handmade import Tables

TIMES = times(50, 20)


class _Allocated(ctypes.Structure):
    """`struct mallinfo2`, or the older `struct mallinfo`."""

    _fields_ = [(f"field{number}", ctypes.c_size_t) for number in range(10)]


class _AllocatedBefore(ctypes.Structure):
    _fields_ = [(f"field{number}", ctypes.c_int) for number in range(10)]


def allocated() -> int:
    """Return the bytes that malloc has handed out, without those of small Python objects."""
    libc = ctypes.CDLL(None)
    for name, kind in (("mallinfo2", _Allocated), ("mallinfo", _AllocatedBefore)):
        if hasattr(libc, name):
            function = getattr(libc, name)
            function.restype = kind
            found = function()
            return int(found.field4) + int(found.field7)  # mapped one by one, and from the heap
    pytest.skip("the C library does not say how much memory is in use")


def leaked(make: Callable[[], object]) -> tuple[int, int, int]:
    """Return memory, file descriptors and mappings that are left of each object.

    A dictionary of the interpreter can grow meanwhile, such as that of interned strings. What leaks does so every time.
    """

    def used() -> tuple[int, int, int]:
        gc.collect()
        maps = Path("/proc/self/maps").read_text().count("procline-test-")
        return allocated(), len(list(Path("/proc/self/fd").iterdir())), maps

    def left() -> tuple[int, int, int]:
        before = used()
        for _ in range(TIMES):
            make()
        memory, descriptors, mappings = (
            int((last - first) / TIMES) for first, last in zip(before, used(), strict=True)
        )
        return memory, descriptors, mappings

    for _ in range(3):
        make()
    memory, descriptors, mappings = left()
    if memory or descriptors or mappings:
        memory, descriptors, mappings = map(min, (memory, descriptors, mappings), left())
    return memory, descriptors, mappings


def story_of(tables: TableWriter) -> tuple[Applier, Encoder]:
    story = Story()
    story.begin(1)
    encoder = Encoder(BOOT_ID)
    encoder.topics_mask = 0xFF
    applier = Applier(tables, encoder)
    apply_frame(applier, frame_of([story.fork(1, 10), story.exec(10, b"/bin/a")], ring=0, from_pos=0))
    return applier, encoder


def an_applier(tables: TableWriter) -> None:
    story_of(tables)


def messages(tables: TableWriter) -> None:
    _, encoder = story_of(tables)
    assert encoder.take()


def a_merger(tables: TableWriter) -> None:
    story = Story()
    story.begin(1)
    merger = Merger(4, timed_by_sender=True)
    forks = [story.fork(1, tgid) for tgid in range(10, 60)]
    merger.add(frame_of(forks, ring=0, from_pos=0, watermark_boot_ns=1 << 40))
    merger.advance(1 << 41)
    batch = merger.take(1000)
    assert batch is not None and batch.count == 50
    merger.done(batch)


def names(tables: TableWriter) -> None:
    NameCache(Names({number: f"user{number}" for number in range(100)}), 0, 0)


def caches(tables: TableWriter) -> None:
    ContainerCache()
    FileCache()


@pytest.mark.parametrize("make", [an_applier, messages, a_merger, names, caches])
def test_an_object_that_is_dropped_leaves_nothing(make: Callable[[TableWriter], None]) -> None:
    with instance() as directory, make_tables(directory / "tables") as tables:
        memory, descriptors, _ = leaked(lambda: make(tables))
        assert memory < 512 and not descriptors


def test_a_waiter_that_is_dropped_leaves_nothing() -> None:
    # A thread of ZeroMQ frees what a closed socket had, some time later. So all waiters have the same sockets.
    with zmq.Context() as context, context.socket(zmq.PULL) as pull, context.socket(zmq.XPUB) as stream:

        def make() -> None:
            TurnWaiter(FrameSocket(pull), stream)
            Openings("/dev/shm")

        memory, descriptors, _ = leaked(make)
        assert memory < 512 and not descriptors


def test_a_turn_that_is_dropped_leaves_nothing() -> None:
    rings = 256
    with (
        instance() as directory, make_tables(directory / "tables") as tables,
        zmq.Context() as context, context.socket(zmq.PULL) as pull,
    ):  # fmt: skip
        applier, encoder = story_of(tables)
        merger, frames = Merger(rings, timed_by_sender=True), FrameSocket(pull)
        reader = FrameReader(BOOT_ID, rings, Sieve(None, lambda frame, suspected: frame))

        def make() -> None:
            Turn(
                tables=tables, merger=merger, applier=applier, encoder=encoder, frames=frames, reader=reader,
                positions=None, batch_events=1, evicts=False, send=list, reject=list, follow_up=list,
            )  # fmt: skip

        memory, descriptors, _ = leaked(make)
        assert memory < 512 and not descriptors


def test_closed_tables_leave_nothing() -> None:
    with instance() as directory:
        memory, descriptors, mappings = leaked(lambda: make_tables(directory / "tables").close())
        assert memory < 512 and not descriptors and not mappings


def test_tables_that_are_made_anew_leave_nothing() -> None:
    capacities = itertools.cycle((1024, 2048))
    with instance() as directory:
        made = leaked(lambda: make_tables(directory / "tables", row_capacity=next(capacities)).close())
        assert made[0] < 512 and made[1:] == (0, 0)


def test_a_closed_reader_leaves_nothing() -> None:
    with instance() as directory:
        tables = Tables(directory / "tables")
        tables.row(10)

        def read() -> None:
            with ProcessTable.attach(path=tables.directory) as table:
                assert len(list(table)) == 1
                table.resolve_many([1, 10], fields=("ppid",))

        memory, descriptors, mappings = leaked(read)
        assert memory < 512 and not descriptors and not mappings


def test_a_reader_that_has_kept_words_leaves_nothing() -> None:
    """It keeps them after questions about as many pids as there are rows. Ten readers, because each has little else."""
    with instance() as directory:
        tables = Tables(directory / "tables")
        tables.row(10)
        pids = [10] * len(tables.hot)

        def read() -> None:
            for _ in range(10):
                with ProcessTable.attach(path=tables.directory) as table:
                    table.resolve_many(pids, fields=("ppid",))
                    table.resolve_many(pids, fields=("ppid",))

        memory, descriptors, mappings = leaked(read)
        assert memory < 512 and not descriptors and not mappings


def test_entries_and_copies_of_rows_leave_nothing() -> None:
    """The arguments are too long for the cache of strings that all entries share."""
    with instance() as directory:
        tables = Tables(directory / "tables")
        tables.row(7, args_ref=tables.strings("args", b"a" * 2000), known=layout.KNOWN_ARGS)
        with ProcessTable.attach(path=tables.directory) as table:

            def load() -> None:
                entry = table.resolve(7)
                assert entry is not None and len(entry.load().argv or ()) == 1

            def copy() -> None:
                entry = table.copies(kinds=0xFF, cold=True).entry(0)
                assert len(entry.argv or ()) == 1

            assert leaked(load)[0] < 128 and leaked(copy)[0] < 128


def test_damaged_tables_that_are_replaced_leave_nothing() -> None:
    with instance() as directory:

        def replace() -> None:
            with make_tables(directory / "tables") as tables:
                tables.index_view()[7] = 5

        memory, descriptors, mappings = leaked(replace)
        assert memory < 512 and not descriptors and not mappings

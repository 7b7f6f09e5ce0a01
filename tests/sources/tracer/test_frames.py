"""Frames of a tracer in a container, from its sender through the tracers' ring to the rows."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.bus.frames.frame import Frame, FrameEncoder, decode_frame, decode_frames
from pipeline.bus.stream.messages import Decoder, unpack_events
from pipeline.client.frame_sender import FrameSender
from pipeline.host import boot
from pipeline.host.boot import TICK_NS
from pipeline.procfs.info import ProcInfo
from pipeline.records import declared, dtypes
from pipeline.resolver.apply._applier import Applier
from pipeline.resolver.merge.keyed_frames import KeyedFrames
from pipeline.resolver.stream._encoder import Encoder
from pipeline.shm.layout import layout
from pipeline.shm.reader._entry import Entry
from pipeline.shm.reader._reader import TableReader
from pipeline.shm.writer._opening import open_tables
from pipeline.shm.writer._writer import TableWriter
from pipeline.shm.writer.keyspace import KeySpace
from pipeline.sources.proc_connector import proc_records
from pipeline.sources.proc_connector.proc_records import About
from pipeline.sources.ring._drain import Columns
from pipeline.sources.ring._ring import Ring
from pipeline.sources.ring.handring import RingWriter, make_ring_file
from pipeline.sources.tracer.source import TracerFrames
from tests.sources.hand_records import BOOT_ID

BOOT_UNIX_NS = 1_700_000_000_000_000_000
NOW = 1 << 40


def info(pid: int, ppid: int, nsid: int, argv: bytes = b"a\0-v\0", uid: int = 0) -> ProcInfo:
    return ProcInfo(
        tgid=pid, ppid=ppid, start_ticks=1, start_boot_ns=TICK_NS, comm=b"a", state="S", task_flags=0, thread_count=1,
        pgid=pid, sid=pid, tty=b"pts1", uids=(uid, uid, uid, uid), gids=(0, 0, 0, 0), exe=b"/bin/a", argv=argv,
        exe_inode=9, pid_ns=nsid, mnt_ns=1, ns_pids=(pid,),
    )  # fmt: skip


def about(pid: int, time_ns: int, ppid: int = 0) -> About:
    return About(time_ns, pid, pid, TICK_NS, ppid=ppid)


class Bench:
    """A sender, the source's ring, and tables."""

    def __init__(self, tables: TableWriter, ring_bytes: int = 1 << 20, container_id: str = "c") -> None:
        self.tables = tables
        self.messages: list[bytes] = []
        self.sender = FrameSender(
            self.messages.append, boot_id=BOOT_ID, name="hand", ring=3, container_id=container_id
        )  # fmt: skip
        self.ring_fd = make_ring_file(ring_bytes)
        self.writer = RingWriter(self.ring_fd)
        self.ring = Ring(self.ring_fd, number=0, cpus=(0,))
        self.lost = 0
        self.source = TracerFrames(
            lambda: self.messages.pop(0) if self.messages else None, self.writer, self._lose, lambda: NOW
        )
        self.keyed = KeyedFrames(tables, KeySpace(tables, lambda: NOW))
        self.applier = Applier(tables)
        self.reader = TableReader(tables.directory)

    def _lose(self, count: int) -> None:
        self.lost += count

    def send(self, *records: bytes) -> int:
        """Send records and apply the resulting ones; return how many reached the rows."""
        self.sender.send(records)
        return self.apply()

    def apply(self) -> int:
        before = self.tables.counter("malformed")
        self.source.pump(100)
        columns = Columns(1 << 20)
        from_pos = self.ring.cursor
        self.ring.drain(columns, 100)
        message = FrameEncoder(boot_id=BOOT_ID, source="tracer").encode(
            ring=0, seq=0, from_pos=from_pos, to_pos=self.ring.cursor, count=columns.count, lost={}, **columns.views()
        )
        done = 0
        for frame in decode_frames(self.keyed.message(message)):
            done += self._apply_frame(frame)
        self.ring.release(self.ring.cursor)
        return done - (self.tables.counter("malformed") - before)

    def _apply_frame(self, frame: Frame) -> int:
        bodies = {kind: iter(getattr(frame, declared.KIND_NAMES[kind])) for kind in dtypes.BODIES}
        at = 0
        for header, task in zip(frame.header, frame.task, strict=True):
            kind, length = int(header["kind"]), int(header["var_bytes"])
            body = next(bodies[kind]).tobytes() if kind in bodies else None
            self.applier.apply_records(header.tobytes(), task.tobytes(), body, bytes(frame.blob[at : at + length]))
            at += length
        return int(frame.count)

    def entry(self, pid: int, nsid: int) -> Entry | None:
        entry = self.reader.resolve(pid, pid_ns=nsid)
        return None if entry is None else entry.load()


@pytest.fixture
def tables() -> Iterator[TableWriter]:
    directory = Path(tempfile.mkdtemp(prefix="procline-test-", dir="/dev/shm"))
    with open_tables(
        directory, boot_id=BOOT_ID, capture_id=1, ring_count=1, row_capacity=4096, pid_capacity=1024,
        chunk_rows=4096, key_capacity=1024, names_bytes=1 << 20, args_bytes=1 << 20, envs_bytes=1 << 20,
        boot_unix_ns=BOOT_UNIX_NS, retention_ns=10**12,
    ) as writer:  # fmt: skip
        writer.set_state(layout.STATE_READY)
        yield writer
    shutil.rmtree(directory)


@pytest.fixture
def bench(tables: TableWriter) -> Iterator[Bench]:
    bench = Bench(tables)
    yield bench
    bench.ring.close()
    bench.writer.close()
    os.close(bench.ring_fd)


def test_frames_are_those_of_every_source() -> None:
    frames: list[Frame] = []
    sender = FrameSender(lambda message: frames.append(decode_frame(message)), boot_id=BOOT_ID, name="hand", ring=3)
    sender.send(
        [proc_records.fork(about(7, 100, 1), info(7, 1, 50)), proc_records.exec_(about(7, 200), info(7, 1, 50))]
    )
    sender.send([proc_records.unknown(about(7, 250), declared.KIND_EXEC)], watermark_boot_ns=240, lost=2)
    first, second = frames
    assert (first.source, first.ring, first.count, first.frame_seq) == ("hand", 3, 2, 0)
    assert second.from_pos == first.to_pos and second.frame_seq == 1
    assert second.watermark_boot_ns == 240 and second.lost == {"unknown": 2}


def test_a_life_in_a_container(bench: Bench) -> None:
    assert bench.send(proc_records.exec_(about(1, TICK_NS), info(1, 0, 50, uid=1000))) == 1
    init = bench.entry(1, 50)
    assert init is not None and (init.source, init.uid, init.is_exec) == ("procfs_snapshot", 1000, False)
    assert "before_capture" in init.marks and not init.is_parent_missing

    bench.send(proc_records.fork(about(7, 2 * TICK_NS, 1), info(7, 1, 50)))
    child = bench.entry(7, 50)
    assert child is not None and child.ppid == 1 and child.fork_time_ns == BOOT_UNIX_NS + 2 * TICK_NS
    assert child.parent_entity_id == init.entity_id and child.argv == ["a", "-v"] and child.container_id == "c"

    bench.send(proc_records.exec_(about(7, 3 * TICK_NS), info(7, 1, 50, b"b\0secret\0")))
    image = bench.entry(7, 50)
    assert image is not None and image.is_exec and image.argv == ["b", "secret"]
    assert (image.path, image.tty, image.container_id) == ("/bin/a", "pts1", "c")
    assert [(one.pid, one.row) for one in bench.reader.ancestors(image)] == [(7, child.row), (1, init.row)]

    bench.send(proc_records.exit_(about(7, 4 * TICK_NS), 256, info(7, 1, 50)))
    gone = bench.entry(7, 50)
    assert gone is not None and gone.is_exited and gone.exit_cause_code == 1
    assert gone.exit_time_ns == BOOT_UNIX_NS + 4 * TICK_NS


def test_one_pid_in_two_namespaces_is_two_processes(bench: Bench) -> None:
    bench.send(proc_records.exec_(about(1, 5), info(1, 0, 50, b"x\0")), proc_records.exec_(about(1, 5), info(1, 0, 51)))
    one, other = bench.entry(1, 50), bench.entry(1, 51)
    assert one is not None and other is not None and one.row != other.row and one.entity_id != other.entity_id
    assert (one.argv, other.argv) == (["x"], ["a", "-v"])


def test_a_change_of_users_changes_the_entry(bench: Bench) -> None:
    bench.send(proc_records.exec_(about(7, 5), info(7, 1, 50)))
    groups = proc_records.known_groups(info(7, 1, 50, uid=33))
    bench.send(proc_records.change(about(7, 6), declared.KIND_CRED, info(7, 1, 50, uid=33), groups))
    entry = bench.entry(7, 50)
    assert entry is not None and (entry.uid, entry.euid, entry.ppid) == (33, 33, 1)


def test_numbers_of_the_daemons_own_namespace_are_pids(bench: Bench) -> None:
    own = Path("/proc/self/ns/pid").stat().st_ino
    bench.send(proc_records.exec_(about(1, 5), info(1, 0, own)), proc_records.fork(about(7, 9, 1), info(7, 1, own)))
    entry = bench.reader.resolve(7)
    assert entry is not None and (entry.pid, entry.ppid, entry.is_foreign, entry.container_id) == (7, 1, False, "c")
    assert bench.entry(7, own) == entry and bench.tables.keys.used == 0
    bench.send(proc_records.fork(about(2000, 10, 1), info(2000, 1, own)))  # beyond the index
    assert bench.keyed.skipped_total == 1


def test_without_a_namespace_nothing_is_applied(bench: Bench) -> None:
    assert bench.send(proc_records.fork(about(7, 5, 1)), proc_records.comm(about(7, 6), b"x")) == 0
    assert bench.send(proc_records.unknown(about(7, 6), declared.KIND_EXEC)) == 0
    assert bench.source.refused_total == 3 and bench.source.refusal and bench.tables.heads_live == 0


def test_an_unknown_start_is_that_of_the_first_record(bench: Bench) -> None:
    def told(time_ns: int) -> About:
        return About(time_ns, 7, 7, 0, ppid=1)

    bench.send(proc_records.fork(told(100), info(7, 1, 50)), proc_records.exec_(told(200), info(7, 1, 50)))
    first = bench.entry(7, 50)
    assert first is not None and first.start_time_ns == BOOT_UNIX_NS + 100 and first.image_number == 2
    bench.send(proc_records.exit_(told(300), 0, info(7, 1, 50)), proc_records.fork(told(400), info(7, 1, 50)))
    second = bench.entry(7, 50)
    assert second is not None and second.start_time_ns == BOOT_UNIX_NS + 400 and not second.is_exited
    # A successor reads it from the rows; the record's own time is in another tick.
    bench.keyed = KeyedFrames(bench.tables, KeySpace(bench.tables, lambda: NOW))
    bench.send(proc_records.exec_(told(2 * TICK_NS), info(7, 1, 50)))
    third = bench.entry(7, 50)
    assert third is not None and third.start_time_ns == second.start_time_ns and third.image_number == 2


def test_records_that_a_tracer_may_not_send(bench: Bench) -> None:
    """A time in the future becomes now, flags reserved for the resolver are removed, malformed frames are refused."""
    header = bytearray(proc_records.exec_(about(7, NOW * 2), info(7, 1, 50)))
    header[37] |= declared.FLAG_KEYED
    bench.send(bytes(header))
    entry = bench.entry(7, 50)
    assert entry is not None and entry.exec_time_ns == BOOT_UNIX_NS + NOW
    bench.messages.append(b"\xc1")
    assert bench.apply() == 0 and bench.source.refused_total == 1


def test_losses_are_counted_once(bench: Bench) -> None:
    for lost in (2, 2, 5):
        bench.sender.send([], lost=lost)
        bench.apply()
    assert bench.lost == 5
    bench.send(proc_records.exec_(about(7, 5), info(7, 1, 50, argv=b"x" * 200_000 + b"\0")))
    assert bench.lost == 6


def test_a_full_ring_keeps_the_rest(tables: TableWriter) -> None:
    bench = Bench(tables, ring_bytes=4096)
    records = [proc_records.fork(about(pid, 100 + pid, 1), info(pid, 1, 50)) for pid in range(2, 42)]
    bench.sender.send(records)
    done = bench.apply()
    assert 0 < done < 40 and bench.source.is_full
    # A record in the ring must not wait for a record that has no room in the ring.
    assert bench.source.complete_boot_ns > bench.source.last_boot_ns
    while bench.source.is_full:
        done += bench.apply()
    assert done == 40 and tables.heads_live == 40
    bench.ring.close()
    bench.writer.close()
    os.close(bench.ring_fd)


def test_events_have_the_numbers_of_the_namespace(bench: Bench) -> None:
    encoder = Encoder(BOOT_ID)
    encoder.topics_mask = 0xFF
    bench.applier = Applier(bench.tables, encoder)
    bench.send(proc_records.exec_(about(1, 5), info(1, 0, 50)), proc_records.fork(about(7, 9, 1), info(7, 1, 50)))
    bench.send(proc_records.exit_(about(7, 11), 0, info(7, 1, 50)))
    decoder = Decoder()
    told = [event for part in encoder.take() for event in unpack_events(decoder, bytes(part.body), part.count)]
    told.sort(key=lambda event: event["order"])
    init, fork, exit_ = told
    assert [(event["event"], event["pid"], event["tid"], event["ppid"]) for event in told] == [
        ("exec", 1, 1, 0), ("fork", 7, 7, 1), ("exit", 7, 7, 1),
    ]  # fmt: skip
    assert all("foreign" in event["marks"] and event["pid_ns"] == 50 for event in told)
    assert init["entity_id"] == boot.entity_id(BOOT_ID, 1, TICK_NS, 50)
    assert fork["parent_entity_id"] == init["entity_id"] == exit_["lineage"][0]["entity_id"]
    assert exit_["lineage"][0]["pid"] == 1 and fork["entity_id"] == bench.entry(7, 50).entity_id  # type: ignore[union-attr]


def test_messages_without_records_are_work_too(bench: Bench) -> None:
    for _ in range(300):
        bench.sender.send([])
    assert bench.source.pump(100) == 100 and len(bench.messages) == 200
    assert not bench.source.complete_boot_ns  # there is more, so nothing is complete
    bench.source.pump(1000)
    assert bench.source.complete_boot_ns and not bench.messages

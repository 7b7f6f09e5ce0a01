"""The decoders that are fuzzed: for each, valid inputs to begin with, and what must hold for any input.

A check returns whether the input was accepted. It raises an exception only if the decoder did something wrong.
"""

from __future__ import annotations

import atexit
import errno
import json
import os
import shutil
import struct
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from pipeline.bus import requests
from pipeline.bus.context_events import decode_context
from pipeline.bus.frames.frame import decode_frames
from pipeline.bus.stream._blocks import BLOCK_HEADER_BYTES, BLOCK_MAGIC
from pipeline.bus.stream.journal import FILE_HEADER_BYTES, JournalReader, Source
from pipeline.bus.stream.messages import MAJOR, Header
from pipeline.bus.stream.tracker import Tracker
from pipeline.cli.horizon import horizon
from pipeline.config.loading import load
from pipeline.errors import ConfigError, FrameError, ProclineError
from pipeline.procfs.containers import container_of_cgroups
from pipeline.procfs.info import UNSET
from pipeline.procfs.mountinfo import mounts_of, unescape
from pipeline.procfs.proc_reader import WANT_ALL, ProcReader
from pipeline.procfs.tracer_metadata import decode_tracer_metadata
from pipeline.procfs.users import parse_names
from pipeline.records import events
from pipeline.shm.layout import layout
from pipeline.shm.layout.declared import TOPICS
from pipeline.shm.reader import control as control_fields
from pipeline.shm.reader.table import ProcessTable
from pipeline.shm.writer.segments import SEGMENTS
from pipeline.sources.recording.file import Recording, RecordingWriter
from pipeline.sources.ring._acks import ControlAcks
from pipeline.sources.ring._drain import Columns
from pipeline.sources.ring._ring import PAGE_BYTES, Ring
from pipeline.sources.ring.handring import RingWriter, make_ring_file
from pipeline.supervisor.vitals import read_vitals
from tests.bus.frames import frame_samples
from tests.sources import hand_records

ROOT = Path(__file__).parents[2]
CORPUS = Path(__file__).parent / "corpus"

Check = Callable[[bytes], bool]


@dataclass(frozen=True)
class Target:
    """A decoder.

    Attributes:
        name: on the command line, and of the file in `corpus`.
        seeds: makes the valid inputs from which others are made.
        check: decodes an input, and raises an error if something is wrong.
        is_cheap: an input takes microseconds, so ten million of them are possible.
    """

    name: str
    seeds: Callable[[], list[bytes]]
    check: Check
    is_cheap: bool = True

    def corpus(self) -> list[bytes]:
        """Return the inputs that are kept, and the seeds."""
        file = CORPUS / f"{self.name}.hex"
        kept = [bytes.fromhex(line) for line in file.read_text().split()] if file.exists() else []
        return [*self.seeds(), *kept]


@cache
def scratch() -> Path:
    """Return a folder in memory for the targets that read files.

    Engines end the process in ways that skip its last steps, so folders of earlier runs are removed here.
    """
    for old in Path("/dev/shm").glob("procline-fuzz-*"):
        if not Path("/proc", old.name.split("-")[2]).exists():
            shutil.rmtree(old, ignore_errors=True)
    made = Path(tempfile.mkdtemp(prefix=f"procline-fuzz-{os.getpid()}-", dir="/dev/shm"))
    atexit.register(_remove, made, os.getpid())
    return made


def _remove(made: Path, owner: int) -> None:
    if os.getpid() == owner:
        shutil.rmtree(made, ignore_errors=True)


# -- messages ----------------------------------------------------------------------------------------------------------


def _frames() -> list[bytes]:
    good = [frame_samples.example().message(), frame_samples.family().message()]
    return [*good, b"".join(good)]


def check_frames(data: bytes) -> bool:
    """A message of a source is rejected, or the columns of its frames are consistent."""
    try:
        frames = decode_frames(data)
    except FrameError:
        return False
    for frame in frames:
        frame_samples.assert_consistent(frame)
    return True


def _context() -> list[bytes]:
    from pipeline.bus.context_events import KINDS, REQUIRED, ContextEvent, encode_context

    made = []
    for kind in sorted(KINDS):
        body = {name: _value(KINDS[kind][name], name) for name in KINDS[kind]}
        least = {name: body[name] for name in REQUIRED[kind]}
        made += [
            encode_context([ContextEvent(kind=kind, pid=5, body=each)], boot_id=bytes(16), source="agent")
            for each in (body, least)
        ]
    return made


def _value(kind: object, name: str) -> object:
    if name == "expiration":
        return "2026-01-01T00:00:00Z"
    if isinstance(kind, tuple):
        return kind[0]
    return {str: "text", list: ["one", "two"], dict: {"key": ["value"]}}[kind]  # type: ignore[index]


def check_context(data: bytes) -> bool:
    """A message of an agent is rejected, or it has events with a pid."""
    try:
        message = decode_context(data)
    except FrameError:
        return False
    assert message.events and all(event.pid > 0 for event in message.events)
    return True


def _questions() -> list[bytes]:
    answer = requests.Answer(pid=5, found=True, how="procfs", reason="", row=7, generation=3, start_ns=1)
    return [requests.encode_request(5), requests.encode_request(5, fresh=True), requests.encode_answer(answer)]


def check_questions(data: bytes) -> bool:
    """A question, and an answer, is rejected or is about a pid."""
    accepted = False
    for decode in (requests.decode_request, requests.decode_answer):
        try:
            decoded = decode(data)
        except FrameError:
            continue
        assert 0 <= decoded.pid <= requests.PID_MAX
        accepted = True
    return accepted


def _golden() -> list[tuple[bytes, bytes, bytes]]:
    found = json.loads((ROOT / f"tests/bus/stream/golden/{MAJOR}.0.json").read_text())
    return [(each["topic"].encode(), bytes.fromhex(each["header"]), bytes.fromhex(each["body"])) for each in found]


def _headers() -> list[bytes]:
    return [header for _, header, _ in _golden()]


def check_header(data: bytes) -> bool:
    """A header of the stream is rejected, or comes back if it is packed again."""
    try:
        header = Header.parse(data)
    except FrameError:
        return False
    assert Header.parse(header.pack()) == header
    return True


_TOPICS = [topic.encode() for topic in TOPICS]
_SIZES = struct.Struct("<BHH")


def _stream() -> list[bytes]:
    """Return messages one after another: number of the topic, sizes of header and body, and these two."""
    packed = []
    for topic, header, body in _golden():
        number = _TOPICS.index(topic) if topic in _TOPICS else 255
        packed.append(_SIZES.pack(number, len(header), len(body)) + header + body)
    return [*packed, b"".join(packed)]


def messages_in(data: bytes) -> Iterator[tuple[bytes, bytes, bytes]]:
    """Yield the messages of an input of `stream`; sizes that are too large mean what is left."""
    at = 0
    while len(data) - at >= _SIZES.size:
        number, header_bytes, body_bytes = _SIZES.unpack_from(data, at)
        begin = at + _SIZES.size
        body = begin + header_bytes
        topic = _TOPICS[number] if number < len(_TOPICS) else b"sys.other"
        yield topic, data[begin:body], data[body : body + body_bytes]
        at = body + body_bytes


def check_stream(data: bytes) -> bool:
    """A publisher can send anything: messages are rejected and counted, or become events."""
    tracker = Tracker((1 << len(TOPICS)) - 1)
    accepted = False
    for message in messages_in(data):
        try:
            events = tracker.feed(*message)
        except FrameError as error:  # another major version; anything else is counted in `refused`
            assert type(error).__name__ == "StreamVersionError"
            continue
        for event in events:
            assert event["seq"] is None or type(event["seq"]) is int
        accepted = accepted or bool(events)
    tracker.flush()
    assert all(count > 0 for count in tracker.missed.values())
    return accepted


def _journals() -> list[bytes]:
    """Return journals behind a byte that says which checksums are made right: bit 0 that of the file, bit 1 blocks'."""
    whole = (ROOT / "tests/bus/stream/golden/journal.bin").read_bytes()
    body = whole[FILE_HEADER_BYTES:]
    short = bytes([3]) + whole
    return [short, bytes([0]) + whole, short + body, short + bytes(3000) + body]


class _Bytes(Source):
    def __init__(self, data: bytearray) -> None:
        self._data = data

    def read(self, count: int, offset: int) -> bytes:
        return bytes(self._data[offset : offset + count])


def check_journal(data: bytes) -> bool:
    """A journal that a subscriber reads: blocks are skipped, or their messages are decoded like those of the stream."""
    fixed, journal = data[:1], bytearray(data[1:])
    if fixed and fixed[0] & 1 and len(journal) >= 44:
        journal[40:44] = zlib.crc32(journal[:40]).to_bytes(4, "little")
    if fixed and fixed[0] & 2:
        for at in range(FILE_HEADER_BYTES, len(journal) - BLOCK_HEADER_BYTES + 1, 64):
            if journal[at : at + 4] == BLOCK_MAGIC.to_bytes(4, "little"):
                size = int.from_bytes(journal[at + 16 : at + 20], "little")
                body = journal[at + BLOCK_HEADER_BYTES : at + min(size, len(journal))]
                journal[at + 20 : at + 24] = zlib.crc32(body).to_bytes(4, "little")
                header = journal[at + 8 : at + BLOCK_HEADER_BYTES]
                journal[at + 4 : at + 8] = zlib.crc32(header).to_bytes(4, "little")
    reader = JournalReader(_Bytes(journal))
    assert all(kept >= 0 for kept in reader.read_kept())
    accepted = False
    tracker = Tracker((1 << len(TOPICS)) - 1)
    for stream in (0, 7):
        reader.seek(stream, [1] * len(TOPICS), 3)
        for number, _ in enumerate(reader.blocks()):
            assert number <= len(journal) // 64, "the same blocks again and again"
        reader.seek(stream, [1] * len(TOPICS), 3)
        for _ in range(len(journal) // 64 + 2):
            found = reader.read()
            if found is None:
                break
            accepted = True
            for topic, header, body in found[1]:
                try:
                    tracker.feed(_TOPICS[topic] if topic < len(_TOPICS) else b"sys.other", header, body)
                except FrameError as error:
                    assert type(error).__name__ == "StreamVersionError"
        else:
            raise AssertionError("the journal has no end")
    return accepted


# -- files -------------------------------------------------------------------------------------------------------------


def _recordings() -> list[bytes]:
    path = scratch() / "seed.rec"
    path.unlink(missing_ok=True)
    with RecordingWriter(path, boot_id=bytes(16), boot_unix_ns=1) as writer:
        for message in _frames():
            writer.write(message)
    whole = path.read_bytes()
    # Of the header, what does not depend on the time of the test.
    whole = whole[:40] + bytes(8) + whole[48:]
    return [whole, whole[:64]]


def check_recording(data: bytes) -> bool:
    """A recording is rejected, or all frames before the damage are readable."""
    path = scratch() / "fuzzed.rec"
    path.write_bytes(data)
    try:
        for message in Recording(path):
            check_frames(bytes(message))
    except (FrameError, ConfigError):
        return False
    return True


def _settings() -> list[bytes]:
    example = (ROOT / "docs/procline.toml").read_bytes()
    short = b'[log]\nlevel = "debug"\n[capture]\nring_bytes = 1048576\n[args]\nshow = "raw"\n'
    # One setting of each section, so that an input stays small.
    lines = [line for line in example.split(b"\n") if line and not line.startswith((b"#", b" "))]
    return [short, b"\n".join(lines)[:2000], b'[tables]\nchunk_rows = 64\n[envs]\nlisted = ["PATH", "HOME"]\n']


def check_toml(data: bytes) -> bool:
    """A file of settings is rejected with the name of the file, or is a configuration."""
    path = scratch() / "procline.toml"
    path.write_bytes(data)
    try:
        load(path, environ={})
    except ConfigError as error:
        assert str(error)
        return False
    return True


# -- /proc -------------------------------------------------------------------------------------------------------------

#: What a process can choose in the files of its own folder, and the bytes that the kernel does not let it use there.
_PARTS = ("comm", "cgroup", "cmdline", "environ", "mount")
_FORBIDDEN = {"comm": b"\0", "cgroup": b"\0\n", "mount": b"\0\n \t\\"}
_PID, _PPID, _START = 4242, 17, 987654


def _processes() -> list[bytes]:
    long_id = b"a1" * 32
    return [
        b"\xff".join(parts)
        for parts in (
            (b"bash", b"/user.slice", b"bash\0-l\0", b"HOME=/\0PATH=/bin\0", b"/mnt"),
            (b") R 1 1 (", b"/docker/" + long_id, b"\0\0", b"A\0=\0", b"/a\xc3\xa4"),
            (b"x\nUid:\t0", b"/0::/", b"a" * 300, b"", b"/x - ext4"),
        )
    ]


@cache
def _reader() -> tuple[ProcReader, Path]:
    proc = scratch() / "proc"
    (proc / str(_PID) / "ns").mkdir(parents=True)
    (proc / "self").mkdir()
    for name in ("user", "mnt", "net", "pid"):
        (proc / str(_PID) / "ns" / name).symlink_to(f"{name}:[4026531{len(name)}]")
    (proc / str(_PID) / "exe").symlink_to("/bin/true")
    (proc / str(_PID) / "root").symlink_to("/")
    (proc / str(_PID) / "loginuid").write_text("4294967295")
    return ProcReader(str(proc)), proc / str(_PID)


def check_proc(data: bytes) -> bool:
    """Whatever a process puts into its name, cgroup, arguments and environment: the facts beside them stay right."""
    parts = dict(zip(_PARTS, [*data.split(b"\xff", len(_PARTS) - 1), *[b""] * len(_PARTS)], strict=False))
    for name, forbidden in _FORBIDDEN.items():
        parts[name] = parts[name].translate(None, forbidden)
    comm = parts["comm"][:15]
    reader, folder = _reader()
    numbers = [b"S", b"%d" % _PPID, b"17", b"17", b"0", b"-1", b"4194304", *[b"0"] * 10, b"1", b"20", b"%d" % _START]
    numbers = [*numbers[:19], b"%d" % _START, *[b"0"] * 32]
    (folder / "stat").write_bytes(b"%d (%s) %s\n" % (_PID, comm, b" ".join(numbers)))
    escaped = comm.replace(b"\\", b"\\\\").replace(b"\n", b"\\n")
    (folder / "status").write_bytes(
        b"Name:\t%s\nUid:\t1\t2\t3\t4\nGid:\t5\t6\t7\t8\nNSpid:\t%d\t9\nCapPrm:\t0f\nCapEff:\t0e\n" % (escaped, _PID)
    )
    (folder / "cgroup").write_bytes(b"3:cpu:/%s\n0::/%s\n" % (parts["cgroup"], parts["cgroup"]))
    (folder / "cmdline").write_bytes(parts["cmdline"])
    (folder / "environ").write_bytes(parts["environ"])
    mount = b"22 1 8:1 /%s /%s rw - ext4 /dev/%s rw\n" % ((parts["mount"],) * 3)
    (folder / "mountinfo").write_bytes(mount)
    info = reader.read(_PID, WANT_ALL)
    assert info is not None
    assert (info.ppid, info.start_ticks, info.state, info.comm) == (_PPID, _START, "S", comm)
    assert (info.uids, info.gids, info.cap_effective) == ((1, 2, 3, 4), (5, 6, 7, 8), 14)
    assert (info.ns_pids, info.auid, info.audit_session) == ((_PID, 9), UNSET, UNSET)
    assert info.cgroup is not None and info.cgroup_path == (b"/" + parts["cgroup"]).removesuffix(b" (deleted)")
    assert info.argv is None or info.argv.endswith(b"\0")
    container_of_cgroups(info.cgroup)
    (fields, tail) = next(mounts_of(mount))
    assert (fields[0], fields[2], tail.split(b" ")[0]) == (b"22", b"8:1", b"ext4")
    unescape(fields[4])
    return True


def _texts() -> list[bytes]:
    return [b"root:x:0:0:root:/root:/bin/bash\ndaemon:x:1:1::/:\n", b"audio:x:29:alice,bob\n+::::\n"]


def check_names(data: bytes) -> bool:
    """A container writes its own /etc/passwd: each name belongs to a number of 32 bits."""
    found = parse_names(data)
    assert all(0 <= number < 1 << 32 and name for number, name in found.items())
    return bool(found)


def _metadata() -> list[bytes]:
    import msgpack

    full = {
        "schema_version": 2, "runtime_id": "ab-12", "tracer_language": "python", "tracer_version": "1.2.3",
        "hostname": "h", "service_name": "web", "service_env": "prod", "service_version": "1",
        "process_tags": "a:b", "container_id": "c",
    }  # fmt: skip
    return [msgpack.packb(full), msgpack.packb({"schema_version": 1})]


def check_metadata(data: bytes) -> bool:
    """The memfd of a tracing library is rejected, or it is metadata."""
    try:
        decode_tracer_metadata(data)
    except FrameError:
        return False
    return True


# -- rings -----------------------------------------------------------------------------------------------------------

_DATA_AT = 2 * PAGE_BYTES


@cache
def _ring() -> tuple[int, bytes]:
    """Return a ring in a file, and its bytes: a record of each kind in a page of data."""
    fd = make_ring_file(PAGE_BYTES)
    with RingWriter(fd) as writer:
        for kind in range(1, events.KIND_COUNT):
            writer.write(hand_records.record(kind, kind, strings=hand_records.strings_of(kind, kind)))
    return fd, os.pread(fd, _DATA_AT + PAGE_BYTES, 0)


def _rings() -> list[bytes]:
    """Return the position of the producer and the data."""
    whole = _ring()[1]
    return [whole[PAGE_BYTES : PAGE_BYTES + 8] + whole[_DATA_AT:]]


def check_ring(data: bytes) -> bool:
    """Whatever is in a ring: draining ends, and its records are a frame that the resolver accepts."""
    fd, _ = _ring()
    fuzzed = data[8 : 8 + PAGE_BYTES].ljust(PAGE_BYTES, b"\0")
    os.pwrite(fd, bytes(8), 0)
    os.pwrite(fd, data[:8].ljust(8, b"\0"), PAGE_BYTES)
    os.pwrite(fd, fuzzed, _DATA_AT)
    accepted = False
    with Ring(fd, number=0) as ring:
        columns = Columns(1 << 16)
        for _ in range(PAGE_BYTES // 8):
            before = ring.cursor
            frame = hand_records.drain_frame(ring, columns)
            frame_samples.assert_consistent(frame)
            accepted = accepted or frame.count > 0
            if ring.cursor == before:
                break
        else:
            raise AssertionError("a ring that is never empty")
    return accepted


# -- tables ------------------------------------------------------------------------------------------------------------

_CHANGE = struct.Struct("<BIB")


@contextmanager
def _own_errors() -> Iterator[None]:
    """Accept Procline's errors, and that a mapping needs more address space than the fuzzer allows itself."""
    try:
        yield
    except ProclineError:
        pass
    except OSError as error:
        if error.errno != errno.ENOMEM:
            raise


@cache
def _table() -> tuple[Path, list[np.memmap], object]:
    """Return the folder of some tables, their files, and the writer, which must stay open."""
    from tests.shm.table_host import Host, make_writer

    folder = scratch() / "table"
    folder.mkdir(mode=0o755)
    writer = make_writer(folder, row_capacity=64, chunk_rows=64, pid_capacity=128)
    host = Host(writer)
    host.fork(0, 1)
    for pid in range(2, 20):
        host.fork(pid // 2, pid)
        host.exec(pid, b"sh", b"\x08\0\0\0sh\0" + b"x" * pid)
    host.exit(9)
    writer.set_state(layout.STATE_READY)
    writer.heartbeat(time.clock_gettime_ns(time.CLOCK_BOOTTIME))
    files = sorted(path for path in folder.iterdir() if path.is_file() and path.stat().st_size)
    return folder, [np.memmap(path, np.uint8, "r+") for path in files], writer


def _damages() -> list[bytes]:
    return [b"".join(_CHANGE.pack(n, 1000 * k + n, 255) for k in range(3)) for n in range(8)]


def change(segment: str, offset: int, value: int) -> bytes:
    """Return the input of `check_segments` that changes one byte of a segment."""
    folder, _, _ = _table()
    names = sorted(path.name for path in folder.iterdir() if path.is_file() and path.stat().st_size)
    return _CHANGE.pack(names.index(segment), offset, value)


def check_segments(data: bytes) -> bool:
    """Any bytes of the tables are changed: readers get answers or errors of their own, in bounded time."""
    folder, maps, _ = _table()
    undo = []
    for segment, offset, value in _CHANGE.iter_unpack(data[: len(data) // _CHANGE.size * _CHANGE.size][:600]):
        mapped = maps[segment % len(maps)]
        at = offset % len(mapped)
        undo.append((mapped, at, int(mapped[at])))
        mapped[at] ^= value
    begin = time.process_time()
    accepted = False
    try:
        with _own_errors(), ProcessTable.attach(path=folder, max_age_ms=1 << 31) as table:
            accepted = _read_all(table, _READS)
    finally:
        for mapped, at, before in reversed(undo):
            mapped[at] = before
    assert time.process_time() - begin < 10
    return accepted


def _all_entries(table: ProcessTable) -> None:
    for entry in table.walk(exited=True):
        entry.to_dict()
        assert entry.pid >= 0


_READS: tuple[Callable[[ProcessTable], object], ...] = (
    lambda table: [table.resolve(pid) for pid in range(1, 25)],
    lambda table: [each.to_dict() for each in table.ancestors(19)],
    lambda table: table.children(2),
    _all_entries,
    lambda table: table.rows(exited=True),
    lambda table: table.resolve_many(np.arange(1, 25)),
    lambda table: table.ancestor_pids_many(np.arange(1, 25)),
    lambda table: table.columns(["pid", "comm", "argv", "ppid"]),
    lambda table: table.stats(),
)

_WORD = struct.Struct("<BIBQ")
_WIDTHS = (1, 2, 4, 8)


def _words() -> list[bytes]:
    """Return changes of words: number of the segment, place, width, value. A place near 0 is in the header."""
    values = (0, 1, 0xFF, 0x7FFF_FFFF, 0xFFFF_FFFF, 1 << 40, (1 << 64) - 1)
    return [
        b"".join(_WORD.pack(segment, 8 * (7 * number + segment), 2 + number % 2, value) for segment in segments)
        for number, value in enumerate(values)
        for segments in ((0,), (0, 0, 0), (0, 1, 2, 3))
    ]


def _replace_words(data: bytes, mapped: Sequence[np.memmap]) -> list[tuple[np.memmap, int, bytes]]:
    """Replace words of files; return what was there before, as `_put_back` takes it."""
    undo = []
    for segment, place, width, value in _WORD.iter_unpack(data[: len(data) // _WORD.size * _WORD.size][:1400]):
        memory, size = mapped[segment % len(mapped)], _WIDTHS[width % 4]
        at = place % (len(memory) - size + 1) // size * size
        undo.append((memory, at, bytes(memory[at : at + size])))
        memory[at : at + size] = np.frombuffer(value.to_bytes(8, "little")[:size], np.uint8)
    return undo


def _put_back(undo: list[tuple[np.memmap, int, bytes]]) -> None:
    for memory, at, before in reversed(undo):
        memory[at : at + len(before)] = np.frombuffer(before, np.uint8)


def check_control(data: bytes) -> bool:
    """Words of the control segment have any value: what attaches later, and whoever reads it without attaching."""
    folder, maps, _ = _table()
    control = next(memory for memory in maps if Path(str(memory.filename)).name == "control")
    accepted = False
    begin = time.process_time()
    with ProcessTable.attach(path=folder, max_age_ms=1 << 31) as attached:
        undo = _replace_words(data, [control])
        try:
            with _own_errors(), ProcessTable.attach(path=folder, max_age_ms=1 << 31) as later:
                accepted = _read_all(later, _QUICK_READS)
            _read_all(attached, _QUICK_READS)
            vitals = read_vitals(folder)
            assert vitals is None or len(vitals.received_pos) <= len(control)
            control_fields.fields(folder, "pid_ns")
            horizon(folder)
            acks = ControlAcks(folder / "control", capture_id=1)
            acks.refresh()
            for number in (0, 1, 2, 1 << 16, (1 << 32) - 1):
                acks.ring(number)
            acks.close()
        finally:
            _put_back(undo)
    assert time.process_time() - begin < 10
    return accepted


_TAKEN_OVER: dict[str, object] = {"row_capacity": 64, "chunk_rows": 64, "pid_capacity": 128}


@cache
def _leftovers() -> tuple[Path, list[tuple[str, bytes]]]:
    """Return a folder for damaged leftovers, and the files of tables that are sound; the control segment is first."""
    source, _, _ = _table()
    folder = scratch() / "leftovers"
    folder.mkdir(mode=0o755)
    return folder, [(path.name, path.read_bytes()) for path in map(source.joinpath, SEGMENTS[::-1])]


def check_takeover(data: bytes) -> bool:
    """Words of the tables of a dead instance have any value: its successor takes over or begins anew, and works."""
    from tests.shm.table_host import Host, make_writer

    folder, files = _leftovers()
    maps = []
    for name, content in files:
        path = folder / name
        path.unlink(missing_ok=True)
        path.write_bytes(content)
        maps.append(np.memmap(path, np.uint8, "r+"))
    begin = time.process_time()
    _replace_words(data, maps)
    try:
        writer = make_writer(folder, **_TAKEN_OVER)
    except ProclineError:
        return False
    with writer:
        is_takeover = bool(writer.is_takeover)
        host = Host(writer)
        host.fork(0, 100)
        host.fork(100, 101)
        host.exec(101, b"new", b"new\0")
        host.exit(101)
        writer.evict_exited(1 << 62, 1000)
        writer.set_state(layout.STATE_READY)
        writer.heartbeat(time.clock_gettime_ns(time.CLOCK_BOOTTIME))
        with _own_errors(), ProcessTable.attach(path=folder, max_age_ms=1 << 31) as table:
            _read_all(table, _QUICK_READS)
    assert time.process_time() - begin < 20
    return is_takeover


def _read_all(table: ProcessTable, calls: Sequence[Callable[[ProcessTable], object]]) -> bool:
    """Make these calls; return whether one had an answer. Errors of Procline's own are answers of damaged tables."""
    answered = False
    for call in calls:
        with _own_errors():
            call(table)
            answered = True
    return answered


#: Without those that read a row again and again for a while if it seems to be written.
_QUICK_READS: tuple[Callable[[ProcessTable], object], ...] = (
    lambda table: table.resolve(5),
    lambda table: table.resolve(5, 10**18 + 150),
    lambda table: table.rows(exited=True),
    lambda table: table.ancestor_pids_many(np.arange(1, 25)),
    lambda table: table.columns(["pid", "comm", "argv", "ppid"]),
    lambda table: table.stats(),
    lambda table: [table.watermark_boot_ns, table.boot_unix_ns],
)

TARGETS = {
    target.name: target
    for target in (
        Target("frames", _frames, check_frames),
        Target("context", _context, check_context),
        Target("questions", _questions, check_questions),
        Target("header", _headers, check_header),
        Target("stream", _stream, check_stream),
        Target("names", _texts, check_names),
        Target("metadata", _metadata, check_metadata),
        Target("recording", _recordings, check_recording, is_cheap=False),
        Target("toml", _settings, check_toml, is_cheap=False),
        Target("proc", _processes, check_proc, is_cheap=False),
        Target("journal", _journals, check_journal),
        Target("ring", _rings, check_ring),
        Target("segments", _damages, check_segments, is_cheap=False),
        Target("control", _words, check_control, is_cheap=False),
        Target("takeover", _words, check_takeover, is_cheap=False),
    )
}

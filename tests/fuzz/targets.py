"""The decoders that are fuzzed: for each, valid inputs to begin with, and what must hold for any input.

A check returns whether the input was accepted. It raises an exception only if the decoder did something wrong.
"""

from __future__ import annotations

import mmap
import os
import re
import zlib
from functools import cache
from pathlib import Path

from pipeline.bus import requests
from pipeline.bus.context_events import decode_context
from pipeline.bus.frames.frame import decode_frames
from pipeline.config.loading import load
from pipeline.errors import ConfigError, FrameError
from pipeline.proc_text import mounts_of, unescape
from pipeline.procfs.containers import container_of_cgroups
from pipeline.procfs.info import UNSET
from pipeline.procfs.proc_reader import WANT_ALL, ProcReader
from pipeline.procfs.tracer_metadata import decode_tracer_metadata
from pipeline.records import declared
from pipeline.sources.recording.file import Recording, RecordingWriter
from pipeline.sources.ring._drain import Columns
from pipeline.sources.ring._ring import PAGE_BYTES, Ring
from pipeline.sources.ring.handring import make_ring_file
from tests.bus.frames import frame_samples
from tests.fuzz import stream, tables
from tests.fuzz.target import Rewritten, Target, scratch
from tests.procfs.name_files import parse_names
from tests.sources import hand_records
from tests.sources.kernel_writer import KernelWriter

ROOT = Path(__file__).parents[2]

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


# -- files -------------------------------------------------------------------------------------------------------------


def _recordings() -> list[bytes]:
    """Return recordings behind a byte; if its bit 0 is set, the checksums of the entries are made right."""
    path = scratch() / "seed.rec"
    path.unlink(missing_ok=True)
    with RecordingWriter(path, boot_id=bytes(16), boot_unix_ns=1) as writer:
        for message in _frames():
            writer.write(message)
    whole = path.read_bytes()
    # Only the part of the header that does not depend on the time of the test.
    whole = whole[:40] + bytes(8) + whole[48:]
    # An entry that states a longer frame than there is.
    long = whole[:64] + (1 << 20).to_bytes(4, "little") + whole[68:]
    return [bytes([1]) + whole, bytes([0]) + whole, bytes([1]) + whole[:64], bytes([1]) + long]


_PREFIX_BYTES = 8


def with_checksums(recording: bytes) -> bytes:
    """Return a recording with the right checksum in each entry, as far as the entries are whole."""
    made = bytearray(recording)
    at = int.from_bytes(recording[12:16], "little")
    while 0 < at <= len(made) - _PREFIX_BYTES:
        length = int.from_bytes(made[at : at + 4], "little")
        frame = made[at + _PREFIX_BYTES : at + _PREFIX_BYTES + length]
        made[at + 4 : at + _PREFIX_BYTES] = zlib.crc32(frame).to_bytes(4, "little")
        at += _PREFIX_BYTES + length
    return bytes(made)


@cache
def _recording_file() -> Rewritten:
    return Rewritten(scratch() / "fuzzed.rec")


def check_recording(data: bytes) -> bool:
    """A recording is rejected, or all frames before the damage are readable."""
    file = _recording_file()
    file.set(with_checksums(data[1:]) if data[:1] and data[0] & 1 else data[1:])
    try:
        for message in Recording(file.path):
            check_frames(bytes(message))
    except (FrameError, ConfigError):
        return False
    return True


#: A setting of the example, which is commented out because it shows the default.
_SETTING = re.compile(r"#(\w+ = \S.*)")


def _settings() -> list[bytes]:
    """Return files with each setting of the example alone, and with all settings of a section."""
    section = ""
    made: list[bytes] = []
    whole: dict[str, str] = {}
    for line in (ROOT / "docs/procline.toml").read_text().splitlines():
        if line.startswith("["):
            section = f"{line}\n"
        elif found := _SETTING.match(line):
            made.append(f"{section}{found[1]}\n".encode())
            whole[section] = whole.get(section, section) + f"{found[1]}\n"
    values = (b'"x"', b"-1", b"1e3", b"[1, [2]]", b"{a = 1}", b"2026-01-01", b"true")
    wrong = [b"[tables]\nmax_entries = %s\n" % value for value in values]
    return [*made, *(text.encode() for text in whole.values() if len(text) < 400), *wrong]


@cache
def _settings_file() -> Rewritten:
    return Rewritten(scratch() / "procline.toml")


def check_toml(data: bytes) -> bool:
    """A file of settings is rejected with the name of the file, or is a configuration."""
    file = _settings_file()
    file.set(data)
    try:
        load(file.path, environ={})
    except ConfigError as error:
        assert str(file.path) in str(error)
        return False
    return True


# -- /proc -------------------------------------------------------------------------------------------------------------

#: What a process can choose in the files of its own directory, and the bytes that the kernel does not let it use there.
_PARTS = ("comm", "cgroup", "cmdline", "environ", "mount")
_FORBIDDEN = {"comm": b"\0", "cgroup": b"\0\n", "mount": b"\0\n \t\\"}
_FILES = ("stat", "status", "cgroup", "cmdline", "environ", "mountinfo")
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
def _reader() -> tuple[ProcReader, dict[str, Rewritten]]:
    proc = scratch() / "proc"
    (proc / str(_PID) / "ns").mkdir(parents=True)
    (proc / "self").mkdir()
    for name in ("user", "mnt", "net", "pid"):
        (proc / str(_PID) / "ns" / name).symlink_to(f"{name}:[4026531{len(name)}]")
    (proc / str(_PID) / "exe").symlink_to("/bin/true")
    (proc / str(_PID) / "root").symlink_to("/")
    (proc / str(_PID) / "loginuid").write_text("4294967295")
    files = {name: Rewritten(proc / str(_PID) / name) for name in _FILES}
    return ProcReader(str(proc)), files


def check_proc(data: bytes) -> bool:
    """Whatever a process puts into its name, cgroup, arguments and environment: the facts beside them stay right."""
    parts = dict(zip(_PARTS, [*data.split(b"\xff", len(_PARTS) - 1), *[b""] * len(_PARTS)], strict=False))
    for name, forbidden in _FORBIDDEN.items():
        parts[name] = parts[name].translate(None, forbidden)
    comm = parts["comm"][:15]
    reader, files = _reader()
    numbers = [b"S", b"%d" % _PPID, b"17", b"17", b"0", b"-1", b"4194304", *[b"0"] * 10, b"1", b"20", b"%d" % _START]
    numbers = [*numbers[:19], b"%d" % _START, *[b"0"] * 32]
    files["stat"].set(b"%d (%s) %s\n" % (_PID, comm, b" ".join(numbers)))
    escaped = comm.replace(b"\\", b"\\\\").replace(b"\n", b"\\n")
    files["status"].set(
        b"Name:\t%s\nUid:\t1\t2\t3\t4\nGid:\t5\t6\t7\t8\nNSpid:\t%d\t9\nCapPrm:\t0f\nCapEff:\t0e\n" % (escaped, _PID)
    )
    files["cgroup"].set(b"3:cpu:/%s\n0::/%s\n" % (parts["cgroup"], parts["cgroup"]))
    files["cmdline"].set(parts["cmdline"])
    files["environ"].set(parts["environ"])
    mount = b"22 1 8:1 /%s /%s rw - ext4 /dev/%s rw\n" % ((parts["mount"],) * 3)
    files["mountinfo"].set(mount)
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
def _ring() -> tuple[mmap.mmap, Ring, Columns]:
    """Return a ring of one page of data: its bytes, its reader, and the columns that this drains into."""
    fd = make_ring_file(PAGE_BYTES)
    return mmap.mmap(fd, _DATA_AT + PAGE_BYTES), Ring(fd, number=0), Columns(1 << 16)


def _filled(*, discard: bool = False, head_only: bool = False, rounds: int = 1) -> bytes:
    """Return the position of the producer and the data, with a record of each kind, `rounds` times."""
    fd = make_ring_file(PAGE_BYTES)
    with KernelWriter(fd) as writer:
        for number in range(rounds * (declared.KIND_COUNT - 1)):
            kind = 1 + number % (declared.KIND_COUNT - 1)
            strings = hand_records.strings_of(kind, 5 * kind)
            record = hand_records.record(kind, kind, strings=strings, head_only=head_only)
            if discard and kind % 2 == 0:
                writer.write_discarded(record)
            else:
                writer.write(record)
    made = os.pread(fd, 8, PAGE_BYTES) + os.pread(fd, PAGE_BYTES, _DATA_AT)
    os.close(fd)
    return made


def _rings() -> list[bytes]:
    return [_filled(), _filled(discard=True), _filled(head_only=True), _filled(rounds=8)]


def check_ring(data: bytes) -> bool:
    """Whatever is in a ring: draining ends, and its records are a frame that the resolver accepts."""
    memory, ring, columns = _ring()
    memory[PAGE_BYTES : PAGE_BYTES + 8] = data[:8].ljust(8, b"\0")
    memory[_DATA_AT:] = data[8 : 8 + PAGE_BYTES].ljust(PAGE_BYTES, b"\0")
    ring.rewind(0)
    assert ring.cursor == 0
    accepted = False
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


TARGETS = {
    target.name: target
    for target in (
        Target("frames", _frames, check_frames),
        Target("context", _context, check_context),
        Target("questions", _questions, check_questions),
        Target("header", stream.headers, stream.check_header),
        Target("stream", stream.streams, stream.check_stream),
        Target("subscriber", stream.publications, stream.check_subscriber),
        Target("names", _texts, check_names),
        Target("metadata", _metadata, check_metadata),
        Target("recording", _recordings, check_recording),
        Target("toml", _settings, check_toml),
        Target("proc", _processes, check_proc),
        Target("journal", stream.journals, stream.check_journal),
        Target("ring", _rings, check_ring),
        Target("segments", tables.damages, tables.check_segments),
        Target("control", tables.control_words, tables.check_control, is_cheap=False),
        Target("takeover", tables.leftover_words, tables.check_takeover, is_cheap=False),
    )
}

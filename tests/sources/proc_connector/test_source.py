"""The proc connector without a kernel: its messages are made by hand, and its /proc is made of files."""

from __future__ import annotations

import errno
import mmap
import os
import shutil
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from pipeline.bpf.maps import CPU_STATE
from pipeline.bus.frames.frame import Frame, decode_frames, record_ends
from pipeline.errors import UnsupportedError
from pipeline.host.boot import TICK_NS
from pipeline.procfs.info import ProcInfo
from pipeline.procfs.proc_reader import ProcReader, read_process
from pipeline.records import declared, dtypes
from pipeline.records.limits import REPORT_SLACK_NS
from pipeline.shm.layout import layout
from pipeline.sources.proc_connector import netlink, proc_records, recheck, source
from pipeline.sources.proc_connector.living import Living
from pipeline.sources.proc_connector.recheck import Facts, Rechecks
from pipeline.sources.proc_connector.source import SOURCE, Counts, ProcConnector, measure_offset_ns
from pipeline.sources.ring._ring import PAGE_BYTES, Ring
from pipeline.sources.ring._shared import CpuStates
from pipeline.sources.ring.handring import RingWriter, make_ring_file
from pipeline.sources.shard.filling import KEEP_ALIVE_NS, FillingShard
from tests.sources.hand_records import BOOT_ID, FakeAcks

CPUS = 4
#: Pids that no process has, because pid_max is at most 2**22.
CHILD, PARENT = (1 << 22) + 1, (1 << 22) + 2


def message(what: int, cpu: int, seq: int, data: tuple[int, ...], time_ns: int | None = None) -> bytes:
    """One datagram as the kernel sends it."""
    words = (*data, *(0,) * (6 - len(data)))
    now = time.clock_gettime_ns(time.CLOCK_MONOTONIC) if time_ns is None else time_ns
    return struct.pack("=IHHIIIIIIHHIIQ6I", 76, 3, 0, 0, 0, 1, 1, seq, 0, 40, 0, what, cpu, now, *words)


def fork(parent: int, child: int, tid: int = 0) -> tuple[int, ...]:
    return parent, parent, tid or child, child


def end(tgid: int, tid: int = 0, code: int = 0, parent: int = 0) -> tuple[int, ...]:
    return tid or tgid, tgid, code, 17, parent, parent


class HandSocket:
    """The kernel's queue: datagrams, or errors."""

    def __init__(self) -> None:
        self.queue: list[bytes | OSError] = []
        self.sender = 0
        self.seqs = [0] * CPUS

    def put(self, what: int, data: tuple[int, ...], cpu: int = 0, *, lost: bool = False, at: int | None = None) -> None:
        if not lost:
            self.queue.append(message(what, cpu, self.seqs[cpu], data, at))
        self.seqs[cpu] = self.seqs[cpu] + 1 & 0xFFFFFFFF

    def recvfrom_into(self, buffer: bytearray) -> tuple[int, tuple[int, int]]:
        if not self.queue:
            raise BlockingIOError
        first = self.queue.pop(0)
        if isinstance(first, OSError):
            raise first
        buffer[: len(first)] = first
        return len(first), (self.sender, 1)


class HandProc:
    """A directory with the few procfs files that `Living` reads."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def put(self, tgid: int, *, ticks: int, tids: tuple[int, ...] = (), state: str = "S", flags: int = 0) -> None:
        tids = tids or (tgid,)
        directory = self.path / str(tgid)
        shutil.rmtree(directory, ignore_errors=True)
        fields = [state, "1", *["0"] * 4, str(flags), *["0"] * 10, str(len(tids)), "0", str(ticks), *["0"] * 30]
        for tid in tids:
            (directory / "task" / str(tid)).mkdir(parents=True)
        (directory / "stat").write_text(f"{tgid} (a) b) {' '.join(fields)}\n")
        (directory / "status").write_text(f"Name:\ta\nNSpid:\t{tgid}\nUid:\t1\n")

    def remove(self, tgid: int) -> None:
        shutil.rmtree(self.path / str(tgid))


class Bench:
    """A connector on all of these, with its shard; the test is the receiver."""

    def __init__(self, path: Path, data_bytes: int = 16 * PAGE_BYTES) -> None:
        self.sock = HandSocket()
        self.proc = HandProc(path)
        self.ring_fd = make_ring_file(data_bytes)
        self.memory = mmap.mmap(-1, CPUS * CPU_STATE.itemsize)
        self.acks = FakeAcks()
        self.messages: list[bytes] = []
        self.has_room = True
        self.now_ns = 1
        self.reader = ProcReader()
        self.start()

    def start(self) -> None:
        """Start a new connector on the same ring, socket and counters, as after a kill."""
        self.writer = RingWriter(self.ring_fd)
        self.counts = Counts(self.memory)
        self.living = Living(str(self.proc.path))
        self.connector = ProcConnector(
            self.sock, self.writer, self.counts, self.reader, self.living  # type: ignore[arg-type]
        )  # fmt: skip
        self.shard = FillingShard(
            self.connector, Ring(self.ring_fd, number=0, cpus=tuple(range(CPUS))), source=SOURCE,
            clock_ns=lambda: self.now_ns, acks=self.acks, send=self._send, cpus=CpuStates(self.memory), boot_id=BOOT_ID,
        )  # fmt: skip

    def _send(self, frame: bytes) -> bool:
        if self.has_room:
            self.messages.append(frame)
        return self.has_room

    def frames(self) -> list[Frame]:
        taken, self.messages = self.messages, []
        return [frame for message in taken for frame in decode_frames(message)]

    def records(self, budget: int = 1000) -> np.ndarray:
        """The HEADERs of the records that a turn hands over."""
        self.shard.do_work(budget)
        return np.concatenate([frame.header for frame in self.frames()] or [np.zeros(0, dtypes.HEADER)])

    def count(self, field: str) -> int:
        return int(np.frombuffer(self.memory, CPU_STATE)[field].sum())

    def close(self) -> None:
        self.shard.close()
        self.writer.close()
        self.reader.close()
        os.close(self.ring_fd)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    made.close()


# -- messages ----------------------------------------------------------------------------------------------------------


def test_a_message_is_parsed() -> None:
    buffer = bytearray(message(netlink.EVENT_FORK, 3, 9, (1, 2, 3, 4), 5).ljust(4096, b"\xff"))
    assert netlink.parse(buffer, 76) == (netlink.EVENT_FORK, 3, 9, 5, 1, 2, 3, 4, 0, 0)


def test_an_older_kernels_shorter_message_leaves_the_rest_zero() -> None:
    buffer = bytearray(message(netlink.EVENT_EXIT, 0, 0, (1, 2, 3, 4, 5, 6)).ljust(4096, b"\xff"))
    parsed = netlink.parse(buffer, 68)
    assert parsed is not None and parsed[4:] == (1, 2, 3, 4, 0, 0)


@pytest.mark.parametrize("length", [0, 10, 51])
def test_a_too_short_message_is_ignored(length: int) -> None:
    assert netlink.parse(bytearray(4096), length) is None


def test_another_connectors_message_is_none_of_ours() -> None:
    buffer = bytearray(message(1, 0, 0, (1,)))
    buffer[16] = 9
    assert netlink.parse(buffer, 76) is None


def test_a_name_ends_at_its_nul() -> None:
    data = struct.unpack("=4I", b"kworker\0rubbish!")
    parsed = netlink.parse(bytearray(message(netlink.EVENT_COMM, 0, 0, (7, 7, *data))), 76)
    assert parsed is not None and netlink.name(parsed) == b"kworker"


def test_an_error_says_once_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def deny(*arguments: object) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(netlink.socket, "socket", deny)
    with pytest.raises(UnsupportedError, match=r"cannot open the proc connector: .*; run as root") as caught:
        netlink.open_socket(1 << 20)
    assert str(caught.value).count("run as root") == 1


def test_only_the_kernel_is_believed(bench: Bench) -> None:
    bench.sock.sender = 4711
    bench.sock.put(netlink.EVENT_FORK, fork(PARENT, CHILD))
    assert len(bench.records()) == 0 and bench.connector.refused_total == 1


# -- records -----------------------------------------------------------------------------------------------------------


def test_a_life_becomes_its_records_with_one_identity(bench: Bench) -> None:
    bench.sock.put(netlink.EVENT_FORK, fork(PARENT, CHILD))
    bench.sock.put(netlink.EVENT_EXEC, (CHILD, CHILD), 1)
    bench.sock.put(netlink.EVENT_SID, (CHILD, CHILD))
    bench.sock.put(netlink.EVENT_EXIT, end(CHILD, code=0x100, parent=PARENT))
    bench.shard.do_work(100)
    (frame,) = bench.frames()
    header = frame.header
    assert header["kind"].tolist() == [declared.KIND_FORK, declared.KIND_EXEC, declared.KIND_SID, declared.KIND_EXIT]
    assert set(header["tgid"].tolist()) == {CHILD}
    assert len(set(header["start_boot_ns"].tolist())) == 1
    assert (header["flags"] & declared.FLAG_PARTIAL != 0).all()
    # The process was gone before the connector read /proc, so the exec record has only its header.
    assert (header["flags"] & declared.FLAG_HEAD_ONLY != 0).tolist() == [False, True, False, False]
    assert header["ppid"].tolist()[0] == PARENT and header["ppid"].tolist()[3] == PARENT
    assert frame.exit["exit_code"].tolist() == [0x100]
    assert frame.task["sid"][2] == CHILD
    assert int(frame.task["known"][2]) == layout.KNOWN_SID | layout.KNOWN_TTY


def test_times_are_those_of_the_boot_clock(bench: Bench) -> None:
    before = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    bench.sock.put(netlink.EVENT_FORK, fork(PARENT, CHILD))
    (time_ns,) = bench.records()["time_boot_ns"].tolist()
    assert before - 1_000_000 <= time_ns <= time.clock_gettime_ns(time.CLOCK_BOOTTIME) + 1_000_000


def test_a_name_and_users_of_a_thread_are_not_the_process(bench: Bench) -> None:
    bench.sock.put(netlink.EVENT_FORK, fork(PARENT, CHILD))
    for what in (netlink.EVENT_COMM, netlink.EVENT_UID, netlink.EVENT_GID):
        bench.sock.put(what, (CHILD + 7, CHILD, 0x61))
    assert bench.records()["kind"].tolist() == [declared.KIND_FORK]


def test_changes_of_an_ended_process_are_marked_unknown(bench: Bench) -> None:
    bench.sock.put(netlink.EVENT_FORK, fork(PARENT, CHILD))
    bench.sock.put(netlink.EVENT_UID, (CHILD, CHILD, 1, 1))
    headers = bench.records()
    assert headers["kind"].tolist()[1] == declared.KIND_CRED and headers["flags"][1] & declared.FLAG_HEAD_ONLY


def test_a_process_that_is_there_is_completed_from_proc(bench: Bench) -> None:
    me = os.getpid()
    bench.proc.put(me, ticks=read_start_ticks(me))
    bench.sock.put(netlink.EVENT_EXEC, (me, me))
    bench.sock.put(netlink.EVENT_UID, (me, me, 0, 0))
    bench.shard.do_work(100)
    (frame,) = bench.frames()
    blob = frame.blob.tobytes()
    assert blob.startswith(os.fsencode(Path("/proc/self/exe").resolve()))
    assert int(frame.task["known"][0]) & layout.KNOWN_CREDS, "root's ids are zero and known all the same"
    assert frame.task["uid"].tolist() == [os.getuid()] * 2
    # A session that began outside this pid namespace is 0 here; the test's is, if it runs in an entered container.
    knows_sid = bool(int(frame.task["known"][1]) & layout.KNOWN_SID)
    assert knows_sid is (os.getsid(0) != 0), "a change of ids contains everything that was read"
    assert frame.header["start_boot_ns"][0] // TICK_NS == read_start_ticks(me)
    status = dict(line.split(":\t") for line in Path("/proc/self/status").read_text().splitlines())
    for name, key in (("no_new_privs", "NoNewPrivs"), ("seccomp_mode", "Seccomp")):
        assert frame.task[name].tolist() == [int(status[key]) + 1] * 2


@pytest.mark.parametrize("info", [{"cgroup_id": 5}, {"cgroups_v1": 1 << 63 | 5}, {}], ids=["v2", "v1", "unknown"])
def test_cgroups_of_either_version_are_reported(info: dict[str, int]) -> None:
    process = read_process(os.getpid())
    assert process is not None
    process.cgroup_id = process.cgroups_v1 = 0
    for name, value in info.items():
        setattr(process, name, value)
    assert bool(proc_records.known_groups(process) & layout.KNOWN_CGROUP) is bool(info)


def read_start_ticks(tgid: int) -> int:
    info = read_process(tgid)
    assert info is not None
    return info.start_ticks


def test_kernel_threads_are_counted_and_left_out(bench: Bench) -> None:
    bench.sock.put(netlink.EVENT_FORK, fork(2, CHILD))
    assert len(bench.records()) == 0
    assert bench.count("kthreads_forked") == 1


def test_exec_and_exit_of_an_unseen_process_have_no_start(bench: Bench) -> None:
    """The process ended between the first event and the read of /proc; only the resolver may know it."""
    bench.sock.put(netlink.EVENT_EXEC, (CHILD, CHILD))
    bench.sock.put(netlink.EVENT_EXIT, end(CHILD))
    headers = bench.records()
    assert headers["kind"].tolist() == [declared.KIND_EXEC, declared.KIND_EXIT]
    assert headers["start_boot_ns"].tolist() == [0, 0] and headers["flags"][0] & declared.FLAG_HEAD_ONLY


def test_a_process_that_is_being_released_has_no_session(tmp_path: Path) -> None:
    """The kernel then shows -1 for group and session, which fits no field."""
    HandProc(tmp_path).put(500, ticks=7, state="X")
    stat = tmp_path / "500" / "stat"
    stat.write_text(stat.read_text().replace("X 1 0 0", "X 1 -1 -1"))
    with ProcReader(str(tmp_path)) as reader:
        info = reader.read(500, 0)
    assert info is not None and (info.sid, info.pgid) == (0, 0)
    assert not proc_records.known_groups(info) & layout.KNOWN_SID
    assert proc_records.exec_(proc_records.About(5, 500, 500, 1), info)


# -- threads -----------------------------------------------------------------------------------------------------------


def test_a_process_ends_with_its_last_thread_not_with_its_leader(bench: Bench) -> None:
    bench.sock.put(netlink.EVENT_FORK, fork(PARENT, CHILD))
    for tid in (CHILD + 10, CHILD + 11):
        bench.sock.put(netlink.EVENT_FORK, fork(CHILD, CHILD, tid))
    assert bench.records()["kind"].tolist() == [declared.KIND_FORK]
    bench.sock.put(netlink.EVENT_EXIT, end(CHILD, CHILD + 10))
    bench.sock.put(netlink.EVENT_EXIT, end(CHILD, CHILD))
    assert len(bench.records()) == 0
    bench.sock.put(netlink.EVENT_EXIT, end(CHILD, CHILD + 11, 0x700))
    bench.shard.do_work(100)
    (frame,) = bench.frames()
    assert frame.header["kind"].tolist() == [declared.KIND_EXIT] and frame.header["tid"].tolist() == [CHILD + 11]
    assert frame.exit["exit_code"].tolist() == [0x700]
    assert (bench.count("threads_forked"), bench.count("threads_exited")) == (2, 2)
    assert not bench.living.starts and not bench.living.threads


def test_exec_from_a_thread_leaves_that_one_alone(bench: Bench) -> None:
    """If a thread executes, the other threads end, the leader too, and the thread gets the leader's number."""
    bench.sock.put(netlink.EVENT_FORK, fork(PARENT, CHILD))
    for tid in (CHILD + 10, CHILD + 11):
        bench.sock.put(netlink.EVENT_FORK, fork(CHILD, CHILD, tid))
    bench.sock.put(netlink.EVENT_EXIT, end(CHILD, CHILD + 11))
    bench.sock.put(netlink.EVENT_EXIT, end(CHILD, CHILD))
    bench.sock.put(netlink.EVENT_EXEC, (CHILD, CHILD))
    assert bench.records()["kind"].tolist() == [declared.KIND_FORK, declared.KIND_EXEC]
    bench.sock.put(netlink.EVENT_EXIT, end(CHILD))
    assert bench.records()["kind"].tolist() == [declared.KIND_EXIT]


def test_threads_from_before_the_first_event_are_known(tmp_path: Path) -> None:
    proc = HandProc(tmp_path)
    proc.put(500, ticks=7, tids=(500, 501))
    proc.put(600, ticks=8, tids=(600, 601), state="Z")  # its leader has ended
    proc.put(700, ticks=9, state="Z")  # all its threads have ended, and its parent has not waited for it
    proc.put(800, ticks=1, flags=0x200000)
    living = Living(str(tmp_path))
    living.survey()
    assert living.starts == {500: 7 * TICK_NS, 600: 8 * TICK_NS}
    assert living.threads == {500: {500, 501}, 600: {601}}
    assert not living.thread_ended(500, 500) and living.thread_ended(500, 501)
    assert living.thread_ended(600, 601)


def test_after_a_loss_proc_is_asked_whether_a_process_has_ended(tmp_path: Path) -> None:
    proc = HandProc(tmp_path)
    proc.put(500, ticks=7)
    living = Living(str(tmp_path))
    living.survey()
    living.is_sure = False
    proc.put(500, ticks=7, tids=(500, 501), state="Z")  # the new thread was not reported
    assert not living.thread_ended(500, 500)
    proc.put(500, ticks=7, state="Z")
    assert living.thread_ended(500, 501)


# -- start times -------------------------------------------------------------------------------------------------------


def test_a_start_is_exact_to_the_tick_of_proc(tmp_path: Path) -> None:
    proc = HandProc(tmp_path)
    living = Living(str(tmp_path))
    forked = 100 * TICK_NS + 30_000
    proc.put(500, ticks=100)
    assert living.forked(500, forked, living.stat(500)) == forked
    proc.put(500, ticks=99)  # /proc was read just before the tick ended, and the event was made just after
    assert living.forked(500, forked, living.stat(500)) == 100 * TICK_NS - 1
    proc.put(500, ticks=103)  # the pid already has another owner
    assert living.forked(500, forked, living.stat(500)) == forked
    assert living.forked(501, forked, None) == forked


def test_a_later_owner_of_the_pid_is_not_mistaken_for_the_earlier_one(tmp_path: Path) -> None:
    living = Living(str(tmp_path))
    living.forked(500, 2000, None)
    assert living.start_of(500, 1999) == 0 and living.start_of(500, 2000) == 2000


@pytest.mark.parametrize("lost", [False, True])
def test_an_exec_that_is_read_late_does_not_get_the_start_of_the_next_owner(bench: Bench, lost: bool) -> None:
    """The next owner began in the tick of the exec, so its start in /proc's ticks is before the exec."""
    me = os.getpid()
    tick = read_start_ticks(me) * TICK_NS - measure_offset_ns()
    bench.sock.put(netlink.EVENT_FORK, fork(PARENT, me), at=tick - 1_000_000)
    if lost:  # then its end and the next owner's fork may be the lost events
        bench.sock.put(netlink.EVENT_EXIT, end(me), lost=True)
        bench.sock.put(netlink.EVENT_COMM, (CHILD, CHILD, 0x61))
    bench.sock.put(netlink.EVENT_EXEC, (me, me), at=tick + 1_000_000)
    headers = bench.records()
    forked, execed = headers[headers["tgid"] == me]
    assert (execed["start_boot_ns"] == forked["start_boot_ns"]) is np.bool_(not lost)
    assert bool(execed["flags"] & declared.FLAG_HEAD_ONLY) is not lost


def test_a_pid_twice_within_a_tick_is_two_identities(bench: Bench) -> None:
    base = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
    for n in range(3):
        bench.sock.put(netlink.EVENT_FORK, fork(PARENT, CHILD), at=base + 1000 * n)
        bench.sock.put(netlink.EVENT_EXIT, end(CHILD), at=base + 1000 * n + 500)
    headers = bench.records()
    assert len(set(headers["start_boot_ns"].tolist())) == 3
    assert headers["start_boot_ns"][::2].tolist() == headers["start_boot_ns"][1::2].tolist()


def test_a_process_missing_in_one_survey_is_remembered_until_the_next(tmp_path: Path) -> None:
    """Its last events may still be on their way when /proc no longer shows it."""
    living = Living(str(tmp_path))
    living.forked(500, 2000, None)
    living.survey()
    assert living.start_of(500, 3000) == 2000
    living.survey()
    assert living.start_of(500, 3000) == 0


# -- loss --------------------------------------------------------------------------------------------------------------


def test_holes_in_the_kernels_numbers_are_counted_exactly(bench: Bench) -> None:
    bench.sock.put(netlink.EVENT_FORK, fork(PARENT, CHILD))
    bench.sock.put(netlink.EVENT_FORK, fork(PARENT, CHILD + 5), 1)
    for _ in range(23):
        bench.sock.put(netlink.EVENT_COMM, (CHILD, CHILD), 0, lost=True)
    for _ in range(7):
        bench.sock.put(netlink.EVENT_COMM, (CHILD, CHILD), 1, lost=True)
    bench.sock.put(netlink.EVENT_EXIT, end(CHILD))
    bench.sock.put(netlink.EVENT_EXIT, end(CHILD + 5), 1)
    bench.records()
    assert bench.count("lost_samples") == 30
    assert int(np.frombuffer(bench.memory, CPU_STATE)["lost_samples"].sum(axis=0)[0]) == 30, "of no known kind"


def test_an_overflow_is_reported_at_once_and_counted_once(bench: Bench) -> None:
    bench.sock.put(netlink.EVENT_FORK, fork(PARENT, CHILD))
    bench.sock.queue.append(OSError(errno.ENOBUFS, "no buffer space"))
    surveys = bench.connector.surveys_total
    bench.connector._surveyed_ns = 0
    bench.records()
    assert bench.count("lost_samples") == 1
    assert bench.connector.surveys_total == surveys + 1, "this source surveys by itself"
    for _ in range(5):
        bench.sock.put(netlink.EVENT_COMM, (CHILD, CHILD), lost=True)
    bench.sock.put(netlink.EVENT_EXIT, end(CHILD))
    bench.records()
    assert bench.count("lost_samples") == 5


def test_numbers_wrap(bench: Bench) -> None:
    bench.sock.seqs[0] = 0xFFFFFFFF
    for n in range(3):
        bench.sock.put(netlink.EVENT_FORK, fork(PARENT, CHILD + n))
    bench.records()
    assert bench.count("lost_samples") == 0


def test_a_successor_continues_where_its_predecessor_was_killed(bench: Bench) -> None:
    """It hands over everything that is not applied, and counts an event that its predecessor may not have written."""
    bench.sock.put(netlink.EVENT_FORK, fork(PARENT, CHILD))
    bench.sock.put(netlink.EVENT_FORK, fork(PARENT, CHILD + 5))
    first = bench.records()
    bench.sock.put(netlink.EVENT_EXIT, end(CHILD), lost=True)
    bench.start()
    bench.sock.put(netlink.EVENT_EXIT, end(CHILD + 5))
    again = bench.records()
    assert again["ring_pos"].tolist()[:2] == first["ring_pos"].tolist()
    assert again["kind"].tolist() == [declared.KIND_FORK, declared.KIND_FORK, declared.KIND_EXIT]
    assert bench.count("lost_samples") == 1


# -- the ring ----------------------------------------------------------------------------------------------------------


def test_a_kill_in_the_middle_of_a_record_leaves_no_record(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """At any step of the write: a record that stayed busy would block its ring, and so the watermark, for ever."""
    for name in ("_fill", "_advance"):

        def killed(*_: object, **__: object) -> None:
            raise KeyboardInterrupt

        bench.sock.put(netlink.EVENT_FORK, fork(PARENT, CHILD))
        with monkeypatch.context() as patch:
            patch.setattr(RingWriter, name, killed)
            with pytest.raises(KeyboardInterrupt):
                bench.shard.do_work(10)
        bench.shard.close()
        bench.writer.close()
        bench.start()
        bench.sock.put(netlink.EVENT_EXIT, end(CHILD))
        assert bench.records()["kind"].tolist() == [declared.KIND_EXIT]
        assert bench.shard.is_caught_up
        bench.acks.answers = {0: (bench.writer.producer_pos, 0, 0)}


@pytest.mark.parametrize("step_ns", [1, 0, -1])
def test_a_full_ring_leaves_events_in_the_socket(tmp_path: Path, step_ns: int) -> None:
    """Also if the event that waits for room is older than those in the ring, because its task was preempted."""
    bench = Bench(tmp_path, data_bytes=PAGE_BYTES)
    now_ns = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
    for n in range(97):
        bench.sock.put(netlink.EVENT_FORK, fork(PARENT, CHILD + n), at=now_ns + n * step_ns)
    seen: list[int] = []
    applied = 0
    for _ in range(97):
        bench.shard.do_work(1000)
        for frame in bench.frames():
            seen += frame.header["tgid"].tolist()
            # The receiver applies only what was reported complete, and the ring must not wait for more.
            ends = record_ends(frame.header)[frame.header["time_boot_ns"] < (frame.watermark_boot_ns or 0)]
            applied = max([applied, *ends.tolist()])
        bench.acks.answers[0] = applied, applied, 0
    bench.close()
    assert seen == [CHILD + n for n in range(97)]
    assert bench.count("lost_samples") == 0


def test_unapplied_records_are_sent_again_on_request(bench: Bench) -> None:
    bench.sock.put(netlink.EVENT_FORK, fork(PARENT, CHILD))
    bench.acks.answers[0] = 0, 0, 0
    first = bench.records()
    bench.acks.answers[0] = 0, 0, 1
    assert bench.records()["ring_pos"].tolist() == first["ring_pos"].tolist()


def test_a_frame_has_the_time_up_to_which_it_is_complete(bench: Bench) -> None:
    before = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    bench.sock.put(netlink.EVENT_FORK, fork(PARENT, CHILD))
    bench.shard.do_work(100)
    (frame,) = bench.frames()
    assert frame.watermark_boot_ns is not None and frame.watermark_boot_ns >= before - REPORT_SLACK_NS
    assert bench.shard.owes, "the event is not complete yet"
    time.sleep(REPORT_SLACK_NS / 1e9)
    bench.shard.do_work(100)
    (frame,) = bench.frames()
    assert frame.count == 0 and not bench.shard.owes


def test_a_silent_source_sends_a_sign_of_life(bench: Bench) -> None:
    bench.shard.do_work(100)
    bench.frames()
    bench.shard.do_work(100)
    assert not bench.frames()
    bench.now_ns += KEEP_ALIVE_NS
    bench.shard.do_work(100)
    assert [frame.count for frame in bench.frames()] == [0]


def test_events_are_received_while_no_frame_can_be_sent(bench: Bench) -> None:
    bench.has_room = False
    for n in range(5):
        bench.sock.put(netlink.EVENT_FORK, fork(PARENT, CHILD + n))
        bench.shard.do_work(100)
    assert not bench.sock.queue
    bench.has_room = True
    assert len(bench.records()) == 5


# -- rechecks ----------------------------------------------------------------------------------------------------------


def info(**changes: object) -> ProcInfo:
    made = ProcInfo(
        tgid=7, ppid=1, start_ticks=1, start_boot_ns=TICK_NS, comm=b"a", state="S", task_flags=0, thread_count=1,
        pgid=7, sid=7, tty=b"pts1", uids=(0, 0, 0, 0), gids=(0, 0, 0, 0), cap_effective=3, cgroup_id=11,
    )  # fmt: skip
    for name, value in changes.items():
        setattr(made, name, value)
    return made


@pytest.mark.parametrize(
    ("changes", "kinds"),
    [
        ({}, []),
        ({"cap_effective": 0}, [declared.KIND_CRED]),
        ({"auid": 1000}, [declared.KIND_CRED]),
        ({"tty": b""}, [declared.KIND_SID]),
        ({"cgroup_id": 12}, [declared.KIND_CGROUP]),
        ({"cgroup_id": 0}, []),  # an unreadable value is no change
        ({"cgroups_v1": 1 << 63 | 5}, [declared.KIND_CGROUP]),
        ({"pid_ns": 1, "mnt_ns": 2, "net_ns": 3, "user_ns": 4}, [declared.KIND_SID]),
        ({"sid": 9, "mnt_ns": 2, "cgroup_id": 12}, [declared.KIND_SID, declared.KIND_CGROUP]),
        ({"comm": b"b", "ppid": 5}, []),  # events report these
    ],
)
def test_a_recheck_finds_what_no_event_reports(changes: dict[str, object], kinds: list[int]) -> None:
    found = Facts.of(info()).changes(Facts.of(info(**changes)))
    assert [kind for kind, _ in found] == kinds


def test_rechecks_are_due_after_a_second_and_after_ten() -> None:
    rechecks = Rechecks()
    rechecks.plan(7, 1, Facts.of(info()), 0)
    assert rechecks.due(999_999_999) is None
    assert rechecks.due(1_000_000_000) is not None and rechecks.due(9_999_999_999) is None
    assert rechecks.due(10_000_000_000) is not None and rechecks.due(1 << 62) is None


def test_a_recheck_compares_with_the_last_report_and_is_forgotten_when_done(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rechecks = Rechecks()
    rechecks.plan(7, 1, Facts.of(info()), 0)
    rechecks.plan(7, 1, Facts.of(info(cap_effective=1)), 1)
    rechecks.session_reported(7, 1, 1)
    rechecks.session_reported(8, 1, 1)
    for at in (1_000_000_001, 10_000_000_001):
        assert rechecks.due(at - 1) is None, "it has changed again since the first recheck was planned"
        watched = rechecks.due(at)
        assert watched is not None
        assert not list(watched.facts.changes(Facts.of(info(cap_effective=1, tty=b""))))
    assert rechecks.due(1 << 62) is None and not rechecks._watched
    monkeypatch.setattr(recheck, "WAITING_MAX", 3)
    for tgid in range(10, 20):
        rechecks.plan(tgid, 1, Facts.of(info()), 0)
    assert len(rechecks._watched) <= len(rechecks._waiting) == 3
    rechecks.plan(19, 2, Facts.of(info()), 5)  # the pid has a new owner
    assert rechecks._watched[19].start_boot_ns == 2


def test_a_process_that_changes_all_the_time_waits_once() -> None:
    rechecks = Rechecks()
    for n in range(1000):
        rechecks.plan(7, 1, Facts.of(info()), n)
    assert len(rechecks._waiting) == len(recheck.AFTER_NS)


def test_a_change_has_only_its_groups() -> None:
    about = proc_records.About(5, 7, 7, 1)
    record = proc_records.change(about, declared.KIND_CGROUP, info(), layout.KNOWN_CGROUP)
    task = np.frombuffer(record, dtypes.TASK, 1, dtypes.HEADER.itemsize)[0]
    assert int(task["known"]) == layout.KNOWN_CGROUP and int(task["cgroup_id"]) == 11


def test_only_a_change_that_a_comparison_found_has_the_time_before_it() -> None:
    about = proc_records.About(5, 7, 7, 1)
    exact = proc_records.change(about, declared.KIND_CRED, info(), layout.KNOWN_CREDS)
    found = proc_records.change(about, declared.KIND_CRED, info(), layout.KNOWN_CREDS, changed_after_boot_ns=3)
    for record, flags, strings in ((exact, 0, b""), (found, declared.FLAG_SAMPLED, (3).to_bytes(8, "little"))):
        header = np.frombuffer(record, dtypes.HEADER, 1)[0]
        assert header["flags"] == declared.FLAG_PARTIAL | flags
        assert (header["record_bytes"], header["var_bytes"]) == (len(record), len(strings))
        assert record[dtypes.HEADER.itemsize + dtypes.TASK.itemsize :] == strings


class HandReader:
    """Reads a process as the test wants it; `times` are those of each reading: before and after."""

    def __init__(self) -> None:
        self.facts: dict[str, object] = {}
        self.times: list[tuple[int, int]] = []
        self.ahead_ns = 0

    def now(self) -> int:
        return time.clock_gettime_ns(time.CLOCK_BOOTTIME) + self.ahead_ns

    def read(self, tgid: int, want: int) -> ProcInfo:
        before = self.now()
        made = info(tgid=tgid, **self.facts)
        self.times.append((before, self.now()))
        return made

    def close(self) -> None:
        pass


@pytest.fixture
def hand(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> HandReader:
    reader = HandReader()
    monkeypatch.setattr(bench.connector, "_reader", reader)
    monkeypatch.setattr(source, "now_boot_ns", reader.now)
    return reader


def rechecked(bench: Bench, hand: HandReader, after_ns: int, **facts: object) -> Frame | None:
    """Let the process change, and let it be read again after that time."""
    hand.facts |= facts
    hand.times.clear()
    hand.ahead_ns += after_ns
    bench.shard.do_work(100)
    return next((frame for frame in bench.frames() if frame.count), None)


def limits(frame: Frame) -> list[int | None]:
    """The times after which the changes of records happened; None: the record has none."""
    ends = np.cumsum(frame.header["var_bytes"])
    strings = [frame.blob[end - n : end].tobytes() for end, n in zip(ends, frame.header["var_bytes"], strict=True)]
    return [int.from_bytes(one, "little") if one else None for one in strings]


def test_a_recheck_says_between_which_readings_a_change_happened(bench: Bench, hand: HandReader) -> None:
    bench.sock.put(netlink.EVENT_EXEC, (CHILD, CHILD))
    (executed,) = bench.records()["time_boot_ns"].tolist()
    found = rechecked(bench, hand, 1_000_000_000, cap_effective=1, tty=b"", cgroup_id=12)
    assert found is not None
    assert found.header["kind"].tolist() == [declared.KIND_CRED, declared.KIND_SID, declared.KIND_CGROUP]
    is_sampled = (found.header["flags"] & declared.FLAG_SAMPLED != 0).tolist()
    assert is_sampled == [True, True, False], "a cgroup has no such limit"
    assert limits(found) == [executed, executed, None]
    (at,) = set(found.header["time_boot_ns"].tolist())
    (_, first_end), (second_begin, _) = hand.times
    assert first_end <= at <= second_begin, "the first reading found the change, and the record has what is read later"
    found = rechecked(bench, hand, 10_000_000_000, cap_effective=2)
    assert found is not None and found.header["kind"].tolist() == [declared.KIND_CRED]
    assert limits(found) == [at], "that was the last reading"


def test_a_recheck_that_finds_nothing_moves_the_limit_of_the_next(bench: Bench, hand: HandReader) -> None:
    bench.sock.put(netlink.EVENT_EXEC, (CHILD, CHILD))
    bench.records()
    assert rechecked(bench, hand, 1_000_000_000) is None
    ((begin, end),) = hand.times
    found = rechecked(bench, hand, 10_000_000_000, auid=1000)
    assert found is not None
    (after,) = limits(found)
    assert after is not None and begin - 1_000_000_000 < after <= begin <= end


def test_a_session_that_is_reported_late_moves_the_limit_back() -> None:
    """A check read the process before the event arrived, and can have seen a later change of the session."""
    rechecks = Rechecks()
    rechecks.plan(7, 1, Facts.of(info()), 0)
    watched = rechecks.due(1_000_000_000)
    assert watched is not None
    watched.facts, watched.same_boot_ns = Facts.of(info(tty=b"pts2")), 1_000_000_000
    rechecks.session_reported(7, 1, 999_000_000)
    assert watched.same_boot_ns == 999_000_000
    rechecks.session_reported(7, 1, 1_000_000_001)
    assert watched.same_boot_ns == 999_000_000

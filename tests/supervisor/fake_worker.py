"""A worker that does only what the test sets in PROCLINE_FAKE ("resolver=hang,shard-0=die:0.2,...").

    die:S      ends with code 1 after S seconds
    early:S    the same, without reporting that it is ready
    hopeless   ends with code 2 at once
    hang       shows no sign of life after its first
    spin       the same, and computes meanwhile
    busy:S     computes for S seconds of CPU time between two signs of life, which are at least 10 ms apart
    starved:S  the same, on CPU 0, and only while no other process uses that CPU
    slow-busy:S  the same, and has no handler of SIGTERM during its first second
    lingering-busy:S  the same, and ends a second after SIGTERM
    stubborn   ignores SIGTERM
    stubborn-busy:S  both
    unready    never reports that it is ready
    stalling   a resolver: reports that ring 1 delivers nothing, which belongs to shard-1 if there are two shards

Events are appended to the file `journal` beside the instance's directory. Each test starts several workers, so this
imports neither numpy nor msgspec, nor logging and ctypes, which a real worker's start (`pipeline.worker.start`) needs.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import signal
import stat
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.shm.layout import control_header
from pipeline.shm.layout.declared import CONTROL_LAYOUT, LAYOUT_VERSION, MAGIC, RING_ACK_LAYOUT
from pipeline.worker.reading import description_fd, read_description

if TYPE_CHECKING:
    from pipeline.worker.description import WorkerDescription


def main() -> int:
    with Path(os.environ["PROCLINE_RUNTIME_DIR"], "begun").open("a") as file:
        is_first = file.tell() == 0
        print(os.getpid(), file=file)
    if is_first and os.environ.get("PROCLINE_FAKE_UNDESCRIBED") == "die":
        return 1
    if not is_first and os.environ.get("PROCLINE_FAKE_NEWCOMER") and stat.S_ISSOCK(os.fstat(int(sys.argv[-1])).st_mode):
        return 1
    description = read_description(description_fd(sys.argv[1:]))
    behaviour, _, number = behaviours().get(description.role, "").partition(":")
    for fd in (*description.fds.all(), description.ready_fd):
        os.fstat(fd)
    write = journal(description)
    write("start")
    if behaviour == "hopeless":
        write("end")
        return 2
    if behaviour == "slow-busy":
        time.sleep(1)
    ends: list[int] = []
    is_stubborn = behaviour.startswith("stubborn")
    signal.signal(signal.SIGTERM, lambda number, frame: None if is_stubborn else ends.append(number))
    control = Control(description) if description.role == "resolver" else None
    deadline = time.monotonic() + (float(number) if behaviour in {"die", "early"} else 1e9)
    if control:
        control.say(control_header.STATE_FILLING if behaviour == "unready" else control_header.STATE_READY)
    if behaviour not in {"early", "unready"}:
        os.eventfd_write(description.ready_fd, 1)
    os.close(description.ready_fd)
    if behaviour == "starved":
        os.sched_setaffinity(0, {0})
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    while not ends:
        if control and behaviour not in {"hang", "spin"}:
            control.beat()
        if behaviour in {"busy", "starved", "stubborn-busy", "slow-busy", "lingering-busy"}:
            compute(float(number))
        while behaviour == "spin" and os.getppid() == description.supervisor_tgid:
            pass
        if control and behaviour == "stalling":
            control.stall(ring=1)
        if time.monotonic() > deadline:
            write("die")
            return 1
        if os.getppid() != description.supervisor_tgid:
            write("orphaned")
            return 0
        time.sleep(0.01)
    if behaviour == "lingering-busy":
        write("told")
        time.sleep(1)
    time.sleep(0.05)
    write("end")
    return 0


def compute(seconds: float) -> None:
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def behaviours() -> dict[str, str]:
    pairs = (part.partition("=") for part in os.environ.get("PROCLINE_FAKE", "").split(",") if part)
    return {role: behaviour for role, _, behaviour in pairs}


def journal(description: WorkerDescription):
    path = Path(description.dir).parent / "journal"

    def write(what: str) -> None:
        with path.open("a") as file:
            file.write(f"{description.role} {what}\n")

    return write


class Control:
    """The part of a control segment that a supervisor reads."""

    def __init__(self, description: WorkerDescription) -> None:
        self._lock = os.open(description.directory / "writer.lock", os.O_RDWR | os.O_CREAT)
        fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        file = description.directory / "control"
        file.write_bytes(bytes(control_header.CONTROL_BYTES + control_header.RING_ACK_BYTES * description.ring_count))
        with file.open("r+b") as opened:
            memory = memoryview(mmap.mmap(opened.fileno(), 0))
        self._words_of_4, self._words_of_8 = memory.cast("I"), memory.cast("Q")
        memory[CONTROL_LAYOUT.span("magic")] = MAGIC
        self._set("ring_offset", control_header.CONTROL_BYTES)
        self._set("ring_count", description.ring_count)
        self._set("writer_tgid", os.getpid())
        self._set("layout_version", LAYOUT_VERSION)

    def _set(self, field: str, value: int) -> None:
        self._words_of_4[CONTROL_LAYOUT.word(field)] = value

    def say(self, state: int) -> None:
        self._set("state", state)

    def beat(self) -> None:
        self._words_of_8[CONTROL_LAYOUT.word("heartbeat_boot_ns")] = time.clock_gettime_ns(time.CLOCK_BOOTTIME)

    def stall(self, ring: int) -> None:
        first = (control_header.CONTROL_BYTES + control_header.RING_ACK_BYTES * ring) // 8
        self._words_of_8[first + RING_ACK_LAYOUT.word("stalled")] = 1


if __name__ == "__main__":
    sys.exit(main())

"""A worker that does only what the test sets in PROCLINE_FAKE ("resolver=hang,shard-0=die:0.2,...").

    die:S      ends with code 1 after S seconds
    early:S    the same, without reporting that it is ready
    hopeless   ends with code 2 at once
    hang       shows no sign of life after its first
    spin       the same, and computes meanwhile
    busy:S     computes for S seconds of CPU time between two signs of life
    starved:S  the same, on CPU 0, and only while no other process uses that CPU
    slow-busy:S  the same, and has no handler of SIGTERM during its first second
    lingering-busy:S  the same, and ends a second after it was told to
    stubborn   ignores SIGTERM
    stubborn-busy:S  both
    unready    never reports that it is ready
    stalling   a resolver: reports that ring 1 delivers nothing, which belongs to shard-1 if there are two shards

Events are appended to the file `journal` beside the instance's directory.
"""

from __future__ import annotations

import fcntl
import os
import signal
import stat
import sys
import time
from pathlib import Path

import numpy as np

from pipeline.shm.layout import layout
from pipeline.worker.description import WorkerDescription
from pipeline.worker.reading import description_fd, read_description
from pipeline.worker.start import report_ready


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
        control.say(layout.STATE_FILLING if behaviour == "unready" else layout.STATE_READY)
    if behaviour in {"early", "unready"}:
        os.close(description.ready_fd)
    else:
        report_ready(description)
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
            control.rings["stalled"][1] = 1
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
        ring_offset, *_, size = layout.control_bytes(description.ring_count)
        file = description.directory / "control"
        file.write_bytes(bytes(size))
        self._map = np.memmap(file, mode="r+")
        self.header = self._map[: layout.CONTROL.itemsize].view(layout.CONTROL)[0]
        self.rings = self._map[ring_offset : ring_offset + 64 * description.ring_count].view(layout.RING_ACK)
        self.header["magic"] = layout.MAGIC
        self.header["ring_offset"] = ring_offset
        self.header["ring_count"] = description.ring_count
        self.header["writer_tgid"] = os.getpid()
        self.header["layout_version"] = layout.LAYOUT_VERSION

    def say(self, state: int) -> None:
        self.header["state"] = state

    def beat(self) -> None:
        self.header["heartbeat_boot_ns"] = time.clock_gettime_ns(time.CLOCK_BOOTTIME)


if __name__ == "__main__":
    sys.exit(main())

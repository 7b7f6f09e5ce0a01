"""A shard process between rings made by hand (or real ones) and a test that acts as the resolver."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from pipeline import paths
from pipeline.bus.frames.frame import Frame, decode_frames
from pipeline.bus.sockets import Bus
from pipeline.config.schema import Config
from pipeline.records.capture_fds import CaptureFds
from pipeline.sources.ring._ring import PAGE_BYTES
from pipeline.worker.description import WorkerDescription
from tests.sources.hand_control import CAPTURE_ID, HandControl
from tests.sources.hand_records import BOOT_ID, CPU_STATE_BYTES

DEADLINE_S = 60.0


def make_states_file(cpus: int, room: int = 0) -> int:
    """A memfd like the map `pl_shared`, where each CPU has a ring of its own, with room for `room` CPUs."""
    fd = os.memfd_create("procline-cpus", os.MFD_CLOEXEC)
    os.ftruncate(fd, max(PAGE_BYTES, max(cpus, room) * CPU_STATE_BYTES))
    for cpu in range(cpus):
        os.pwrite(fd, cpu.to_bytes(4, "little"), cpu * CPU_STATE_BYTES + 4)
    return fd


class Stage:
    """Directory, control file, frame socket, and one shard process at a time."""

    def __init__(
        self,
        rings: Mapping[int, int],
        *,
        shared_fd: int,
        ring_count: int,
        with_control: bool = True,
        capture_id: int = CAPTURE_ID,
        boot_id: bytes = BOOT_ID,
        config: Config | None = None,
        module: str = "pipeline.sources.shard.main",
        source: str = "ebpf",
    ) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="procline-test-", dir="/dev/shm"))
        paths.frames_socket(self.directory).parent.mkdir()
        self.control = HandControl(self.directory / paths.CONTROL, capture_id=capture_id) if with_control else None
        self.module = module
        self.log = self.directory / "log"
        self.description = WorkerDescription(
            instance="test", dir=os.fspath(self.directory), role="shard-0", source=source,
            config=config or Config(), boot_id=boot_id.hex(), capture_id=capture_id, supervisor_tgid=os.getpid(),
            ring_count=ring_count, fds=CaptureFds(dict(rings), shared=shared_fd),
        )  # fmt: skip
        self.bus = Bus()
        self.pull = self.bus.pull(paths.frames_socket(self.directory))
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> subprocess.Popen[bytes]:
        assert self.process is None or self.process.returncode is not None, "a shard is reaped before it is replaced"
        fd = self.description.to_memfd()
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", self.module, "--description-fd", str(fd)],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=(fd, *self.description.descriptors()),
            )  # fmt: skip
        os.close(fd)
        return self.process

    def end(self, how: int) -> int:
        assert self.process is not None
        self.process.send_signal(how)
        return self.process.wait(DEADLINE_S)

    def restart_receiver(self) -> None:
        """Close the resolver's end of the socket, as in a kill, with its pending frames, and open a new one."""
        self.bus.close()
        self.bus = Bus()
        self.pull = self.bus.pull(paths.frames_socket(self.directory))

    def receive(self, timeout_ms: int = 10) -> list[Frame]:
        """Return the frames of the next message, or none if no message arrives in time."""
        return decode_frames(self.pull.recv()) if self.pull.poll(timeout_ms) else []

    def frames_until(self, is_enough: Callable[[list[Frame]], bool]) -> list[Frame]:
        frames: list[Frame] = []
        deadline = time.monotonic() + DEADLINE_S
        while not is_enough(frames):
            assert time.monotonic() < deadline, f"waited in vain; log: {self.log.read_text()}"
            frames += self.receive()
        return frames

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait(DEADLINE_S)
        self.bus.close()
        shutil.rmtree(self.directory)


TERM, KILL = signal.SIGTERM, signal.SIGKILL

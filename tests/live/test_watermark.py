"""The assumption behind the order of events, checked on real rings while two CPUs write to them.

Read the time T, then the producer positions: no record at or after such a position has a timestamp before T - 100 us.
The property is checked for every sample of a storm. The same rings then pass the shard's drain and the resolver's
merge, in which no event may be late or out of order.
"""

from __future__ import annotations

import mmap
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

from pipeline.bpf._positions import ProducerPositions
from pipeline.bus.frames.frame import decode_frames
from pipeline.host.boot import boot_id
from pipeline.records.limits import MERGE_SLACK_NS
from pipeline.resolver.merge._merger import Merger
from pipeline.sources.ring._ring import Ring
from pipeline.sources.ring._shared import CpuStates
from pipeline.sources.shard._shard import Shard
from tests.linux import SKIPPED_KINDS
from tests.resolver import _inside

pytestmark = [pytest.mark.live, pytest.mark.alone]


class Acks:
    """The records are kept, because they are checked again after draining."""

    def refresh(self) -> None:
        return None

    def ring(self, number: int) -> tuple[int, int, int]:
        return 0, 0, 0


def test_nothing_older_comes_after_a_sample(live_kernel: None, workload: Path) -> None:
    from pipeline.bpf.loader import Capture

    with Capture(ring_bytes=32 << 20, args_bytes=256) as capture:
        positions = ProducerPositions(capture.fds.rings, capture.ring_count)
        rings = {number: Ring(fd, number=number) for number, fd in capture.fds.rings.items()}
        frames: list[bytes] = []

        def keep(frame: bytes) -> bool:
            frames.append(frame)
            return True

        states = CpuStates(mmap.mmap(-1, 1 << 16))
        shard = Shard(list(rings.values()), acks=Acks(), send=keep, cpus=states, boot_id=boot_id())
        merger = Merger(capture.ring_count)
        applied: list[np.ndarray] = []
        samples: list[tuple[int, np.ndarray]] = []
        fed = 0
        storm = subprocess.Popen([str(workload), "storm", "9000", "1000", "8"], stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            running = storm.poll() is None
            now_positions = np.zeros(capture.ring_count, np.uint64)
            sampled_ns = positions.sample(now_positions)
            samples.append((sampled_ns, now_positions))
            if len(samples) % 50 == 0 or not running:
                # The same steps as in the daemon: drain, pass the frames on, sample again, take the complete events.
                shard.do_work(1 << 20)
                for data in frames[fed:]:
                    for frame in decode_frames(data):
                        merger.add(frame)
                fed = len(frames)
                sampled_ns = positions.sample(now_positions)
                merger.advance(sampled_ns, now_positions)
                while (batch := merger.take(1 << 16)) is not None:
                    applied.append(_inside.times(batch))
                    merger.done(batch)
            if not running and merger.pending == 0 and len(samples) > 100:
                break
        assert storm.wait() == 0
        positions.close()
        decoded = [frame for data in frames for frame in decode_frames(data) if frame.count]
        rings_of = np.concatenate([np.full(frame.count, frame.ring) for frame in decoded])
        header = np.concatenate([frame.header for frame in decoded])
        for ring in rings.values():
            ring.close()

    # Where the kernel skips runs of programs, some are missing. Other tests show that these are counted.
    assert len(header) >= (20_000 if SKIPPED_KINDS else 21_000) and len(samples) > 1000
    checked = 0
    for number in rings:
        mine = np.sort(header[rings_of == number], order="ring_pos")
        if not len(mine):
            continue
        # The oldest timestamp at or after each position.
        oldest = np.minimum.accumulate(mine["time_boot_ns"][::-1])[::-1]
        for sampled_ns, at in samples:
            first = int(np.searchsorted(mine["ring_pos"], at[number]))
            if first < len(mine):
                checked += 1
                assert int(oldest[first]) >= sampled_ns - MERGE_SLACK_NS, (number, sampled_ns - int(oldest[first]))
    assert checked > 1000
    times = np.concatenate(applied)
    assert len(times) == len(header)
    assert (np.diff(times.astype(np.int64)) >= 0).all(), "events were not in order of time"
    assert merger.take_counters().get("late", 0) == 0

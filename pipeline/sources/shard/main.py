"""The shard process: build one `Shard` from the worker specification, run its duty cycle, end cleanly.

Started by the supervisor as ``python -m pipeline.sources.shard.main --spec-fd N``. After SIGTERM it hands over what the
rings hold, waits until that is applied, at most for a part of the time that the supervisor gives it, and ends with 0.
What is not applied by then stays in the rings.
"""

from __future__ import annotations

import gc
import mmap
import os
import sys
import time

from pipeline import paths
from pipeline.bus._push import FramePush
from pipeline.bus.sockets import Bus
from pipeline.errors import ProclineError
from pipeline.log import Logger, get_logger
from pipeline.sources.ring._acks import ControlAcks
from pipeline.sources.ring._ring import PAGE_BYTES, Ring
from pipeline.sources.ring._shared import CpuStates
from pipeline.sources.shard._pacing import Pacer, Waiter, run
from pipeline.sources.shard._shard import Shard
from pipeline.worker.reading import say_ready
from pipeline.worker.start import EXIT_HOPELESS, Specification, begin

#: Records of one duty cycle, after which acknowledgements are looked at again.
BUDGET_RECORDS = 16_384
#: Of the time that a worker has to end, this part is for waiting until all is applied.
_DRAIN_PART = 0.8
_DRAIN_LOOK_S = 0.002


def main(arguments: list[str] | None = None) -> int:
    """Run until SIGTERM; returns the exit code."""
    log = get_logger()
    try:
        spec = begin(sys.argv[1:] if arguments is None else arguments)
        return _run(spec, log)
    except ProclineError as error:
        log.error(str(error))
        return EXIT_HOPELESS


def map_cpu_states(fd: int) -> CpuStates:
    """Map `pl_shared`, a map with BPF_F_MMAPABLE or a file of the same form."""
    return CpuStates(map_counts(fd))


def map_counts(fd: int) -> mmap.mmap:
    """Return the memory of `pl_shared`, writable."""
    length = os.fstat(fd).st_size
    if length == 0:
        # A map has no length that stat knows: entries of 256 bytes, rounded up to a page.
        with open(f"/proc/self/fdinfo/{fd}") as info:  # noqa: PTH123 - a descriptor's file, not a path
            entries = next(int(line.split(":")[1]) for line in info if line.startswith("max_entries:"))
        length = -(-entries * 256 // PAGE_BYTES) * PAGE_BYTES
    return mmap.mmap(fd, length)


def ring_cpus(states: CpuStates, ring_count: int) -> dict[int, tuple[int, ...]]:
    """Return the CPUs that write to each ring, by ring number."""
    cpus_of: dict[int, tuple[int, ...]] = {}
    for cpu in range(min(states.count, ring_count)):
        cpus_of[states.ring(cpu)] = (*cpus_of.get(states.ring(cpu), ()), cpu)
    return cpus_of


def _run(spec: Specification, log: Logger) -> int:
    states = map_cpu_states(spec["shared_fd"])
    ring_bytes = spec.by_ring("ring_bytes")
    cpus_of = ring_cpus(states, spec["ring_count"])
    rings = [
        Ring(fd, number=number, cpus=cpus_of.get(number, ()), data_bytes=ring_bytes.get(number))
        for number, fd in sorted(spec.by_ring("rings").items())
    ]
    acks = ControlAcks(spec.directory / paths.CONTROL, capture_id=spec["capture_id"])
    waiter = Waiter(ring.fileno() for ring in rings)
    with Bus() as bus:
        hwm_frames = spec["config.frames.push_hwm_frames"]
        send = FramePush(bus.push(paths.frames_socket(spec.directory), hwm_frames=hwm_frames))

        shard = Shard(
            rings,
            acks=acks,
            send=send,
            cpus=states,
            boot_id=spec.boot_id,
            source=spec["source"],
            frame_max_bytes=spec["config.frames.max_bytes"],
        )
        pacer = Pacer(
            interval_min_s=spec["config.capture.drain_interval_min_ms"] / 1000,
            interval_max_s=spec["config.capture.drain_interval_max_ms"] / 1000,
        )
        # What was built lives as long as the process: the collector need not look at it again.
        gc.collect()
        gc.freeze()
        say_ready(spec["ready_fd"])
        watch = _Watch(shard, log)
        run(shard, pacer, waiter, watch.look, BUDGET_RECORDS)
        drain_out(shard, time.monotonic() + spec["config.supervision.stop_timeout_s"] * _DRAIN_PART, log)
        shard.close()
    acks.close()
    waiter.close()
    return 0


def drain_out(shard: Shard, deadline_s: float, log: Logger) -> bool:
    """Hand over everything that the rings hold now, and wait until it is applied.

    Args:
        deadline_s: monotonic time at which to stop waiting.

    Returns:
        Whether everything was applied.
    """
    # What comes from now on is not waited for: while the programs are attached that would never end.
    targets = [(ring, ring.producer_pos) for ring in shard.rings]
    while time.monotonic() < deadline_s:
        shard.poll(BUDGET_RECORDS)
        if all(ring.consumer_pos >= target for ring, target in targets):
            return True
        time.sleep(_DRAIN_LOOK_S)
    left = sum(max(0, target - ring.consumer_pos) for ring, target in targets)
    log.warning("ended before all was applied", unapplied_bytes=left)
    return False


class _Watch:
    """Logs what should not happen, each once for a ring."""

    def __init__(self, shard: Shard, log: Logger) -> None:
        self._shard = shard
        self._log = log
        self._told: set[tuple[int, str]] = set()

    def look(self) -> None:
        """Look at the rings' counters."""
        for ring in self._shard.rings:
            self._tell(ring)

    def _tell(self, ring: Ring) -> None:
        for name, count, event in (
            ("corrupt", ring.corrupt_total, "a ring held what no kernel writes: what followed was given up"),
            ("malformed", ring.malformed_total, "a record was malformed and left out"),
            ("refused", ring.refused_total, "the resolver named a position that the ring has not reached"),
        ):
            if count and (ring.number, name) not in self._told:
                self._told.add((ring.number, name))
                self._log.error(event, ring=ring.number, count=count)


if __name__ == "__main__":
    sys.exit(main())

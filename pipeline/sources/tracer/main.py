"""The process that listens to tracers: takes the place of the shards with ``--source tracer``.

Started by the supervisor as ``python -m pipeline.sources.tracer.main --spec-fd N``; it inherits the ring and the
counters, so that what it had taken is there for its successor. It keeps no capability.
"""

from __future__ import annotations

import gc
import sys
import time

import zmq

from pipeline import paths
from pipeline.bus._push import FramePush
from pipeline.bus.sockets import Bus
from pipeline.errors import ProclineError
from pipeline.log import Logger, get_logger
from pipeline.sources.ring._acks import ControlAcks
from pipeline.sources.shard._pacing import Wait, Waiter
from pipeline.sources.shard.main import drain_out, map_counts, map_cpu_states
from pipeline.worker.reading import say_ready
from pipeline.worker.start import EXIT_HOPELESS, Specification, begin

#: Records of one duty cycle, after which acknowledgements are looked at again.
BUDGET_RECORDS = 512
#: A record is complete after the slack; nothing else need come for it.
_SLACK_S = 0.0012
#: The ring is full, or nobody takes frames.
_BLOCKED_S = 0.002
_IDLE_S = 0.1
_DRAIN_PART = 0.8
#: Refused frames are logged at most once in this time.
_AGAIN_S = 10.0


def main(arguments: list[str] | None = None) -> int:
    """Run until SIGTERM; returns the exit code."""
    log = get_logger()
    try:
        spec = begin(sys.argv[1:] if arguments is None else arguments)
        return _run(spec, log)
    except ProclineError as error:
        log.error(str(error))
        return EXIT_HOPELESS


def _run(spec: Specification, log: Logger) -> int:
    # Deferred: they import numpy, whose threads must not be there before the privileges are gone.
    from pipeline.sources.proc_connector.source import Counts, boot_now_ns
    from pipeline.sources.ring._ring import Ring
    from pipeline.sources.ring.handring import RingWriter
    from pipeline.sources.tracer.source import TracerFrames, TracerShard

    ((number, ring_fd),) = spec.by_ring("rings").items()
    states = map_cpu_states(spec["shared_fd"])
    counts = Counts(map_counts(spec["shared_fd"]))
    acks = ControlAcks(spec.directory / paths.CONTROL, capture_id=spec["capture_id"])
    hwm_frames = spec["config.frames.push_hwm_frames"]
    with Bus() as bus, RingWriter(ring_fd) as writer:
        pull = bus.pull(
            paths.tracers_socket(spec.directory),
            mode=int(spec["config.access.tracers_mode"], 8), group=spec["group_id"], hwm_frames=hwm_frames,
        )  # fmt: skip
        send = FramePush(bus.push(paths.frames_socket(spec.directory), hwm_frames=hwm_frames))
        waiter = Waiter((int(pull.getsockopt(zmq.FD)),))

        def receive() -> bytes | None:
            try:
                return pull.recv(zmq.DONTWAIT)
            except zmq.Again:
                return None

        frames = TracerFrames(receive, writer, lambda count: counts.add(0, "lost_samples", count))
        shard = TracerShard(
            frames,
            Ring(ring_fd, number=number, cpus=tuple(range(states.count))),
            clock_ns=boot_now_ns,
            acks=acks,
            send=send,
            cpus=states,
            boot_id=spec.boot_id,
            frame_max_bytes=spec["config.frames.max_bytes"],
        )
        gc.collect()
        gc.freeze()
        say_ready(spec["ready_fd"])
        told, due_s = 0, 0.0
        while not waiter.stopping:
            taken = shard.poll(BUDGET_RECORDS)
            if frames.refused_total != told and time.monotonic() >= due_s:
                due_s = time.monotonic() + _AGAIN_S
                told = frames.refused_total
                log.warning("tracers' frames or records refused", count=told, last=frames.refusal)
            if taken >= BUDGET_RECORDS:
                continue
            if frames.is_full or shard.is_blocked:
                # Not by the waiter: it would return with the next message.
                time.sleep(_BLOCKED_S)
            else:
                waiter.wait(Wait(_SLACK_S if shard.owes else _IDLE_S, True))
        drain_out(shard, time.monotonic() + spec["config.supervision.stop_timeout_s"] * _DRAIN_PART, log)
        shard.close()
    acks.close()
    waiter.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())

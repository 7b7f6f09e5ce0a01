"""The process that follows the proc connector: takes the place of the shards where there is no eBPF.

Started by the supervisor as ``python -m pipeline.sources.proc_connector.main --spec-fd N``; it inherits the netlink
socket, the ring and the counters, so that nothing is lost when it is replaced. It keeps the two capabilities that
reading other users' processes in ``/proc`` needs.
"""

from __future__ import annotations

import gc
import socket
import sys
import time
from typing import TYPE_CHECKING

from pipeline import paths
from pipeline.bus._push import FramePush
from pipeline.bus.sockets import Bus
from pipeline.errors import ProclineError
from pipeline.host.privileges import CAP_DAC_READ_SEARCH, CAP_SYS_PTRACE
from pipeline.log import Logger, get_logger
from pipeline.sources.ring._acks import ControlAcks
from pipeline.sources.shard._pacing import Wait, Waiter
from pipeline.sources.shard.main import drain_out, map_counts, map_cpu_states
from pipeline.worker.reading import say_ready
from pipeline.worker.start import EXIT_HOPELESS, Specification, begin

if TYPE_CHECKING:
    from pipeline.sources.proc_connector.source import ProcConnector

#: Events of one duty cycle, after which acknowledgements are looked at again.
BUDGET_EVENTS = 512
#: An event is complete after the slack; nothing else need come for it.
_SLACK_S = 0.0012
#: In a storm, events are gathered for so long: a wake-up each would cost more than the event. Not longer, since what
#: execs and ends at once is gone when it is looked at.
_GATHER_S = 0.0002
#: More events than this in one cycle are a storm.
_STORM_EVENTS = 8
_IDLE_S = 0.1
_DRAIN_PART = 0.8


def main(arguments: list[str] | None = None) -> int:
    """Run until SIGTERM; returns the exit code."""
    log = get_logger()
    try:
        spec = begin(sys.argv[1:] if arguments is None else arguments, (CAP_DAC_READ_SEARCH, CAP_SYS_PTRACE))
        return _run(spec, log)
    except ProclineError as error:
        log.error(str(error))
        return EXIT_HOPELESS


def _run(spec: Specification, log: Logger) -> int:
    # Deferred: they import numpy, whose threads must not be there before the privileges are gone.
    from pipeline.procfs.containers import cgroup_v2_root
    from pipeline.procfs.reader import ProcReader
    from pipeline.sources.proc_connector.living import Living
    from pipeline.sources.proc_connector.source import ConnectorShard, Counts, ProcConnector
    from pipeline.sources.ring._ring import Ring
    from pipeline.sources.ring.handring import RingWriter

    ((number, ring_fd),) = spec.by_ring("rings").items()
    states = map_cpu_states(spec["shared_fd"])
    sock = socket.socket(fileno=spec["socket_fd"])
    waiter = Waiter((sock.fileno(),))
    acks = ControlAcks(spec.directory / paths.CONTROL, capture_id=spec["capture_id"])
    reader = ProcReader(
        cgroup_root=cgroup_v2_root(),
        args_limit=spec["config.capture.args_bytes"],
        envs_limit=spec["config.capture.envs_bytes"],
    )
    with Bus() as bus, reader, RingWriter(ring_fd) as writer:
        hwm_frames = spec["config.frames.push_hwm_frames"]
        send = FramePush(bus.push(paths.frames_socket(spec.directory), hwm_frames=hwm_frames))

        connector = ProcConnector(
            sock, writer, Counts(map_counts(spec["shared_fd"])), reader, Living(),
            with_envs=spec["config.capture.envs_bytes"] > 0,
        )  # fmt: skip
        shard = ConnectorShard(
            connector,
            Ring(ring_fd, number=number, cpus=tuple(range(states.count))),
            acks=acks,
            send=send,
            cpus=states,
            boot_id=spec.boot_id,
            frame_max_bytes=spec["config.frames.max_bytes"],
        )
        gc.collect()
        gc.freeze()
        say_ready(spec["ready_fd"])
        watch = _Watch(connector, log)
        while not waiter.stopping:
            watch.look()
            events = shard.poll(BUDGET_EVENTS)
            if events >= BUDGET_EVENTS:
                continue
            if events > _STORM_EVENTS or shard.is_blocked:
                # Not by the waiter: it would return with the next event.
                time.sleep(_GATHER_S)
            else:
                waiter.wait(Wait(_SLACK_S if shard.owes else _IDLE_S, True))
        drain_out(shard, time.monotonic() + spec["config.supervision.stop_timeout_s"] * _DRAIN_PART, log)
        watch.look()
        shard.close()
    acks.close()
    waiter.close()
    return 0


class _Watch:
    """Logs losses and strangers, each at most once in ten seconds."""

    _AGAIN_S = 10.0

    def __init__(self, connector: ProcConnector, log: Logger) -> None:
        self._connector = connector
        self._log = log
        self._told = (0, 0, 0)
        self._due_s = 0.0

    def look(self) -> None:
        """Look at the counters."""
        connector = self._connector
        now = (connector.lost_total, connector.overflows_total, connector.refused_total)
        if now == self._told or time.monotonic() < self._due_s:
            return
        self._due_s = time.monotonic() + self._AGAIN_S
        if now[:2] != self._told[:2]:
            self._log.warning("the kernel left events out: make capture.ring_bytes larger",
                lost=now[0], overflows=now[1], surveys=connector.surveys_total,
            )  # fmt: skip
        if now[2] != self._told[2]:
            self._log.warning("datagrams that the kernel did not send", count=now[2])
        self._told = now


if __name__ == "__main__":
    sys.exit(main())

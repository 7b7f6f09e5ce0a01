"""The process that replays a recording into an instance: takes the place of the shards.

Started by the supervisor as ``python -m pipeline.sources.recording.main --spec-fd N``, with the source ``replay:FILE``
in the specification. After the last frame it stays and keeps its rings current, so that the instance can be asked,
until SIGTERM.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from pipeline import paths
from pipeline.bus._push import FramePush
from pipeline.bus.sockets import Bus
from pipeline.errors import ProclineError
from pipeline.log import Logger, get_logger
from pipeline.sources.ring._acks import ControlAcks
from pipeline.sources.shard._pacing import Wait, Waiter
from pipeline.worker.reading import say_ready
from pipeline.worker.start import EXIT_HOPELESS, Specification, begin

#: Frames handed over between two looks at the acknowledgements.
BUDGET_FRAMES = 64
_LOOK_S = 0.002
_IDLE_LOOK_S = 0.02
_DRAIN_PART = 0.8


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
    from pipeline.sources.recording.file import Recording
    from pipeline.sources.recording.replay import ReplaySource

    path = Path(spec["source"].partition(":")[2])
    recording = Recording(path)
    acks = ControlAcks(spec.directory / paths.CONTROL, capture_id=spec["capture_id"])
    waiter = Waiter(())
    with Bus() as bus:
        hwm_frames = spec["config.frames.push_hwm_frames"]
        send = FramePush(bus.push(paths.frames_socket(spec.directory), hwm_frames=hwm_frames))

        source = ReplaySource(recording, boot_id=recording.boot_id, acks=acks, send=send)
        if source.error is not None:
            log.warning(f"{source.error}; replaying what comes before")
        say_ready(spec["ready_fd"])
        is_told = False
        while not waiter.stopping:
            if not source.poll(BUDGET_FRAMES):
                waiter.wait(Wait(_IDLE_LOOK_S if source.is_applied else _LOOK_S, False))
            if source.is_applied and not is_told:
                is_told = True
                log.info("replayed", file=str(path), events=source.event_count)
        deadline = time.monotonic() + spec["config.supervision.stop_timeout_s"] * _DRAIN_PART
        while source.is_sent and not source.is_applied and time.monotonic() < deadline:
            source.poll(BUDGET_FRAMES)
            time.sleep(_LOOK_S)
    acks.close()
    waiter.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())

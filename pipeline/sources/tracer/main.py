"""The process that receives tracers' frames and replaces the shards with ``--source tracer``.

The supervisor starts it as ``python -m pipeline.sources.tracer.main --spec-fd N``. It inherits the ring and the
counters, so its successor finds every record that it had received. It keeps no capabilities.
"""

from __future__ import annotations

import sys
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

from pipeline.log import Logger, get_logger
from pipeline.sources.shard.process import SourceParts, run_source

if TYPE_CHECKING:
    from pipeline.sources.shard.filling import FillingSource
    from pipeline.sources.tracer.source import TracerFrames
    from pipeline.worker.description import WorkerDescription

#: How long to pause, in seconds, when the ring is full or no frame can be sent.
_BLOCKED_S = 0.002


def _open(description: WorkerDescription, parts: SourceParts, stack: ExitStack) -> FillingSource:
    from pipeline.sources.shard.filling import FillingSource
    from pipeline.sources.tracer.source import open_tracer

    frames, shard, fd = open_tracer(description, parts, stack)
    return FillingSource(
        shard,
        fd,
        pause=lambda records: _BLOCKED_S if frames.is_full or shard.is_blocked else 0.0,
        report=RejectReport(frames, get_logger()).check,
    )


class RejectReport:
    """Logs rejected frames and records, at most once every ten seconds."""

    _AGAIN_S = 10.0

    def __init__(self, frames: TracerFrames, log: Logger) -> None:
        self._frames = frames
        self._log = log
        self._reported = 0
        self._due_s = 0.0

    def check(self) -> None:
        """Log a counter that has changed."""
        if self._frames.refused_total != self._reported and time.monotonic() >= self._due_s:
            self._due_s = time.monotonic() + self._AGAIN_S
            self._reported = self._frames.refused_total
            self._log.warning("rejected frames or records of tracers", count=self._reported, last=self._frames.refusal)


if __name__ == "__main__":
    sys.exit(run_source(_open))

"""The process that receives tracers' frames and replaces the shards with ``--source tracer``.

The supervisor starts it as ``python -m pipeline.sources.tracer.main --description-fd N``. It inherits the ring and the
counters, so its successor finds every record that it had received. It keeps no capabilities.
"""

from __future__ import annotations

import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING

from pipeline.log import get_logger
from pipeline.sources.shard.process import SourceParts, run_source

if TYPE_CHECKING:
    from pipeline.sources.shard.filling import FillingSource
    from pipeline.worker.description import WorkerDescription

#: How long to pause, in seconds, when the ring is full or no frame can be sent.
_BLOCKED_S = 0.002


def _open(description: WorkerDescription, parts: SourceParts, stack: ExitStack) -> FillingSource:
    from pipeline.sources.shard.filling import CounterReport, FillingSource
    from pipeline.sources.tracer.source import open_tracer

    frames, shard, fd = open_tracer(description, parts, stack)
    log = get_logger()
    report = CounterReport(
        lambda: (frames.refused_total,),
        lambda _, now: log.warning("rejected frames or records of tracers", count=now[0], last=frames.refusal),
    )
    return FillingSource(
        shard,
        fd,
        pause=lambda records: _BLOCKED_S if frames.is_full or shard.is_blocked else 0.0,
        report=report.check,
    )


if __name__ == "__main__":
    sys.exit(run_source(_open))

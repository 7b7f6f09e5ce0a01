"""The process that replays a recording into an instance and replaces the shards.

The supervisor starts it as ``python -m pipeline.sources.recording.main --description-fd N``; the worker's
description contains the source ``replay:FILE``. After the last frame, the process continues until SIGTERM and keeps its
rings current, so that the instance can be queried.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from pipeline.sources.shard.process import SourceParts, run_source

if TYPE_CHECKING:
    from contextlib import ExitStack

    from pipeline.sources.recording.replay import ReplayProcess
    from pipeline.worker.description import WorkerDescription


def _open(description: WorkerDescription, parts: SourceParts, stack: ExitStack) -> ReplayProcess:
    from pipeline.sources.recording.replay import open_replay

    return open_replay(description.source, parts)


if __name__ == "__main__":
    sys.exit(run_source(_open))

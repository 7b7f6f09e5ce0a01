"""The resolver process: assemble it from the worker description, run its duty cycle, end cleanly.

Started by the supervisor as ``python -m pipeline.resolver.daemon.main --description-fd N``. The description
(JSON, in the inherited descriptor) names the instance, its directory, the settings and the inherited descriptors of the
rings and BPF maps.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
from types import FrameType
from typing import TYPE_CHECKING

if __name__ == "__main__":
    gc.disable()  # until the process is built: what the imports make stays

from pipeline.bpf import syscall
from pipeline.host import memory, privileges
from pipeline.records.capabilities import CAP_BPF
from pipeline.resolver.daemon.build import build
from pipeline.resolver.daemon.process import StartEndedError
from pipeline.worker.start import report_ready, run_worker

if TYPE_CHECKING:
    from pipeline.worker.description import WorkerDescription

#: Frames may arrive for this time after SIGTERM.
DRAIN_SECONDS = 2.0
#: A supervisor ends the shards first. If it was killed, shards and resolver get the signal at the same time, and the
#: shards still send what is in the rings. The resolver then waits until no frame has arrived for this time.
ORPHAN_SETTLE_SECONDS = 0.25


def main(arguments: list[str] | None = None) -> int:
    """Run until SIGTERM; returns the exit code."""
    # The modules are most of the objects, and hardly one of them is garbage: a collection would take 20 ms.
    gc.freeze()
    return run_worker(_run, keep=privileges.READ_PROC, keep_also=_for_maps, arguments=arguments)


def _for_maps(description: WorkerDescription) -> tuple[int, ...]:
    """Return what this kernel requires for reading the BPF maps and running the iterator, both inherited."""
    return (CAP_BPF,) if description.source == "ebpf" and syscall.needs_capability() else ()


def _run(description: WorkerDescription) -> int:
    stopping = False

    def stop(signum: int, frame: FrameType | None) -> None:
        nonlocal stopping
        stopping = True

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal's Ctrl-C: the supervisor stops us in order
    with build(description) as process:
        gc.collect()
        gc.freeze()  # what is left lives as long as the process, so the collector need not visit it again
        gc.enable()
        try:
            process.start(lambda: stopping)
        except StartEndedError:
            return 0
        report_ready(description)
        memory.give_back()  # what the snapshot needed
        while not stopping:
            process.loop.do_work()
            process.follow()
        is_orphaned = os.getppid() != description.supervisor_tgid
        process.drain(DRAIN_SECONDS, ORPHAN_SETTLE_SECONDS if is_orphaned else 0.0)
    return 0


if __name__ == "__main__":
    sys.exit(main())

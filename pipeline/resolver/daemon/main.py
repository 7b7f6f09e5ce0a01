"""The resolver process: assemble it from the worker spec, run its duty cycle, end cleanly.

Started by the supervisor as ``python -m pipeline.resolver.daemon.main --spec-fd N``. The spec (JSON, read from the
inherited descriptor) names the instance, its directory, the settings and the inherited descriptors of the rings and BPF
maps.
"""

from __future__ import annotations

import gc
import signal
import sys
from types import FrameType
from typing import TYPE_CHECKING

from pipeline.errors import ConfigError, ProclineError
from pipeline.host import memory, privileges
from pipeline.log import get_logger, set_up
from pipeline.resolver.daemon.build import build
from pipeline.worker.reading import read_spec, say_ready, spec_fd

if TYPE_CHECKING:
    from pipeline.worker.specification import WorkerSpec

#: Capabilities that reading other users' processes in /proc needs; all others are dropped (capabilities(7)).
CAP_DAC_READ_SEARCH = 2
CAP_SYS_PTRACE = 19

#: After SIGTERM, frames may arrive for so long.
DRAIN_SECONDS = 2.0


def main(argv: list[str] | None = None) -> int:
    """Run until SIGTERM; returns the exit code."""
    try:
        fd = spec_fd(sys.argv[1:] if argv is None else argv)
    except ConfigError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    spec: WorkerSpec = read_spec(fd)
    set_up(spec.config.log.level, spec.config.log.format, spec.role)
    log = get_logger()
    _, is_parent_there = privileges.confine(
        parent_tgid=spec.supervisor_tgid, keep=(CAP_DAC_READ_SEARCH, CAP_SYS_PTRACE)
    )
    if not is_parent_there:
        return 0
    try:
        return _run(spec)
    except ProclineError as error:
        log.error(str(error))
        return 2


def _run(spec: WorkerSpec) -> int:
    stopping = False

    def stop(signum: int, frame: FrameType | None) -> None:
        nonlocal stopping
        stopping = True

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal's Ctrl-C: the supervisor stops us in order
    with build(spec) as process:
        # These objects live as long as the process, so the garbage collector need not visit them again.
        gc.collect()
        gc.freeze()
        process.start()
        say_ready(spec.ready_fd)
        memory.give_back()  # what the snapshot needed
        while not stopping:
            process.loop.poll()
            process.follow()
        process.drain(DRAIN_SECONDS)
    return 0


if __name__ == "__main__":
    sys.exit(main())

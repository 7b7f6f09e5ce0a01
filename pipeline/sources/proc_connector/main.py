"""The process of the proc connector, which replaces the shards on hosts without eBPF.

The supervisor starts it as ``python -m pipeline.sources.proc_connector.main --description-fd N``. It inherits the
netlink socket, the ring and the counters, so a replacement loses nothing. It keeps the two capabilities that reading
other users' processes in ``/proc`` needs.
"""

from __future__ import annotations

import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING

from pipeline.host import privileges
from pipeline.log import get_logger
from pipeline.sources.shard.process import SourceParts, run_source

if TYPE_CHECKING:
    from pipeline.sources.proc_connector.source import ProcConnector
    from pipeline.sources.shard.filling import CounterReport, FillingSource
    from pipeline.worker.description import WorkerDescription

#: In a storm, events collect in the socket for this time, because a wake-up for each would cost more than the event
#: itself. The time is short: a process that execs and ends at once is no longer in ``/proc`` afterwards.
_GATHER_S = 0.0002
#: More events than this in one cycle count as a storm.
_STORM_EVENTS = 8


def _open(description: WorkerDescription, parts: SourceParts, stack: ExitStack) -> FillingSource:
    from pipeline.procfs.proc_reader import ProcReader
    from pipeline.sources.proc_connector.source import open_connector
    from pipeline.sources.shard.filling import FillingSource

    capture = description.config.capture
    reader = stack.enter_context(ProcReader.of(capture))
    connector, shard = open_connector(parts, reader, stack, with_envs=capture.envs_bytes > 0)
    return FillingSource(
        shard,
        parts.fds.socket,
        pause=lambda events: _GATHER_S if events > _STORM_EVENTS or shard.is_blocked else 0.0,
        report=_report(connector).check,
    )


def _report(connector: ProcConnector) -> CounterReport:
    """Return the report of lost events and unknown datagrams."""
    from pipeline.sources.shard.filling import CounterReport

    log = get_logger()

    def changed(before: tuple[int, ...], now: tuple[int, ...]) -> None:
        if now[:2] != before[:2]:
            log.warning("the kernel dropped events because the socket was full; raise capture.ring_bytes",
                lost=now[0], overflows=now[1], surveys=connector.surveys_total,
            )  # fmt: skip
        if now[2] != before[2]:
            log.warning("ignored datagrams that the kernel did not send", count=now[2])

    return CounterReport(lambda: (connector.lost_total, connector.overflows_total, connector.refused_total), changed)


if __name__ == "__main__":
    sys.exit(run_source(_open, keep=privileges.READ_PROC))

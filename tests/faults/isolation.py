"""The losses of a subscriber beside bad ones and on a starved host: `python -m tests.faults.isolation`.

Each host is tried twice, with an instance of its own and a load of forks and exits at a fixed rate: first one healthy
subscriber alone, then the same beside three others. One of these reads 100 events a second, one is frozen (SIGSTOP)
while the load runs, and one is killed (SIGKILL) in the middle and comes back with its position. When the load is over,
all of them read what they have missed. The hosts are an idle one, one with 60 processes that never sleep, and one on
which the instance has a tenth of a CPU, if the cgroups of this machine allow that.

The load, the daemon, each subscriber and each process that never sleeps have a session of their own, because a kernel
may divide the CPU among sessions. The load goes first. A delay is the time from an event in the kernel until the
subscriber's program has it.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass

from pipeline import ProcessTable
from pipeline.load.program import Load
from pipeline.load.scenarios import SCENARIOS, Settings
from tests.faults import cgroups
from tests.live.harness import Daemon, patience
from tests.live.storms import busy, prefer
from tests.live.subscribers import LONG_S, Reader, delays_s, identity, mark, numbers
from tests.waiting import eventually

SCENARIO = "forks"
WORKERS = 2
BUSY = 60
SLOW_EVENTS_PER_S = 100
#: The instance may run for ten of each hundred milliseconds.
CPU_TENTH = (("cpu.max", "10000 100000"), ("cpu.cfs_quota_us", "10000"))


@dataclass(frozen=True)
class Host:
    """A host on which the subscribers are tried.

    Attributes:
        name: as the table shows it.
        during: makes the host so while the load runs.
    """

    name: str
    during: Callable[[Daemon], AbstractContextManager[object]]


def hosts(busy_count: int = BUSY) -> list[Host]:
    """Return the hosts that can be tried here."""
    found = [
        Host("idle", lambda daemon: nullcontext()),
        Host(f"{busy_count} busy processes", lambda daemon: busy(busy_count, own_sessions=True)),
    ]
    if cgroups.is_possible("cpu"):
        found.append(Host("a tenth of a CPU", lambda daemon: cgroups.limited("cpu", daemon.pids(""), CPU_TENTH)))
    return found


@dataclass(frozen=True)
class Row:
    """The result of one subscriber.

    Attributes:
        host, name, beside: where it ran, which one it is, and beside which others.
        made, received: events of the load, and how many of them it received.
        lost: events that the kernel could not write, of all processes of the machine.
        missed: events that were reported to it as missed.
        unknown: events that it did not receive and that were not reported as missed.
        recovered: events that it read from the journal.
        repeats: events that it received twice.
        delays_s: of the events of the load, the shortest first.
    """

    host: str
    name: str
    beside: str
    made: int
    received: int
    lost: int
    missed: int
    unknown: int
    recovered: int
    repeats: int
    delays_s: Sequence[float]

    def check(self) -> None:
        """Check that the subscriber received each event that was not reported as missed or lost.

        Raises:
            AssertionError: it does not.
        """
        assert self.repeats == self.unknown == 0, self
        assert self.received + self.missed + self.lost >= self.made, self
        if self.name in {"healthy", "killed"}:
            assert self.missed == 0, self

    def __str__(self) -> str:
        shown = {name: value for name, value in vars(self).items() if name != "delays_s"}
        return ", ".join(f"{name} {value}" for name, value in shown.items())

    @property
    def cells(self) -> list[str]:
        """The cells of its row in the table."""
        found = self.delays_s
        is_late = self.name != "healthy" or not found
        delays = ["-"] * 3 if is_late else [f"{each * 1000:.1f}" for each in (*_percentiles(found), found[-1])]
        counts = (self.made, self.lost, self.received, self.missed, self.recovered)
        return [self.host, self.name, self.beside, *(f"{count:,}" for count in counts), *delays]


HEADING = (
    "host", "subscriber", "beside", "made", "lost by the kernel", "received", "reported as missed", "from the journal",
    "delay, ms: p50", "p99", "longest",
)  # fmt: skip


def _percentiles(ordered: Sequence[float]) -> list[float]:
    return [ordered[int(len(ordered) * part)] for part in (0.5, 0.99)]


@contextmanager
def frozen(reader: Reader) -> Iterator[None]:
    """A subscriber that stands still during the block."""
    os.kill(reader.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(reader.pid, signal.SIGCONT)


def lost(table: ProcessTable) -> int:
    """Return how many events the kernel could not write."""
    return int(sum(table.stats()["lost"].values()))


def run(host: Host, rate: float, seconds: float, *, is_crowded: bool, config: str = "") -> list[Row]:
    """Try the subscribers on one host, and return what each got.

    Args:
        host: where.
        rate: events a second of the load.
        seconds: how long the load runs.
        is_crowded: whether the healthy subscriber has the others beside it.
        config: of the instance.
    """
    instance = Daemon(config)
    instance.wrapper = ("setsid",)
    with (
        instance as daemon,
        daemon.attach() as table,
        ExitStack() as stack,
        Load(Settings(SCENARIO, rate, seconds, WORKERS)) as load,
    ):
        prefer(load)
        root = identity(daemon, os.getpid())
        readers = {"healthy": Reader(stack, daemon, "healthy", root)}
        if is_crowded:
            readers["slow"] = Reader(stack, daemon, "slow", root, f"pace={SLOW_EVENTS_PER_S}")
            readers["frozen"] = Reader(stack, daemon, "frozen", root)
            readers["killed"] = Reader(stack, daemon, "killed", root)
        listed = 0
        before, began_ns = lost(table), time.time_ns()
        with host.during(daemon), frozen(readers["frozen"]) if is_crowded else nullcontext():
            load.begin()
            if is_crowded:
                time.sleep(seconds / 3)
                listed = int(readers["killed"].last_line["listed"])
                readers["killed"].kill()
                time.sleep(seconds / 3)
                readers["killed"].start()
            made = load.result()
            ended_ns = time.time_ns()
        if is_crowded:
            os.kill(readers["slow"].pid, signal.SIGUSR1)
        name = mark(daemon)
        for reader in readers.values():
            eventually(lambda reader=reader: reader.has(name), LONG_S * patience(), 0.2)
        count = lost(table) - before
        for reader in readers.values():
            reader.kill()
        rows = []
        for role, reader in readers.items():
            missed, unknown = numbers(reader.runs())
            last = reader.last_line
            # A list of processes shows what the next events report, so the subscriber drops those and counts them.
            unknown = max(0, unknown - (listed if role == "killed" else int(last["listed"])))
            received = sum(
                event["comm"] == load.comm and event["event"] in {"fork", "exit"} and event["seq"] is not None
                for event in reader.events()
            )
            row = Row(
                host.name, role, "the others" if is_crowded else "nobody", made.units * SCENARIOS[SCENARIO].events,
                received, count, missed, unknown, int(last["recovered"]), int(last["repeats"]),
                delays_s(reader, began_ns, ended_ns),
            )  # fmt: skip
            rows.append(row)
        assert daemon.stop() == 0, daemon.log.read_text()[-2000:]
        return rows


def table_of(rows: Sequence[Row]) -> str:
    """Return a Markdown table."""
    lines = [HEADING, ["---"] * len(HEADING), *(row.cells for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=float, default=2000, metavar="R", help="events a second; default: 2,000")
    parser.add_argument("--seconds", type=float, default=20, metavar="S", help="duration of each load; default: 20")
    parser.add_argument("--only", default="", metavar="TEXT", help="only hosts with this in their name")
    parser.add_argument("--journal", type=int, metavar="BYTES", help="stream.journal_bytes; default: the daemon's")
    options = parser.parse_args()
    config = "" if options.journal is None else f"[stream]\njournal_bytes = {options.journal}\n"
    rows: list[Row] = []
    for host in hosts():
        for is_crowded in (False, True) if options.only in host.name else ():
            print(f"{host.name}, {'with others' if is_crowded else 'alone'}", file=sys.stderr, flush=True)
            rows += run(host, options.rate, options.seconds, is_crowded=is_crowded, config=config)
    print(table_of(rows))
    for row in rows:
        row.check()


if __name__ == "__main__":
    main()

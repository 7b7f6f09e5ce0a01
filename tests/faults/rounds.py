"""Rounds of faults, and what must be true after each of them.

A round is a storm, in which faults happen one after another at random moments, and then a comparison with what the
workload made, with `/proc`, and with what was there before. See README.md.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from pipeline.host import processes
from pipeline.shm.layout import layout
from tests.faults import faults, stores, truth
from tests.faults.faults import Fault
from tests.live.agreement import agrees_s, assert_agrees
from tests.live.harness import CHECKOUT, Daemon, patience
from tests.live.memory import fdinfo
from tests.live.storms import Storm, Watcher, is_found
from tests.waiting import eventually

T = TypeVar("T")
#: Small enough that tables grow all the time; large enough that no image of a storm is evicted before it is counted.
CONFIG = "[args]\nshow = 'raw'\n[tables]\nchunk_rows = 64\nmax_entries = 1048576\nretention_s = 3600\n"
READERS = 4
# If other programs keep the CPUs busy, more time is allowed in proportion: see `patience`.
#: A new process must be found within this time after a fault, in a storm. On two idle cores it takes less than 1 s.
RECOVERS_S = 20.0
#: A read must not take longer, whatever happens. A starved host gives each of its 60 processes its turn.
READ_S = 10.0
#: Memory of the whole instance may grow by this much in a round of one storm, in bytes, beside the tables.
GROWTH_BYTES = 64 << 20
#: Characters of the end of a log that are printed after a failure.
LOG_SHOWN = 8000


@dataclass
class Tally:
    """The results of all rounds.

    Attributes:
        recovered_s: for each kind of fault, how long it took until a new process was found.
        made, lost: events of the workload, and how many of them were counted as lost.
        reads: answers of readers by kind.
        agreed_s: for each kind of fault, how long the tables took to agree with /proc after it and the storm.
        received: events that a subscriber received; missed: events that were reported to it as missed.
    """

    recovered_s: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    made: Counter[str] = field(default_factory=Counter)
    lost: Counter[str] = field(default_factory=Counter)
    reads: Counter[str] = field(default_factory=Counter)
    agreed_s: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    slowest_read_s: float = 0.0
    received: int = 0
    missed: int = 0

    @property
    def faults(self) -> int:
        """How many faults were tried."""
        return sum(map(len, self.recovered_s.values()))

    def agreement(self, kind: str, begin_s: float, check: Callable[[], T], least_s: float = 0.0) -> T:
        """Wait until `check` finds that the tables agree with /proc, and note how long that took; return its value.

        Args:
            kind: the fault before.
            begin_s: monotonic time from which on nothing else happened.
            check: fails with the differences.
            least_s: how long it may take at least, whatever the host is busy with.

        Raises:
            AssertionError: it took too long.
        """
        due_s = begin_s + max(agrees_s(), least_s)
        value: T = eventually(check, limit_s=due_s - time.monotonic())
        self.agreed_s[kind].append(time.monotonic() - begin_s)
        return value

    def lines(self) -> list[str]:
        """Return the result as a Markdown table and some lines."""
        rows = [
            "| fault | times | answers again after, s: median | longest | equal to /proc after, s: median | longest |",
            "| --- | --- | --- | --- | --- | --- |",
        ]
        for name, times in sorted((name, times) for name, times in self.recovered_s.items() if times):
            rows.append(f"| {name} | {len(times)} | {_spread(times)} | {_spread(self.agreed_s[name])} |")
        made = ", ".join(f"{count:,} {kind}s" for kind, count in sorted(self.made.items()))
        reads = ", ".join(f"{count:,} {kind}" for kind, count in sorted(self.reads.items()))
        rows += [
            "",
            f"{self.faults} faults survived. Made by the workload: {made}.",
            f"Lost and counted: {sum(self.lost.values()):,}.",
            f"Reads: {reads}; the slowest took {self.slowest_read_s:.2f} s.",
            f"A subscriber received {self.received:,} events, and {self.missed:,} were reported to it as missed.",
        ]
        return rows


def _spread(times: Sequence[float]) -> str:
    """Return the cells with the median and the longest of some times."""
    ordered = sorted(times)
    return f"{ordered[len(ordered) // 2]:.2f} | {ordered[-1]:.2f}" if ordered else "- | -"


@contextmanager
def explained(daemon: Daemon) -> Iterator[None]:
    """If the block fails, print the instance's report about itself; its files are removed soon after."""
    try:
        yield
    except Exception:
        print(_description(daemon), file=sys.stderr, flush=True)
        raise


def _description(daemon: Daemon) -> str:
    """Return the counters and rings of an instance, its processes, and the end of its log."""
    lines = [f"{each.role} {each.pid} {_state(each.pid)}" for each in processes.listed(daemon.directory)]
    with suppress(Exception):  # the tables may be damaged, or of an instance that never began
        with daemon.attach() as table:
            stats = table.stats()
        stats["counters"] = {name: value for name, value in stats["counters"].items() if value}
        control = (daemon.directory / "control").read_bytes()
        header = np.frombuffer(control, layout.CONTROL, 1)[0]
        rings = np.frombuffer(control, layout.RING_ACK, int(header["ring_count"]), int(header["ring_offset"]))
        lines += [repr(stats), f"{layout.RING_ACK.names}: {rings.tolist()}"]
    with suppress(OSError):
        lines.append(daemon.log.read_text()[-LOG_SHOWN:])
    return "\n".join(lines)


def _state(pid: int) -> str:
    try:
        fields = Path(f"/proc/{pid}/status").read_text().splitlines()
        return (
            f"{fields[2]}, {Path(f'/proc/{pid}/wchan').read_text()}, cpu {Path(f'/proc/{pid}/schedstat').read_text()}"
        )
    except OSError:
        return "gone"


@contextmanager
def sleepers(count: int) -> Iterator[list[int]]:
    """Processes that live during all faults."""
    started = [subprocess.Popen(["sleep", "86400"]) for _ in range(count)]
    try:
        yield [process.pid for process in started]
    finally:
        for process in started:
            process.kill()
            process.wait()


@contextmanager
def listening(daemon: Daemon) -> Iterator[list[dict[str, Any]]]:
    """A subscriber; its result is in the list after the end."""
    found: list[dict[str, Any]] = []
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.faults.listener", str(daemon.directory)],
        cwd=CHECKOUT, env=daemon.environment, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None and process.stdout.readline() == "listening\n"
        yield found
        process.terminate()
        found.append(json.loads(process.communicate(timeout=60 * patience())[0]))
    finally:
        process.kill()
        process.wait()


def descriptors(daemon: Daemon) -> int:
    """Return the number of descriptors that the instance's processes have open."""
    live = [each.pid for each in processes.listed(daemon.directory) if each.is_live]
    return sum(1 for pid in live for _ in Path(f"/proc/{pid}/fd").iterdir())


def anonymous_bytes(daemon: Daemon) -> int:
    """Return the private memory of the instance's processes, without the tables."""
    total = 0
    for each in processes.listed(daemon.directory):
        if each.is_live:
            for line in Path(f"/proc/{each.pid}/status").read_text().splitlines():
                if line.startswith("RssAnon:"):
                    total += int(line.split()[1]) << 10
    return total


def programs(daemon: Daemon) -> set[int]:
    """Return the ids of the BPF programs that the supervisor holds."""
    (supervisor,) = faults.pids(daemon, "supervisor")
    return {int(fields["prog_id"]) for _, fields in fdinfo(supervisor) if "prog_id" in fields}


def recovery(daemon: Daemon, table: Any, workload: Path) -> float:
    """Start processes until the tables show one of them; return how long that took, s."""
    begin = time.monotonic()
    child = subprocess.Popen([str(workload), "sleep", "60000"])
    try:
        eventually(lambda: is_found(table, child.pid), limit_s=RECOVERS_S * patience())
        return time.monotonic() - begin
    finally:
        child.kill()
        child.wait()


def preloaded(workload: Path, config: str = CONFIG) -> Daemon:
    """Return a daemon whose resolver can be killed between two stores, where the machine allows that."""
    daemon = Daemon(config)
    if stores.is_possible():
        stores.preload(daemon, workload.parent)
    return daemon


def storm_round(workload: Path, tally: Tally, kinds: Sequence[Fault], rng: random.Random) -> None:
    """One daemon, one storm, and these faults one after another.

    Raises:
        AssertionError: something that must be true is not.
    """
    with ExitStack() as stack:
        daemon = stack.enter_context(preloaded(workload))
        stack.enter_context(explained(daemon))
        pids = stack.enter_context(sleepers(READERS))
        table = stack.enter_context(daemon.attach())
        for pid in pids:
            eventually(lambda pid=pid: table.resolve(pid) is not None, 10 * patience())
        eventually(lambda: table.resolve(pids[-1]).comm == "sleep", 10 * patience())
        watchers = [Watcher(stack.enter_context(daemon.attach()), pid) for pid in pids]
        files, fds, memory, loaded = _files(daemon), descriptors(daemon), anonymous_bytes(daemon), programs(daemon)
        with listening(daemon) as received:
            for watcher in watchers:
                watcher.start()
            with Storm(workload, pause_s=0.05) as storm:
                for number, kind in enumerate(kinds, 1):
                    time.sleep(rng.uniform(0.05, 0.8))
                    kind.make(daemon, rng)
                    if number < len(kinds):
                        tally.recovered_s[kind.name].append(recovery(daemon, table, workload))
            # The host is idle from here on, except for what the daemon still does about the last fault.
            last, begin = kinds[-1].name, time.monotonic()
            tally.recovered_s[last].append(recovery(daemon, table, workload))
            assert tally.agreement(last, begin, lambda: assert_agrees(table, complete=False, elsewhere=False)) > READERS
            time.sleep(0.5)
        for watcher in watchers:
            watcher.stop = True
            watcher.join()
            assert not watcher.wrong, Counter(watcher.wrong)
            assert watcher.answers["right"] > 0
            tally.reads.update(watcher.answers)
            tally.slowest_read_s = max(tally.slowest_read_s, watcher.slowest_s)
        assert tally.slowest_read_s < READ_S * patience()
        _check_truth(daemon, table, storm, tally)
        _check_numbers(received[0], tally)
        # The log of the workers that were killed, and nothing else, is new.
        assert _files(daemon) == files, _files(daemon) ^ files
        assert programs(daemon) == loaded
        eventually(lambda: descriptors(daemon) <= fds, 10 * patience())
        assert anonymous_bytes(daemon) < memory + GROWTH_BYTES
        assert daemon.stop() == 0, daemon.log.read_text()[-2000:]
        assert not daemon.directory.exists()
        for number in loaded:
            eventually(lambda number=number: not _is_loaded(number), 10 * patience())


def start_round(workload: Path, tally: Tally, kinds: Sequence[Fault], rng: random.Random) -> None:
    """Faults after which a new instance begins: it agrees with /proc, and nothing of the old one is left."""
    with Daemon(CONFIG) as daemon, explained(daemon), sleepers(1) as (pid,):
        for kind in kinds:
            loaded = programs(daemon)
            with Storm(workload, pause_s=0.05):
                time.sleep(rng.uniform(0.05, 0.5))
                kind.make(daemon, rng)
                with daemon.attach() as table:
                    tally.recovered_s[kind.name].append(recovery(daemon, table, workload))
                    eventually(lambda table=table: _is_sleep(table.resolve(pid)))
            begin = time.monotonic()
            with daemon.attach() as table:
                # A process of the host that executed its own file again while no daemon watched has old arguments.
                tally.agreement(
                    kind.name,
                    begin,
                    lambda table=table: assert_agrees(table, complete=False, arguments=False, elsewhere=False),
                )
                eventually(lambda table=table: _is_sleep(table.resolve(pid)))
            for number in loaded - programs(daemon):
                eventually(lambda number=number: not _is_loaded(number), 10 * patience())
        assert daemon.stop() == 0, daemon.log.read_text()[-2000:]
        assert not daemon.directory.exists()


def _is_sleep(entry: Any) -> bool:
    return entry is not None and (entry.comm, entry.argv) == ("sleep", ["sleep", "86400"])


def _files(daemon: Daemon) -> set[str]:
    # Names of the users of each mount namespace, and details of containers, come and go with the host's containers.
    found = {path.relative_to(daemon.directory) for path in daemon.directory.rglob("*")}
    return {str(path) for path in found if path.parts[0] not in {"users", "containers"}}


def _is_loaded(program: int) -> bool:
    done = subprocess.run(["bpftool", "prog", "show", "id", str(program)], capture_output=True, check=False)
    return done.returncode == 0


def _check_truth(daemon: Daemon, table: Any, storm: Storm, tally: Tally) -> None:
    """Each process of the storm is in the tables once with all of its events, unless these were counted as lost."""
    stats = table.stats()
    lost = Counter({kind: count for kind, count in stats["lost"].items() if count})
    found = truth.read(daemon.directory, storm.processes)
    assert found.made["fork"] > 0
    wrong = found.faults(lost, stats["late"])
    assert not wrong, "\n".join([*wrong, truth.message(found, stats)])
    tally.made.update({kind: found.made[kind] for kind in ("fork", "exec")})
    tally.lost.update(lost)


def _check_numbers(received: dict[str, Any], tally: Tally) -> None:
    for topic, each in received["numbers"].items():
        assert each["wrong"] == 0 and each["seen"] > 0, (topic, received)
        assert each["seen"] + each["missed"] == each["last"] + 1 - each["first"], (topic, received)
        tally.received += each["seen"]
        tally.missed += each["missed"]

"""Hours of load in minutes: a recording of them is replayed, and the tables are compared with a model meanwhile.

`python -m tests.faults.hours --hours 8` makes the recording, replays it as fast as the machine can, and stops the
replay once in each hour of the recording. Each time the live processes in the tables must be exactly those of the
model, and memory, descriptors and files of the instance must be what they were after the first hour.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline import ProcessTable
from pipeline.errors import NotRunningError, StaleError
from pipeline.shm.check.validate import violations
from pipeline.shm.layout import layout
from pipeline.sources.recording.file import RecordingWriter
from tests.faults import faults
from tests.faults.rounds import anonymous_bytes, descriptors, patience
from tests.live.harness import CHECKOUT, Daemon
from tests.waiting import eventually

sys.path.append(str(CHECKOUT / "bench"))
import loads

EVENTS_S = 100
#: With two, the merge would not wait for the ring of which nothing comes while the replay stands still.
RINGS = 1
#: Reached within minutes of the recording, so that rows and strings are evicted and used again nearly all the time.
CONFIG = "[args]\nshow = 'raw'\n[tables]\nmax_entries = 20000\n"
GROWTH_BYTES = 4 << 20
_HOUR_NS = 3600 * 10**9
#: After this part of the recording the tables are full, and nothing needs to grow any more.
FULL_NS = _HOUR_NS // 5
#: Events of the part of the recording that is repeated.
_PART_EVENTS = 100_000


@dataclass(frozen=True)
class Sample:
    """The resources that an instance used at one moment of a replay.

    Attributes:
        hours: since the begin of the recording.
        events: applied so far.
        anonymous_bytes: memory of its processes.
        file_bytes: memory of its files.
        descriptors: open files of its processes.
        live, ended: processes in the tables.
    """

    hours: float
    events: int
    anonymous_bytes: int
    file_bytes: int
    descriptors: int
    live: int
    ended: int


class Model:
    """A load that is repeated, and which of its processes live at a time.

    Args:
        hours: length of the recording.
        seed: of all random choices.
    """

    def __init__(self, hours: float, seed: int) -> None:
        mean_ns = 10**9 // EVENTS_S
        strings = [(path, name, args, b"") for path, name, args, _ in loads.compiler_runs()]
        self.load = loads.Load(
            loads.build(_PART_EVENTS), strings=strings, seed=seed, gaps_ns=(mean_ns // 10, mean_ns * 19 // 10)
        )
        self.repetitions = max(1, round(hours * _HOUR_NS / int(self.load.period_ns)))
        self.begin_boot_ns = int(self.load.header["time_boot_ns"][0])
        self.events = self.load.count * self.repetitions
        kinds, header = self.load.kind, self.load.header
        forks, exits = header[kinds == loads.declared.KIND_FORK], header[kinds == loads.declared.KIND_EXIT]
        forks, exits = np.sort(forks, order="start_boot_ns"), np.sort(exits, order="start_boot_ns")
        self._tgid, self._start = forks["tgid"], forks["start_boot_ns"]
        self._exit_ns = exits["time_boot_ns"]

    def write(self, file: Path) -> None:
        """Make the recording."""
        stream = self.load.stream(RINGS)
        with RecordingWriter(file, boot_id=loads.BOOT, boot_unix_ns=1_700_000_000_000_000_000) as writer:
            for _ in range(self.repetitions):
                for message in next(stream):
                    writer.write(message)

    def live(self, forks: int, exits: int) -> npt.NDArray[Any]:
        """Return (pid, start) of the processes that live after this many forks and exits, sorted.

        Processes fork, and later end, in the order of their numbers.
        """
        numbers = np.arange(exits, forks)
        at, repetition = numbers % len(self._tgid), (numbers // len(self._tgid)).astype(np.uint64)
        return _identities(self._tgid[at], self._start[at] + repetition * self.load.period_ns)

    def knows(self, tgid: npt.NDArray[Any], start: npt.NDArray[Any], end: npt.NDArray[Any]) -> bool:
        """Whether the model has each of these processes, which have ended at these times."""
        period = self.load.period_ns
        shift = (start - np.uint64(self.begin_boot_ns - 1_000_000)) // period * period
        at = np.searchsorted(self._start, start - shift)
        if not (at < len(self._start)).all():
            return False
        return bool(
            (self._start[at] == start - shift).all()
            and (self._tgid[at] == tgid).all()
            and (self._exit_ns[at] == end - shift).all()
        )


def _identities(tgid: npt.NDArray[Any], start: npt.NDArray[Any]) -> npt.NDArray[Any]:
    found = np.zeros(len(tgid), [("tgid", np.uint32), ("start", np.uint64)])
    found["tgid"], found["start"] = tgid, start
    return np.sort(found)


def run(hours: float, seed: int, directory: Path, pauses: int) -> list[Sample]:
    """Replay hours of load.

    Args:
        hours: length of the recording.
        seed: of all random choices.
        directory: for the recording: some 200 bytes for each event.
        pauses: how often the replay is stopped and compared.

    Raises:
        AssertionError: the tables differ from the model, or something has grown.
    """
    rng = random.Random(seed)
    model = Model(hours, seed)
    file = directory / "hours.rec"
    model.write(file)
    length = model.repetitions * int(model.load.period_ns)
    samples: list[Sample] = []
    daemon = Daemon(CONFIG, "--source", f"replay:{file}")
    daemon.log = directory / "log"
    try:
        daemon.start(wait=False)
        table = eventually(lambda: _attached(daemon), 120)
        with table:
            for number in range(1, pauses + 1):
                share = (number - rng.uniform(0.3, 0.9)) / pauses
                goal = model.begin_boot_ns + FULL_NS + int((length - FULL_NS) * share)
                _wait(daemon, table, goal)
                for pid in (shards := faults.pids(daemon, "shard")):
                    os.kill(pid, signal.SIGSTOP)
                try:
                    samples.append(_compared(daemon, table, model))
                finally:
                    for pid in shards:
                        os.kill(pid, signal.SIGCONT)
            done = daemon.cli("wait", "--timeout", "3600", timeout=3700)
            assert done.returncode == 0, done.stderr
            applied = table.stats()["events"]
            assert {kind: applied[kind] for kind in _counts(model)} == _counts(model), applied
            assert not any(table.stats()["lost"].values())
            assert len(_rows(daemon, live=True)) == 0
            found = violations(daemon.directory)
            assert not found, found[:5]
        assert daemon.stop() == 0, daemon.log.read_text()[-2000:]
    finally:
        daemon.close()
    _check_growth(samples)
    return samples


def _attached(daemon: Daemon) -> ProcessTable | bool:
    try:
        return daemon.attach()
    except (NotRunningError, StaleError):
        return False


def _wait(daemon: Daemon, table: ProcessTable, goal_ns: int) -> None:
    while table.watermark_boot_ns < goal_ns:
        assert daemon.process is not None and daemon.process.poll() is None, daemon.log.read_text()[-2000:]
        time.sleep(0.001)


def _rows(daemon: Daemon, *, live: bool) -> npt.NDArray[Any]:
    """Return the newest images of the processes that live, or have ended, according to the tables."""
    hot = np.fromfile(daemon.directory / "hot", layout.HOT)
    newest = hot[((hot["flags"] & layout.ROW_HEAD) != 0) & (hot["row_seq"] % 2 == 0)]
    return newest[(newest["exit_boot_ns"] == 0) == live]


def _counts(model: Model) -> dict[str, int]:
    kinds = {"fork": loads.declared.KIND_FORK, "exec": loads.declared.KIND_EXEC, "exit": loads.declared.KIND_EXIT}
    return {name: int((model.load.kind == kind).sum()) * model.repetitions for name, kind in kinds.items()}


def _agreeing(
    daemon: Daemon, table: ProcessTable, model: Model
) -> tuple[dict[str, int], npt.NDArray[Any], npt.NDArray[Any]]:
    """Return the counts of events, and the rows of live and of ended processes, which are those of the model.

    Raises:
        AssertionError: they differ, perhaps because the resolver has not applied all that was sent.
    """
    live, ended = _rows(daemon, live=True), _rows(daemon, live=False)
    applied = table.stats()["events"]
    found = _identities(live["tgid"], live["start_boot_ns"])
    expected = model.live(applied["fork"], applied["exit"])
    assert np.array_equal(found, expected), (len(found), len(expected), np.setxor1d(found, expected)[:5])
    assert model.knows(ended["tgid"], ended["start_boot_ns"], ended["exit_boot_ns"])
    return dict(applied), live, ended


def _compared(daemon: Daemon, table: ProcessTable, model: Model) -> Sample:
    """Compare the tables of a replay that stands still with the model, and return what the instance uses."""
    applied, live, ended = eventually(lambda: _agreeing(daemon, table, model), 120 * patience(), 0.5)
    files = sum(path.stat().st_blocks * 512 for path in daemon.directory.rglob("*") if path.is_file())
    events = sum(applied.values())
    sample = Sample(
        events / EVENTS_S / 3600, events, anonymous_bytes(daemon), files, descriptors(daemon), len(live), len(ended)
    )
    print(sample, file=sys.stderr, flush=True)
    return sample


def _check_growth(samples: list[Sample]) -> None:
    first, later = samples[0], samples[1:]
    for each in later:
        assert each.anonymous_bytes < first.anonymous_bytes + GROWTH_BYTES, (first, each)
        assert each.file_bytes < first.file_bytes + GROWTH_BYTES, (first, each)
        assert each.descriptors <= first.descriptors, (first, each)


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hours", type=float, default=8.0, metavar="H", help="length of the recording (default: 8)")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="the same seed makes the same load")
    options = parser.parse_args()
    # A shell ignores SIGINT for jobs in the background. Nothing is left behind by either signal.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    begin = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="procline-hours-") as directory:
        samples = run(options.hours, options.seed, Path(directory), max(2, round(options.hours)))
    print("| hours | events | memory, MB | files, MB | descriptors | live | ended and retained |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for each in samples:
        print(
            f"| {each.hours:.2f} | {each.events:,} | {each.anonymous_bytes / 1e6:.1f} | {each.file_bytes / 1e6:.1f} "
            f"| {each.descriptors} | {each.live:,} | {each.ended:,} |"
        )
    print(f"{options.hours:g} hours of load in {time.monotonic() - begin:.0f} s.")


if __name__ == "__main__":
    main()

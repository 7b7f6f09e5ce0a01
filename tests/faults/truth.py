"""Compare the tables with the processes of a storm, one by one: was each fork and each exec applied once, or counted?

The storm says which processes it made. The tables must contain each of them once, with what its events say:

    fork   the time of the fork, which only a fork event adds
    exec   an image that an exec made, with the time of that exec
    exit   the exit code

What is missing there must have been counted as lost: in the counter of its kind, or in that of unknown kinds. If a fork
came after the exec of its process, it was counted as late. Such a process has no first image, or one without a name,
although all of its events were applied.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.host.boot import TICK_NS
from pipeline.shm.layout import layout
from tests.live.storms import Made

COMM = b"workload"
#: Processes that a message describes at most.
SHOWN = 12


def _named(prefix: str) -> dict[str, int]:
    """Return the layout's constants with this prefix. Keys are the rest of their names, in lower case."""
    n = len(prefix)
    return {
        name[n:].lower(): value for name, value in vars(layout).items() if name[:n] == prefix and type(value) is int
    }


_FLAGS, _KNOWN, _SOURCES = _named("ROW_"), _named("KNOWN_"), _named("SOURCE_")


@dataclass
class Truth:
    """The events of a storm that the tables have.

    Attributes:
        made: events of the storm, by kind.
        found: of these, events that the tables show to be applied.
        unnamed: processes with a fork, but without a first image that has the program's name.
        alive: processes of the storm that have not ended, according to the tables.
        wrong: what no loss explains, as text: an event that was applied twice, or a process that was not made.
        missing: the processes of which something is missing, by what that is.
        rows: the rows of those processes, as text.
    """

    made: Counter[str] = field(default_factory=Counter)
    found: Counter[str] = field(default_factory=Counter)
    unnamed: int = 0
    alive: int = 0
    wrong: list[str] = field(default_factory=list)
    missing: defaultdict[str, list[Made]] = field(default_factory=lambda: defaultdict(list))
    rows: list[str] = field(default_factory=list)

    def faults(self, lost: Mapping[str, int], late: int) -> list[str]:
        """Return what does not balance: each event is applied once, or is in a counter; [] if all does.

        Args:
            lost: the counters of lost events by kind.
            late: the counter of late events.
        """
        found = list(self.wrong)
        unknown = lost.get("unknown", 0)
        for kind, made in sorted(self.made.items()):
            missing = made - self.found[kind]
            if not 0 <= missing <= lost.get(kind, 0) + unknown:
                found.append(f"{kind}: made {made}, applied {self.found[kind]}, lost {lost.get(kind, 0)} + {unknown}")
        most = late + sum(lost.values())
        if self.unnamed > most:
            found.append(f"{self.unnamed} first images are missing or have no name; {late} events were late")
        if self.alive:
            found.append(f"{self.alive} processes have ended, but not in the tables")
        return found


def truth(made: Iterable[Made], hot: np.ndarray[Any, Any], cold: np.ndarray[Any, Any]) -> Truth:
    """Compare the processes of a storm with the rows of the tables.

    Args:
        made: the processes, in any order.
        hot, cold: all rows of the tables.
    """
    result = Truth()
    wanted: defaultdict[tuple[int, int], list[Made]] = defaultdict(list)
    runs: set[tuple[int, int, int]] = set()
    for one in made:
        wanted[one.pid, one.parent].append(one)
        runs.add((one.parent, one.begin_boot_ns, one.end_boot_ns))
    parents = {parent for _, parent in wanted}
    used = (hot["flags"] != 0) & (hot["row_seq"] % 2 == 0)
    is_near = np.isin(hot["ppid"], list(parents)) | np.isin(cold["creator_tgid"], list(parents))
    is_near |= np.isin(hot["tgid"], [pid for pid, _ in wanted])
    images: defaultdict[tuple[int, int], list[int]] = defaultdict(list)
    for row in np.flatnonzero(used & is_near).tolist():
        images[int(hot["tgid"][row]), int(hot["start_boot_ns"][row])].append(row)
    owners: defaultdict[Made, list[list[int]]] = defaultdict(list)
    for (pid, start_ns), rows in sorted(images.items()):
        # Another process can have had both pids before or afterwards: they are given in order, again and again.
        named = {int(cold["creator_tgid"][row]) or int(hot["ppid"][row]) for row in rows}
        found = [one for parent in named for one in wanted.get((pid, parent), ()) if _is_within(start_ns, *one[-2:])]
        if found:
            owners[found[0]].append(rows)
        elif any(hot["comm"][row] == COMM for row in rows) and any(
            parent in named and _is_within(start_ns, begin_ns, end_ns) for parent, begin_ns, end_ns in runs
        ):
            result.wrong.append(f"a process that was not made: {_described(rows, hot, cold)}")
    for group in wanted.values():
        for one in group:
            _compare(result, one, owners.get(one, []), hot, cold)
    for pid in dict.fromkeys(one.pid for group in result.missing.values() for one in group[:SHOWN]):
        shown = [_described(rows, hot, cold) for (tgid, _), rows in sorted(images.items()) if tgid == pid]
        result.rows += shown or [f"{pid}: no row"]
    return result


def _is_within(start_ns: int, begin_ns: int, end_ns: int) -> bool:
    """Whether a process began between two times; its start may be known to the tick only."""
    return begin_ns - TICK_NS <= start_ns <= end_ns


def _compare(result: Truth, made: Made, owners: list[list[int]], hot: Any, cold: Any) -> None:
    """Add a process that was made; `owners` are the rows of each process that the tables have for it."""
    result.made.update(fork=1, exec=made.kind == "exec", exit=1)
    if not owners:
        result.missing["process"].append(made)
        return
    if len(owners) > 1:
        shown = [_described(rows, hot, cold) for rows in owners]
        result.wrong.append(f"{len(owners)} processes instead of one: {'; '.join(shown)}")
    rows = owners[0]
    known = np.bitwise_or.reduce(hot["known"][rows])
    flags = np.bitwise_or.reduce(hot["flags"][rows])
    first = [row for row in rows if not hot["flags"][row] & layout.ROW_IS_EXEC]
    execs = _exec_count(rows, hot)
    if execs > (made.kind == "exec") or len(first) > 1:
        result.wrong.append(f"applied twice: {_described(rows, hot, cold)}")
    if known & layout.KNOWN_FORK_TIME:
        result.found["fork"] += 1
        if not any(hot["comm"][row] == COMM for row in first):
            result.unnamed += 1
            result.missing["first image"].append(made)
    else:
        result.missing["fork"].append(made)
    if made.kind == "exec" and execs:
        result.found["exec"] += 1
    elif made.kind == "exec":
        result.missing["exec"].append(made)
    if flags & layout.ROW_EXIT_KNOWN:
        result.found["exit"] += 1
    else:
        result.missing["exit"].append(made)
    if any(hot["exit_boot_ns"][row] == 0 for row in rows):
        result.alive += 1
        result.missing["end"].append(made)


def _exec_count(rows: list[int], hot: Any) -> int:
    wanted = layout.KNOWN_EXEC_TIME
    return sum(1 for row in rows if hot["flags"][row] & layout.ROW_IS_EXEC and hot["known"][row] & wanted)


def _described(rows: list[int], hot: Any, cold: Any) -> str:
    """Return the rows of a process as text, oldest image first."""
    texts = []
    for row in sorted(rows, key=lambda row: (int(hot["start_boot_ns"][row]), int(hot["images"][row]))):
        one, more = hot[row], cold[row]
        flags = " ".join(name for name, value in _FLAGS.items() if int(one["flags"]) & value)
        known = " ".join(name for name in ("fork_time", "exec_time", "comm") if int(one["known"]) & _KNOWN[name])
        source = " ".join(name for name, value in _SOURCES.items() if value == int(one["source"]))
        texts.append(
            f"row {row} of {one['tgid']}: parent {one['ppid']}, creator {more['creator_tgid']}, name {one['comm']!r},"
            f" start {one['start_boot_ns']}, fork {more['fork_boot_ns']}, exec {one['exec_boot_ns']},"
            f" exit {one['exit_boot_ns']}, from {source}, {flags}; known: {known}"
        )
    return "; ".join(texts)


def read(directory: Path, made: Iterable[Made]) -> Truth:
    """Compare the processes of a storm with the tables of an instance."""
    hot = np.fromfile(directory / "hot", layout.HOT)
    cold = np.fromfile(directory / "cold", layout.COLD)
    rows = min(len(hot), len(cold))
    return truth(made, hot[:rows], cold[:rows])


def message(result: Truth, stats: Mapping[str, Any]) -> str:
    """Return the counters of an instance, and what is missing in its tables."""
    counters = {name: value for name, value in stats["counters"].items() if value}
    lines = [
        f"made {dict(result.made)}, applied {dict(result.found)}, first images missing {result.unnamed}",
        f"lost { {kind: count for kind, count in stats['lost'].items() if count} }, late {stats['late']},"
        f" repairs {stats['repairs']}, evictions {stats['evictions']}, take-overs {stats['takeovers']}",
        f"events {stats['events']}",
        f"counters {counters}",
    ]
    lines += [
        f"missing {what}: {len(of)}, {[one[:3] for one in of[:SHOWN]]}" for what, of in sorted(result.missing.items())
    ]
    return "\n".join(lines + result.rows)

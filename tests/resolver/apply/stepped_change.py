"""A change of credentials that an applier stores step by step, so that a test sees every state that a kill can leave.

As a script, with the name of a case and a directory, it prepares tables, writes the change's record to a file, and
applies it; see `tests/shm/writer/stepped.py`.
"""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.records.declared import KIND_CRED
from tests.resolver.applier_world import World
from tests.resolver.story import Event, sampled
from tests.shm.writer import stepped

#: Small, because each state is a copy of all files.
OPTIONS = {
    "row_capacity": 16, "chunk_rows": 4, "pid_capacity": 64, "names_bytes": 8192, "args_bytes": 8192, "envs_bytes": 4096
}  # fmt: skip
#: What the last comparison before the change knew, on the boot clock.
AFTER_NS = 500


def _of_a_known_process(w: World) -> Event:
    w.fork(1, 3)
    return sampled(w.story.change(3, KIND_CRED, uid=4), AFTER_NS)


def _after_another_change(w: World) -> Event:
    w.fork(1, 3)
    sampled(w.story.change(3, KIND_CRED, uid=5), AFTER_NS - 1).apply(w.applier)
    return sampled(w.story.change(3, KIND_CRED, uid=4), AFTER_NS)


def _of_an_unknown_process(w: World) -> Event:
    w.story.begin(3, inode=10).parent = w.story.processes[1]
    return sampled(w.story.change(3, KIND_CRED, uid=4), AFTER_NS)


def _seen_exactly(w: World) -> Event:
    w.fork(1, 3)
    sampled(w.story.change(3, KIND_CRED, uid=5), AFTER_NS - 1).apply(w.applier)
    return w.story.change(3, KIND_CRED, uid=4)


#: By name: prepares the tables, and returns the record that sets the uid of process 3 to 4.
CASES: dict[str, Callable[[World], Event]] = {
    "of a known process": _of_a_known_process,
    "after another change": _after_another_change,
    "of an unknown process": _of_an_unknown_process,
    "seen exactly": _seen_exactly,
}


@contextmanager
def stepping(case: str, directory: Path) -> Iterator[tuple[Event, Iterator[dict[str, bytes]]]]:
    """Yield the record of a case, and the states of the tables while it is applied.

    Raises:
        PermissionError: this process may not trace its child.
    """
    with stepped.traced([sys.executable, "-m", __name__, case, str(directory)]) as pid:
        event = pickle.loads((directory / "event").read_bytes())
        yield event, stepped.states(pid, directory / "table")


def main(case: str, directory: Path) -> None:
    world = World(directory / "table", **OPTIONS)
    world.init()
    event = CASES[case](world)
    (directory / "event").write_bytes(pickle.dumps(event))
    stepped.be_stepped(lambda: event.apply(world.applier))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))

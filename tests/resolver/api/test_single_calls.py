"""Any sequence of single calls: the resolver against a dictionary of lists, which models specification 3 and 5.

The model holds, for each pid, the chain of names that its entry descends from. It covers fork, exec, exit, delete, a
new parent from the kernel, and pid reuse, in any order, with unknown parents.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.resolver.entries.cache_entry import ProcessCacheEntry
from tests.resolver.resolver_world import World, high, world
from tests.sampling import examples

PIDS = (1, 3, 4, 5, 6)


@dataclass
class Process:
    """The images of one process, oldest first, and the ancestor of the oldest."""

    pid: int
    begin: int
    images: list[int] = field(default_factory=list)
    above: tuple[Process, int] | None = None  #: the parent, and how many images it had


class Model:
    def __init__(self) -> None:
        self.cached: dict[int, Process] = {}
        self.clock = 0

    def fork(self, ppid: int, pid: int, name: int) -> None:
        self.clock += 1
        parent = self.cached.get(ppid) if pid != 1 else None
        # A process cannot fork itself: the pid was reused, and the parent is its previous owner.
        process = Process(pid, self.clock, [name])
        if parent is not None:
            process.above = (parent, len(parent.images))
        self.cached[pid] = process

    def exec(self, pid: int, name: int) -> None:
        self.cached[pid].images.append(name)

    def move(self, pid: int, ppid: int) -> None:
        process, parent = self.cached[pid], self.cached.get(ppid)
        if parent is not None and parent.begin < process.begin:
            process.above = (parent, len(parent.images))

    def chain(self, pid: int) -> list[int]:
        process, count = self.cached[pid], len(self.cached[pid].images)
        names: list[int] = []
        while True:
            names += reversed(process.images[:count])
            if process.above is None:
                return names
            process, count = process.above


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("fork"), st.sampled_from(PIDS), st.sampled_from(PIDS)),
        st.tuples(st.just("exec"), st.sampled_from(PIDS), st.just(0)),
        st.tuples(st.just("exit"), st.sampled_from(PIDS), st.just(0)),
        st.tuples(st.just("delete"), st.sampled_from(PIDS), st.just(0)),
        st.tuples(st.just("move"), st.sampled_from(PIDS), st.sampled_from(PIDS)),
    ),
    max_size=25,
)


def play(w: World, steps: list[tuple[str, int, int]]) -> None:
    model = Model()
    names: dict[ProcessCacheEntry, int] = {}
    for number, (kind, a, b) in enumerate(steps, 1):
        if kind == "fork":
            if a == b:
                continue
            event = w.fork(a if b != 1 else 0, b, number)
            model.fork(a, b, number)
            assert event.entry is not None
            names[event.entry] = number
        elif a not in model.cached:
            w.delete(a)
        elif kind == "exec":
            event = w.exec(0, a, 1000 + number)
            model.exec(a, number)
            assert event.entry is not None
            names[event.entry] = number
        elif kind == "move":
            entry = w.resolver.get(high(a))
            assert entry is not None
            if a != 1 and entry.ppid != high(b):
                model.move(a, b)
            w.resolver.try_reparent_from_kernel_ppid(entry, high(b), None)
        else:
            if kind == "exit":
                w.exit(w.event(0, a, 0))
            else:
                w.delete(a)
            del model.cached[a]
        w.check()
        assert w.cache == {high(pid) for pid in model.cached}
        for pid in model.cached:
            head = w.resolver.get(high(pid))
            assert head is not None
            assert [names[entry] for entry in head.chain()] == model.chain(pid), f"pid {pid} after step {number}"


@settings(max_examples=examples(15), deadline=None)  # each validates tables after each step
@given(STEPS)
def test_any_sequence_of_calls_makes_the_chains_of_the_model(steps: list[tuple[str, int, int]]) -> None:
    with world() as w:
        play(w, steps)

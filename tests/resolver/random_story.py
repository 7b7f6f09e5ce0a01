"""Random stories: operations that hypothesis chooses, and the events that they become."""

from __future__ import annotations

from hypothesis import strategies as st

from pipeline.records import declared
from tests.resolver.story import Story, sampled

PIDS = range(2, 14)

STEP_NS = 40_000

#: The letters of operations, see `tell`; the more there are of one, the more often it is chosen.
LETTERS = "fffffeeebbxxxcmgsurkkh"

OPS = st.lists(st.tuples(st.sampled_from(LETTERS), st.integers(0, 1 << 16), st.integers(0, 1 << 16)), max_size=60)


def tell(ops: list[tuple[str, int, int]], story: Story | None = None) -> Story:
    """Turn the numbers into a valid sequence of events, from pid 1 on or continuing `story`."""
    if story is None:
        story = Story(step=STEP_NS)
        story.begin(1, inode=10)
    for op, a, b in ops:
        live = sorted(t for t, p in story.processes.items() if p.alive)
        others = [t for t in live if t != 1]
        if op == "f":
            free = [t for t in PIDS if t not in live]
            if free:
                creator = live[a % len(live)]
                up = story.processes[creator].parent
                if b % 7 == 0 and up is not None:
                    story.fork(up.tgid, free[b % len(free)], creator=creator)
                else:
                    story.fork(creator, free[b % len(free)])
        elif op == "e" and others:
            tgid = others[a % len(others)]
            story.exec(tgid, b"/bin/%d" % (b % 5), args=[b"x%d" % (b % 11)], tid=tgid if b % 3 else 1000 + b % 9)
        elif op == "b" and others:
            # The program that ran before, perhaps with another argument.
            tgid = others[a % len(others)]
            started = story.processes[tgid].started
            path, args = started[-1] if started else (b"/bin/0", b"x\0")
            story.exec(tgid, path, args=args[:-1].split(b"\0") + [b"more"] * (b % 3 == 0))
        elif op == "x" and others:
            story.exit(others[a % len(others)], code=b & 0xFF00)
        elif op == "c" and others:
            story.change(others[a % len(others)], declared.KIND_CRED, uid=b % 4)
        elif op == "m" and others:
            story.change(others[a % len(others)], declared.KIND_COMM, comm=b"m%d" % (b % 4))
        elif op == "g" and others:
            story.change(others[a % len(others)], declared.KIND_CGROUP, cgroup=1 + b % 4)
        elif op == "s" and others:
            story.change(others[a % len(others)], declared.KIND_SID)
        elif op == "u" and others:
            story.caps(others[a % len(others)], 1 << b % 8 | 1 << b % 5, 1 << b % 8)
        elif op == "k" and others:
            # A comparison finds a change, or what was changed by "h", or nothing.
            kind = declared.KIND_CRED if b % 3 else declared.KIND_SID
            process = story.processes[others[a % len(others)]]
            facts = {} if b % 2 else {"uid": b // 2 % 4}
            sampled(story.change(process.tgid, kind, **facts), story.now - b % 5 if b % 7 else None)
        elif op == "h" and others:
            story.processes[others[a % len(others)]].uid = b % 4  # the next record has it
        elif op == "r" and others:
            process = story.processes[others[a % len(others)]]
            process.is_subreaper = not process.is_subreaper
    return story

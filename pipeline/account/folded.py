"""The stacks of a flame graph: where CPU time was used in the tree of processes.

The format is that of Brendan Gregg's flamegraph.pl, which speedscope, inferno and others read too: one line for each
stack, its frames from the root with semicolons between, and a number. A frame is a program, the number is CPU time in
microseconds.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator, Sequence

from pipeline.account.usage import Usage, by_identity
from pipeline.export.text import printable

#: Frame below a process: time that its descendants needed to end, and time of descendants that are not retained.
REST = "(ended)"
#: Frames of a stack; the last one has all that is deeper.
DEPTH_MAX = 256
DEEPER = "(deeper)"
_SEPARATORS = re.compile(r"[;\s]")


class _Frame:
    """A program below others, with the CPU time of all processes that stand there."""

    __slots__ = ("below", "cpu_ns", "depth", "name")

    def __init__(self, name: str, depth: int) -> None:
        self.name = name
        self.depth = depth
        self.cpu_ns = 0
        self.below: dict[str, _Frame] = {}

    def child(self, name: str) -> _Frame:
        """Return the frame of a program below this one; of a frame that is too deep, the frame itself."""
        if self.depth >= DEPTH_MAX:
            return self
        name = DEEPER if self.depth == DEPTH_MAX - 1 else name
        found = self.below.get(name)
        if found is None:
            found = self.below[name] = _Frame(name, self.depth + 1)
        return found


def folded(usages: Sequence[Usage], rest_ns: dict[str, int]) -> Iterator[str]:
    """Yield the lines of a folded-stack file.

    A stack has at most `DEPTH_MAX` frames. Without a limit, a process that forks and exits again and again would make
    stacks as long as its chain, and their sizes would add up to the square of that.

    Args:
        usages: the selected processes. A process is below the one that forked it, or below its parent if that one is
            not selected.
        rest_ns: what `pipeline.account.sums.rests` returned.
    """
    own = by_identity(usages)
    root = _Frame("", 0)
    places: dict[str, _Frame] = {}
    for identity, usage in own.items():
        place = _place(identity, own, places, root)
        place.cpu_ns += usage.cpu_ns
        if identity in rest_ns:
            place.child(REST).cpu_ns += rest_ns[identity]
    names: list[str] = []
    waiting = [root]
    while waiting:
        at = waiting.pop()
        if at is not root:
            names[at.depth - 1 :] = [at.name]
            if at.cpu_ns >= 1000:
                yield f"{';'.join(names)} {at.cpu_ns // 1000}"
        waiting += (at.below[name] for name in sorted(at.below, reverse=True))


def frame(usage: Usage) -> str:
    """Return the name of a process in a stack: its script or executable, otherwise its task name."""
    entry = usage.entry
    path = entry.get("script_path") or entry.get("path")
    name = posixpath.basename(path or "") or f"[{entry.get('comm') or '?'}]"
    return _SEPARATORS.sub("_", printable(name))


def _place(identity: str, own: dict[str, Usage], places: dict[str, _Frame], root: _Frame) -> _Frame:
    """Return the frame of a process; `places` has those that are known already."""
    chain = []
    at: str | None = identity
    while at is not None and at not in places:
        chain.append(at)
        places[at] = root  # ends a loop, which wrong links could make
        entry = own[at].entry
        above = (entry.get("creator_entity_id"), entry.get("parent_entity_id"))
        at = next((each for each in above if each in own), None)
    place = places[at] if at is not None else root
    for each in reversed(chain):
        places[each] = place = place.child(frame(own[each]))
    return place

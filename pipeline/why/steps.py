"""The way to a process as steps: each process with its programs, and what changed in it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pipeline.select.units import unit_of
from pipeline.why import users
from pipeline.why.facts import Link
from pipeline.why.phrases import container_mark, program_text, unit_text, word_text
from pipeline.why.users import Change, user_text

if TYPE_CHECKING:
    from pipeline.shm.layout.entry_types import EntryFields
    from pipeline.why.facts import Facts, Process
    from pipeline.why.proof import Finding

#: Longer lineages are shortened in the middle to this many processes, unless more of them are remarkable.
STEPS_MAX = 12
REMARKABLE_MAX = 24
#: Programs of one process that are named, at most.
PROGRAMS_MAX = 5


@dataclass
class Step:
    """One process on the way.

    Attributes:
        process: the process.
        parts: what happened in it, in order, as in ``executed /usr/bin/bash``.
        is_remarkable: it is kept when the lineage is shortened.
        omitted: processes between the step before and this one that are not shown.
    """

    process: Process
    parts: list[str] = field(default_factory=list)
    is_remarkable: bool = False
    omitted: int = 0


def steps(facts: Facts, findings: list[Finding]) -> list[Step]:
    """Return the way to the subject, oldest first, shortened in the middle."""
    changed = {id(change.image): change for change in users.changes(facts)}
    named = {finding.pid for finding in findings if finding.kind != "program"}
    found = []
    above: Process | None = None
    for process in facts.oldest_first:
        step = Step(process, list(_parts(facts, process, above, changed)))
        step.is_remarkable = process.pid in named or any(id(image) in changed for image in process.images)
        found.append(step)
        above = process
    return _shortened(found)


def _parts(facts: Facts, process: Process, above: Process | None, changed: dict[int, Change]) -> Iterator[str]:
    first = process.images[-1]
    creator = above.pid if above is not None and above.link is Link.CREATOR else first.get("creator_pid")
    is_seen_late = creator is None
    if is_seen_late:
        began = "already ran" if "before_capture" in (first.get("marks") or ()) else "first seen running"
        below = f" below pid {above.pid}" if above is not None else ""
        yield f"{began} {program_text(first)} as {user_text(facts, first)}{below}"
    elif above is None:
        yield f"forked by pid {creator}, which is forgotten, as {user_text(facts, first)}"
    else:
        yield f"forked by pid {creator}"
        if len(process.images) == 1 and not first.get("is_exec"):
            yield f"still {program_text(first)}"
    images = process.images[::-1]
    executed: list[str] = []
    for number, image in enumerate(images):
        change = changed.get(id(image))
        is_earlier = change is not None and change.maker is change.before
        own = [program_text(image)] if image.get("is_exec") and not (number == 0 and is_seen_late) else []
        executed += [] if is_earlier else own
        if change is not None:
            yield from _executed(executed)
            executed = []
            what = users.group_text(facts, image) if change.is_group else user_text(facts, image)
            yield f"became {'group ' if change.is_group else ''}{what}"
        executed += own if is_earlier else []
    yield from _executed(executed)
    yield from _entered(process.image, above.image if above else None)


def _executed(programs: list[str]) -> Iterator[str]:
    """Yield programs that were executed one after another; those in the middle of many are counted."""
    if len(programs) > PROGRAMS_MAX:
        programs = [
            *programs[:2],
            f"{len(programs) - PROGRAMS_MAX + 1} more programs",
            *programs[-(PROGRAMS_MAX - 3) :],
        ]
    if programs:
        yield f"executed {', then '.join(programs)}"


def _entered(entry: EntryFields, before: EntryFields | None) -> Iterator[str]:
    if before is None:
        return
    container = entry.get("container_id")
    if container and container != before.get("container_id"):
        yield f"entered container {word_text(container[:12])}{container_mark(entry)}"
        return
    unit = unit_of(entry.get("cgroup"))
    if unit and unit != unit_of(before.get("cgroup")):
        yield f"in the unit {unit_text(unit)}"


def _shortened(found: list[Step]) -> list[Step]:
    """Leave out steps in the middle; the ends and remarkable steps stay."""
    if len(found) <= STEPS_MAX:
        return found
    half = STEPS_MAX // 2
    middle = [step for step in found[half : len(found) - half] if step.is_remarkable]
    kept = {id(step) for step in [*found[:half], *middle[-(REMARKABLE_MAX - STEPS_MAX) :], *found[len(found) - half :]]}
    short: list[Step] = []
    omitted = 0
    for number, step in enumerate(found):
        # A single step needs no more room than the note that it is left out.
        is_alone = id(found[number - 1]) in kept and number + 1 < len(found) and id(found[number + 1]) in kept
        if id(step) not in kept and not (is_alone and not omitted):
            omitted += 1
            continue
        step.omitted, omitted = omitted, 0
        short.append(step)
    return short

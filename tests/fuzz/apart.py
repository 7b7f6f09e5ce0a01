"""Fuzz in processes of their own, one after another, so that a crash is a finding and not the end of the run."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field

#: Inputs of one process at most, so that what grows with each of them is not mistaken for a decoder's memory.
BATCH = 200_000
#: Findings of one decoder after which it gets no more inputs.
FINDINGS_MAX = 10

#: Decodes inputs of a target until a number or a time (monotonic, s) is reached; `Part` is filled meanwhile.
Fuzz = Callable[[str, int, int, float], "Part"]


@dataclass
class Part:
    """The results of a decoder with some inputs.

    Attributes:
        inputs, accepted: how many there were, and how many of them were valid.
        seconds: how long that took.
        memory_mib: of the process, at most.
        findings: what was wrong, a line each.
    """

    inputs: int = 0
    accepted: int = 0
    seconds: float = 0.0
    memory_mib: int = 0
    findings: list[str] = field(default_factory=list)

    def add(self, other: Part) -> None:
        """Add up the results of two processes."""
        self.inputs += other.inputs
        self.accepted += other.accepted
        self.seconds += other.seconds
        self.memory_mib = max(self.memory_mib, other.memory_mib)
        self.findings += other.findings


def fuzz_apart(
    name: str, inputs: int, seed: int, until: float, fuzz: Fuzz, tried: Callable[[str], tuple[int, str]]
) -> Part:
    """Try inputs in one process after another.

    Args:
        name: of the target.
        inputs: how many.
        seed: of the first process; the others have the next numbers.
        until: end then (monotonic, s).
        fuzz: tries inputs in a process of its own.
        tried: returns, after a crash, how many inputs were begun, and the path of the last one.
    """
    total = Part()
    while total.inputs < inputs and time.monotonic() < until and len(total.findings) < FINDINGS_MAX:
        total.add(_one_process(name, min(BATCH, inputs - total.inputs), seed, until, fuzz, tried))
        seed += 1
    return total


def _one_process(
    name: str, inputs: int, seed: int, until: float, fuzz: Fuzz, tried: Callable[[str], tuple[int, str]]
) -> Part:
    begin = time.monotonic()
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        code = 1
        try:
            os.close(reading)
            part = fuzz(name, inputs, seed, until)
            os.write(writing, json.dumps(asdict(part)).encode())
            code = 0
        finally:
            sys.stdout.flush()
            os._exit(code)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        result = pipe.read()
    _, status = os.waitpid(child, 0)
    if result:
        return Part(**json.loads(result))
    count, path = tried(f"{name}-{seed}-crash")
    how = (
        signal.Signals(status & 127).name
        if os.WIFSIGNALED(status)
        else f"exit code {os.waitstatus_to_exitcode(status)}"
    )
    return Part(count, 0, time.monotonic() - begin, 0, [f"seed {seed}, input {count - 1:,}: {how} ({path})"])


def table(parts: Sequence[tuple[str, Part]]) -> str:
    """Return the results as a Markdown table, with the findings below it."""
    lines = ["| decoder | inputs | valid | findings | s |", "| --- | --- | --- | --- | --- |"]
    for name, part in parts:
        lines.append(f"| `{name}` | {part.inputs:,} | {part.accepted:,} | {len(part.findings)} | {part.seconds:.0f} |")
    lines += ["", *(f"{name}: {text}" for name, part in parts for text in part.findings)]
    return "\n".join(lines).rstrip()

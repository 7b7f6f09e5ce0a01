"""The parts of a row in the table of scenarios, and the runner of a row.

    "R2 Fork2nd": ebpf(
        when(fork("P", 0, 3, 123), fork("C", 3, 4, 123), delete("P")), then(cache(4), chain("C", "P")),
        when(exit_("C")), then(cache()),
    )

A step is a word with its arguments. It either makes something happen to the real resolver (scenario_happens.py), or
checks the state (scenario_checks.py); keyed.py has the steps of the EBPFLessResolver. Steps are grouped in parts:
`given` first, then `when` and `then` as often as the story needs. Only `then` checks, and a row ends with it. The
world's invariants are checked after every step, so a failure names the step that broke them.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Concatenate, ParamSpec, Protocol

_P = ParamSpec("_P")


class Checked(Protocol):
    """A world with invariants that can be checked at any time."""

    def check(self) -> None: ...


@dataclass(frozen=True)
class Step:
    text: str
    run: Callable[[Any], None]
    is_check: bool

    def __repr__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Part:
    name: str
    steps: tuple[Step, ...]


def happens(function: Callable[Concatenate[Any, _P], None]) -> Callable[_P, Step]:
    """Declare a word for `given` and `when`: a function of the world and the arguments in the table."""
    return _word(function, is_check=False)


def expects(function: Callable[Concatenate[Any, _P], None]) -> Callable[_P, Step]:
    """Declare a word for `then`: it asserts, and changes nothing that a later step can observe."""
    return _word(function, is_check=True)


def _word(function: Callable[Concatenate[Any, _P], None], *, is_check: bool) -> Callable[_P, Step]:
    signature = inspect.signature(function)

    @functools.wraps(function)
    def word(*args: _P.args, **kwargs: _P.kwargs) -> Step:
        # A malformed row fails where it is written, not when it is played.
        signature.bind(None, *args, **kwargs)
        shown = [repr(arg) for arg in args] + [f"{name}={arg!r}" for name, arg in kwargs.items()]
        return Step(f"{function.__name__}({', '.join(shown)})", lambda w: function(w, *args, **kwargs), is_check)

    return word


def given(*steps: Step) -> Part:
    return Part("given", steps)


def when(*steps: Step) -> Part:
    return Part("when", steps)


def then(*steps: Step) -> Part:
    return Part("then", steps)


@dataclass(frozen=True)
class Scenario:
    """A row: its steps and the world in which they run.

    Raises:
        ValueError: the order of the parts is not a sequence of actions and their checks.
    """

    world: Callable[[], AbstractContextManager[Checked]]
    parts: tuple[Part, ...]

    def __post_init__(self) -> None:
        names = [part.name for part in self.parts]
        if "given" in names[1:] or "when" not in names or names[0] == "then" or names[-1] != "then":
            raise ValueError(f"{names}: given comes first, something happens, and the end is looked at")
        if any(one == other for one, other in pairwise(names)):
            raise ValueError(f"{names}: what comes after the same word is the same part")
        for part in self.parts:
            if not part.steps or any(step.is_check is not (part.name == "then") for step in part.steps):
                raise ValueError(f"{part}: given and when have what happens, then has what is expected")

    @property
    def steps(self) -> list[Step]:
        return [step for part in self.parts for step in part.steps]


def play(scenario: Scenario) -> None:
    """Play a row: run each step, and check the invariants after each."""
    with scenario.world() as w:
        for number, step in enumerate(scenario.steps, 1):
            try:
                step.run(w)
                w.check()
            except Exception as error:
                error.add_note(f"at step {number}: {step}")
                raise

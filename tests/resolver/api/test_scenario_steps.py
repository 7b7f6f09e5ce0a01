"""The runner of scenarios checks the invariants after every step, and accepts only rows that check something."""

from __future__ import annotations

import pytest

from pipeline.errors import InvariantError
from pipeline.resolver.entries.entry_rows import row_of
from tests.resolver.api import keyed
from tests.resolver.api.keyed import KeyedWorld, ebpfless
from tests.resolver.api.scenario_checks import cache, children, head
from tests.resolver.api.scenario_happens import ebpf, fork
from tests.resolver.api.scenario_steps import Part, Scenario, given, happens, play, then, when
from tests.resolver.resolver_world import World

P, C = fork("P", 0, 3, 123), fork("C", 3, 4, 123)


@happens
def unlist(w: World | KeyedWorld, parent: str, child: str) -> None:
    """Remove one child from the index of children; the child keeps its ancestor."""
    w.named[parent].remove_child(w.named[child])


@happens
def list_again(w: World | KeyedWorld, parent: str, child: str) -> None:
    slots = [int(w.tables.hot_view()[row_of(w.named[name])]["tgid"]) for name in (child, parent)]
    w.tables.py_adopt(*slots)


@pytest.mark.parametrize(
    "row",
    [
        ebpf(given(P, C), when(unlist("P", "C"), list_again("P", "C")), then(children("P", "C"))),
        ebpfless(
            given(keyed.fork("P", (7, 1), 0, ts=10), keyed.fork("C", (8, 1), 7, ts=11)),
            when(unlist("P", "C"), list_again("P", "C")), then(children("P", "C")),
        ),
    ],
    ids=["ebpf", "ebpfless"],
)  # fmt: skip
def test_a_step_that_breaks_an_invariant_is_named_even_if_the_next_one_mends_it(row: Scenario) -> None:
    with row.world() as w:
        for step in row.steps:
            step.run(w)
        w.check()
    with pytest.raises(AssertionError, match="is not listed below") as caught:
        play(row)
    assert caught.value.__notes__ == ["at step 3: unlist('P', 'C')"]


@happens
def scribble(w: World | KeyedWorld, name: str) -> None:
    """Change a row without updating its checksum."""
    w.tables.hot_view()[row_of(w.named[name])]["inode"] += 1


@pytest.mark.parametrize(
    "row",
    [
        ebpf(given(P), when(scribble("P")), then(head(3, "P"))),
        ebpfless(given(keyed.fork("P", (7, 1), 0, ts=10)), when(scribble("P")), then(keyed.head((7, 1), "P"))),
    ],
    ids=["ebpf", "ebpfless"],
)
def test_a_step_that_breaks_the_tables_is_named(row: Scenario) -> None:
    with pytest.raises(InvariantError, match="checksum") as caught:
        play(row)
    assert caught.value.__notes__ == ["at step 2: scribble('P')"]


@pytest.mark.parametrize(
    "parts",
    [
        [given(P)], [given(P), then(cache(3))], [when(P)], [then(cache()), when(P), then(cache(3))],
        [when(P), given(C), then(cache(3, 4))], [when(P), when(C), then(cache(3, 4))], [when(P), then()],
        [when(P, cache(3)), then(cache(3))], [when(P), then(C)],
    ],
)  # fmt: skip
def test_a_scenario_needs_given_when_and_then(parts: list[Part]) -> None:
    with pytest.raises(ValueError):
        ebpf(*parts)


def test_a_step_with_other_arguments_than_its_word_has_is_refused() -> None:
    with pytest.raises(TypeError):
        fork("P", 0)  # type: ignore[call-arg]

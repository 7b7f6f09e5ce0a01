"""The models of the row protocol hold in every state, and fail once a part of the protocol is removed.

row_protocol.pml and kept_words.pml have the models and their limits; docs/row-protocol.md has their results.
"""

from __future__ import annotations

import fcntl
import os
import random
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest

from tests.sampling import is_quick, quick_cases

ROWS = Path(__file__).parent / "row_protocol.pml"
KEPT = Path(__file__).parent / "kept_words.pml"

#: The part that each mutation removes.
MUTATIONS = {
    "NO_RECHECK": "the reader's second load of the sequence word",
    "NO_ACQUIRE_FENCE": "the fence before that load",
    "NO_BEGIN_FENCE": "the writer's fence after the sequence word became odd",
    "NO_END_RELEASE": "the release of the store that makes it even",
    "MISMATCH_IS_ABSENT": "the retry when the row belongs to another pid",
    "EARLY_REUSE": "the order of opening a row before the bytes it refers to are given away",
    "NO_INDEX_RECHECK": "the reader's second load of the index",
}
KEPT_MUTATIONS = {
    "NO_LAST_LOAD": "the reader's last load of the number of changes",
    "NO_ACQUIRE_FENCE": "the fence before that load",
    "NOTE_FIRST": "the order of opening a row before it is noted",
    "NOTE_LAST": "the order of noting a row before it is closed",
    "NO_BEGIN_FENCE": "the writer's fence between the two",
    "NO_COUNT_RELEASE": "the release of the number of changes",
    "NO_TAKEOVER_NOTE": "the note of a row that a killed writer left open",
    "NO_FREE_NOTE": "the note of a row that is freed",
}


#: All states are searched, or in a quick run as many as a table of bits has room for: about 200,000, others each time.
SEARCH = ("-DBITSTATE",) if is_quick() else ("-DCOLLAPSE", "-DMEMLIM=2000")
SAMPLE = f"-w19 -h{random.randrange(500)} {random.choice(['', '-t_reverse'])}".split()
#: In this order, both models find what most mutations cause within 150,000 states.
MUTANT_VERSIONS = 3

pytestmark = pytest.mark.slow

Explore = Callable[..., tuple[int, int, str]]


@pytest.fixture
def explore(tmp_path: Path, kept: Path, missing: Callable[[str], NoReturn]) -> Explore:
    """Explores a model with these definitions; returns (errors, states stored, output).

    An explorer is compiled once for all mutations, and with -O0: gcc takes 1 s instead of 8 s with -O2, and the
    exploration 3 s more at most.
    """
    for tool in ("spin", "gcc"):
        if shutil.which(tool) is None:
            missing(f"{tool} is not installed (Debian package {tool})")

    def run(*command: str, directory: Path, **environment: str) -> str:
        return subprocess.run(
            command, cwd=directory, env={**os.environ, **environment},
            check=True, capture_output=True, text=True, timeout=240,
        ).stdout  # fmt: skip

    def compiled(model: Path, defines: tuple[str, ...]) -> Path:
        directory = kept / "-".join((model.stem, *defines))
        directory.mkdir(exist_ok=True)
        with (directory / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not (directory / "pan").exists():
                shutil.copy(model, directory)
                run("spin", "-a", *(f"-D{define}" for define in defines), model.name, directory=directory)
                run("gcc", "-O0", "-w", "-DSAFETY", "-DNOFAIR", *SEARCH, "-o", "pan", "pan.c", directory=directory)
        return directory

    def explore(model: Path, *defines: str, lacks: str = "", options: list[str]) -> tuple[int, int, str]:
        directory = compiled(model, defines)
        # An explorer writes the steps to an error into the directory in which it runs.
        output = run(str(directory / "pan"), "-m20000", *options, directory=tmp_path, LACKS=lacks)
        errors = re.search(r"errors: (\d+)", output)
        states = re.search(r"(\d+) states, stored", output)
        assert errors and states, output
        return int(errors[1]), int(states[1]), output

    return explore


def holds(explore: Explore, model: Path, *defines: str) -> str:
    """Check the model; return the output."""
    if is_quick():
        errors, states, output = explore(model, f"VERSIONS={MUTANT_VERSIONS}", options=SAMPLE)
    else:
        errors, states, output = explore(model, *defines, options=[])
    assert errors == 0, output
    assert "Search not completed" not in output and "max search depth too small" not in output
    assert states > (100_000 if is_quick() else 300_000)  # if some process never started, there would be hardly any
    return output


def takes_each_step(output: str) -> bool:
    return bool(re.search(r"unreached in proctype Writer\n\t\(0 of", output))


@pytest.mark.parametrize("defines", [("VERSIONS=2",), ("VERSIONS=2", "NO_KILL", "BUFFER=6")][is_quick() :])
def test_no_torn_copy_is_accepted_and_no_live_pid_is_absent(explore: Explore, defines: tuple[str, ...]) -> None:
    output = holds(explore, ROWS, *defines)
    if "NO_KILL" not in defines:
        assert takes_each_step(output), "a step of the writer is never taken"


@pytest.mark.parametrize("mutation", quick_cases(list(MUTATIONS), 3))
def test_the_model_fails_without(explore: Explore, mutation: str) -> None:
    """Each part is needed: without it, the model finds a torn copy, an older one, or a live pid reported as absent."""
    errors, _, output = explore(ROWS, f"VERSIONS={MUTANT_VERSIONS}", lacks=mutation, options=["-w24"])
    assert errors == 1 and "assertion violated" in output, MUTATIONS[mutation]


def test_kept_words_are_never_older_than_what_was_seen(explore: Explore) -> None:
    output = holds(explore, KEPT, "VERSIONS=2")
    if not is_quick():
        assert takes_each_step(output), "a step of the writer is never taken"


@pytest.mark.parametrize("mutation", quick_cases(list(KEPT_MUTATIONS), 3))
def test_the_model_of_kept_words_fails_without(explore: Explore, mutation: str) -> None:
    versions = 2 if mutation == "NO_TAKEOVER_NOTE" else MUTANT_VERSIONS
    errors, _, output = explore(KEPT, f"VERSIONS={versions}", lacks=mutation, options=["-w24"])
    assert errors == 1 and "assertion violated" in output, KEPT_MUTATIONS[mutation]

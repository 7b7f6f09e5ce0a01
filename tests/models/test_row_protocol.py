"""The models of the row protocol hold in every state, and fail once a part of the protocol is removed.

row_protocol.pml and kept_words.pml have the models and their limits; docs/row-protocol.md has their results.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest

from tests.sampling import chosen, is_quick

ROWS = Path(__file__).parent / "row_protocol.pml"
KEPT = Path(__file__).parent / "kept_words.pml"

#: The part that each mutation removes, and a version count at which the checker finds the fault within a second.
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
    "NO_FREE_NOTE": "the note of a row that is freed",
    "NO_TAKEOVER_NOTE": "the note of a row that a killed writer left open",
}


pytestmark = [pytest.mark.expensive, pytest.mark.slow]


def check(
    model: Path, directory: Path, missing: Callable[[str], NoReturn], *defines: str, is_sample: bool = False
) -> tuple[int, int, str]:
    """Explore the model; return (errors, states stored, output).

    The explorer is compiled with -O0: gcc takes 1 s instead of 8 s with -O2, and clang half of that. The exploration
    takes 2 s more at most. Most of its time is waiting for memory, at addresses without any order: so the states are
    stored as they are, which takes 400 MB at most, and in large pages.

    Args:
        is_sample: visit about 200,000 states, as many as a table of bits has room for, and others each time.
    """
    search = ["-DBITSTATE"] if is_sample else ["-DMEMLIM=2000"]
    table = ["-w19", f"-h{random.randrange(500)}"] if is_sample else ["-w22"]
    compiler = "clang-19" if shutil.which("clang-19") else "gcc"
    for tool in ("spin", compiler):
        if shutil.which(tool) is None:
            missing(f"{tool} is not installed (Debian package {tool})")
    options = [f"-D{define}" for define in defines]
    shutil.copy(model, directory)
    run = {"cwd": directory, "check": True, "capture_output": True, "text": True, "timeout": 240}
    subprocess.run(["spin", "-a", *options, model.name], **run)
    subprocess.run([compiler, "-O0", "-w", "-DSAFETY", *search, "-o", "pan", "pan.c"], **run)
    large_pages = {**os.environ, "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
    output = subprocess.run(["./pan", "-m20000", *table], env=large_pages, **run).stdout
    errors = re.search(r"errors: (\d+)", output)
    states = re.search(r"(\d+) states, stored", output)
    assert errors and states, output
    return int(errors[1]), int(states[1]), output


def holds(model: Path, directory: Path, missing: Callable[[str], NoReturn], *defines: str) -> str:
    """Check that the model holds in all states, or in a quick run in some of a larger one; return the output."""
    if is_quick():
        defines = ("VERSIONS=3", *defines[1:])
    errors, states, output = check(model, directory, missing, *defines, is_sample=is_quick())
    assert errors == 0, output
    assert "Search not completed" not in output and "max search depth too small" not in output
    # If some process never started, there would be hardly any.
    assert states > (100_000 if is_quick() else 300_000), output
    return output


def takes_each_step(output: str) -> bool:
    """Whether the writer has taken each of its steps, which a sample can leave out."""
    return is_quick() or bool(re.search(r"unreached in proctype Writer\n\t\(0 of", output))


@pytest.mark.parametrize("defines", chosen([("VERSIONS=2",), ("VERSIONS=2", "NO_KILL", "BUFFER=6")]))
def test_no_torn_copy_is_accepted_and_no_live_pid_is_absent(
    tmp_path: Path, missing: Callable[[str], NoReturn], defines: tuple[str, ...]
) -> None:
    output = holds(ROWS, tmp_path, missing, *defines)
    assert "NO_KILL" in defines or takes_each_step(output), output


@pytest.mark.parametrize("mutation", chosen(MUTATIONS))
def test_the_model_fails_without(tmp_path: Path, missing: Callable[[str], NoReturn], mutation: str) -> None:
    """Each part is needed: without it, the model finds a torn copy, an older one, or a live pid reported as absent."""
    errors, _, output = check(ROWS, tmp_path, missing, "VERSIONS=3", mutation)
    assert errors == 1 and "assertion violated" in output, MUTATIONS[mutation]


def test_kept_words_are_never_older_than_what_was_seen(tmp_path: Path, missing: Callable[[str], NoReturn]) -> None:
    assert takes_each_step(holds(KEPT, tmp_path, missing, "VERSIONS=2"))


@pytest.mark.parametrize("mutation", chosen(KEPT_MUTATIONS))
def test_the_model_of_kept_words_fails_without(
    tmp_path: Path, missing: Callable[[str], NoReturn], mutation: str
) -> None:
    versions = 3 if mutation in {"NO_LAST_LOAD", "NO_ACQUIRE_FENCE"} else 2
    errors, _, output = check(KEPT, tmp_path, missing, f"VERSIONS={versions}", mutation)
    assert errors == 1 and "assertion violated" in output, KEPT_MUTATIONS[mutation]

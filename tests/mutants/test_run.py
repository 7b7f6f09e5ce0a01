"""Which mutants are tried, that a run in parts is one run, and that what notices a mutant is known."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.mutants import run as runs
from tests.mutants.mutants import Mutant, mutants
from tests.mutants.results import Key, Result, kept
from tests.mutants.run import Copy, Place, attempt, main, places
from tests.sampling import chosen, is_quick

MODULE = "pipeline/resolver/api/flushing.py"
#: A test that only the copy has.
TEST = str(Path("tests", "example", "test_example.py"))
PLACES = [Place("pipeline/a.py", Mutant(line, f"    a < {line}", f"    a <= {line}")) for line in range(1, 41)]


class Tool:
    """The program, with a list of mutants and with attempts that only note what is tried."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.tried: list[Key] = []
        self.stages: list[tuple[str, Sequence[tuple[str, ...]]]] = []
        self.interrupt_after = 10**9
        self.unsound: set[Key] = set()
        self._monkeypatch = monkeypatch
        self.there_are(PLACES)
        monkeypatch.setattr(runs, "Copy", lambda directory: SimpleNamespace(close=lambda: None))
        monkeypatch.setattr(runs, "attempt", self._attempt)

    def there_are(self, found: Sequence[Place]) -> None:
        self._monkeypatch.setattr(runs, "places", lambda: list(found))

    def _attempt(self, copy: object, place: Place, steps: Sequence[tuple[str, ...]], stage: str) -> Result:
        if len(self.tried) == self.interrupt_after:
            raise KeyboardInterrupt
        self.tried.append(place.key)
        self.stages.append((stage, steps))
        outcome = "survived" if stage == "quick" and place.mutant.line % 4 == 0 else "killed"
        return Result(*place.key, place.mutant.line, "unsound" if place.key in self.unsound else outcome, stage=stage)

    def run(self, *arguments: object) -> None:
        self._monkeypatch.setattr(sys, "argv", ["run", *map(str, arguments)])
        main()


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch) -> Tool:
    return Tool(monkeypatch)


def test_a_run_in_parts_is_one_run(tool: Tool, tmp_path: Path) -> None:
    tool.run("--sample", 30, "--seed", 4)
    whole, tool.tried = tool.tried, []
    assert len(set(whole)) == 30
    for after in (7, 19):
        tool.interrupt_after = after
        with pytest.raises(KeyboardInterrupt):
            tool.run("--sample", 30, "--seed", 4, "--state", tmp_path / "state")
    tool.interrupt_after = 10**9
    tool.run("--sample", 30, "--seed", 4, "--state", tmp_path / "state")
    assert tool.tried == whole
    assert list(kept(tmp_path / "state")) == whole


def test_a_run_continues_after_the_code_has_changed(tool: Tool, tmp_path: Path) -> None:
    tool.run("--sample", 10, "--state", tmp_path / "state")
    moved = [replace(place, mutant=replace(place.mutant, line=place.mutant.line + 3)) for place in PLACES]
    tool.there_are(moved)
    tool.run("--sample", 20, "--state", tmp_path / "state")
    first = tool.tried[:]
    tool.tried = []
    tool.there_are(PLACES)
    tool.run("--sample", 20)
    assert tool.tried == first


def test_another_seed_tries_others(tool: Tool) -> None:
    for seed in (1, 2):
        tool.run("--sample", 20, "--seed", seed)
    assert set(tool.tried[:20]) != set(tool.tried[20:])


def test_survivors_are_tried_again_with_more_tests(
    tool: Tool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = tmp_path / "state"
    tool.run("--state", state)
    tool.tried = []
    tool.run("--state", state, "--survivors", "--tests", "tests/live/test_kills.py")
    assert sorted(key.before for key in tool.tried) == sorted(f"    a < {line}" for line in range(4, 41, 4))
    assert tool.stages[-1] == ("named", [("tests/live/test_kills.py",)])
    capsys.readouterr()
    tool.run("--report", state)
    assert "| pipeline | 40 | 40 | 30 | 10 | 100% (91% to 100%) |" in capsys.readouterr().out


def test_a_mutant_of_which_nothing_is_known_is_tried_again(tool: Tool, tmp_path: Path) -> None:
    state = tmp_path / "state"
    tool.unsound = {PLACES[3].key, PLACES[4].key}
    tool.run("--state", state)
    tool.unsound, tool.tried = set(), []
    tool.run("--state", state)
    assert set(tool.tried) == {PLACES[3].key, PLACES[4].key}
    tool.run("--state", state)
    assert len(tool.tried) == 2


def test_two_states_are_summed_up_together(tool: Tool, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed in (1, 2):
        tool.run("--seed", seed, "--sample", 15, "--state", tmp_path / str(seed))
    capsys.readouterr()
    tool.run("--report", tmp_path / "1", tmp_path / "2")
    assert f"| all | 40 | {len(set(tool.tried))} |" in capsys.readouterr().out


@cache
def all_places() -> list[Place]:
    return list(places())


@pytest.mark.expensive
def test_equal_lines_of_a_module_are_different_mutants() -> None:
    keys = [place.key for place in all_places()]
    assert len(set(keys)) == len(keys) > 10_000


@pytest.mark.slow
def test_every_module_has_tests() -> None:
    for module in {place.module for place in all_places()}:
        for step in runs.tests_of(module):
            for test in step:
                assert (runs.ROOT / test.removeprefix("--ignore=")).exists(), (module, test)


def broken(after: str) -> Place:
    """Return a mutant of MODULE that is no choice of the maker."""
    first, *_ = mutants((runs.ROOT / MODULE).read_text())
    return Place(MODULE, replace(first, after=after))


def copy_little(directory: Path) -> None:
    """Copy MODULE, and what runs tests."""
    for name in ("tests/__init__.py", "tests/sampling.py", "tests/plugins", "tests/mutants", MODULE):
        source, target = runs.ROOT / name, directory / name
        target.parent.mkdir(parents=True, exist_ok=True)
        (shutil.copytree if source.is_dir() else shutil.copy)(source, target)
    (directory / "tests/conftest.py").write_text("from tests import sampling\n\nsampling.load_profile()\n")


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Copy]:
    """A copy with a few tests of its own; in a quick run, of a little."""
    with pytest.MonkeyPatch.context() as patch:
        if is_quick():
            patch.setattr(runs, "copy_checkout", copy_little)
        copy = Copy(tmp_path_factory.mktemp("copy"))
    (copy.root / TEST).parent.mkdir()
    (copy.root / TEST).with_name("__init__.py").touch()
    (copy.root / TEST).write_text(EXAMPLE)
    yield copy
    copy.close()


#: The second and the third test fail only if MODULE is broken.
EXAMPLE = f'''
from collections import deque
from ctypes import PyDLL
from itertools import repeat
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

SOURCE = (Path(__file__).parents[2] / "{MODULE}").read_text()

def test_a():
    pass

@given(st.lists(st.integers()))
def test_b(values):
    assert "no list" not in SOURCE or not values

def test_c():
    if "no end" in SOURCE:
        deque(map(PyDLL(None).usleep, repeat(100_000)), maxlen=0)

@pytest.mark.live
def test_d():
    assert "no kernel" not in SOURCE
'''
STEPS = [(str(Path(TEST).parent),)]


@pytest.mark.expensive
@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "stage", "outcome", "by"),
    chosen(
        [
            ("((", "quick", "invalid", ""),
            ("pass", "quick", "survived", ""),
            ("pass  # no list", "quick", "killed", f"{TEST}::test_b"),
            ("pass  # no end", "quick", "killed", f"{TEST}::test_c"),
            ("pass  # no kernel", "quick", "survived", ""),
            ("pass  # no kernel", "named", "killed", f"{TEST}::test_d"),
        ]
    ),
)
def test_what_becomes_of_a_mutant(
    copy: Copy, monkeypatch: pytest.MonkeyPatch, fault: str, stage: str, outcome: str, by: str
) -> None:
    """One of them is a loop of compiled code without an end. It handles no signal, and keeps the interpreter's lock."""
    monkeypatch.setattr(runs, "TEST_LIMIT_S", 5)
    result = attempt(copy, broken(f"{' ' * 8}{fault}"), STEPS, stage)
    assert (result.outcome, result.by) == (outcome, by)
    assert (copy.root / MODULE).read_bytes() == (runs.ROOT / MODULE).read_bytes()


@pytest.mark.expensive
@pytest.mark.slow
def test_a_test_that_fails_without_a_mutant_is_left_out(copy: Copy) -> None:
    test = copy.root / TEST
    test.write_text(EXAMPLE.replace("    pass", "    assert False"))
    for fault, outcome, by in chosen((("", "survived", ""), ("# no list", "killed", f"{TEST}::test_b"))):
        result = attempt(copy, broken(f"        pass  {fault}"), STEPS, "quick")
        assert (result.outcome, result.by) == (outcome, by)

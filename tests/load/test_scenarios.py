from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from pipeline.errors import ConfigError, UnsupportedError
from pipeline.load import scenarios
from pipeline.load.scenarios import SCENARIOS, Settings
from tests.docs.citations import ROOT

SOURCE = Path(scenarios.__file__).parent / "programs" / "load.c"


def test_the_program_has_the_same_scenarios_and_events() -> None:
    text = SOURCE.read_text()
    values = dict(re.findall(r"\b([A-Z]+) = (\d+)", text))
    table = dict(re.findall(r'\{ "([a-z-]+)", unit_\w+, ([^}]+) \}', text))
    assert set(table) == set(SCENARIOS) - {"mix"}
    for name, expression in table.items():
        events = eval(re.sub(r"[A-Z]+", lambda found: values[found[0]], expression))
        assert SCENARIOS[name].events == events, name


def test_mix_needs_no_privileges() -> None:
    assert SCENARIOS["mix"].parts
    assert not any(SCENARIOS[part].capabilities for part in SCENARIOS["mix"].parts)


@pytest.mark.parametrize(
    ("text", "cpus"), [("0", (0,)), ("3,1", (1, 3)), ("0-2", (0, 1, 2)), ("0,2-3,3", (0, 2, 3)), (" 1 , 4 ", (1, 4))]
)
def test_a_list_of_cpus(text: str, cpus: tuple[int, ...]) -> None:
    assert scenarios.parse_cpus(text) == cpus
    assert scenarios.parse_cpus(scenarios.cpu_list(cpus)) == cpus


@pytest.mark.parametrize("text", ["", "a", "-1", "3-1", "0-", "0,,1", "0-999999999"])
def test_no_list_of_cpus(text: str) -> None:
    with pytest.raises(ValueError):
        scenarios.parse_cpus(text)


def test_a_cpu_that_may_not_be_used_is_named() -> None:
    beyond = max(os.sched_getaffinity(0)) + 1
    with pytest.raises(ConfigError, match=f"may not use CPU {beyond}"):
        scenarios.check(Settings("forks", 100, 1, 1, (beyond,)))


@pytest.mark.parametrize("name", [name for name, each in SCENARIOS.items() if each.capabilities])
def test_a_missing_privilege_is_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scenarios, "effective_capabilities", lambda: 0)
    with pytest.raises(UnsupportedError, match=f"{name}.*needs CAP_.*root"):
        scenarios.check(Settings(name, 100, 1, 1))
    monkeypatch.setattr(scenarios, "effective_capabilities", lambda: -1)
    scenarios.check(Settings(name, 100, 1, 1))


def test_the_page_describes_every_scenario() -> None:
    text = (ROOT / "docs" / "load.md").read_text()
    for each in SCENARIOS.values():
        needs = " or ".join(name for _, name in each.capabilities)
        begin, end = f"| `{each.name}` | {each.what} | {each.events or '-'} |", f" | {needs} |"
        assert re.search(rf"^{re.escape(begin)} \d+{re.escape(end)}$", text, re.MULTILINE)

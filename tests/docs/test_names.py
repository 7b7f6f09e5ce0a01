"""Commands, their options, settings and metrics that the documents name exist."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from pipeline.cli.commands import COMMANDS, command_of
from pipeline.cli.operate import doctor
from pipeline.config.schema import Config, settings
from pipeline.export import prometheus
from pipeline.forward import figures
from pipeline.host import unit
from pipeline.resolver.api.stats import COUNTERS
from pipeline.screen.columns import MEANINGS
from tests.docs.citations import ROOT

PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
#: What the recipes of CONTRIBUTING.md add.
MADE_UP = {"count", "contexts.questions_per_s"}
#: An option is one of the command that its line begins with.
CALL = re.compile(r"(?:^ *\$? ?(?:\.venv/bin/)?|`)procline ([a-z-]+)((?: [^`\n|&#]+)?)", re.MULTILINE)


def calls() -> Iterator[tuple[str, str, str]]:
    """Page, command and arguments of each command line in a page."""
    for page in PAGES:
        for found in CALL.finditer(page.read_text(encoding="utf-8")):
            yield page.name, found[1], found[2]


def test_every_command_and_option_exists() -> None:
    found = list(calls())
    assert len(found) > 60
    for page, name, arguments in found:
        if name in MADE_UP:
            continue
        assert name in COMMANDS, f"{page}: procline {name}"
        known = {"--help"}
        command = command_of(name)
        parts = [command, *command.commands.values()] if isinstance(command, click.Group) else [command]
        for parameter in (parameter for part in parts for parameter in part.params):
            known |= set(parameter.opts)
        options = set(re.findall(r"(?<!\S)(--[a-z-]+)", arguments))
        assert options <= known, f"{page}: procline {name}{arguments}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_setting_exists(page: Path) -> None:
    keys = {setting.key for setting in settings(Config())}
    sections = {key.split(".")[0] for key in keys if "." in key}
    text = page.read_text(encoding="utf-8")
    named = re.findall(rf"`(?:--set )?((?:{'|'.join(sorted(sections))})\.[a-z][a-z0-9_]*)(?:`| = |=)", text)
    assert set(named) - keys - MADE_UP == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_metric_exists(page: Path) -> None:
    known = {f"procline_{name}" for name in {*prometheus.LABELLED, *prometheus.HELP} - set(COUNTERS)}
    known |= {prometheus.name_of(metric) for metric, _, _ in COUNTERS.values()}
    known |= {f"procline_forward_{name}" for name in figures.COUNTERS}
    known |= set(re.findall(r'"(procline_[a-z_]+)"', Path(prometheus.__file__).read_text(encoding="utf-8")))
    named = re.findall(r"`(procline_[a-z_]+)_total", page.read_text(encoding="utf-8"))
    assert set(named) - known == set()


def test_the_table_of_the_resolver_s_own_counters_is_complete() -> None:
    page = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    for metric, _, _ in COUNTERS.values():
        here, there = prometheus.name_of(metric), metric.removeprefix(".process_resolver")
        assert f"\n| `{here}_total` | `{there}` |" in page


def test_every_finding_of_doctor_has_a_remedy() -> None:
    page = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    findings = re.findall(r"^\| (`[^|]+`) \|", page[page.index("## Troubleshooting") :], re.MULTILINE)
    explained = {name for row in findings for name in re.findall(r"`([^`]+)`", row)}
    names = {check.name for check in doctor.examine("nobody")} - {"python"}
    assert len(names) > 15
    names |= {doctor.name_of(service) for service in unit.SERVICES}
    assert {re.sub("^(package|tier) .*", r"\1 NAME", name) for name in names} - explained == set()
    assert {"tier NAME", "BPF", "package NAME"} <= explained, "these depend on the host"


def test_every_computed_column_is_in_the_table_of_columns() -> None:
    page = (ROOT / "docs" / "screens.md").read_text(encoding="utf-8")
    table = page.partition("\n| column | value |\n")[2].partition("\n\n")[0]
    assert set(MEANINGS) <= set(re.findall(r"`([a-z_]+)`", table))

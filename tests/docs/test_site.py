"""The reference pages of the site have everything that the code has, and docs/README.md leads to every page."""

from __future__ import annotations

import re
from pathlib import Path
from types import ModuleType

import click
import pytest

from pipeline.cli.commands import COMMANDS, command_of
from pipeline.config.schema import Config, settings
from pipeline.export import prometheus
from pipeline.shm.layout import layout
from tests.docs.citations import ROOT
from tests.loading import load

SITE = ROOT / "docs" / "site"


@pytest.fixture(scope="module")
def generated() -> ModuleType:
    return load(SITE / "generated.py", "generated")


def test_every_command_has_a_section_with_all_its_options(generated: ModuleType) -> None:
    page = generated.page("commands")
    assert re.findall(r"^## procline (\S+)$", page, re.MULTILINE) == list(COMMANDS)
    for name in COMMANDS:
        section = page.partition(f"## procline {name}\n")[2].partition("\n## ")[0]
        command = command_of(name)
        parts = [command, *command.commands.values()] if isinstance(command, click.Group) else [command]
        for parameter in (parameter for part in parts for parameter in part.params):
            for option in parameter.opts if parameter.param_type_name == "option" and not parameter.hidden else ():
                assert f"{option}" in section, f"procline {name} {option}"


def test_text_is_not_taken_for_markup(generated: ModuleType) -> None:
    assert generated._text("a*b* _c_ <d> `e*f` [g]") == r"a\*b\* \_c\_ \<d> `e*f` \[g\]"


def test_every_setting_has_a_section_with_its_default(generated: ModuleType) -> None:
    page = "\n" + generated.page("settings")
    for key, _, _ in settings(Config()):
        section = page.partition(f"\n### {key}\n")[2].partition("\n###")[0]
        assert "Default: `" in section, key


def test_every_counter_is_in_the_table_once(generated: ModuleType) -> None:
    shown = re.findall(r"^\| `procline_(\w+)_total` ", generated.page("metrics"), re.MULTILINE)
    assert len(shown) == len(set(shown))
    assert set(prometheus.HELP) & set(layout.COUNTERS) - {"hits", "added"} <= set(shown) | {
        # These have the names of the reference resolver.
        "broken_lineage", "reparent_procfs_ok", "reparent_procfs_fail", "limiter_drop", "args_truncated", "args_size",
        "envs_truncated", "envs_size",
    }  # fmt: skip
    assert {"events", "lost_samples", "hits", "added", "event_broken_lineage", "frames"} <= set(shown)


def test_the_list_of_documents_has_every_page() -> None:
    listed = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    for page in (ROOT / "docs").rglob("*.md"):
        name = str(page.relative_to(ROOT / "docs"))
        assert f"]({name})" in listed or name == "README.md", f"{name} is not in docs/README.md"


def test_pictures_load_nothing_and_name_no_path_of_the_machine_that_made_them() -> None:
    for picture in sorted((ROOT / "docs").rglob("*.svg")):
        text = picture.read_text(encoding="utf-8")
        assert "@font-face" not in text and "url(http" not in text, picture.name
        assert not re.search(r'href="(?!#)', text), picture.name  # a part of the picture itself is good
        assert str(ROOT) not in text and str(Path.home()) + "/" not in text, picture.name


def test_every_picture_is_shown() -> None:
    pages = "".join(page.read_text(encoding="utf-8") for page in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
    for picture in (ROOT / "docs" / "images").iterdir():
        assert f"images/{picture.name})" in pages, picture.name


def test_an_anchor_is_in_one_page_only() -> None:
    # Those before a heading become labels of the site, which has one set of them for all pages.
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    found = [anchor for page in pages for anchor in re.findall(r'<a id="([^"]+)">', page.read_text(encoding="utf-8"))]
    assert sorted(found) == sorted(set(found))

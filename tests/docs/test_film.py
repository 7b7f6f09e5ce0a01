"""The film of a terminal in the README: an SVG that shows one screen after the other."""

from __future__ import annotations

import re
from types import ModuleType
from xml.etree import ElementTree

import pytest

from tests.docs.citations import ROOT
from tests.loading import load

pytest.importorskip("rich")

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def film() -> ModuleType:
    return load(ROOT / "docs" / "site" / "film.py", "film")


def groups(picture: str) -> list[ElementTree.Element]:
    root = ElementTree.fromstring(picture)
    return [each for each in root.iter(f"{SVG}g") if each.get("class", "").startswith("film-screen")]


def words(group: ElementTree.Element) -> str:
    return "".join(text.text or "" for text in group.iter(f"{SVG}text")).replace("\xa0", " ")


def test_each_screen_is_visible_in_its_part_of_the_time(film: ModuleType) -> None:
    screens = [film.Shown("first", 1.0), film.Shown("\x1b[31msecond\x1b[0m\nline", 2.0), film.Shown("a < b", 1.0)]
    made = film.film(screens, "procline", 40, 10)
    assert [words(group) for group in groups(made)] == ["first", "secondline", "a < b"]
    shown = {
        number: [float(at) for at in re.findall(r"([\d.]+)% \{ visibility: visible", rule)]
        + [float(at) for at in re.findall(r"([\d.]+)% \{ visibility: hidden", rule)][-1:]
        for number, rule in re.findall(r"@keyframes film-(\d) (.*)", made)
    }
    assert shown == {"0": [0.0, 25.0], "1": [25.0, 75.0], "2": [75.0, 100.0]}
    assert "animation: 4s step-end infinite" in made


def test_where_nothing_moves_the_last_screen_is_shown(film: ModuleType) -> None:
    made = film.film([film.Shown("first", 1.0), film.Shown("last", 1.0)], "procline", 40, 10)
    still = made.partition("@media")[0]
    assert ".film-screen { visibility: hidden }" in still
    assert ".film-screen:last-of-type { visibility: visible }" in still
    assert "prefers-reduced-motion: no-preference" in made


def test_a_film_has_no_script_and_loads_nothing(film: ModuleType) -> None:
    made = film.film([film.Shown("<script>alert(1)</script>", 1.0)], "a <b>", 40, 10)
    assert "<script" not in made and "@font-face" not in made and "href" not in made
    assert "@font-face" not in film.picture("text", "title", 40)

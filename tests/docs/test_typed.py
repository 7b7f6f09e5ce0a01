"""The files typed_*.py use public classes with exact types. Here they run; script/lint checks them with mypy --strict.

Each has a function `use`. It gets a `ProcessTable` of the instance of `tests.docs.example_host`.
"""

from __future__ import annotations

import fnmatch
import importlib
import tomllib
from pathlib import Path

import pytest

import pipeline
from tests.docs.example_host import example_host


@pytest.mark.parametrize("name", [path.stem for path in sorted(Path(__file__).parent.glob("typed_*.py"))])
def test_a_typed_program_runs(name: str) -> None:
    with example_host() as names:
        importlib.import_module(f"tests.docs.{name}").use(names["table"])


def test_public_modules_may_not_say_any() -> None:
    """mypy checks it in the modules that pyproject.toml lists; so each module with a public name has to be listed."""
    settings = tomllib.loads((Path(pipeline.__file__).parents[1] / "pyproject.toml").read_text())
    (listed,) = (each["module"] for each in settings["tool"]["mypy"]["overrides"] if each.get("disallow_any_explicit"))
    public = {"pipeline", *pipeline._MODULES}
    assert {name for name in public if not any(fnmatch.fnmatch(name, each) for each in listed)} == set()
    root = Path(pipeline.__file__).parents[1]
    for each in listed:
        path = root.joinpath(*each.removesuffix(".*").split("."))
        assert path.is_dir() or path.with_suffix(".py").exists() or path.with_suffix(".pyi").exists(), each

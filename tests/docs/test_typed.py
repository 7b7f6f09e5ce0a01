"""The files typed_*.py use public classes with exact types. Here they run; script/lint checks them with mypy --strict.

Each has a function `use`. It gets a `ProcessTable` of the instance of `tests.docs.example_host`.
"""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from tests.docs.example_host import example_host


@pytest.mark.parametrize("name", [path.stem for path in sorted(Path(__file__).parent.glob("typed_*.py"))])
def test_a_typed_program_runs(name: str) -> None:
    with example_host() as names:
        importlib.import_module(f"tests.docs.{name}").use(names["table"])

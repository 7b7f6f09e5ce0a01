"""`procline fleet` shows that it is asking, while an answer takes long."""

from __future__ import annotations

import time
from typing import Any, Self

import pytest

from pipeline.screen import progress
from tests.cli.conftest import Command

pytest.importorskip("duckdb")


class Store:
    """A store whose answer takes a while."""

    def __init__(self, *arguments: object, **options: object) -> None:
        pass

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def query(self, sql: str) -> Any:
        from pipeline.fleet.open_store import QueryResult

        time.sleep(0.3)
        return QueryResult(["answer"], iter([[(42,)]]))


def test_a_question_that_takes_long(procline: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.fleet.open_store.OpenStore", Store)
    monkeypatch.setattr(progress, "AFTER_S", 0.05)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    for name, value in (("TERM", "xterm"), ("NO_COLOR", "1"), ("COLUMNS", "200")):
        monkeypatch.setenv(name, value)
    done = procline("fleet", "query", "SELECT 42", "--format", "csv")
    assert done.code == 0 and done.out.split() == ["answer", "42"]
    assert "\rasking the store" in done.err and done.err.endswith("\r\033[K")

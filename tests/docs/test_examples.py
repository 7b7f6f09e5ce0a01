"""Programs of examples/ with what processes and logs can contain: escapes, bytes that are no text, vanished entries."""

from __future__ import annotations

import io
import runpy
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import pipeline
from pipeline.errors import TooOldError

EXAMPLES = Path(__file__).parents[2] / "examples"
HOSTILE = "/tmp/\x1b[31m\udcff\u202e"


class Vanished:
    """An entry that was evicted before its fields were read."""

    def images(self) -> list[Vanished]:
        return []

    def __getattr__(self, name: str) -> Any:
        raise TooOldError("evicted")


class Table:
    """Tables with one hostile process and one that vanishes."""

    entry = SimpleNamespace(
        pid=7, ppid=1, comm=HOSTILE, path=HOSTILE, argv=None, user=HOSTILE, uid=5, container_id=HOSTILE, is_exec=True,
        exec_time=datetime(9999, 1, 1, tzinfo=UTC), entity_id="y",
    )  # fmt: skip

    def __init__(self) -> None:
        self.entry.images = lambda: [self.entry]
        self.entry.ancestors = lambda **options: [self.entry]

    def batch(self, fields: list[str], *, running: bool) -> SimpleNamespace:
        return SimpleNamespace(dicts=lambda: [{name: vars(self.entry)[name] for name in fields}])

    def resolve(self, pid: int, *, at: int) -> Any:
        assert (pid, at) in {(6, 5), (7, 5)}
        return self.entry

    @classmethod
    def attach(cls) -> Table:
        return cls()

    def __enter__(self) -> Table:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def walk(self, **options: object) -> Iterator[Any]:
        yield Vanished()
        yield self.entry

    def ancestors(self, process: Any) -> list[Any]:
        if isinstance(process, int):
            assert process < 1 << 32, "more would be an OverflowError"
        return [self.entry, Vanished()] if process == 8 else [self.entry] if process == 7 else []


class Subscriber:
    """A stream with one event."""

    missed = 0
    event: dict[str, Any] = {  # noqa: RUF012 - nothing changes it
        "event": "exec", "seq": 1, "time_ns": 5, "pid": 7, "ppid": 1, "user": HOSTILE, "path": "/bin/sh",
        "argv": [HOSTILE], "exit_code": None, "entity_id": "y", "parent_entity_id": "x",
        "comm": HOSTILE, "exit_cause": "signaled", "exit_cause_code": 9,
        "extra": {"exit_signal_sender": {"pid": 6, "comm": HOSTILE, "uid": 1000}},
        "lineage": [{"path": HOSTILE, "pid": 6}, {"path": "/usr/sbin/nginx", "pid": 5}],
    }  # fmt: skip

    def __init__(self, topics: list[str], on_gap: object = None, timeout: float | None = None) -> None:
        pass

    def __enter__(self) -> Subscriber:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter([self.event])

    def read(self, seconds: float) -> list[dict[str, Any]]:
        return [self.event | {"path": HOSTILE}]


@pytest.fixture(autouse=True)
def fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "ProcessTable", Table, raising=False)
    monkeypatch.setattr(pipeline, "Subscriber", Subscriber, raising=False)


def run(monkeypatch: pytest.MonkeyPatch, name: str, *arguments: object, stdin: bytes = b"") -> str:
    """Run a program, and return what it prints, which must be text without control characters."""
    output = io.TextIOWrapper(io.BytesIO(), "utf-8")
    with monkeypatch.context() as patch:
        patch.setattr("sys.argv", [name, *map(str, arguments)])
        patch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(stdin), "utf-8"))
        patch.setattr("sys.stdout", output)
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    output.seek(0)
    text = output.read()
    assert text.replace("\n", "").isprintable(), text
    return text


def test_a_log_with_anything_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    log = b"a[7]: x\nb[8]: y\nc[99999999999999999999]: z\nd\xff[1]: \n"
    lines = run(monkeypatch, "log_lineage.py", stdin=log).splitlines()
    assert lines[0] == r"a[7]: x  [from /tmp/\x1b[31m\xff\u202e(7)]"
    assert lines[1] == "b[8]: y  [from lineage not available now]"
    assert lines[2:] == ["c[99999999999999999999]: z", r"d\xff[1]: "]


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("exec_counts.py", ()), ("container_processes.py", ()), ("container_processes.py", ("/tmp",)),
        ("top_spawners.py", (1.0,)), ("web_shell_alert.py", ()), ("who_killed.py", ()),
    ],
)  # fmt: skip
def test_hostile_names(monkeypatch: pytest.MonkeyPatch, name: str, arguments: tuple[object, ...]) -> None:
    assert r"/tmp/\x1b[31m" in run(monkeypatch, name, *arguments) or name == "web_shell_alert.py"


def test_an_alert_with_a_name_that_is_no_text(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "ALERT shell below a web server: pid 7" in run(monkeypatch, "web_shell_alert.py")


def test_a_database_with_names_that_are_no_text(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    run(monkeypatch, "sqlite_export.py", tmp_path / "x.db", 1.0)
    with closing(sqlite3.connect(tmp_path / "x.db")) as database:
        rows = database.execute("SELECT DISTINCT path FROM events").fetchall()
    assert rows == [(r"/tmp/\x1b[31m\xff\u202e",)]

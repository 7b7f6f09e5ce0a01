from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import ConfigError
from pipeline.load import fields
from tests.docs.citations import ROOT
from tests.load.reports import limit, paired, report


def test_a_report_is_one() -> None:
    assert fields.fault_of(report()) is None
    assert fields.fault_of(report(paired=paired(), limit=limit())) is None
    assert fields.fault_of(json.loads(json.dumps(report(paired=paired(), limit=limit())))) is None


def test_each_field_is_required() -> None:
    for path, _, _ in fields.FIELDS[1:]:
        changed = report(paired=paired(), limit=limit())
        *parents, last = path.split(".")
        place: Any = changed
        for part in parents:
            place = place[part]
        del place[last]
        assert fields.fault_of(changed) == f"the field {path} is missing"


@pytest.mark.parametrize("value", ["<b>", [], {"x": []}, math.nan, math.inf, 1e400, -(10**30), True])
def test_no_field_is_believed(value: object) -> None:
    """A value of another type is refused wherever it stands; one that fits is allowed."""
    for path, kind, _ in fields.FIELDS[1:]:
        changed = report()
        *parents, last = path.split(".")
        place: Any = changed
        for part in parents:
            place = place[part]
        place[last] = value
        fits = (kind.startswith("str") and value == "<b>") or (kind == "bool" and value is True)
        fits |= kind.startswith("[") and value == []
        fault = fields.fault_of(changed)
        assert fault is None if fits else fault == f"the field {path} is not of type {kind}", path


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "not JSON"), (b"[]", "not a report"), (b"{}", "not a report"), (b'{"format": 2}', "format is '2'"),
        (b"\xff\xfe", "not JSON"), (b'{"format": 1}', "time is missing"), (b"[" * 100_000, "not JSON"),
        (b'{"format": ' + b"9" * 5000 + b"}", "not JSON"),
    ],
)  # fmt: skip
def test_another_file_is_refused(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=words):
        fields.read(path)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        fields.read(tmp_path / "none.json")


def test_a_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text(json.dumps(report("beta")))
    assert fields.read(path) == report("beta")


def test_the_page_describes_every_field() -> None:
    text = (ROOT / "docs" / "load.md").read_text()
    for path, kind, meaning in fields.FIELDS:
        assert f"\n| `{path}` | {kind} | {meaning} |" in text, path

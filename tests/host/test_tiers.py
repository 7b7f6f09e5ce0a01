"""The file that says how an instance captures."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline import paths
from pipeline.host import tiers

CHANGES = "changes of credentials"


def test_what_is_written_is_read(tmp_path: Path) -> None:
    used = {"exec": "programs", "cred_fentry": "off: not in this kernel"}
    (tmp_path / paths.TIERS).write_bytes(tiers.describe(used))
    assert tiers.read(tmp_path) == used
    assert [tiers.is_on(detail) for detail in used.values()] == [True, False]
    assert tiers.reason(used["cred_fentry"]) == "not in this kernel"


@pytest.mark.parametrize("content", [None, b"", b"{", b"[1]", b"null", b"\xff"])
def test_a_file_that_says_nothing(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / paths.TIERS).write_bytes(content)
    assert tiers.read(tmp_path) == {}


def test_a_file_of_another_user_is_not_believed(tmp_path: Path) -> None:
    (tmp_path / paths.TIERS).write_bytes(tiers.describe({"tracer": "x"}))
    (tmp_path / paths.TIERS).chmod(0o666)
    assert tiers.read(tmp_path) == {}


@pytest.mark.parametrize(
    ("used", "expected"),
    [
        ({}, None),
        ({"tracer": "processes"}, None),
        ({"cred_fentry": CHANGES}, True),
        ({"cred_fentry": "off: x", "cred_kprobe": CHANGES}, True),
        ({"cred_sampled": "off: x", "cred_syscalls": CHANGES}, True),
        ({"cred_fentry": "off: x", "cred_sampled": CHANGES}, False),
        ({"cred_fentry": "off: x", "cred_sampled": "off: x"}, False),
    ],
)
def test_whether_each_change_is_seen(used: dict[str, str], expected: bool | None) -> None:
    assert tiers.sees_each_change(used) is expected


@pytest.mark.parametrize(
    ("used", "expected"),
    [
        ({}, False),
        ({"cred_fentry": CHANGES, "cred_sampled": "off: not needed"}, False),
        ({"cred_fentry": "off: x", "cred_sampled": CHANGES}, False),
        ({"cred_fentry": "off: x", "cred_kprobe": CHANGES, "cred_sampled": "the others"}, True),
        ({"cred_sampled": "the others", "cred_syscalls": CHANGES}, True),
    ],
)
def test_whether_comparisons_find_only_some_changes(used: dict[str, str], expected: bool) -> None:
    assert tiers.is_completed(used) is expected

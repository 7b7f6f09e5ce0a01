"""Tests of tests/hosts that need no host: the command line, and when packages are built again."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

HERE = Path(__file__).parent
RUN = HERE / "run"


def run(*arguments: str, user: int | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [RUN, *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, user=user
    )


@pytest.fixture
def dist(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    for directory in (HERE, HERE.parent / "fresh"):
        monkeypatch.syspath_prepend(str(directory))
    yield importlib.import_module("dist")
    for name in ("dist", "fresh"):
        sys.modules.pop(name, None)


def test_each_scenario_is_listed_with_its_purpose() -> None:
    done = run("--help")
    assert done.returncode == 0
    for name in ("install", "upgrade", "purge", "wheelhouse"):
        (line,) = [line for line in done.stdout.splitlines() if line.startswith(f"  {name} ")]
        assert len(line.split()) > 4, line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no-such"], "unknown scenario: no-such"),
        ([], "nothing to do"),
        (["install", "--hosts", "0"], "--hosts must be from 1 to 50"),
    ],
)
def test_a_command_line_that_makes_no_sense_is_refused(arguments: list[str], message: str) -> None:
    done = run(*arguments)
    assert done.returncode == 2 and message in done.stderr


def test_a_build_that_failed_leaves_nothing(dist: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dist.fresh, "CACHE", tmp_path)
    monkeypatch.setattr(dist, "state", lambda: "now")
    done: list[str | None] = []

    def build(target: Path, version: str | None) -> None:
        if version is not None or not done:
            done.append(version)
            raise dist.fresh.NotPossibleError("no")
        (target / "package").touch()

    monkeypatch.setattr(dist, "build", build)
    cache = tmp_path / "hosts-packages"
    for kept in ([], ["complete-own", "package"]):
        with pytest.raises(dist.fresh.NotPossibleError), dist.packages(2):
            pass
        assert sorted(path.name for path in cache.glob("now/*")) == kept
        assert (cache / "now").exists() is bool(kept)
    assert done == [None, dist.NEXT_VERSION]


def test_packages_are_built_again_only_for_a_change_of_what_they_contain(
    dist: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("pipeline/a.py", "tests/test_a.py", "docs/page.md", "docs/procline.toml", "packaging/debian/postinst"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("first")
    for command in (["init", "-q"], ["add", "."]):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    monkeypatch.setattr(dist.fresh, "ROOT", tmp_path)
    states = [dist.state()]
    for name in ("tests/test_a.py", "docs/page.md"):
        (tmp_path / name).write_text("second")
        assert dist.state() == states[0], name
    for name in ("pipeline/a.py", "docs/procline.toml", "packaging/debian/postinst"):
        (tmp_path / name).write_text("second")
        states.append(dist.state())
    (tmp_path / "packaging/debian/postinst").chmod(0o755)
    states.append(dist.state())
    assert len(set(states)) == len(states)


def test_packages_that_a_run_uses_are_kept(dist: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dist.fresh, "CACHE", tmp_path)
    monkeypatch.setattr(dist, "build", lambda target, version: (target / "package").touch())
    cache = tmp_path / "hosts-packages"
    monkeypatch.setattr(dist, "state", lambda: "used")
    with dist.packages(1) as used:
        for number in range(dist.KEPT + 1):
            monkeypatch.setattr(dist, "state", lambda number=number: f"later-{number}")
            with dist.packages(1) as directory:
                os.utime(directory, (number + 2, number + 2))
            os.utime(used, (1, 1))
        assert (used / "package").exists()
    monkeypatch.setattr(dist, "state", lambda: "last")
    with dist.packages(1):
        assert not used.exists()
    assert len(list(cache.glob("*/complete-own"))) == dist.KEPT

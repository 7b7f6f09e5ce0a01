"""The repository itself: lock files, scripts, and the first commands that a new user runs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

import pytest

import pipeline

ROOT = Path(__file__).parent.parent
LOCKS = sorted((ROOT / "requirements").glob("*.txt"))
TOOLS = ROOT / "packaging" / "tools.txt"
SHELL = [
    path for path in [*sorted((ROOT / "script").iterdir()), ROOT / ".ci" / "run"] if path.is_file() and not path.suffix
]


def pinned(path: Path) -> dict[str, list[str]]:
    """Return the versions of each package: more than one if an old Python cannot have the newest."""
    versions: dict[str, list[str]] = {}
    for name, version in re.findall(r"^([a-z0-9-]+)==(\S+)", path.read_text(), re.MULTILINE):
        versions.setdefault(name, []).append(version)
    return versions


def name_of(requirement: str) -> str:
    return re.split(r"[<>=!\[; ]", requirement, maxsplit=1)[0].lower().replace("_", "-")


@pytest.mark.parametrize("path", [*LOCKS, TOOLS], ids=lambda path: path.name)
def test_lock_files_have_hashes_and_name_no_address(path: Path) -> None:
    text = path.read_text()
    assert "://" not in text and "--index" not in text and "--find-links" not in text
    blocks = re.split(r"\n(?=[a-z0-9])", text.partition("\n")[2].strip())
    assert len(blocks) == sum(map(len, pinned(path).values()))
    assert all("--hash=sha256:" in block for block in blocks)


def test_all_requirements_of_the_project_are_locked() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    extras = project["project"]["optional-dependencies"]
    needed = [*project["project"]["dependencies"], *extras["daemon"], *extras["top"], *extras["forward"]]
    host = {name_of(each) for each in needed}
    assert host <= set(pinned(ROOT / "requirements" / "host.txt"))
    every = host | {name_of(each) for extra in extras.values() for each in extra}
    assert every <= set(pinned(ROOT / "requirements" / "dev.txt"))
    build = (ROOT / "requirements" / "build.in").read_text().splitlines()
    assert sorted(line for line in build if not line.startswith("#")) == sorted(project["build-system"]["requires"])


def test_the_version_is_in_one_place() -> None:
    """Packages, the command and the metrics all take it from there."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert "version" not in project["project"] and project["project"]["dynamic"] == ["version"]
    assert project["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "pipeline.version.__version__"}
    done = subprocess.run(
        [sys.executable, "-m", "pipeline.cli.main", "--version"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.stdout == f"procline {pipeline.__version__}\n"
    assert f"## {pipeline.__version__} (" in (ROOT / "CHANGELOG.md").read_text()


def test_the_collection_is_of_the_same_version() -> None:
    """Galaxy reads it from a file of its own, and the example names a package."""
    collection = ROOT / "ansible"
    assert f"\nversion: {pipeline.__version__}\n" in (collection / "galaxy.yml").read_text()
    assert f"\n## {pipeline.__version__}\n" in (collection / "CHANGELOG.md").read_text()
    example = (collection / "examples/inventory/group_vars/all.yml").read_text()
    assert f"/procline-{pipeline.__version__}-cp" in example


def test_the_oldest_python_is_the_same_everywhere() -> None:
    """ruff and mypy then find syntax, modules and functions that it does not have."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    oldest = project["project"]["requires-python"].removeprefix(">=")
    assert project["tool"]["ruff"]["target-version"] == "py" + oldest.replace(".", "")
    assert project["tool"]["mypy"]["python_version"] == oldest
    for name, text in (
        ("script/setup", f"sys.version_info < ({oldest.replace('.', ', ')})"),
        ("script/setup", f'needs="Python {oldest} or newer'),
        ("script/lock", f"\nlock {oldest} requirements/host.txt"),
        ("packaging/build.py", f'\nPYTHONS = ("{oldest}", '),
        ("ansible/roles/procline/tasks/preflight.yml", f"version('{oldest}', '>=')"),
        ("CONTRIBUTING.md", f"Python {oldest} or newer"),
    ):
        assert text in (ROOT / name).read_text(), name


def test_no_version_of_a_kernel_decides_on_a_host() -> None:
    """Distributions add features to their kernels: `procline doctor` tries what is needed."""
    for path in (ROOT / "ansible").rglob("*.yml"):
        assert not re.search(r"kernel\w* is version", path.read_text()), path


def test_one_version_of_each_package_in_all_lock_files() -> None:
    """Versions for different versions of Python are different packages here."""
    dev = pinned(ROOT / "requirements" / "dev.txt")
    for path in LOCKS:
        if path.name == "ansible-sanity.txt":
            continue  # ansible-test chooses these versions
        both = {name: version for name, version in pinned(path).items() if name in dev}
        assert all(set(versions) <= set(dev[name]) for name, versions in both.items()), path.name
        # Those of Ansible, and the engine of tests/fuzz, have an environment of their own.
        assert path.name in {"ansible.txt", "fuzz.txt"} or both == pinned(path), path.name


@pytest.mark.parametrize("path", SHELL, ids=lambda path: path.name)
def test_scripts_are_portable_shell(path: Path) -> None:
    assert path.read_text().startswith("#!/bin/sh\n#")
    assert os.access(path, os.X_OK)
    assert subprocess.run(["sh", "-n", str(path)], capture_output=True).stderr == b""


@pytest.mark.live
def test_the_first_view_shows_processes_with_their_lineage(live_kernel: None) -> None:
    with tempfile.TemporaryDirectory(prefix="procline-test-", dir="/dev/shm") as runtime:
        environment = dict(os.environ, PROCLINE_RUNTIME_DIR=runtime)
        done = subprocess.run(
            [sys.executable, str(ROOT / "script" / "show.py"), "--seconds", "4", "--name", "first"],
            env=environment, cwd="/", capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert re.search(r"Procline is started and knows \d+ processes; kernel threads are left out\.\n", done.stdout)
        assert re.search(r"\+ fork +\d+  sh < ", done.stdout)
        assert re.search(r"> exec +\d+  sort  \(was sh\) < sh\(\d+\) < ", done.stdout)
        assert re.search(r"- exit +\d+  sort  \[code 0 after ", done.stdout)
        assert re.search(r"Seen: \d+ forks, .* lost: 0; late: ", done.stdout)
        # Only the record remains that shows the next daemon when this one ended.
        assert [left.name for left in Path(runtime).iterdir()] == [".first~watched"]

"""Parts of script/package that need no compiler; tests/packaging/run builds and uses the packages."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tarfile
import tomllib
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from types import ModuleType
from zipfile import ZipFile

import pytest

import pipeline
from tests.sampling import chosen

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def build() -> Iterator[ModuleType]:
    """The script as a module; it imports another one beside it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "packaging"))
        spec = importlib.util.spec_from_file_location("build", ROOT / "packaging" / "build.py")
        assert spec and spec.loader
        module = importlib.util.module_from_spec(spec)
        patch.setitem(sys.modules, "build", module)
        spec.loader.exec_module(module)
        yield module


def test_the_version_is_read_without_importing(build: ModuleType, tmp_path: Path) -> None:
    assert build.read_version(ROOT / "pipeline/version.py") == pipeline.__version__
    (tmp_path / "none.py").write_text("import no_such_module\n")
    with pytest.raises(build.PackageError, match="states no version"):
        build.read_version(tmp_path / "none.py")


def test_the_version_is_replaced_in_the_copy_only(build: ModuleType, tmp_path: Path) -> None:
    copy = tmp_path / "version.py"
    copy.write_text((ROOT / "pipeline/version.py").read_text())
    build.write_version(copy, "99.0rc1")
    assert build.read_version(copy) == "99.0rc1"
    before, after = (path.read_text().splitlines() for path in (ROOT / "pipeline/version.py", copy))
    assert [line for line, other in zip(before, after, strict=True) if line != other] == [
        f'__version__ = "{pipeline.__version__}"'
    ]
    for wrong in ("", "next", '1"; import os', "1.0~rc1"):
        with pytest.raises(build.PackageError, match="is no version"):
            build.write_version(copy, wrong)


def test_a_wheel_has_everything_but_the_sources_of_what_is_compiled() -> None:
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    assert setuptools["include-package-data"] is False  # otherwise a wheel has what MANIFEST.in adds to the sdist
    names = [path.name for path in (ROOT / "pipeline").rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    left = {name for name in names if not any(fnmatch(name, each) for each in setuptools["package-data"]["*"])}
    assert {"py.typed", "procline.bpf.o", "scrub_rules.toml"} <= set(names) - left
    # Python finds modules itself, and setup.py adds what it compiles.
    left = {name for name in left if not name.endswith((".py", ".so")) and name != "procline-load"}
    assert {Path(name).suffix for name in left} == {".c", ".h", ".ld", ".pxd", ".pxi", ".pyx"}, left


def test_a_wheel_is_described_by_its_metadata(build: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "some_thing-1.5-py3-none-any.whl"
    with ZipFile(path, "w") as wheel:
        wheel.writestr("some_thing/METADATA", "Name: wrong\n")
        wheel.writestr("some_thing-1.5.dist-info/METADATA", "Metadata-Version: 2.4\nName: Some_Thing\nVersion: 1.5\n")
    found = build.describe(path)
    assert (found["name"], found["version"], found["size"]) == ("some-thing", "1.5", path.stat().st_size)


def test_the_bytes_of_an_archive_follow_from_its_files(build: ModuleType, tmp_path: Path) -> None:
    made = []
    for name in ("one", "two"):
        directory = tmp_path / name / "house"
        (directory / "wheels").mkdir(parents=True)
        for each in ("b", "a") if name == "one" else ("a", "b"):
            (directory / "wheels" / each).write_text(each)
            os.utime(directory / "wheels" / each, (len(made), 1000 + len(made)))
        (directory / "wheels/a").chmod(0o600 if name == "one" else 0o666)
        made.append(build.archive(directory, 1_700_000_000))
    assert made[0].read_bytes() == made[1].read_bytes()
    with tarfile.open(made[0]) as archive:
        assert archive.getnames() == ["house", "house/wheels", "house/wheels/a", "house/wheels/b"]
        assert {(each.uid, each.mtime) for each in archive} == {(0, 1_700_000_000)}


def test_an_interpreter_that_cannot_build_is_refused(build: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "python").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "python").chmod(0o755)
    with pytest.raises(build.PackageError, match="python3-dev"):
        build.probe(str(tmp_path / "python"))
    with pytest.raises(build.PackageError, match="No such file"):
        build.probe(str(tmp_path / "none"))


def test_wrong_use_builds_nothing(tmp_path: Path) -> None:
    done = subprocess.run(
        [ROOT / "script/package", "--output", tmp_path / "dist", "rpm"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2 and "unknown kind: rpm" in done.stderr
    assert not (tmp_path / "dist").exists()


def test_a_build_sees_no_other_variables(build: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = {"CC": "ccache gcc", "CCACHE_DIR": "/a", "CYTHON_CACHE_DIR": "/b", "PIP_CERT": "/y"}
    for name, value in {"PYTHONPATH": "/x", "CFLAGS": "-O0", **kept}.items():
        monkeypatch.setenv(name, value)
    found = build.build_environment(tmp_path)
    assert kept.items() <= found.items()
    assert not {"PYTHONPATH", "CFLAGS"} & set(found)
    assert int(found["SOURCE_DATE_EPOCH"]) > 1_700_000_000


@pytest.mark.slow
@pytest.mark.parametrize(
    "wrong",
    chosen(["ops@example.com", "Ops <ops>", "Ops <ops@host>", "<ops@example.com>", "A <a@b.example>\nDepends: x", "A"]),
)
def test_a_maintainer_without_name_or_address_is_refused(build: ModuleType, tmp_path: Path, wrong: str) -> None:
    command = [ROOT / "script/package", "--output", tmp_path / "dist", "--maintainer", wrong, "deb"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and done.stderr.startswith("package: --maintainer "), done.stderr
    assert not (tmp_path / "dist").exists()


def test_a_package_names_its_maintainer_in_one_place(build: ModuleType) -> None:
    deb = sys.modules["deb"]
    assert deb.build is build
    assert deb.maintainer_of("Fleet Team <fleet@ops.example.com>") == "Fleet Team <fleet@ops.example.com>"
    assert deb.maintainer_of("") == deb.NO_MAINTAINER
    assert "Maintainer: @MAINTAINER@\n" in (ROOT / "packaging/debian/control").read_text()

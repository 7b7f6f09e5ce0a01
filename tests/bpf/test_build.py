"""The shipped objects equal a build of their source, wherever it is built."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest

from pipeline.bpf import build
from tests.sampling import chosen, is_quick

SCRIPT = Path(build.__file__).parents[2] / "script" / "bpf-build"


@pytest.fixture
def compiler(missing: Callable[[str], NoReturn]) -> None:
    for name in ("clang", "llvm-strip"):
        try:
            build.tool(name)
        except build.BuildError as error:
            missing(str(error))
    try:
        build.libbpf_include()
    except build.BuildError as error:
        missing(str(error))


@pytest.mark.expensive
@pytest.mark.slow
def test_a_build_in_another_directory_has_the_same_bytes(compiler: None, tmp_path: Path) -> None:
    copy = tmp_path / "elsewhere"
    shutil.copytree(build.PROGRAMS, copy, ignore=shutil.ignore_patterns("*.o", "*.so", "_*", "__pycache__"))
    # The options that leave the directory out are the same for all; another test compiles each of them.
    for source, suffix in chosen((("signal.bpf.c", ".bpf.o"), ("context.bpf.c", ".old.bpf.o"))):
        output = tmp_path / "out.o"
        build.compile_object(copy / source, output, suffix=suffix)
        assert output.read_bytes() == build.object_path(source, suffix).read_bytes(), source


@pytest.mark.expensive
@pytest.mark.slow
def test_the_program_that_contributing_shows_compiles(compiler: None, tmp_path: Path) -> None:
    page = (SCRIPT.parents[1] / "CONTRIBUTING.md").read_text(encoding="utf-8")
    indent, program = re.findall(r'^( +)(SEC\("tp_btf/cgroup_rename"\)\n(?:\1.*\n|\n(?=\1))+)', page, re.MULTILINE)[0]
    copy = tmp_path / "bpf"
    shutil.copytree(build.PROGRAMS, copy, ignore=shutil.ignore_patterns("*.o", "*.so", "_*", "__pycache__"))
    with (copy / "context.bpf.c").open("a", encoding="utf-8") as file:
        file.write(program.replace(f"\n{indent}", "\n"))
    for suffix in chosen(build.VARIANTS):
        build.compile_object(copy / "context.bpf.c", tmp_path / "out.o", suffix=suffix)
        assert b"pl_on_renamed" in (tmp_path / "out.o").read_bytes(), suffix


@pytest.mark.expensive
@pytest.mark.slow
def test_check_names_an_object_that_is_stale(compiler: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = tmp_path / "bpf"
    shutil.copytree(build.PROGRAMS, copy, ignore=shutil.ignore_patterns("*.so", "_*", "__pycache__"))
    source = copy / "context.bpf.c"
    text = source.read_text()
    assert text.count("#define SIGHUP 1\n") == 1
    source.write_text(text.replace("#define SIGHUP 1\n", "#define SIGHUP 2\n"))
    monkeypatch.setattr(build, "PROGRAMS", copy)
    suffixes = chosen(build.VARIANTS)
    objects = (*(("context.bpf.c", suffix) for suffix in suffixes), ("signal.bpf.c", build.NEWER))
    monkeypatch.setattr(build, "OBJECTS", objects)
    assert build.check() == [f"context{suffix}" for suffix in suffixes]


@pytest.mark.slow
def test_shipped_objects_match_their_source_from_any_directory(
    compiler: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a quick run, one of them."""
    if is_quick():
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(build, "OBJECTS", chosen(build.OBJECTS))
        assert build.main(["--check"]) == 0
        return
    result = subprocess.run([SCRIPT, "--check"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_missing_compiler_is_one_clear_line(tmp_path: Path) -> None:
    for name in ("dirname", "sh"):
        (tmp_path / name).symlink_to(Path(shutil.which(name) or name).resolve())
    (tmp_path / "python3").symlink_to(sys.executable)
    result = subprocess.run(
        [SCRIPT, "--check"], env={"PATH": os.fspath(tmp_path)}, capture_output=True, text=True, check=False
    )
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    assert "apt-get install clang-19" in result.stderr


def test_objects_hold_no_path_of_the_build_machine() -> None:
    root_home = os.path.join(b"/", b"root", b"")  # noqa: PTH118 - bytes
    for source, suffix in build.OBJECTS:
        data = build.object_path(source, suffix).read_bytes()
        for word in (b"/usr/", b"/home/", root_home, b"/tmp/", os.fsencode(build.PROGRAMS)):
            assert word not in data, (source, word)

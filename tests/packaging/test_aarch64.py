"""The BPF objects do not depend on the machine: a build for aarch64 has the same bytes. tests/vm/aarch64 runs them."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest

from pipeline.bpf import build

EM_BPF = 247


@pytest.mark.slow
@pytest.mark.parametrize("source", build.SOURCES)
def test_a_build_for_aarch64_has_the_bytes_of_the_shipped_object(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: Callable[[str], NoReturn]
) -> None:
    try:
        build.tool("clang"), build.tool("llvm-strip"), build.libbpf_include()
    except build.BuildError as error:
        missing(str(error))
    monkeypatch.setattr(build, "_FLAGS", (*build._FLAGS, "-D__TARGET_ARCH_arm64"))
    build.compile_object(build.PROGRAMS / source, tmp_path / "made.o")
    assert (tmp_path / "made.o").read_bytes() == build.object_path(source).read_bytes()


def test_objects_are_compiled_for_no_machine() -> None:
    """Without a target, libbpf's headers reject a program that reads registers by their position (PT_REGS_PARM1)."""
    assert not [flag for flag in build._FLAGS if "__TARGET_ARCH" in flag]
    for path in build.PROGRAMS.glob("*.[ch]"):
        assert "__TARGET_ARCH" not in path.read_text(), path


def test_objects_have_the_byte_order_of_x86_64_and_aarch64() -> None:
    for source in build.SOURCES:
        head = build.object_path(source).read_bytes()[:20]
        magic, bits, order = struct.unpack_from("<4sBB", head)
        assert (magic, bits, order) == (b"\x7fELF", 2, 1), source
        assert struct.unpack_from("<H", head, 18)[0] == EM_BPF, source

"""BPF objects do not depend on the machine that compiles them: a build on aarch64 has the same contents.

So the older set for aarch64, which only its wheel has, is compiled here, too. tests/vm/aarch64 runs both sets.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest

from pipeline.bpf import build

EM_BPF = 247


def sections(data: bytes) -> dict[str, bytes]:
    """Return the contents of each section of a 64-bit little-endian ELF file by its name (elf(5))."""
    (at,) = struct.unpack_from("<Q", data, 40)
    size, count, names = struct.unpack_from("<HHH", data, 58)
    found = [struct.unpack_from("<IIQQQQ", data, at + size * n) for n in range(count)]
    text = data[found[names][4] :]
    return {text[name : text.index(b"\0", name)].decode(): data[o : o + n] for name, _, _, _, o, n in found}


def words(types: bytes) -> list[int]:
    return sorted(word for (word,) in struct.iter_unpack("<I", types[: len(types) // 4 * 4]))


@pytest.mark.programs
@pytest.mark.slow
@pytest.mark.parametrize(("source", "suffix"), [each for each in build.OBJECTS if each[1] != ".old.bpf.o"])
def test_a_build_for_aarch64_has_the_contents_of_the_shipped_object(
    source: str, suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: Callable[[str], NoReturn]
) -> None:
    try:
        build.tool("clang"), build.tool("llvm-strip"), build.libbpf_include()
    except build.BuildError as error:
        missing(str(error))
    monkeypatch.setattr(build, "_FLAGS", (*build._FLAGS, "-D__TARGET_ARCH_arm64"))
    build.compile_object(build.PROGRAMS / source, tmp_path / "made.o", suffix=suffix)
    made, shipped = (sections(path.read_bytes()) for path in (tmp_path / "made.o", build.object_path(source, suffix)))
    # The compiler may list the types and functions in another order; programs, maps and relocations are equal.
    for name in (".BTF", ".BTF.ext"):
        assert words(made.pop(name)) == words(shipped.pop(name)), name
    assert made == shipped


def test_objects_are_compiled_for_no_machine() -> None:
    """Without a target, libbpf's headers reject a program that reads registers by their position (PT_REGS_PARM1)."""
    assert not [flag for flag in build._FLAGS if "__TARGET_ARCH" in flag]
    for path in build.PROGRAMS.glob("*.[ch]"):
        assert "__TARGET_ARCH" not in path.read_text(), path


def test_objects_have_the_byte_order_of_x86_64_and_aarch64() -> None:
    for source, suffix in build.OBJECTS:
        head = build.object_path(source, suffix).read_bytes()[:20]
        magic, bits, order = struct.unpack_from("<4sBB", head)
        assert (magic, bits, order) == (b"\x7fELF", 2, 1), source
        assert struct.unpack_from("<H", head, 18)[0] == EM_BPF, source

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
from tests.sampling import chosen

EM_BPF = 247


def sections(data: bytes) -> dict[str, bytes]:
    """Return the contents of each section of a 64-bit little-endian ELF file by its name (elf(5))."""
    (at,) = struct.unpack_from("<Q", data, 40)
    size, count, names = struct.unpack_from("<HHH", data, 58)
    found = [struct.unpack_from("<IIQQQQ", data, at + size * n) for n in range(count)]
    text = data[found[names][4] :]
    return {text[name : text.index(b"\0", name)].decode(): data[o : o + n] for name, _, _, _, o, n in found}


def words(section: bytes) -> list[int]:
    return sorted(word for (word,) in struct.iter_unpack("<I", section[: len(section) // 4 * 4]))


#: What follows a type of each kind (Documentation/bpf/btf.rst): words for each member, and whether the first is a name;
#: a kind that is not here has nothing. Four kinds have one such part, whatever their number of members.
MEMBERS = {1: (1, False), 3: (3, False), 4: (3, True), 5: (3, True), 6: (2, True), 13: (2, True), 14: (1, False),
           15: (3, False), 17: (1, False), 19: (3, True)}  # fmt: skip
SINGLE = (1, 3, 14, 17)


def types(section: bytes) -> tuple[list[bytes], list[int]]:
    """Return the names in .BTF, and its other words, both sorted: the place of a name depends on the order of types."""
    header_bytes, type_at, type_bytes, string_at, _ = struct.unpack_from("<IIIII", section, 4)
    numbers = [word for (word,) in struct.iter_unpack("<I", section[header_bytes + type_at :][:type_bytes])]
    strings = section[header_bytes + string_at :]
    names: list[bytes] = []
    others: list[int] = []
    at = 0

    def take(count: int, has_name: bool) -> None:
        nonlocal at
        if has_name:
            names.append(strings[numbers[at] : strings.index(b"\0", numbers[at])])
        others.extend(numbers[at + has_name : at + count])
        at += count

    while at < len(numbers):
        kind, members = numbers[at + 1] >> 24 & 0x1F, numbers[at + 1] & 0xFFFF
        take(3, True)
        for _ in range(1 if kind in SINGLE else members if kind in MEMBERS else 0):
            take(*MEMBERS[kind])
    assert at == len(numbers)
    return sorted(names), sorted(others)


@pytest.mark.expensive
@pytest.mark.slow
@pytest.mark.parametrize(("source", "suffix"), chosen(each for each in build.OBJECTS if each[1] != ".old.bpf.o"))
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
    assert types(made.pop(".BTF")) == types(shipped.pop(".BTF"))
    assert words(made.pop(".BTF.ext")) == words(shipped.pop(".BTF.ext"))
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

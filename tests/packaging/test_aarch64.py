"""The BPF objects do not depend on the machine. Nothing else is tested for aarch64."""

from __future__ import annotations

import struct

from pipeline.bpf import build

EM_BPF = 247


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

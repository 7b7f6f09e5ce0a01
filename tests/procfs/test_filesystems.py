"""File system types: their numbers, and the compiled table that is generated from them."""

from __future__ import annotations

from pathlib import Path

from pipeline.procfs import filesystems

COMPILED = Path(filesystems.__file__).parents[1] / "shm" / "names" / "_filesystems.pxd"


def test_the_compiled_table_is_generated_from_this_one() -> None:
    cases = ""
    for name, numbers in filesystems.NUMBERS.items():
        digits = [f"0x{number:04x}" if number < 1 << 16 else f"0x{number:08x}" for number in numbers]
        cases += "        " + "".join(f"case {number}: " for number in digits) + f'return "{name}";\n'
    text = COMPILED.read_text()
    begin, end = text.index("        case "), text.index("        default:")
    assert text[begin:end] == cases, f"replace the cases in {COMPILED} with:\n{cases}"


def test_a_name_and_its_first_number_belong_together() -> None:
    for name, numbers in filesystems.NUMBERS.items():
        assert {filesystems.name_of(number) for number in numbers} == {name}
        assert filesystems.magic_of(name) == (0 if name == "minix" else numbers[0])  # minix has one for each version


def test_types_that_share_a_number() -> None:
    assert filesystems.magic_of("ext3") == filesystems.magic_of("ext4") == 0xEF53
    assert filesystems.magic_of("fuse.sshfs") == filesystems.magic_of("fuseblk") == 0x65735546
    assert filesystems.magic_of("rootfs") == filesystems.magic_of("") == 0
    assert filesystems.name_of(0) == ""

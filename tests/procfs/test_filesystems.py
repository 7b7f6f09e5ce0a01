"""File system types and their numbers."""

from __future__ import annotations

from pipeline.procfs import filesystems


def test_a_name_and_its_first_number_belong_together() -> None:
    for name, numbers in filesystems.NUMBERS.items():
        assert {filesystems.name_of(number) for number in numbers} == {name}
        assert filesystems.magic_of(name) == (0 if name == "minix" else numbers[0])  # minix has one for each version


def test_types_that_share_a_number() -> None:
    assert filesystems.magic_of("ext3") == filesystems.magic_of("ext4") == 0xEF53
    assert filesystems.magic_of("fuse.sshfs") == filesystems.magic_of("fuseblk") == 0x65735546
    assert filesystems.magic_of("rootfs") == filesystems.magic_of("") == 0
    assert filesystems.name_of(0) == ""

"""Magic numbers of file systems and the names of their types.

This is the only table that is written by hand: ``script/generate`` writes the compiled one for readers and the stream,
`pipeline/shm/names/_filesystems.pxd`, from it.

`magic_of` is for executables that are known only from ``/proc``, where mountinfo has the name of the type. To ask the
file system for its number with statfs(2) could block until a remote server answers. `magic_of` leaves out types that
have a number for each version (minix) and rootfs, which has the number of ramfs or tmpfs, depending on the boot
options.

Source: linux/magic.h, and the kernel's fs/ for types that define their number themselves; ZFS has its own.
"""

from __future__ import annotations

from pipeline.records.limits import TMPFS_MAGIC

#: Numbers by name, as mount(8) spells it. `magic_of` returns the first number. Where several types share a number, the
#: most common one is here and the others are in `_ALIASES`.
NUMBERS: dict[str, tuple[int, ...]] = {
    # On disks and in images.
    "ext4": (0xEF53,),
    "xfs": (0x58465342,),
    "btrfs": (0x9123683E,),
    "zfs": (0x2FC12FC1,),
    "bcachefs": (0xCA451A4E,),
    "f2fs": (0xF2F52010,),
    "erofs": (0xE0F5E1E2,),
    "squashfs": (0x73717368,),
    "cramfs": (0x28CD3D45,),
    "romfs": (0x7275,),
    "iso9660": (0x9660,),
    "udf": (0x15013346,),
    "vfat": (0x4D44,),
    "exfat": (0x2011BAB0,),
    "ntfs3": (0x7366746E,),
    "hfs": (0x4244,),
    "hfsplus": (0x482B,),
    "reiserfs": (0x52654973,),
    "jfs": (0x3153464A,),
    "nilfs2": (0x3434,),
    "jffs2": (0x72B6,),
    "ubifs": (0x24051905,),
    "gfs2": (0x01161970,),
    "ocfs2": (0x7461636F,),
    "minix": (0x137F, 0x138F, 0x2468, 0x2478, 0x4D5A),
    "zonefs": (0x5A4F4653,),
    # Over other file systems, or served by something else.
    "overlay": (0x794C7630,),
    "ecryptfs": (0xF15F,),
    "fuse": (0x65735546,),
    "nfs": (0x6969,),
    "9p": (0x01021997,),
    "cifs": (0xFF534D42, 0xFE534D42),
    "ceph": (0x00C36400,),
    "afs": (0x6B414653,),
    "coda": (0x73757245,),
    "vboxsf": (0x786F4256,),
    "autofs": (0x0187,),
    # In memory.
    "tmpfs": (TMPFS_MAGIC,),
    "ramfs": (0x858458F6,),
    "hugetlbfs": (0x958458F6,),
    "dax": (0x64646178,),
    # Interfaces of the kernel.
    "proc": (0x9FA0,),
    "sysfs": (0x62656572,),
    "cgroup": (0x0027E0EB,),
    "cgroup2": (0x63677270,),
    "devpts": (0x1CD1,),
    "debugfs": (0x64626720,),
    "tracefs": (0x74726163,),
    "securityfs": (0x73636673,),
    "selinuxfs": (0xF97CFF8C,),
    "smackfs": (0x43415D53,),
    "configfs": (0x62656570,),
    "bpf": (0xCAFE4A11,),
    "binfmt_misc": (0x42494E4D,),
    "efivarfs": (0xDE5E81E4,),
    "pstore": (0x6165676C,),
    "mqueue": (0x19800202,),
    "fusectl": (0x65735543,),
    "resctrl": (0x07655821,),
    "binder": (0x6C6F6F70,),
    "xenfs": (0xABBA1974,),
    "nsfs": (0x6E736673,),
    "pidfs": (0x50494446,),
    "pipefs": (0x50495045,),
    "sockfs": (0x534F434B,),
}
#: Types that share their number with a type of `NUMBERS`.
_ALIASES = {
    "ext2": "ext4", "ext3": "ext4", "devtmpfs": "tmpfs", "nfs4": "nfs", "fuseblk": "fuse", "virtiofs": "fuse",
    "smb3": "cifs", "msdos": "vfat",
}  # fmt: skip
#: Types with a number that depends on the version of the file system.
_VERSIONED = {"minix"}
_NAMES = {number: name for name, numbers in NUMBERS.items() for number in numbers}


def magic_of(kind: str) -> int:
    """Return the magic number of a file system type as mountinfo names it (also "fuse.sshfs"); 0: unknown."""
    name = kind.partition(".")[0]
    return 0 if name in _VERSIONED else NUMBERS.get(_ALIASES.get(name, name), (0,))[0]


def name_of(magic: int) -> str:
    """Return the name of a magic number that entries and events show; "": unknown."""
    return _NAMES.get(magic, "")

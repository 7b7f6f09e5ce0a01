"""Magic numbers of file systems by the names that the kernel gives their types, and back.

For what ``/proc`` alone told of: mountinfo has the name of a type, and asking the file system itself for its number,
statfs(2), may wait for a server. Leaves out types whose number depends on their version (minix) or on how the host was
started (rootfs). Source of the numbers, and the names that readers are shown: `pipeline/shm/names/_filesystems.pxd`.
"""

from __future__ import annotations

TMPFS_MAGIC = 0x01021994

#: Shown name -> number; of the names that share a number the one that is shown.
_MAGIC = {
    "ext4": 0xEF53, "xfs": 0x58465342, "btrfs": 0x9123683E, "zfs": 0x2FC12FC1, "bcachefs": 0xCA451A4E,
    "f2fs": 0xF2F52010, "erofs": 0xE0F5E1E2, "squashfs": 0x73717368, "cramfs": 0x28CD3D45, "romfs": 0x7275,
    "iso9660": 0x9660, "udf": 0x15013346, "vfat": 0x4D44, "exfat": 0x2011BAB0, "ntfs3": 0x7366746E, "hfs": 0x4244,
    "hfsplus": 0x482B, "reiserfs": 0x52654973, "jfs": 0x3153464A, "nilfs2": 0x3434, "jffs2": 0x72B6,
    "ubifs": 0x24051905, "gfs2": 0x01161970, "ocfs2": 0x7461636F, "zonefs": 0x5A4F4653, "overlay": 0x794C7630,
    "ecryptfs": 0xF15F, "fuse": 0x65735546, "nfs": 0x6969, "9p": 0x01021997, "cifs": 0xFF534D42, "ceph": 0x00C36400,
    "afs": 0x6B414653, "coda": 0x73757245, "vboxsf": 0x786F4256, "autofs": 0x0187, "tmpfs": TMPFS_MAGIC,
    "ramfs": 0x858458F6, "hugetlbfs": 0x958458F6, "dax": 0x64646178, "proc": 0x9FA0, "sysfs": 0x62656572,
    "cgroup": 0x0027E0EB, "cgroup2": 0x63677270, "devpts": 0x1CD1, "debugfs": 0x64626720, "tracefs": 0x74726163,
    "securityfs": 0x73636673, "selinuxfs": 0xF97CFF8C, "smackfs": 0x43415D53, "configfs": 0x62656570,
    "bpf": 0xCAFE4A11, "binfmt_misc": 0x42494E4D, "efivarfs": 0xDE5E81E4, "pstore": 0x6165676C, "mqueue": 0x19800202,
    "fusectl": 0x65735543, "resctrl": 0x07655821, "binder": 0x6C6F6F70, "xenfs": 0xABBA1974, "nsfs": 0x6E736673,
    "pidfs": 0x50494446, "pipefs": 0x50495045, "sockfs": 0x534F434B,
}  # fmt: skip
#: Types that are shown under another name.
_ALIASES = {
    "ext2": "ext4", "ext3": "ext4", "devtmpfs": "tmpfs", "nfs4": "nfs", "fuseblk": "fuse", "virtiofs": "fuse",
    "smb3": "cifs", "msdos": "vfat",
}  # fmt: skip
_NAMES = {magic: name for name, magic in _MAGIC.items()} | {0xFE534D42: "cifs"}


def magic_of(kind: str) -> int:
    """The number of a type, as mountinfo names it ("fuse.sshfs" too); 0 unknown."""
    name = kind.partition(".")[0]
    return _MAGIC.get(_ALIASES.get(name, name), 0)


def name_of(magic: int) -> str:
    """What readers are shown for a number; "" unknown."""
    return _NAMES.get(magic, "")

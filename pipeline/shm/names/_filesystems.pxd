"""Names of file systems by the magic number of their super blocks, for readers and for the stream.

The cases are generated from the table in `pipeline/procfs/filesystems.py`: do not edit them here.
tests/procfs/test_filesystems.py compares the two and prints the cases to insert after a change of the table.
"""

from libc.stdint cimport uint32_t


cdef extern from *:
    """
    #include <stdint.h>

    static const char *pl_filesystem(uint32_t magic)
    {
        switch (magic) {
        case 0xef53: return "ext4";
        case 0x58465342: return "xfs";
        case 0x9123683e: return "btrfs";
        case 0x2fc12fc1: return "zfs";
        case 0xca451a4e: return "bcachefs";
        case 0xf2f52010: return "f2fs";
        case 0xe0f5e1e2: return "erofs";
        case 0x73717368: return "squashfs";
        case 0x28cd3d45: return "cramfs";
        case 0x7275: return "romfs";
        case 0x9660: return "iso9660";
        case 0x15013346: return "udf";
        case 0x4d44: return "vfat";
        case 0x2011bab0: return "exfat";
        case 0x7366746e: return "ntfs3";
        case 0x4244: return "hfs";
        case 0x482b: return "hfsplus";
        case 0x52654973: return "reiserfs";
        case 0x3153464a: return "jfs";
        case 0x3434: return "nilfs2";
        case 0x72b6: return "jffs2";
        case 0x24051905: return "ubifs";
        case 0x01161970: return "gfs2";
        case 0x7461636f: return "ocfs2";
        case 0x137f: case 0x138f: case 0x2468: case 0x2478: case 0x4d5a: return "minix";
        case 0x5a4f4653: return "zonefs";
        case 0x794c7630: return "overlay";
        case 0xf15f: return "ecryptfs";
        case 0x65735546: return "fuse";
        case 0x6969: return "nfs";
        case 0x01021997: return "9p";
        case 0xff534d42: case 0xfe534d42: return "cifs";
        case 0x00c36400: return "ceph";
        case 0x6b414653: return "afs";
        case 0x73757245: return "coda";
        case 0x786f4256: return "vboxsf";
        case 0x0187: return "autofs";
        case 0x01021994: return "tmpfs";
        case 0x858458f6: return "ramfs";
        case 0x958458f6: return "hugetlbfs";
        case 0x64646178: return "dax";
        case 0x9fa0: return "proc";
        case 0x62656572: return "sysfs";
        case 0x0027e0eb: return "cgroup";
        case 0x63677270: return "cgroup2";
        case 0x1cd1: return "devpts";
        case 0x64626720: return "debugfs";
        case 0x74726163: return "tracefs";
        case 0x73636673: return "securityfs";
        case 0xf97cff8c: return "selinuxfs";
        case 0x43415d53: return "smackfs";
        case 0x62656570: return "configfs";
        case 0xcafe4a11: return "bpf";
        case 0x42494e4d: return "binfmt_misc";
        case 0xde5e81e4: return "efivarfs";
        case 0x6165676c: return "pstore";
        case 0x19800202: return "mqueue";
        case 0x65735543: return "fusectl";
        case 0x07655821: return "resctrl";
        case 0x6c6f6f70: return "binder";
        case 0xabba1974: return "xenfs";
        case 0x6e736673: return "nsfs";
        case 0x50494446: return "pidfs";
        case 0x50495045: return "pipefs";
        case 0x534f434b: return "sockfs";
        default: return (const char *)0;
        }
    }
    """
    const char *pl_filesystem(uint32_t magic) noexcept nogil

"""Keys of a file, as entries and events show it, declared once.

``script/generate`` writes five things from this table: the keys that the encoder only copies (``file_fields.pxi``), the
dict of `Entry.file` (in ``_entry.pyx``), the names that the resolver's model has for the keys (in ``entry_extra.py``),
the table in docs/wire-schema.md, and the JSON Schema. Nothing else imports it.

A line contains the key, its type, the source of its value, and its meaning; ``likewise`` is the meaning of the key
above, with which it shares a row in docs/. The source is ``computed`` (by hand), or a member of the struct pl_file:

- ``MEMBER``: the number; with ``nonzero`` null if it is 0
- ``flag MEMBER NAME``: whether PL_NAME is set in the member; with ``known NAME`` null unless PL_NAME is set too
- ``name FUNCTION ARGUMENT``: the constant that a C function returns; null if that is NULL
- ``user MEMBER``, ``group MEMBER``: the name of an id; null if it has none, or the file could not be read

``model NAME`` may follow: `pipeline.resolver.entries.model.FileEvent` has the same value under this name, but its own
empty value in place of null.

A line in brackets begins a group. The encoder writes a group marked ``copied`` with a generated function, and the other
ones by hand. In ``_entry.pyx`` a computed key is a variable of the same name.
"""

from __future__ import annotations

from typing import NamedTuple

from pipeline.shm.layout.field_table import lines


class FileField(NamedTuple):
    """One line of the table.

    Attributes:
        name: the key in JSON.
        type: as in docs/wire-schema.md.
        value: words that name the source of the value.
        meaning: may be empty.
        group: name of the group.
        is_copied: whether the encoder writes the group with a generated function.
        model: name in the model of the resolver; empty: it has no such value.
    """

    name: str
    type: str
    value: list[str]
    meaning: str
    group: str
    is_copied: bool
    model: str

    @property
    def is_number(self) -> bool:
        """Whether the value is a copied number."""
        return self.value[1:] in ([], ["nonzero"]) and self.value != ["computed"]

    @property
    def is_nullable(self) -> bool:
        """Whether the value can be null."""
        is_plain = self.is_number or self.value[0] == "flag"
        return not is_plain or "nonzero" in self.value or self.known is not None

    @property
    def known(self) -> str | None:
        """The flag, without PL_, that decides whether the value is null."""
        return self.value[self.value.index("known") + 1] if "known" in self.value else None


def parse(table: str) -> tuple[FileField, ...]:
    """Return the fields of a table in its order.

    Raises:
        ValueError: a line has a syntax error.
    """
    fields: list[FileField] = []
    for (name, kind, value), meaning, _, group, is_copied in lines(table, 3):
        source, _, model = value.partition(" model ")
        if is_copied == (source == "computed"):
            raise ValueError(f"{name}: a field is computed if its group is not copied, and only then")
        if meaning == "likewise":
            meaning = fields[-1].meaning
        fields.append(FileField(name, kind, source.split(), meaning, group, is_copied, model))
    return tuple(fields)


TABLE = """
[names]
path            str   computed
    below the global root of its mount tree; `""` of a file in memory, which has none; nil: not resolved
basename        str   computed  the last part of it; of a file in memory `memfd:` and its name; nil: not resolved
extension       str   computed  of the basename, from its last dot on; `""`: none
[facts copied]
inode           uint  file_inode model inode
    device in the kernel's encoding; inode and mount id are the PathKey of [specification 1.4](behaviour.md#s1-4)
device          uint  device model device  likewise
mount_id        uint  mount_id model mount_id  likewise
mode            uint  mode model mode  type and permission bits
uid             uint  file_uid model uid  the owner
gid             uint  file_gid model gid  likewise
user            str   user file_uid model user  names of the owner, found like those of the process
group           str   group file_gid model group  likewise
nlink           uint  nlink model nlink  hard links
mtime_ns        int   mtime_ns nonzero model mtime
ctime_ns        int   ctime_ns nonzero model ctime
fs_magic        uint  fs_magic
    number of the file system's type, and its name: `ext4` is ext2 and ext3 too, `tmpfs` a memfd and devtmpfs, `nfs`
    nfs4, `fuse` fuseblk and virtiofs, `cifs` smb3, `vfat` msdos; nil: not known
filesystem      str   name pl_filesystem file.fs_magic model filesystem  likewise
flags           uint  file_flags  EXEC_* of `pipeline/records/declared.py`
in_upper_layer  bool  flag file_flags EXEC_UPPER_LAYER
    one of these flags: in the upper layer of an overlay, which holds what was written to it
[place]
is_fileless     bool  computed  a file in memory (memfd); nil: its mount is unknown
mount_path      str   computed model mount_path
    path of its mount at that time, a part of `path`; nil: unknown, or not mounted anywhere
[mount copied]
mount_source    str   name pl_mount_source file
    how the mount was found: `mount_id`: from the mount itself; `snapshot`: likewise, when the process was surveyed;
    `device`
mount_origin    str   name pl_mount_origin file
    source of the information: `event`; `procfs`: reading the process; `unshare`
mount_visible   bool  flag mount_flags MOUNT_VISIBLE known MOUNT_RESOLVED
    the file could be reached below the root directory of the process
mount_detached  bool  flag mount_flags MOUNT_DETACHED known MOUNT_RESOLVED
    the mount was in no mount namespace: unmounted while in use, never mounted, or a memfd's
"""

FIELDS: tuple[FileField, ...] = parse(TABLE)

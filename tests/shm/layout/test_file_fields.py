"""The table of the keys of a file: its syntax, and what is made from it."""

from __future__ import annotations

import pytest

from pipeline.resolver.entries import entry_extra
from pipeline.resolver.entries.model import NO_FILE, FileEvent
from pipeline.shm.layout import layout
from pipeline.shm.layout.file_fields import FIELDS, parse


def test_a_line_names_type_source_and_meaning() -> None:
    first, second, third = parse("""
[names]
path  str   computed  where
    it is
[facts copied]
mtime_ns  int  mtime_ns nonzero model mtime  when
ctime_ns  int  ctime_ns  likewise
""")
    assert (first.name, first.group, first.is_copied, first.meaning) == ("path", "names", False, "where it is")
    assert (second.value, second.model, second.is_number, second.is_nullable) == (
        ["mtime_ns", "nonzero"], "mtime", True, True,
    )  # fmt: skip
    assert (third.group, third.meaning, third.model, third.is_nullable) == ("facts", "when", "", False)


@pytest.mark.parametrize(
    "table", ["[names]\npath  str", "[names]\ninode  uint  file_inode", "[facts copied]\npath  str  computed"]
)
def test_a_wrong_line_is_refused(table: str) -> None:
    with pytest.raises(ValueError, match=r"path|inode"):
        parse(table)


def test_members_and_names_of_the_model_exist() -> None:
    for field in FIELDS:
        if field.is_number:
            assert field.value[0] in layout.FILE.names, field.name
        if field.value[0] in ("flag", "user", "group"):
            assert field.value[1] in layout.FILE.names, field.name
        if field.model:
            assert hasattr(NO_FILE, field.model), field.name


def test_a_file_that_is_shown_and_read_again_is_the_same() -> None:
    file = FileEvent(
        inode=1, device=2, mount_id=3, mode=4, uid=5, gid=6, nlink=7, user="u", group="g", mtime=8, ctime=9
    )
    assert set(entry_extra.shown_file(file)) == {field.name for field in FIELDS}
    assert entry_extra.file_of_shown(entry_extra.shown_file(file)) == file

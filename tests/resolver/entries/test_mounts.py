"""The mount of a file: the applier stores the walk's result, a FileEvent has it, and both directions agree."""

from __future__ import annotations

import itertools
from os import fsdecode

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.records import declared, dtypes
from pipeline.resolver.apply._applier import Applier
from pipeline.resolver.entries import entry_extra, mounts
from pipeline.resolver.entries.model import FileEvent
from pipeline.shm.layout import layout
from pipeline.shm.writer._writer import TableWriter
from tests.resolver.stream_rows import tables

PATH = b"/mnt/a/tool"
FLAGS = (
    declared.EXEC_MEMFD, declared.EXEC_DETACHED, declared.EXEC_ESCAPED, declared.EXEC_NO_ROOT,
    declared.EXEC_PATH_TRUNCATED, declared.EXEC_DELETED,
)  # fmt: skip


@pytest.mark.parametrize(
    ("path", "mount", "end"),
    [
        (PATH, "/", 1), (PATH, "/mnt", 5), (PATH, "/mnt/a", 7), (PATH, "/mnt/a/tool", 12), (PATH, "", 0),
        (PATH, "/mn", 0), (PATH, "/srv", 0), (PATH, "/mnt/a/tool/more", 0), (b"", "/", 1), (b"/\xff/x", "/\udcff", 3),
    ],
)  # fmt: skip
def test_how_much_of_a_path_leads_to_its_mount(path: bytes, mount: str, end: int) -> None:
    assert mounts.end_of(path, mount) == end
    if end:
        assert mounts.path_of(path, end, 0) == mount


def test_a_length_beyond_the_path_is_unknown_and_a_detached_mount_has_no_path() -> None:
    assert mounts.path_of(PATH, 0, 0) == mounts.path_of(PATH, 13, 0) == ""
    assert mounts.path_of(PATH, 5, layout.MOUNT_DETACHED) == ""


@settings(deadline=None)
@given(st.lists(st.sampled_from(["a", "b b", "\udcff", "gr\u00fc\u00df"]), min_size=1, max_size=6), st.data())
def test_a_record_holds_all_of_it(parts: list[str], data: st.DataObject) -> None:
    path = "/" + "/".join(parts)
    where = "/" + "/".join(parts[: data.draw(st.integers(0, len(parts)))])
    file = FileEvent(
        inode=5, mount_id=9, mount_path=where,
        mount_source=data.draw(st.integers(0, 3)), mount_origin=data.draw(st.integers(0, 3)),
        mount_visible=data.draw(st.booleans()), mount_visibility_resolved=data.draw(st.booleans()),
    ).with_pathname(path)  # fmt: skip
    assert entry_extra.file_of_record(entry_extra.record_of_file(file)) == file


def stored(writer: TableWriter, applier: Applier, tgid: int, *, end: int, flags: int, source: int = 0) -> np.void:
    """The FILE record of a process that an exec event or a snapshot reports."""
    header, task, body = (np.zeros(1, dtype) for dtype in (dtypes.HEADER, dtypes.TASK, dtypes.EXEC))
    header["kind"], header["time_boot_ns"] = declared.KIND_EXEC, 5000
    header["tgid"] = header["start_boot_ns"] = tgid
    header["var_bytes"] = body["path_bytes"] = len(PATH)
    body["inode"], body["mount_id"], body["mount_end"], body["exec_flags"] = tgid, 9, end, flags
    if source:
        applier.insert_from_proc(header, task, body, PATH, source=source)
    else:
        applier.apply_records(header.tobytes(), task.tobytes(), body.tobytes(), PATH)
    data = writer.names.py_bytes(int(writer.hot_view()[writer.py_head(tgid)]["file_ref"]))
    assert data[64:] == PATH
    return np.frombuffer(data, layout.FILE, 1)[0]


def test_the_applier_stores_the_result_of_a_walk() -> None:
    """The expected values come from the Python twin of the events' path walk, which decodes the kernel's maps."""
    with tables() as writer:
        applier = Applier(writer)
        tgid = itertools.count(100)
        for n in range(1 << len(FLAGS)):
            flags = sum(flag for i, flag in enumerate(FLAGS) if n >> i & 1)
            for end in (0, 1, 5):
                record = stored(writer, applier, next(tgid), end=end, flags=flags)
                told = mounts.walked(PATH, end, flags)
                file = FileEvent(**told)
                assert (record["mount_source"], record["mount_origin"]) == (file.mount_source, file.mount_origin)
                assert record["mount_flags"] == mounts.flags_of(file)
                where = mounts.path_of(PATH, int(record["mount_end"]), int(record["mount_flags"]))
                assert where == file.mount_path


@pytest.mark.parametrize(
    ("end", "flags", "where", "marks"),
    [
        (5, 0, "/mnt", layout.MOUNT_RESOLVED | layout.MOUNT_VISIBLE),
        (5, declared.EXEC_NO_ROOT, "/mnt", layout.MOUNT_RESOLVED),
        (5, declared.EXEC_DETACHED | declared.EXEC_NO_ROOT, "", layout.MOUNT_RESOLVED | layout.MOUNT_DETACHED),
        (0, declared.EXEC_MEMFD, "", layout.MOUNT_RESOLVED | layout.MOUNT_DETACHED),
        (0, declared.EXEC_ESCAPED, "", 0),
        (0, declared.EXEC_PATH_TRUNCATED, "", 0),
    ],
)
def test_the_meaning_of_a_walk(end: int, flags: int, where: str, marks: int) -> None:
    with tables() as writer:
        applier = Applier(writer)
        for tgid, source, found, told in (
            (100, 0, layout.MOUNT_SOURCE_ID, layout.MOUNT_ORIGIN_EVENT),
            (101, layout.SOURCE_MAP, layout.MOUNT_SOURCE_ID, layout.MOUNT_ORIGIN_EVENT),
            (102, layout.SOURCE_SNAPSHOT, layout.MOUNT_SOURCE_SNAPSHOT, layout.MOUNT_ORIGIN_PROCFS),
        ):
            record = stored(writer, applier, tgid, end=end, flags=flags, source=source)
            assert (record["mount_source"], record["mount_origin"]) == (found, told)
            assert record["mount_flags"] == marks
            assert mounts.path_of(PATH, int(record["mount_end"]), marks) == where


def test_without_a_walk_the_mount_is_unknown() -> None:
    """A recording from before walks existed, a tracer, and /proc if the process cannot reach the mount in the path."""
    with tables() as writer:
        applier = Applier(writer)
        record = stored(writer, applier, 100, end=0, flags=declared.EXEC_DELETED)
        assert (record["mount_source"], record["mount_origin"], record["mount_flags"], record["mount_end"]) == (0,) * 4
        record = stored(writer, applier, 101, end=0, flags=0, source=layout.SOURCE_PROCFS)
        assert (record["mount_source"], record["mount_origin"]) == (
            layout.MOUNT_SOURCE_SNAPSHOT,
            layout.MOUNT_ORIGIN_PROCFS,
        )
        assert (record["mount_flags"], record["mount_end"]) == (0, 0)


def test_a_path_that_no_column_can_hold_is_kept_with_the_entry() -> None:
    file = FileEvent(inode=5, mount_id=9, mount_path="/elsewhere", mount_detached=True).with_pathname(fsdecode(PATH))
    shown = entry_extra.file_of_record(entry_extra.record_of_file(file))
    assert entry_extra.extra_of(file, shown) == {"mount_path": "/elsewhere"}
    assert entry_extra.with_extra(shown, {"mount_path": "/elsewhere"}) == file

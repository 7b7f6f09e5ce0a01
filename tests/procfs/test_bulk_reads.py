"""Files of many processes at once are read as those of one process are, and the strings of a survey are joined."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.procfs import proc_reader
from pipeline.procfs._bulk_reads import join_strings, scripts_of
from pipeline.procfs.info import script_of
from pipeline.procfs.proc_reader import Area, ProcReader
from pipeline.records import declared, dtypes

#: Around the lengths at which a read is not the only one, and at which padding is removed.
LENGTHS = (0, 1, 7, 8, 9, 10, 11, 99, 100, 101, 4094, 4095, 4096, 4097, 9000)
TEXTS = st.builds(
    lambda text, length, padding: (text * (length // max(1, len(text)) + 1))[:length] + b"\0" * padding,
    st.sampled_from([b"a", b"a\0", b"\0", b"abc\0d\0"]), st.sampled_from(LENGTHS), st.sampled_from([0, 1, 9, 10, 11]),
)  # fmt: skip
AREAS = st.none() | st.builds(Area, st.sampled_from([b"", b"a\0", b"a\0bc\0", b"\0\0", b"a"]), st.booleans())


@contextmanager
def proc_of(cmdlines: list[bytes | None]) -> Iterator[Path]:
    """A directory with processes 1, 2, …; None: a process that has ended."""
    root = Path(tempfile.mkdtemp(dir="/dev/shm"))
    try:
        for tgid, text in enumerate(cmdlines, 1):
            if text is not None:
                (root / str(tgid)).mkdir()
                (root / str(tgid) / "cmdline").write_bytes(text)
                (root / str(tgid) / "environ").write_bytes(text)
        yield root
    finally:
        shutil.rmtree(root)


@given(st.lists(st.none() | TEXTS, max_size=8), st.sampled_from([1, 10, 100, 4095, 4096, 32768]))
def test_areas_are_those_of_single_reads(cmdlines: list[bytes | None], limit: int) -> None:
    signs: list[None] = []
    with proc_of(cmdlines) as root, ProcReader(str(root), args_limit=limit, envs_limit=limit) as reader:
        tgids = np.arange(1, len(cmdlines) + 1, dtype=np.uint32)
        expected = [proc_reader._read_area(b"%d/cmdline" % tgid, reader._proc, limit) for tgid in tgids.tolist()]
        args, envs, _ = reader.read_images(tgids, proc_reader.WANT_ENVS, lambda: signs.append(None))
        assert (args, envs) == (expected, expected)
        assert reader.read_images(tgids, 0, lambda: None)[:2] == (expected, [None] * len(cmdlines))
    assert len(signs) == len(cmdlines)
    for text, area in zip(cmdlines, expected, strict=True):
        assert (area is None) is (text is None)
        if area is not None and text is not None:
            assert area.is_truncated is (len(text) > limit)
            assert area.text[:-1] == text[: max(0, len(area.text) - 1)]


def test_a_process_without_a_directory_is_absent() -> None:
    """If the descriptor is closed, each look-up fails. Then no process counts as absent."""
    signs: list[None] = []
    with proc_of([b"", None, b"", None] * 200) as root, ProcReader(str(root)) as reader:
        tgids = np.arange(800, 0, -1, dtype=np.uint32)
        for live in (len(tgids), 0):  # looked up, and in a list
            found = reader.absent(tgids, live, lambda: signs.append(None))
            assert found.dtype == np.bool_ and found.tolist() == [tgid % 2 == 0 for tgid in tgids.tolist()]
            assert len(signs) == 4
            assert reader.absent(tgids[:0], live, lambda: None).tolist() == []
        assert [reader.read(tgid, 0) is None for tgid in (2, 4)] == [True, True]
    for live in (len(tgids), 0):
        assert not reader.absent(tgids, live, lambda: None).any()


def test_links_to_directories(tmp_path: Path) -> None:
    links = {1: "/srv", 2: "/gone (deleted)", 3: "(unreachable)/a", 5: "/" + "a" * 4000}
    for tgid, target in links.items():
        (tmp_path / str(tgid)).mkdir()
        (tmp_path / str(tgid) / "cwd").symlink_to(target)
    with ProcReader(str(tmp_path)) as reader:
        *_, found = reader.read_images(np.arange(1, 6, dtype=np.uint32), 0, lambda: None)
        assert found == [proc_reader._directories(b"%d/" % tgid, reader._proc) for tgid in range(1, 6)]
    assert found == [(b"/srv",), (None,), (None,), (None,), (b"/" + b"a" * 4000,)]


@given(
    st.lists(
        st.tuples(
            st.sampled_from([b"", b"sh", b"/bin/sh", b"/bin/a-long-name-that-is-cut", b"/opt/run.sh"]),
            st.sampled_from([b"", b"sh", b"run.sh", b"a-long-name-tha"]),
            AREAS | st.just(Area(b"/bin/sh\0/opt/run.sh\0", False)),
            st.booleans(),
        )
    )
)
def test_scripts_are_those_of_single_images(rows: list[tuple[bytes, bytes, Area | None, bool]]) -> None:
    task = np.zeros(len(rows), dtypes.TASK)
    task["comm"] = [comm for _, comm, _, _ in rows]
    is_same = np.array([same for *_, same in rows], np.bool_)
    paths, areas = [path for path, *_ in rows], [area for _, _, area, _ in rows]
    scripts, again = scripts_of(paths, task.view(np.uint8), areas, is_same.view(np.uint8), script_of, lambda: None)
    for i, (path, comm, area, same) in enumerate(rows):
        is_known = bool(same and path and area is not None and area.text)
        assert (i in again) is not is_known
        expected = script_of(path, comm, area.text) if is_known and area is not None else None
        assert scripts[i] == (expected or b"")


@given(
    st.lists(
        st.tuples(
            st.sampled_from([b"", b"/bin/a"]), st.sampled_from([b"", b"/s.sh"]), st.sampled_from([b"", b"\0/srv"]),
            AREAS, AREAS, st.integers(0, 9),
        )
    )
)  # fmt: skip
def test_strings_are_joined_and_described(
    rows: list[tuple[bytes, bytes, bytes, Area | None, Area | None, int]],
) -> None:
    body = np.zeros(len(rows), dtypes.EXEC)
    body["args_full_bytes"] = body["envs_full_bytes"] = [row[5] for row in rows]
    body["exec_flags"] = declared.EXEC_DELETED
    columns: list[list] = [[row[i] for row in rows] for i in range(5)]
    strings = join_strings(body.view(np.uint8), *columns)
    for text, row, (path, script, directories, args, envs, full) in zip(strings, body, rows, strict=True):
        texts = [b"" if area is None else area.text for area in (args, envs)]
        assert text == path + script + directories + texts[0] + texts[1]
        assert (row["path_bytes"], row["name_bytes"]) == (len(path), len(script + directories))
        flags = declared.EXEC_DELETED | (declared.EXEC_SCRIPT if script else 0)
        for area, what, count, cut, unreadable in (
            (args, "args", "argc", declared.EXEC_ARGS_TRUNCATED, declared.EXEC_ARGS_UNREADABLE),
            (envs, "envs", "envc", declared.EXEC_ENVS_TRUNCATED, declared.EXEC_ENVS_UNREADABLE),
        ):
            length = 0 if area is None else len(area.text)
            whole = full if area is None else max(length + 1, full) if area.is_truncated else length
            assert (row[f"{what}_bytes"], row[f"{what}_full_bytes"]) == (length, whole)
            assert row[count] == (0 if area is None else area.text.count(0))
            flags |= unreadable if area is None else cut if area.is_truncated else 0
        assert row["exec_flags"] == flags


def test_columns_of_different_lengths_are_rejected() -> None:
    one = np.zeros(1, dtypes.EXEC).view(np.uint8)
    with pytest.raises(ValueError, match="different lengths"):
        join_strings(one, [b"", b""], [b"", b""], [b"", b""], [None, None], [None, None])
    with pytest.raises(ValueError, match="different lengths"):
        scripts_of([], one, [], np.zeros(0, np.uint8), script_of, lambda: None)

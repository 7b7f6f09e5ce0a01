"""Uses everything that an entry has besides fields, with exact types: script/lint checks this file with mypy --strict.

`test_typed.py` runs it. The types of the fields are generated.
"""

from __future__ import annotations

import copy
import pickle
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, assert_type, cast

from pipeline import DetachedError, Entry, ProcessTable, Selection
from pipeline.shm.reader.entry_dict import EntryDict

if TYPE_CHECKING:
    from pipeline.shm.layout.entry_types import EntryFields


def use(table: ProcessTable) -> None:
    """Use an entry that has ended, its relatives, and its copies."""
    entry = table.resolve(8675)
    assert entry is not None
    assert_type(entry, Entry)

    assert_type(entry.parent, Entry | None)
    assert_type(entry.creator, Entry | None)
    assert entry.parent is not None and entry.parent == entry.creator
    assert_type(entry.images(), list[Entry])
    assert_type(entry.ancestors(by="creator", limit=3), list[Entry])
    assert_type(entry.parent.children(), list[Entry])
    assert_type(entry.descendants(by="parent", exited=True), list[Entry])
    assert_type(entry.is_running, bool)

    assert_type(entry.start_time_ns, int | None)
    for moment in (
        entry.start_time, entry.fork_time, entry.exec_time, entry.exit_time, entry.created_at, entry.cgroup_created_at,
        entry.container_created_at,
    ):  # fmt: skip
        assert_type(moment, datetime | None)
    assert_type((entry.age, entry.duration), tuple[timedelta | None, timedelta | None])
    assert_type((entry.age_ns, entry.duration_ns), tuple[int | None, int | None])
    assert_type((entry.exit_code, entry.exit_status, entry.exit_signal), tuple[int | None, int | None, int | None])
    assert_type(entry.image_number, int)

    assert_type(entry.to_dict(["pid"]), dict[str, object])
    assert_type(entry.as_dict(), EntryDict)
    assert_type(entry.as_dict()["pid"] + 1, int)
    assert_type(entry.as_dict(("pid", "age"))["age"], timedelta | None)
    (shown,) = Selection().of([cast("EntryFields", entry.to_dict())])
    assert_type(shown["file"], dict[str, object] | None)
    assert_type(repr(entry), str)
    assert_type(entry.load(), Entry)
    assert_type(copy.copy(entry), Entry)
    assert_type(copy.deepcopy(entry), Entry)
    assert {entry, copy.copy(entry)} == {entry}
    alone: Entry = pickle.loads(pickle.dumps(entry))
    try:
        alone.children()
    except DetachedError:
        pass
    else:
        raise AssertionError("a pickled entry has no table")
    assert table.newest(alone) == entry

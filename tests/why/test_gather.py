"""What is read from the tables. It is bounded, also for hostile lineages and arguments."""

from __future__ import annotations

from pathlib import Path

from pipeline import ProcessTable
from pipeline.shm.layout import layout
from pipeline.why import gather
from tests.shm.handmade import Tables

EXEC = layout.ROW_HEAD | layout.ROW_IS_EXEC
KNOWN = layout.KNOWN_ARGS | layout.KNOWN_START


def test_long_arguments_are_whole_only_of_the_process_in_question(shm_dir: Path) -> None:
    tables = Tables(shm_dir)
    words = [b"x", b"y" * 5000, b"z"]
    strings = tables.strings("args", *words)
    above = tables.row(7, flags=EXEC, known=KNOWN, argc=3, args_ref=strings)
    tables.row(
        8, flags=EXEC, known=KNOWN, argc=3, args_ref=strings, creator=tables.link(above), parent=tables.link(above),
        ancestor=tables.link(above),
    )  # fmt: skip
    with ProcessTable.attach("test", path=tables.directory) as table:
        facts = gather.read(table, 8)
    assert facts is not None and [process.pid for process in facts.processes] == [8, 7]
    assert facts.subject.image["argv"] == ["x", "y" * 5000, "z"] and not facts.subject.image["args_truncated"]
    creator = facts.lineage[0].image
    assert creator["argv"] == ["x", "y" * (gather.ARGV_CHARACTERS - 2)] and creator["args_truncated"]
    assert "envs" not in creator

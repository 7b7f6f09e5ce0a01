"""Check the invariants of an instance's tables, in tests and by hand (CONTRIBUTING.md, "Debug a running daemon").

`validate_tables` accepts the writer itself, or an instance's directory. With the writer it also checks the writer's
private state. With a directory it reads the files. The invariants are numbered; a violation names its number:

    Tables
     1 index      an entry is 0, or names a row in use, and the row's tgid is the entry's pid
     2 head       the image that the index names is flagged ROW_HEAD and not ROW_REPLACED
     3 live       the index names every newest image of a live process, and each process only once
     4 ended      a replaced image has ended and is not a head
     5 links      a link names a row below the frontier; if valid, a row in use that is not its own
     6 chains     following `ancestor` ends (no cycles)
     7 blocks     an arena's blocks lie end to end from the first unit to the frontier
     8 strings    a row's arena reference is where a block begins
     9 holders    a block has as many holders as rows refer to it (by directory: at least as many, and only rows count
                  that did not change meanwhile)
    10 interned   no two blocks in use contain the same bytes
    11 checksum   a row's checksum is correct (tables made with `checked`)
    12 free       a row below the frontier that has no flags, and so is free, has an odd row_seq
    13 commit     commit_index is 0 or 1 and its slot complete; no ring is acknowledged beyond it
    Writer
    14 counts     heads_live, heads_exited, rows_used and the arenas' sizes match the rows
    15 refs       a row's count is the number of ancestor, parent and creator links to it
    16 lists      every row is in use or in the free list; ended images are queued, or are ancestors that something
                  refers to; newest images of live processes are in no list
    17 children   child lists are consistent, and contain live processes with the list's pid as their ppid
    18 lineages   what the writer knows of a row's chain is what following the chain shows

The files of a live instance change while they are read. Violations are therefore checked again, and only those that are
found each time are reported. Rows that are being written are skipped.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import InvariantError

if TYPE_CHECKING:
    from pipeline.shm.writer._writer import TableWriter
from pipeline.shm.check.state import Tables, Violation, from_files, from_writer
from pipeline.shm.check.tables import check_tables
from pipeline.shm.check.writer import check_writer

#: Number of reads of a live instance's files before a finding counts as a violation.
READS = 3


def validate_tables(source: TableWriter | Path) -> None:
    """Raise an error for the first invariant that does not hold.

    Args:
        source: the writer (with no open row except its `torn_rows`), or an instance's directory.

    Raises:
        InvariantError: `.rule` and `.row` as in Violation.
    """
    found = violations(source)
    if found:
        first = found[0]
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        raise InvariantError(f"invariant {first.rule}: {first.text}{more}", rule=first.rule, row=first.row)


def violations(source: TableWriter | Path) -> list[Violation]:
    """Return all violations; for a directory, those that were found in each of three reads."""
    if not isinstance(source, Path):
        return list(_check(from_writer(source)))
    found = list(_check(from_files(source)))
    for _ in range(READS - 1):
        if not found:
            break
        again = {(violation.rule, violation.row) for violation in _check(from_files(source))}
        found = [violation for violation in found if (violation.rule, violation.row) in again]
    return found


def _check(tables: Tables) -> Iterator[Violation]:
    yield from check_tables(tables)
    if tables.writer is not None:
        yield from check_writer(tables, tables.writer)

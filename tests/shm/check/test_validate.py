"""Each invariant of validate.py is broken once by hand, and reported under its number."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.errors import InvariantError
from pipeline.shm.check.validate import validate_tables, violations
from pipeline.shm.layout import layout
from pipeline.shm.writer.declared import LINEAGE_COMPLETE
from tests.shm import _inside
from tests.shm.table_host import Host, make_writer


@pytest.fixture
def host(shm_dir: Path) -> Iterator[Host]:
    with make_writer(shm_dir) as writer:
        host = Host(writer)
        host.fork(0, 1)
        host.fork(1, 5)
        host.exec(5, b"sh", b"sh\0-c\0")
        host.fork(5, 6)
        host.exec(6, b"ls", b"ls\0-l\0")
        host.fork(1, 7)
        host.exit(7)
        host.fork(1, 8)
        host.exit(8)
        writer.evict_exited(host.now + 999, 1)  # frees 7
        yield host


def head(host: Host, pid: int = 5) -> int:
    return host.writer.py_head(pid)


def set_hot(field: str, value: int, pid: int = 5) -> Callable[[Host], None]:
    def breaks(host: Host) -> None:
        host.hot[field][head(host, pid)] = value

    return breaks


def set_private(name: str, value: int, pid: int = 5) -> Callable[[Host], None]:
    def breaks(host: Host) -> None:
        host.writer.private_view(name)[head(host, pid)] = value

    return breaks


def change_string(host: Host) -> None:
    memory = np.frombuffer(host.writer.args.view(), np.uint8)
    memory[int(host.hot["args_ref"][head(host)]) * 16 + 4] = 0xFF
    memory[int(host.hot["args_ref"][head(host)]) * 16 + 7] = 0xFF


def twin_strings(host: Host) -> None:
    memory = np.frombuffer(host.writer.args.view(), np.uint8)
    one, two = (int(host.hot["args_ref"][head(host, pid)]) * 16 + 16 for pid in (5, 6))
    memory[one : one + 6] = memory[two : two + 6]


def free_row(host: Host) -> None:
    host.hot["row_seq"][host.writer.listed_rows("free")[0]] += 1


def ring(host: Host) -> None:
    """The root of pid 5 descends from pid 6, which descends from pid 5."""
    root = host.writer.py_follow(int(host.hot["ancestor"][head(host, 5)]))
    host.hot["ancestor"][root] = host.writer.py_link(head(host, 6))


def wrong_lineage(host: Host) -> None:
    """The lineage of pid 5 is complete; the word says that it is not."""
    for pid in range(77, 81):
        child = host.fork(pid - 1 if pid > 77 else 5, pid)
    assert _inside.lineage(host.writer, child) == 1
    assert not violations(host.writer)
    host.writer.private_view("lineages")[head(host)] ^= LINEAGE_COMPLETE


def known_ring(host: Host) -> None:
    """The lineage of pid 5 was known before its ancestors became a ring."""
    wrong_lineage(host)
    ring(host)


BROKEN: list[tuple[str, Callable[[Host], object]]] = [
    ("1 index", lambda host: host.writer.index_view().__setitem__(9, 60)),
    ("1 index", lambda host: host.writer.index_view().__setitem__(9, head(host))),
    ("1 index", lambda host: host.writer.index_view().__setitem__(9, host.writer.listed_rows("free")[0])),
    ("2 head", set_hot("flags", layout.ROW_REPLACED)),
    ("3 live", lambda host: host.writer.index_view().__setitem__(5, 0)),
    ("4 ended", set_hot("flags", layout.ROW_REPLACED | layout.ROW_HEAD)),
    ("5 links", lambda host: host.hot["parent"].__setitem__(head(host), 1 << 32 | 4000)),
    ("5 links", lambda host: host.hot["parent"].__setitem__(head(host), host.writer.py_link(head(host)))),
    ("6 chains", ring),
    ("7 blocks", change_string),
    ("8 strings", set_hot("args_ref", 2)),
    ("9 holders", set_hot("args_ref", 0)),
    ("10 interned", twin_strings),
    ("11 checksum", set_hot("uid", 12)),
    ("12 free", free_row),
    ("13 commit", lambda host: host.writer.ring_ack_view()["applied_pos"].__setitem__(1, 5)),
    ("13 commit", lambda host: host.writer.control_view()["commit_index"].__setitem__(0, 1)),
    ("14 counts", set_hot("flags", 0)),
    ("15 refs", set_private("refs", 40)),
    ("16 lists", set_private("status", 1)),
    ("17 children", lambda host: host.writer.private_view("parent").__setitem__(6, 1)),
    ("17 children", set_hot("ppid", 6)),
    ("18 lineages", wrong_lineage),
    ("18 lineages", known_ring),
]


def test_sound_tables_are_sound(host: Host) -> None:
    assert violations(host.writer) == []
    assert violations(host.writer.directory) == []
    validate_tables(host.writer)
    validate_tables(host.writer.directory)


@pytest.mark.parametrize(("rule", "breaks"), BROKEN, ids=[f"{rule}-{n}" for n, (rule, _) in enumerate(BROKEN)])
def test_broken_invariant_is_found(host: Host, rule: str, breaks: Callable[[Host], object]) -> None:
    breaks(host)
    assert rule in {violation.rule for violation in violations(host.writer)}
    with pytest.raises(InvariantError) as caught:
        validate_tables(host.writer)
    assert caught.value.rule
    # The files alone give the same result, except for private data and for holders, which may outnumber the rows there.
    if int(rule.split()[0]) <= 13 and rule != "9 holders":
        assert rule in {violation.rule for violation in violations(host.writer.directory)}


def test_every_invariant_is_broken_once() -> None:
    assert {int(rule.split()[0]) for rule, _ in BROKEN} == set(range(1, 19))


def test_a_finding_that_changes_between_two_reads_is_not_reported(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """A check of a live instance reads an incomplete change now and then; only a lasting fault is an error."""
    from pipeline.shm.check import validate

    looks = 0
    look = validate.from_files

    def once_broken(directory: Path) -> validate.Tables:
        nonlocal looks
        tables = look(directory)
        looks += 1
        if looks == 1:
            tables.index = tables.index.copy()
            tables.index[5] = 0
        return tables

    monkeypatch.setattr(validate, "from_files", once_broken)
    assert violations(host.writer.directory) == []
    assert looks == 2


def test_rows_that_change_while_a_live_instance_is_read_need_no_strings(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At full tables, each read meets rows whose strings are released before the arenas are read."""
    for pid in range(20, 26):
        host.fork(5, pid)
        host.exec(pid, b"ls", b"ls\0-l\0")
        host.exit(pid)
    opened, released = Path.open, 0

    def release_before(path: Path, *arguments: Any) -> Any:
        nonlocal released
        if path.name == "args":
            released += host.writer.evict_exited(host.now + 999, 2)
        return opened(path, *arguments)

    monkeypatch.setattr(Path, "open", release_before)
    assert violations(host.writer.directory) == []
    assert released > 0

"""Dumps: both JSON forms and the graph, with names that untrusted processes chose."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.resolver.api import dump
from pipeline.resolver.entries.cache_entry import DEFAULTS, ProcessCacheEntry
from pipeline.resolver.entries.model import CGroupContext, ContainerContext, FileEvent, Source
from pipeline.secrets.argsenvs import ArgsEntry
from tests.resolver.resolver_world import high, world
from tests.sampling import times

HOSTILE = 'a"b\\N\n}\udcff'


def family() -> list[ProcessCacheEntry]:
    init = ProcessCacheEntry(pid=1, comm="init")
    parent = ProcessCacheEntry(pid=5, comm="sh")
    init.fork(parent)
    parent.comm = "sh"
    parent.exit(9)
    child = ProcessCacheEntry(pid=6, ppid=5)
    parent.fork(child)
    child.set(comm=HOSTILE, args_entry=ArgsEntry(["x", HOSTILE]), source=Source.PROCFS_SNAPSHOT)
    return [init, child]


def test_brief_form() -> None:
    entry = ProcessCacheEntry(
        pid=5, ppid=4, file_event=FileEvent(inode=7, mount_id=8, pathname="/bin/\udcff"), source=Source.MAP,
        exec_inode=9, is_exec=True, cgroup=CGroupContext("/c"), container=ContainerContext("abc"),
    )  # fmt: skip
    assert json.loads(dump.to_json([entry], raw=False)) == {
        "Entries": [{
            "PID": 5, "PPID": 4, "Path": "/bin/\udcff", "Inode": 7, "MountID": 8, "Source": "map", "ExecInode": 9,
            "IsExec": True, "IsParentMissing": False, "CGroup": "/c", "ContainerID": "abc",
        }]
    }  # fmt: skip


def test_raw_form_has_every_field() -> None:
    shown = json.loads(dump.to_json(family(), raw=True))["Entries"]
    assert set(shown[1]) == set(DEFAULTS) and shown[1]["ancestor"] == {"pid": 5, "exec_time": None}
    assert shown[1]["args_entry"] == {"values": ["x", HOSTILE], "is_truncated": False}


def test_an_empty_cache_and_an_entry_that_cannot_be_shown() -> None:
    assert dump.to_json([], raw=False) == dump.to_json([], raw=True) == b'{"Entries":null}'
    broken = ProcessCacheEntry(pid=5, comm=b"bytes")
    assert [one["pid"] for one in json.loads(dump.to_json([broken, *family()], raw=True))["Entries"]] == [1, 6]


@pytest.mark.parametrize("source", list(Source))
def test_sources_have_the_names_of_the_tables(source: Source) -> None:
    from pipeline.shm.layout.layout import SOURCE_NAMES

    assert source.text == SOURCE_NAMES[source]


def test_graph_has_each_node_and_edge_once() -> None:
    text = dump.dot_of([*family(), *family()])
    assert text.startswith("digraph ProcessTree {\n")
    assert text.count('"5:sh" [label="[sh:5]"]') == 1
    assert text.count('"1:init" -> "5:sh";') == 1 and text.count("->") == 2
    assert "comment" not in text


def test_graph_shows_a_process_as_ended_when_it_has_ended() -> None:
    """The image that an exec replaced may come first, as the ancestor of a child with a lower pid."""
    with world() as w:
        w.fork(0, 1, 7)
        w.fork(1, 9, 10)
        w.fork(9, 4, 10)
        w.exec(1, 9, 11)
        lines = dump.dot_of(w.resolver.book.heads()).splitlines()
        assert f'  "{high(9)}:" [label=":{high(9)}"];' in lines and len(lines) == 7
        w.exit(w.event(0, 9, 0))
        again = w.fork(1, 9, 10)
        assert again.entry is not None
        text = dump.dot_of(w.resolver.book.heads())
        assert f'"{high(9)}:" [label="[:{high(9)}]"]' in text
        assert f'"{high(9)}::{again.entry.start_boot_ns}" [label=":{high(9)}"]' in text


def test_a_common_ancestor_is_walked_once() -> None:
    """10,000 processes below a chain of 200 must finish in less time than two million steps would need."""
    chain = ProcessCacheEntry(pid=1, comm="init")
    for pid in range(2, 201):
        below = ProcessCacheEntry(pid=pid, comm="sh")
        below.set_ancestor(chain)
        chain = below
    many = []
    count = times(10_000, 2500)
    for pid in range(1000, 1000 + count):
        one = ProcessCacheEntry(pid=pid, comm="x")
        one.set_ancestor(chain)
        many.append(one)
    steps = 0
    walk = ProcessCacheEntry.chain

    def counted(entry: ProcessCacheEntry) -> Iterator[ProcessCacheEntry]:
        nonlocal steps
        for one in walk(entry):
            steps += 1
            yield one

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ProcessCacheEntry, "chain", counted)
        text = dump.dot_of(many)
    assert text.count("label") == count + 200 and text.count("->") == count + 199
    assert steps < 2 * count + 1000


def test_graph_is_escaped() -> None:
    text = dump.dot_of(family(), lambda entry: entry.args_entry.argv if entry.args_entry else None)
    assert '\\"b\\\\N' in text and "\n}\\" not in text and "\udcff" not in text
    dot = shutil.which("dot")
    if dot is not None:
        subprocess.run([dot, "-Tdot"], input=text.encode(), check=True, capture_output=True)


def test_each_graph_is_written_to_a_new_file(tmp_path: Path) -> None:
    path = Path(dump.write_dot(family(), directory=str(tmp_path)))
    assert path.name.startswith("process-cache-dump-") and path.stat().st_mode & 0o777 == 0o400

    def fail(entry: ProcessCacheEntry) -> list[str]:
        raise RuntimeError

    with pytest.raises(RuntimeError):
        dump.write_dot(family(), fail, directory=str(tmp_path))
    assert list(tmp_path.iterdir()) == [path]

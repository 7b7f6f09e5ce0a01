"""Values of the resolver's interface (specification 1), its errors, and the iterator over ancestors (1.10)."""

from __future__ import annotations

from dataclasses import FrozenInstanceError

import pytest

import pipeline
from pipeline.errors import ProclineError
from pipeline.resolver.entries import model
from pipeline.resolver.entries.ancestors import ProcessAncestorsIterator
from pipeline.resolver.entries.args_views import is_busybox, is_kworker, is_through_sym_link
from pipeline.resolver.entries.cache_entry import ProcessCacheEntry
from pipeline.resolver.entries.model import (
    CGroupContext,
    ContainerContext,
    Credentials,
    FileEvent,
    FileFields,
    PathKey,
    ProcessBrokenLineageError,
    ProcessIncompleteLineageError,
)
from pipeline.resolver.entries.opts import ResolverOpts


def test_path_keys() -> None:
    assert PathKey().is_null and not PathKey(1).is_null and not PathKey(0, 1).is_null and PathKey(0, 0, 9).is_null
    assert str(PathKey(0x1A, 0x2B)) == "2b/1a"


def test_files_are_compared_by_the_kernels_facts() -> None:
    facts = {"inode": 1, "mount_id": 2, "mtime": 3, "uid": 4, "gid": 5, "mode": 6}
    file = FileEvent(**facts, pathname="/a")
    assert file.equals(FileEvent(**facts, pathname="/b", ctime=9))
    for name in facts:
        assert not file.equals(FileEvent(**{**facts, name: 9}))
    fields = FileFields(inode=1, mount_id=2, flags=model.UPPER_LAYER)
    assert fields.in_upper_layer and not file.in_upper_layer
    assert FileFields(inode=1).is_fileless and not FileFields().is_fileless and not fields.is_fileless


def test_an_empty_name_can_be_an_answer() -> None:
    file = FileEvent(inode=1, mount_id=2)
    assert not file.is_pathname_resolved
    assert file.unresolved("why").is_pathname_resolved and file.unresolved("why").path_resolution_error == "why"
    for name, extension in (("a.b.so", ".so"), (".profile", ".profile"), ("python3.13", ".13"), ("true", ""), ("", "")):
        assert file.with_pathname(f"/x.d/{name}").extension == extension
    with pytest.raises(FrozenInstanceError):
        file.inode = 3  # type: ignore[misc]


def test_credentials_are_compared_without_login_uid_and_names() -> None:
    a = Credentials(uid=1, user="x", auid=7)
    assert a.equals(Credentials(uid=1, user="y")) and not a.equals(Credentials(uid=2))
    assert not a.equals(Credentials(uid=1, cap_permitted=1))
    assert Credentials().auid == 4294967295


def test_contexts() -> None:
    assert CGroupContext().is_null and not CGroupContext("x").is_null and not CGroupContext("x").is_resolved
    both = CGroupContext("x", PathKey(5, 1))
    assert both.is_resolved and both.equals(CGroupContext("y", PathKey(5, 2))) and not both.equals(CGroupContext("x"))
    assert ContainerContext().is_null and not ContainerContext("a").is_null


def family(*pids: int) -> ProcessCacheEntry:
    above = None
    for pid in reversed(pids):
        entry = ProcessCacheEntry(pid=pid)
        entry.ancestor = above
        above = entry
    assert above is not None
    return above


def test_the_iterator_counts_ancestors_not_the_process() -> None:
    iterator = ProcessAncestorsIterator(family(9, 8, 7, 1))
    assert len(iterator) == 3 and [entry.pid for entry in iterator] == [8, 7, 1]
    front = iterator.front()
    assert front is not None and front.pid == 8
    pids = []
    while (entry := iterator.next()) is not None:
        pids.append(entry.pid)
    assert pids == [7, 1] and iterator.next() is None
    at = [iterator.at(number) for number in (1, 2, 0, 3)]
    assert [entry.pid if entry else None for entry in at] == [7, 1, 8, None]
    nobody = ProcessAncestorsIterator(None)
    assert nobody.front() is None and nobody.next() is None and nobody.at(0) is None and len(nobody) == 0


def test_the_first_ancestor_has_none_before_it() -> None:
    iterator = ProcessAncestorsIterator(family(9, 8, 7, 1))
    assert iterator.at(-1) is None
    assert iterator.at(1) is not None and iterator.at(-1) is None


def test_the_iterator_of_a_ring_ends() -> None:
    one, other = ProcessCacheEntry(pid=1), ProcessCacheEntry(pid=2)
    one.set_ancestor(other)
    other.set_ancestor(one)
    assert len(ProcessAncestorsIterator(one)) < 1 << 16


def test_errors_name_the_place_where_a_lineage_breaks() -> None:
    cause = ProcessIncompleteLineageError("the end", pid=5, ppid=4, container_id="abc")
    error = ProcessBrokenLineageError(cause)
    assert error.__cause__ is cause and isinstance(error, ProclineError)
    assert (cause.pid, cause.ppid, cause.container_id) == (5, 4, "abc")


@pytest.mark.parametrize(("ppid", "pid", "is_one"), [(2, 7, True), (0, 2, True), (1, 7, False), (7, 3, False)])
def test_kernel_threads(ppid: int, pid: int, is_one: bool) -> None:
    assert is_kworker(ppid, pid) is is_one


def test_small_questions() -> None:
    assert is_busybox("/bin/busybox") and is_busybox("/usr/bin/busybox") and not is_busybox("/opt/bin/busybox")
    assert is_through_sym_link(ProcessCacheEntry(is_through_symlink=True))
    assert not is_through_sym_link(ProcessCacheEntry())


def test_one_text_is_no_list_of_names() -> None:
    with pytest.raises(TypeError, match="PATH"):
        ResolverOpts().with_envs_value("PATH")


def test_options_chain_and_accumulate() -> None:
    opts = ResolverOpts()
    assert (opts.envs_resolution_enabled, opts.envs_with_value, opts.tty_fallback_enabled) == (False, set(), False)
    same = opts.with_envs_resolution_enabled().with_envs_value(["A"]).with_envs_value(["B"]).with_tty_fallback_enabled()
    assert same is opts and opts.envs_with_value == {"A", "B"} and opts.tty_fallback_enabled
    copy = opts.copy()
    opts.with_envs_value(["C"])
    assert copy.envs_with_value == {"A", "B"} and copy.envs_resolution_enabled


def test_public_names() -> None:
    assert (pipeline.SNAPSHOTTING, pipeline.SNAPSHOTTED) == (0, 1)
    assert pipeline.CacheResolverKey(7, 1) == (7, 1)
    for name in ("EBPFResolver", "EBPFLessResolver", "ResolverOpts", "get_process_argv", "is_kworker"):
        assert name in pipeline.__all__ and getattr(pipeline, name) is not None

"""A capture is rejected if the kernel's pids and those of ``/proc`` differ, or if it cannot honour the scope."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pipeline.errors import UnsupportedError
from pipeline.host import pid_namespace

INNER = 4026532201


def made(proc: Path, own: int, inode: int, numbers: str = "", for_children: int | None = 0) -> Path:
    """Create a ``/proc`` in which this process is `own`, in the pid namespace `inode`, and starts processes there."""
    (proc / str(own) / "ns").mkdir(parents=True)
    (proc / str(own) / "ns" / "pid").symlink_to(f"pid:[{inode}]")
    if for_children is not None:
        (proc / str(own) / "ns" / "pid_for_children").symlink_to(f"pid:[{for_children or inode}]")
    (proc / str(own) / "status").write_text(f"Name:\tx\nNSpid:\t{numbers or own}\nNSsid:\t1\n")
    (proc / "self").symlink_to(str(own))
    (proc / "uptime").touch()
    return proc


@pytest.mark.parametrize("scope", ["host", "namespace"])
def test_the_initial_namespace_with_its_proc_is_accepted(tmp_path: Path, scope: str) -> None:
    assert pid_namespace.fault(made(tmp_path, os.getpid(), pid_namespace.INITIAL), scope) is None


def test_an_inner_namespace_is_refused_whichever_proc_it_has(tmp_path: Path) -> None:
    for number in (os.getpid(), os.getpid() + 1):
        found = pid_namespace.fault(made(tmp_path / str(number), number, INNER))
        assert found is not None and "not the initial pid namespace" in found[0]
        assert "--pid=host" in found[1] and "--scope namespace" in found[1]


def test_an_inner_namespace_with_its_proc_is_accepted_for_the_scope_namespace(tmp_path: Path) -> None:
    assert pid_namespace.fault(made(tmp_path, os.getpid(), INNER), pid_namespace.NAMESPACE) is None


def test_the_scope_namespace_needs_the_proc_of_the_namespace(tmp_path: Path) -> None:
    other = made(tmp_path / "other", os.getpid() + 1, INNER, f"{os.getpid() + 1}\t{os.getpid()}")
    same_number = made(tmp_path / "same", os.getpid(), INNER, f"{os.getpid()}\t{os.getpid()}")
    for proc in (other, same_number):
        found = pid_namespace.fault(proc, pid_namespace.NAMESPACE)
        assert found is not None and "mounted for another pid namespace" in found[0]


@pytest.mark.parametrize("for_children", [INNER, None])
@pytest.mark.parametrize("scope", ["host", "namespace"])
def test_children_in_another_namespace_are_refused(tmp_path: Path, scope: str, for_children: int | None) -> None:
    proc = made(tmp_path, os.getpid(), pid_namespace.INITIAL, for_children=for_children)
    found = pid_namespace.fault(proc, scope)
    assert found is not None and "would be in another pid namespace" in found[0]


def test_a_proc_in_which_this_process_is_absent_or_has_another_number_is_refused(tmp_path: Path) -> None:
    other = made(tmp_path / "other", os.getpid() + 1, pid_namespace.INITIAL)
    absent = tmp_path / "absent"
    absent.mkdir()
    (absent / "uptime").touch()
    for proc in (other, absent):
        found = pid_namespace.fault(proc)
        assert found is not None and "mounted for another pid namespace" in found[0] and "mount -t proc" in found[1]


def test_a_proc_that_is_not_mounted_is_refused(tmp_path: Path) -> None:
    found = pid_namespace.fault(tmp_path)
    assert found is not None and "nothing is mounted" in found[0]


def test_only_sources_that_combine_both_numberings_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pid_namespace, "fault", lambda scope: ("the reason", "the remedy"))
    for source in ("tracer", "replay:/tmp/x"):
        pid_namespace.require(source, "host")
    for source in ("ebpf", "proc-connector"):
        for scope in ("host", "namespace"):
            with pytest.raises(UnsupportedError, match=f"'{source}' cannot run here: the reason; the remedy"):
                pid_namespace.require(source, scope)


def test_a_source_that_cannot_honour_the_scope_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pid_namespace, "fault", lambda scope: None)
    for source, reason in (("tracer", "what tracers report"), ("replay:/tmp/x", "when it was made")):
        with pytest.raises(UnsupportedError, match=reason):
            pid_namespace.require(source, "namespace")
    for is_inner in (False, True):
        monkeypatch.setattr(pid_namespace, "is_inner", lambda is_inner=is_inner: is_inner)
        pid_namespace.require("ebpf", "namespace")
        if not is_inner:
            pid_namespace.require("proc-connector", "namespace")
    with pytest.raises(UnsupportedError, match="only in the initial pid namespace"):
        pid_namespace.require("proc-connector", "namespace")

"""Namespaces of a process with unreadable links: those that it shares with the reader are found, and no others."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipeline.procfs import shared_namespaces
from pipeline.procfs.info import ProcInfo, proc_knows, to_record
from pipeline.procfs.proc_reader import WANT_IDS, read_process
from pipeline.records import dtypes
from pipeline.shm.layout import layout
from pipeline.sources.proc_connector.proc_records import known_groups
from tests.waiting import eventually

KINDS = ("pid", "mnt", "net")
ALL = ["--pid", "--fork", "--kill-child", "--mount", "--net"]


def links(tgid: int) -> dict[str, int]:
    return {kind: Path(f"/proc/{tgid}/ns/{kind}").stat().st_ino for kind in (*KINDS, "user")}


@contextmanager
def sleeper(*options: str) -> Iterator[int]:
    """Run `sleep` in its own namespaces; yield its pid."""
    command = ["unshare", *options, "sleep", "60"] if options else ["sleep", "60"]
    with subprocess.Popen(command) as outer:
        try:

            def found() -> int:
                pid = outer.pid
                if "--fork" in options:
                    pid = int(Path(f"/proc/{pid}/task/{pid}/children").read_text())
                return pid if Path(f"/proc/{pid}/comm").read_text() == "sleep\n" else 0

            yield eventually(lambda: _quietly(found))
        finally:
            outer.kill()


def _quietly(function):
    try:
        return function()
    except (OSError, ValueError):
        return 0


def filled(tgid: int) -> ProcInfo:
    info = read_process(tgid, WANT_IDS)
    assert info is not None and (info.pid_ns, info.mnt_ns, info.net_ns) == (0, 0, 0)
    process, proc = (os.open(path, os.O_RDONLY) for path in (f"/proc/{tgid}", "/proc"))
    try:
        shared_namespaces.fill(info, process, proc)
    finally:
        os.close(process)
        os.close(proc)
    assert info.user_ns == 0, "nothing shows it"
    return info


@pytest.mark.parametrize(
    ("options", "shared"),
    [
        ([], KINDS),
        (["--mount"], ("pid", "net")),
        (["--net"], ("pid", "mnt")),
        (["--pid", "--fork", "--kill-child"], ("mnt", "net")),
        (ALL, ()),
        # In another user namespace of the same mount namespace, the ids have other names.
        (["--user"], ("pid", "net")),
        (["--user", "--map-root-user"], ("pid", "net")),
    ],
)
def test_only_shared_namespaces_are_known(options: list[str], shared: tuple[str, ...]) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root for unshare")
    with sleeper(*options) as tgid:
        info, own, theirs = filled(tgid), links(os.getpid()), links(tgid)
        for kind in KINDS:
            told = getattr(info, f"{kind}_ns")
            assert told == (own[kind] if kind in shared else 0), kind
            assert told in {0, theirs[kind]}, kind


def test_fewer_namespaces_do_not_replace_those_of_an_event() -> None:
    info = read_process(os.getpid())
    assert info is not None
    task = to_record(info).task[0]
    partial = to_record(replace(info, user_ns=0)).task[0]
    assert task.dtype == np.dtype(dtypes.TASK)
    for already in (0, layout.KNOWN_NS):
        assert proc_knows(task, already) & layout.KNOWN_NS
    assert proc_knows(partial) & layout.KNOWN_NS
    assert not proc_knows(partial, layout.KNOWN_NS) & layout.KNOWN_NS
    assert known_groups(info) & layout.KNOWN_NS and not known_groups(replace(info, user_ns=0)) & layout.KNOWN_NS

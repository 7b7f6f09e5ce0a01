"""The ways to record changes of credentials and sessions: each one alone, with what it records of a process."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.bpf import maps, syscall
from pipeline.bpf.loader import Capture
from pipeline.records import declared
from pipeline.records.capture_fds import NO_FD
from tests.actor import Actor
from tests.bpf.ring_reader import RING_BYTES, Reader, Record

CRED, SID = declared.KIND_CRED, declared.KIND_SID

ALL = [
    pytest.param("fentry", marks=pytest.mark.vm),
    pytest.param("kprobe", marks=pytest.mark.vm),
    "syscalls",
]


class Tier:
    """A capture with one tier in use, and the records that it makes of a process in an interval."""

    def __init__(self, name: str) -> None:
        self.capture = Capture(ring_bytes=RING_BYTES, credentials=name)
        self.pids = maps.PidMap(self.capture.fds.pid_owners, self.capture.fds.pid_cache)
        self._reader = Reader(self.capture)
        self._marks = 0

    def during(self, actor: Actor, code: str, *, is_compared: bool = False) -> list[Record]:
        """Run `code` in the actor; return the records of the process's changes from its start to its end.

        With `is_compared` a comparison follows the code, if the method does not see all changes on this kernel.
        """
        self._mark(actor)
        actor.do(code)
        if is_compared and self.capture.fds.sample_link != NO_FD:
            syscall.run_iterator(self.capture.fds.sample_link)
        end = self._mark(actor)
        return [r for r in self._reader.of(actor.pid) if r.kind in (CRED, SID) and r is not end]

    def _mark(self, actor: Actor) -> Record:
        """Change the name, which is reported independently of the tier; return that record."""
        self._marks += 1
        name = f"mark{self._marks}".encode()
        self._reader.poll()
        self._reader.records.clear() if self._marks % 2 else None
        actor.do(f"libc.prctl(15, {name!r}, 0, 0, 0)")

        def found() -> list[Record]:
            return [r for r in self._reader.of(actor.pid, declared.KIND_COMM) if r.task["comm"] == name]

        (record,) = self._reader.until(found)
        return record


def require_login_uid(tier: Tier) -> None:
    """Skip the test if this kernel has no login uid, or no function at which `fentry` sees its changes."""
    if not Path("/proc/self/loginuid").exists():
        pytest.skip("this kernel has no login uid (CONFIG_AUDIT)")
    for one in tier.capture.tiers:
        if one.is_on and "pl_set_loginuid" in one.detail:
            pytest.skip(f"{one.name}: {next(part for part in one.detail.split('; ') if 'pl_set_loginuid' in part)}")


IDS = ("uid", "euid", "suid", "fsuid", "gid", "egid", "sgid", "fsgid")

"""Privileges of the daemon's processes, and modes of the files that they create (docs/security.md)."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from pipeline.bpf import syscall
from pipeline.records.capabilities import CAP_BPF, CAP_DAC_READ_SEARCH, CAP_SYS_PTRACE
from tests.live.harness import Daemon
from tests.proc import status

pytestmark = pytest.mark.live


def test_workers_keep_only_the_capabilities_that_they_need(daemon: Daemon) -> None:
    for_maps = 1 << CAP_BPF if syscall.needs_capability() else 0
    for role, allowed in (("shard", 0), ("resolver", 1 << CAP_DAC_READ_SEARCH | 1 << CAP_SYS_PTRACE | for_maps)):
        for pid in daemon.pids(role):
            found = status(pid)
            for name in ("CapEff", "CapPrm", "CapInh", "CapAmb"):
                assert int(found[name][0], 16) & ~allowed == 0, (role, name, found[name])
            assert found["NoNewPrivs"] == ["1"], role


def test_no_process_leaves_a_core_dump(daemon: Daemon) -> None:
    for role in ("supervisor", "resolver", "shard"):
        for pid in daemon.pids(role):
            limits = Path(f"/proc/{pid}/limits").read_text().splitlines()
            core = next(line for line in limits if line.startswith("Max core file size"))
            assert core.split()[4:6] == ["0", "0"], (role, core)


def test_modes_are_those_of_the_documentation(daemon: Daemon) -> None:
    def mode(name: str) -> int:
        return stat.S_IMODE((daemon.directory / name).stat().st_mode)

    assert mode(".") == mode("stream") == 0o755
    assert mode("frames") == 0o700
    for name in ("control", "index", "hot", "cold", "costs", "names"):
        assert mode(name) == 0o644, name
    assert (mode("args"), mode("envs")) == (0o640, 0o600)
    assert mode("stream/stream.ipc") == 0o660
    assert mode("supervisor.lock") == mode("writer.lock") == 0o600


def test_nothing_secret_stands_on_a_command_line(daemon: Daemon) -> None:
    for role in ("resolver", "shard"):
        for pid in daemon.pids(role):
            arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            assert arguments[-3:-1][0] == b"--description-fd" and arguments[-2].isdigit(), arguments

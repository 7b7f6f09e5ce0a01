"""The reaper that an exit record predicts is the new parent of the orphans, in random trees of processes."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from pipeline.host.boot import is_same_start
from pipeline.records import declared
from tests.bpf.ring_reader import Reader
from tests.proc import stat

pytestmark = [pytest.mark.live, pytest.mark.usefixtures("live_kernel")]


def parents() -> dict[int, int]:
    """Return pid -> ppid of every process that has not ended."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = stat(int(entry.name))
                # A leader that has ended is a zombie too while its threads live.
                if fields[0] not in "ZX" or len(list((entry / "task").iterdir())) > 1:
                    found[int(entry.name)] = int(fields[1])
            except OSError:
                continue
    return found


def below(root: int) -> dict[int, int]:
    """Return pid -> ppid of the living processes below `root`."""
    everyone = parents()
    tree = {root: everyone.get(root, 0)}
    grown = True
    while grown:
        grown = False
        for pid, ppid in everyone.items():
            if ppid in tree and pid not in tree:
                tree[pid] = ppid
                grown = True
    return tree


@pytest.mark.parametrize("seed", range(1, 24))
def test_orphans_move_to_the_predicted_reaper(reader: Reader, actions: Path, seed: int) -> None:
    choice = random.Random(seed)
    program = subprocess.Popen([actions, "tree", str(seed)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert program.stdout is not None
    root = int(program.stdout.readline())
    killed: set[int] = set()
    try:
        for _ in range(12):
            tree = below(root)
            inner = sorted(pid for pid in tree if pid != root and pid in tree.values())
            if not inner:
                break
            victim = choice.choice(inner)
            children = [pid for pid, ppid in tree.items() if ppid == victim]
            os.kill(victim, signal.SIGKILL)
            killed.add(victim)
            exit_ = reader.one(victim, declared.KIND_EXIT)
            time.sleep(0.005)
            assert exit_.body is not None
            check(reader, exit_.body, victim, children)
    finally:
        for pid in below(root):
            with suppress(ProcessLookupError):  # the init of a namespace kills the others when it ends
                os.kill(pid, signal.SIGKILL)
        program.communicate(timeout=60)


def check(reader: Reader, body: np.void, victim: int, children: list[int]) -> None:
    if body["exit_flags"] & declared.EXIT_NS_DIES:
        assert body["reaper_tgid"] == 0
        reader.ended(*children)
        return
    end = time.monotonic() + 60
    while True:
        now = parents()
        if all(now.get(child) != victim for child in children):
            break
        assert time.monotonic() < end, "not adopted"
        time.sleep(0.002)
    for child in children:
        if child in now:
            assert now[child] == body["reaper_tgid"]
    assert is_same_start(int(body["reaper_start_boot_ns"]), int(stat(int(body["reaper_tgid"]))[19]))
    assert not body["exit_flags"] & declared.EXIT_NO_REAPER

"""Keyed processes against a plain dictionary, with so few slots that slots are reused all the time."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipeline.host import boot
from pipeline.resolver.api.ebpfless import EBPFLessResolver
from pipeline.resolver.entries.model import CacheResolverKey, ResolverError
from pipeline.shm.check.validate import validate_tables
from pipeline.shm.layout import layout
from pipeline.shm.reader._reader import TableReader
from pipeline.shm.writer._opening import open_tables
from pipeline.shm.writer._writer import TableWriter
from tests.sampling import times

SECOND = 1_000_000_000
ALL = [CacheResolverKey(pid, nsid) for pid in range(1, 25) for nsid in (7, 8)]


@dataclass
class Known:
    ppid: int
    comm: str


def small_tables(directory: Path) -> TableWriter:
    tables = open_tables(
        directory, boot_id=bytes(16), capture_id=1, ring_count=1, row_capacity=4096, pid_capacity=64, key_capacity=16,
        names_bytes=1 << 20, args_bytes=1 << 20, envs_bytes=1 << 20, boot_unix_ns=0, retention_ns=100 * SECOND,
        chunk_rows=4096, checked=True,
    )  # fmt: skip
    tables.set_state(layout.STATE_READY)
    return tables


@pytest.mark.expensive
@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, times(12, 2)))])
def test_readers_find_only_live_processes(directory: Path, seed: int) -> None:
    rng = random.Random(seed)
    clock = [SECOND]
    model: dict[CacheResolverKey, Known] = {}
    refused = recycled = 0
    tables = small_tables(directory)
    resolver = EBPFLessResolver(tables=tables, now_boot_ns=lambda: clock[0])
    for step in range(600):
        clock[0] += rng.randrange(1, 4 * SECOND)
        now = clock[0]
        key = CacheResolverKey(rng.randrange(1, 25), rng.choice((7, 8)))
        ppid = rng.choice([number for number in range(25) if number != key.pid])
        try:
            if rng.random() < 0.4:
                resolver.delete_entry(key, now)
                model.pop(key, None)
            elif rng.random() < 0.5 or key not in model:
                resolver.add_fork_entry(key, ppid, now)
                parent = model.get(CacheResolverKey(ppid, key.nsid)) if key.pid != 1 else None
                model[key] = Known(ppid if key.pid != 1 else 0, parent.comm if parent else "")
            else:
                comm = f"c{step}"
                resolver.add_exec_entry(key, 0, f"/bin/{comm}", [comm], False, [], False, "", now, "")
                model[key].comm = comm
        except ResolverError:
            # No slot for the process or for its parent: nothing was entered.
            refused += 1
        tables.evict_exited(now, 100)
        if rng.random() < 0.01:
            recycled += tables.counter("keys_recycled")
            tables.close()
            tables = small_tables(directory)
            assert tables.is_takeover
            resolver = EBPFLessResolver(tables=tables, now_boot_ns=lambda: clock[0])
        # On a busy machine a check takes longer than the heartbeat's limit.
        tables.heartbeat(boot.now_boot_ns() + 60 * SECOND)
        # All of them take far longer than the change itself.
        check(directory, model, ALL if step % times(1, 6) == 0 else [key])
    validate_tables(tables)
    recycled += tables.counter("keys_recycled")
    tables.close()
    # 48 keys for 16 slots; live processes and their parents keep theirs.
    assert recycled > 20 and refused < 400


def check(directory: Path, model: dict[CacheResolverKey, Known], keys: list[CacheResolverKey]) -> None:
    reader = TableReader(directory)
    for key in keys:
        known, found = model.get(key), reader.resolve(key.pid, pid_ns=key.nsid)
        if known is None:
            assert found is None or found.is_exited, key
            continue
        assert found is not None and not found.is_exited, key
        assert (found.pid, found.pid_ns, found.comm or "") == (key.pid, key.nsid, known.comm)
        # If the parent's pid had no owner any more, the entry names no parent.
        assert found.ppid in (known.ppid, 0)
    assert len(list(reader.walk(exited=False))) == len(model)
    reader.close()

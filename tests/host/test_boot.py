"""Boot id, clocks and identities."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.bpf import declared
from pipeline.host import boot

#: Largest `pid_max` that a 64-bit kernel allows.
PID_MAX_LIMIT = 4 * 1024 * 1024
BOOT = bytes.fromhex("2899dae44fa44eef95b66bc95325f61a")


def test_boot_id_is_the_kernels() -> None:
    text = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    raw = boot.boot_id()
    assert raw == bytes.fromhex(text.replace("-", ""))


def test_pid_max_is_within_the_kernels_limit() -> None:
    assert os.getpid() < boot.pid_max() <= PID_MAX_LIMIT


def test_offset_is_between_two_readings_of_the_clocks() -> None:
    """A reading of both clocks confirms the offset, up to its own error and the slew of the clock."""
    clock = boot.BootClock.read()
    before = time.time_ns()
    converted = clock.to_unix_ns(boot.now_boot_ns())
    after = time.time_ns()
    slack = 10_000_000
    assert before - slack <= converted <= after + slack


def test_unset_time_stays_unset_and_conversions_are_inverse() -> None:
    clock = boot.BootClock(1_700_000_000_000_000_000)
    assert clock.to_unix_ns(0) == 0
    assert clock.to_boot_ns(0) == 0
    assert clock.to_boot_ns(clock.to_unix_ns(123_456)) == 123_456


def test_tightest_sample_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second sample has the shorter window, so its offset is used."""
    readings = iter([0, 5_000, 1_000, 2_000, 12_010, 2_020])
    monkeypatch.setattr(boot.time, "clock_gettime_ns", lambda clock: next(readings))
    assert boot.BootClock.read(samples=2) == boot.BootClock(10_000)


def test_the_bpf_programs_have_the_tick_of_proc() -> None:
    assert declared.TICK_NS == boot.TICK_NS


@given(st.integers(0, 2**60 - 1))
def test_ticks_round_down_as_the_kernel_does(boot_ns: int) -> None:
    ticks = boot.ticks_of(boot_ns)
    assert ticks * boot.TICK_NS <= boot_ns < (ticks + 1) * boot.TICK_NS
    assert boot.is_same_start(boot_ns, ticks)
    assert not boot.is_same_start(boot_ns, ticks + 1)


@given(st.binary(min_size=16, max_size=16), st.integers(0, 2**24 - 1), st.integers(0, 2**60 - 1))
def test_an_entity_id_contains_its_identity(raw: bytes, tgid: int, start: int) -> None:
    for pid_ns in (0, 4026531836):
        boot_id, numbers, start_ns = boot.entity_id(raw, tgid, start, pid_ns).split("-")
        namespace, _, pid = numbers.rpartition(".")
        found = bytes.fromhex(boot_id), int(pid, 16), int(start_ns, 16), int(namespace or "0", 16)
        assert found == (raw, tgid, start, pid_ns)


def test_entity_id_has_a_fixed_form() -> None:
    """A golden value: ids are stored elsewhere, so the form never changes."""
    assert boot.entity_id(BOOT, 39174, 555_580_000_000) == f"{BOOT.hex()}-9906-815b260700"


def test_65536_identities_have_65536_ids() -> None:
    rng = random.Random(1)
    starts = [rng.randrange(1 << 50) for _ in range(256)]
    ids = {boot.entity_id(BOOT, tgid, start) for start in starts for tgid in range(1, 257)}
    assert len(ids) == len(set(starts)) * 256


def test_cpid_of_the_specifications_worked_example() -> None:
    assert boot.cpid(BOOT, 4026532263, 55558, 29) == "b770a0ed-8463-822c-b5f6-30d9081ddbd9"


def test_import_is_cheap() -> None:
    """Readers import this module, so it loads only the standard library, and not OpenSSL."""
    code = "import sys, pipeline.host.boot; print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"numpy", "msgspec", "msgpack", "zmq", "hashlib", "_hashlib", "uuid"} & set(modules)

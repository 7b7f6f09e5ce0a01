"""The kernel's capability checks of a process, as the tier of `capture.capabilities_usage` records them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.bpf import features, loader, maps
from pipeline.records import declared
from tests.actor import Actor
from tests.bpf.ring_reader import RING_BYTES, Reader, Record
from tests.bpf.task_check import check_task

pytestmark = [
    pytest.mark.live,
    pytest.mark.newer_programs("capture.capabilities_usage"),
    pytest.mark.usefixtures("live_kernel"),
]

CHOWN, SYS_CHROOT, SYS_TIME = 0, 18, 25
USER = ["setpriv", "--reuid", "1000", "--clear-groups", "--regid", "1000"]


@pytest.fixture(scope="module")
def asked(live_kernel: None) -> Iterator[Reader]:
    with loader.Capture(ring_bytes=RING_BYTES, credentials="off", capabilities_usage="on") as capture:
        tier = next(tier for tier in capture.tiers if tier.name == "capability")
        if not tier.is_on:
            # Not a fault of the host: kernels before 6.14 do not have this tracepoint.
            pytest.skip(tier.detail)
        yield Reader(capture)


def during(reader: Reader, actor: Actor, code: str) -> list[Record]:
    """Return the records about the actor's capabilities while it runs `code`."""
    reader.poll()
    reader.records.clear()
    actor.do(code)
    actor.do("libc.prctl(15, b'mark', 0, 0, 0)")
    reader.until(lambda: reader.of(actor.pid, declared.KIND_COMM))
    return reader.of(actor.pid, declared.KIND_CAPS)


def masks(record: Record) -> tuple[int, int]:
    assert record.caps is not None
    return int(record.caps["caps_attempted"]), int(record.caps["caps_used"])


TRY = "try:\n    {}\nexcept OSError:\n    pass"


def test_a_refused_capability_is_attempted_and_not_used(asked: Reader) -> None:
    with Actor(USER) as actor:
        actor.do("libc.prctl(15, b'mark', 0, 0, 0)")
        (record,) = during(asked, actor, TRY.format("os.chroot('/')"))
        attempted, used = masks(record)
        assert attempted & 1 << SYS_CHROOT and not used & 1 << SYS_CHROOT
        check_task(record, actor.pid)
        (record,) = during(asked, actor, TRY.format("time.clock_settime(time.CLOCK_REALTIME, 0)"))
        assert masks(record) == (attempted | 1 << SYS_TIME, used), "bits accumulate"
        again = TRY.format("os.chroot('/')") + "\n" + TRY.format("time.clock_settime(time.CLOCK_REALTIME, 0)")
        assert during(asked, actor, again) == [], "nothing is reported twice"


def test_a_held_capability_counts_as_used_from_its_first_check(asked: Reader, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    chown = f"os.chown({str(tmp_path / 'file')!r}, 12, 12)"
    with Actor() as actor:
        # First without the capability: the same one is attempted, and then used.
        actor.do("set_caps(0, 1 << 0 | 1 << 7 | 1 << 21)")
        (record,) = during(asked, actor, TRY.format(chown))
        assert [mask >> CHOWN & 1 for mask in masks(record)] == [1, 0]
        actor.do("set_caps(1 << 0, 1 << 0 | 1 << 7 | 1 << 21)")
        (record,) = during(asked, actor, chown)
        assert [mask >> CHOWN & 1 for mask in masks(record)] == [1, 1]
        assert during(asked, actor, chown) == []


def test_a_thread_is_asked_for_its_process(asked: Reader) -> None:
    with Actor() as actor:
        (record,) = during(asked, actor, "in_thread(lambda: os.chroot('/'))")
        assert record.header["tid"] == actor.pid and masks(record)[1] & 1 << SYS_CHROOT
        assert during(asked, actor, "os.chroot('/')") == []


def test_an_image_begins_with_nothing(asked: Reader) -> None:
    with Actor() as actor:
        during(asked, actor, "os.chroot('/')")
        asked.records.clear()
        actor.do(
            "child = os.fork() or os.execv(sys.executable, [sys.executable, '-c',"
            " 'import os; os.setresuid(0, 0, 0); os.chroot(\"/\")'])\nos.waitpid(child, 0)"
        )
        (pid,) = asked.until(
            lambda: {r.tgid for r in asked.records if r.kind == declared.KIND_EXEC and r.header["ppid"] == actor.pid}
        )
        asked.ended(pid)
        records = asked.of(pid)
        kinds = [r.kind for r in records]
        after = [r for r in records[kinds.index(declared.KIND_EXEC) :] if r.kind == declared.KIND_CAPS]
        assert masks(after[-1])[1] & 1 << SYS_CHROOT
        told = [masks(r) for r in after]
        assert len(set(told)) == len(told)
        assert not told[0][0] & 1 << SYS_CHROOT, "what was asked before is the image's before"


def test_ending_processes_and_kernel_threads_are_left_out(asked: Reader) -> None:
    asked.poll()
    for record in asked.records:
        if record.kind == declared.KIND_CAPS:
            assert record.task is not None and not record.task["task_flags"] & 0x00200004


def test_a_record_without_room_is_repeated_at_the_next_check(live_kernel: None, asked: Reader) -> None:
    def with_chroot(reader: Reader, pid: int) -> list[Record]:
        whole = [record for record in reader.of(pid, declared.KIND_CAPS) if record.caps is not None]
        return [record for record in whole if masks(record)[1] & 1 << SYS_CHROOT]

    with loader.Capture(ring_bytes=4096, credentials="off", capabilities_usage="on") as capture, Actor() as actor:
        reader = Reader(capture)
        actor.do("os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})")
        actor.do("for _ in range(30): os.waitpid(os.fork() or os._exit(0), 0)")
        actor.do("os.chroot('/')")
        assert maps.cpu_states(capture.fds.shared)["lost_samples"][:, declared.KIND_CAPS].any()
        reader.poll()
        assert not with_chroot(reader, actor.pid)
        actor.do("os.chroot('/')")
        reader.until(lambda: with_chroot(reader, actor.pid))


def test_it_is_off_by_default() -> None:
    with loader.Capture(ring_bytes=4096, credentials="off") as capture:
        (tier,) = [tier for tier in capture.tiers if tier.name == "capability"]
        assert (tier.is_on, tier.detail) == (False, 'capture.capabilities_usage is "off"')
        assert "pl_on_capable" not in {program.name for program in capture.programs}


def test_a_kernel_without_the_tracepoint(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("procline", "context", "iter"):
        shutil.copy(features.OBJECTS / f"{name}.bpf.o", tmp_path)
    code = (features.OBJECTS / "capability.bpf.o").read_bytes()
    (tmp_path / "capability.bpf.o").write_bytes(code.replace(b"tp_btf/cap_capable", b"tp_btf/cap_missing"))
    monkeypatch.setattr(features, "OBJECTS", tmp_path)
    with loader.Capture(ring_bytes=4096, credentials="off", capabilities_usage="on") as capture:
        (tier,) = [tier for tier in capture.tiers if tier.name == "capability"]
        assert not tier.is_on
        assert tier.detail.startswith("needs the tracepoint cap_capable (Linux 6.14): capability.bpf.o")

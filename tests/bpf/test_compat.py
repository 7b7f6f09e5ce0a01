"""Changes of credentials and session by 32-bit system calls, for each tier.

Any program can make such calls, and tracepoints of single calls do not see them. Tiers that this kernel refuses are
tested by running this file by hand in a guest (tests/vm); `.ci/run` has no time for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import pytest

from pipeline.bpf import loader
from pipeline.bpf.loader import Capture
from pipeline.records import declared
from tests import compat
from tests.actor import Actor
from tests.bpf.ring_reader import Reader
from tests.bpf.tiers import CRED, IDS, SID, Tier, require_login_uid
from tests.proc import namespace, stat, status

pytestmark = [pytest.mark.live, pytest.mark.usefixtures("live_kernel")]

SETSID, SETPGID, IOCTL, OPEN, WRITEV, PWRITE64, CAPSET, OPENAT, UNSHARE, PWRITEV, SETNS, PWRITEV2, OPENAT2 = (
    66, 57, 54, 5, 146, 181, 185, 295, 310, 334, 346, 379, 437,
)  # fmt: skip

#: The call, and the resulting user and group ids: real, effective, saved, file system.
EACH = [
    ((23, 1001), (1001,) * 4, (0,) * 4),
    ((46, 1002), (0,) * 4, (1002,) * 4),
    ((70, 1003, 1004), (1003, 1004, 1004, 1004), (0,) * 4),
    ((71, 1005, 1006), (0,) * 4, (1005, 1006, 1006, 1006)),
    ((138, 1007), (0, 0, 0, 1007), (0,) * 4),
    ((139, 1008), (0,) * 4, (0, 0, 0, 1008)),
    ((164, 1009, 1010, 1011), (1009, 1010, 1011, 1010), (0,) * 4),
    ((170, 1012, 1013, 1014), (0,) * 4, (1012, 1013, 1014, 1013)),
    ((203, 70003, 70004), (70003, 70004, 70004, 70004), (0,) * 4),
    ((204, 70005, 70006), (0,) * 4, (70005, 70006, 70006, 70006)),
    ((208, 70009, 70010, 70011), (70009, 70010, 70011, 70010), (0,) * 4),
    ((210, 70012, 70013, 70014), (0,) * 4, (70012, 70013, 70014, 70013)),
    ((213, 70001), (70001,) * 4, (0,) * 4),
    ((214, 70002), (0,) * 4, (70002,) * 4),
    ((215, 70007), (0, 0, 0, 70007), (0,) * 4),
    ((216, 70008), (0,) * 4, (0, 0, 0, 70008)),
]


@pytest.fixture(scope="module", autouse=True)
def emulation(tmp_path_factory: pytest.TempPathFactory, missing: Callable[[str], NoReturn]) -> None:
    compat.require(tmp_path_factory.mktemp("emulation"), missing)


@pytest.fixture
def actor() -> Iterator[Actor]:
    with Actor() as running:
        running.do(compat.INT80)
        yield running


@pytest.mark.parametrize("way", [compat.INT_80, compat.VDSO], ids=["int80", "vdso"])
def test_every_change_of_ids_by_a_32_bit_program(tier: Tier, tmp_path: Path, way: bytes) -> None:
    for number, (call, users, groups) in enumerate(EACH):
        with compat.Compat32(compat.program(tmp_path / str(number), call, way=way)) as one:
            one.make_calls()
            now = status(one.pid)
            assert one.end() == 0
        tier._reader.ended(one.pid)
        records = tier._reader.of(one.pid)
        assert [r.kind for r in records] == [declared.KIND_FORK, declared.KIND_EXEC, CRED, declared.KIND_EXIT], call
        assert tuple(int(records[2].task[name]) for name in IDS) == (*users, *groups), call
        assert [int(value) for value in now["Uid"] + now["Gid"]] == [*users, *groups], call


def test_every_change_of_ids_by_a_64_bit_program(tier: Tier) -> None:
    for call, users, groups in EACH:
        with Actor() as actor:
            actor.do(compat.INT80)
            (record,) = tier.during(actor, f"int80(*{call})")
            assert record.kind == CRED
            assert tuple(int(record.task[name]) for name in IDS) == (*users, *groups), call


def test_a_32_bit_program_that_leaves_its_session(tier: Tier, tmp_path: Path) -> None:
    with compat.Compat32(compat.program(tmp_path / "one", (SETPGID, 0, 0), (SETSID,), (UNSHARE, 0x20000))) as one:
        one.make_calls()
        mnt_ns = namespace(one.pid, "mnt")
        one.end()
    tier._reader.ended(one.pid)
    changes = [r for r in tier._reader.of(one.pid) if r.kind in (CRED, SID)]
    # The actor leads its group after the first call, so it may not create a session.
    assert [(r.kind, r.task["pgid"], r.task["mnt_ns"] == mnt_ns) for r in changes] == [
        (SID, one.pid, False), (SID, one.pid, True),
    ]  # fmt: skip


def test_a_call_that_changes_nothing_is_not_recorded(tier: Tier, actor: Actor) -> None:
    """Calls of the same numbers in the 64-bit table, and calls that fail, are not recorded either."""
    nothing = "int80(213, 0); int80(208, -1, -1, -1); int80(215, -1); int80(20); libc.syscall(39)"
    assert tier.during(actor, nothing) == []
    assert len(tier.during(actor, "int80(213, 1031)")) == 1
    failing = "try:\n    int80(213, 0)\nexcept PermissionError:\n    pass\nelse:\n    raise RuntimeError"
    assert tier.during(actor, failing) == []


def test_capabilities_and_namespaces(tier: Tier, actor: Actor) -> None:
    code = f"int80({CAPSET}, struct.pack('II', 0x20080522, 0), struct.pack('6I', 4096, 4096 | 1 << 21, 0, 0, 0, 0))"
    actor.do("fd = os.open('/proc/self/ns/net', os.O_RDONLY)")
    for call, name in ((f"int80({UNSHARE}, 0x20000)", "mnt"), (f"int80({UNSHARE}, 0x40000000)", "net")):
        (record,) = tier.during(actor, call)
        assert (record.kind, record.task[f"{name}_ns"]) == (SID, namespace(actor.pid, name))
    (record,) = tier.during(actor, f"int80({SETNS}, fd, 0)")
    assert (record.kind, record.task["net_ns"]) == (SID, namespace(actor.pid, "net"))
    (record,) = tier.during(actor, code)
    assert (record.kind, record.task["cap_effective"], record.task["cap_permitted"]) == (CRED, 4096, 4096 | 1 << 21)


def test_sessions_groups_and_terminals(tier: Tier, actor: Actor) -> None:
    actor.do("child = os.fork() or time.sleep(60)")
    (child,) = (int(pid) for pid in Path(f"/proc/{actor.pid}/task/{actor.pid}/children").read_text().split())
    assert tier.during(actor, f"int80({SETPGID}, child, child)") == []
    (record,) = tier._reader.of(child, SID)
    assert (record.task["pgid"], record.header["ppid"]) == (child, actor.pid)
    actor.do("os.kill(child, 9); os.waitpid(child, 0)")
    (record,) = tier.during(actor, f"int80({SETSID})")
    assert (record.kind, record.task["sid"]) == (SID, actor.pid)
    actor.do("import signal, termios; signal.signal(signal.SIGHUP, signal.SIG_IGN); master, slave = os.openpty()")
    give_up = f"int80({IOCTL}, slave, termios.TIOCNOTTY)"
    (record,) = tier.during(actor, f"int80({IOCTL}, slave, termios.TIOCSCTTY, 0)")
    assert record.kind == SID and record.task["tty"].startswith(b"pts")
    (record,) = tier.during(actor, give_up, is_compared=True)
    assert record.kind == SID and record.task["tty"] == b"" and stat(actor.pid)[4] == "0"
    actor.do("name = os.ttyname(slave).encode() + b'\\0'; how = struct.pack('QQQ', 2, 0, 0)")
    for call in (
        f"int80({OPEN}, name, 2)", f"int80({OPENAT}, -100, name, 2)", f"int80({OPENAT2}, -100, name, how, 24)",
    ):  # fmt: skip
        (record,) = tier.during(actor, call)
        assert record.kind == SID and record.task["tty"].startswith(b"pts"), call
        assert len(tier.during(actor, give_up, is_compared=True)) == 1


def test_the_login_uid_of_a_32_bit_program(tier: Tier, tmp_path: Path) -> None:
    require_login_uid(tier)
    file = b"/proc/self/loginuid\0"
    calls = (OPEN, compat.DATA, 1), (compat.WRITE, 3, compat.DATA + len(file), 4)
    with compat.Compat32(compat.program(tmp_path / "one", *calls, data=file + b"1074")) as one:
        one.make_calls()
        assert Path(f"/proc/{one.pid}/loginuid").read_text() == "1074"
        one.end()
    tier._reader.ended(one.pid)
    (record,) = (r for r in tier._reader.of(one.pid) if r.kind in (CRED, SID))
    assert (record.kind, record.task["auid"]) == (CRED, 1074)


def test_the_login_uid(tier: Tier, actor: Actor) -> None:
    require_login_uid(tier)
    actor.do("fd, fresh = (os.open('/proc/self/loginuid', 1) for _ in range(2))")
    actor.do("base = ctypes.addressof(ctypes.c_char.from_buffer(page))")
    actor.do("def vector(text):\n    page[3000:3004] = text\n    return struct.pack('II', base + 3000, 4)")
    for code, auid in (
        (f"int80({compat.WRITE}, fd, b'1071', 4)", 1071),
        (f"int80({WRITEV}, fd, vector(b'1072'), 1)", 1072),
        (f"int80({PWRITE64}, fd, b'1073', 4, 0)", 1073),
        (f"int80({PWRITEV}, fd, vector(b'1074'), 1, 0)", 1074),
        (f"int80({PWRITEV2}, fd, vector(b'1075'), 1, 0, 0, 0)", 1075),
        (f"int80({compat.WRITE}, fresh, b'4294967295', 10)", 4294967295),
    ):  # fmt: skip
        # Make another change at once, so that no later write of the process reports the first one.
        records = tier.during(actor, f"{code}; int80(215, {auid % 1000})")
        assert [int(r.task["auid"]) for r in records] == [auid, auid], code
        assert [int(r.task["fsuid"]) == auid % 1000 for r in records] == [False, True], code


def test_a_thread_has_credentials_of_its_own(tier: Tier, actor: Actor) -> None:
    assert tier.during(actor, "in_thread(lambda: int80(208, 1041, 1041, 1041))") == []


def test_it_can_be_switched_off(actor: Actor) -> None:
    """Then the change shows only in the next record."""
    with Capture(ring_bytes=1 << 16, credentials="syscalls", compat_calls="off") as capture:
        (tier,) = (one for one in capture.tiers if one.name == "cred_syscalls")
        assert tier.is_on and tier.detail.endswith('without 32-bit system calls: capture.compat_calls is "off"')
        assert "pl_compat" not in {program.name for program in capture.programs}
        reader = Reader(capture)
        actor.do("int80(215, 1081)")
        actor.do("libc.prctl(15, b'renamed', 0, 0, 0)")
        assert reader.one(actor.pid, declared.KIND_COMM).task["fsuid"] == 1081
        assert reader.of(actor.pid, CRED) == []


def test_machines_that_it_is_not_made_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader, "_COMPAT_MACHINES", ())
    with Capture(ring_bytes=4096, credentials="syscalls") as capture:
        (tier,) = (one for one in capture.tiers if one.name == "cred_syscalls")
        assert tier.is_on and tier.detail.endswith("without 32-bit system calls: not on x86_64")

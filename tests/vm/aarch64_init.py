#!/usr/bin/python3.13 -IS
"""First process of an aarch64 guest: load and attach every BPF object there, and read what the programs record.

aarch64.py makes the guest and puts this in its initramfs, beside the package's Python files and objects. Compiled
modules are missing there. The loader needs one of them, for libbpf's messages; it gets a stand-in.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import struct
import sys
import time
import traceback
import types
from pathlib import Path

DIRECTORIES = {
    "/proc": "proc",
    "/sys": "sysfs",
    "/dev": "devtmpfs",
    "/sys/fs/bpf": "bpf",
    "/sys/kernel/tracing": "tracefs",
}
#: Bits of the header of a record in a ring of the kernel: include/uapi/linux/bpf.h.
BUSY, DISCARD = 1 << 31, 1 << 30
PROBE_UID = 4711
RING_BYTES = 1 << 20


def mount_all() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    for directory, kind in DIRECTORIES.items():
        Path(directory).mkdir(parents=True, exist_ok=True)
        if libc.mount(b"none", directory.encode(), kind.encode(), 0, None):
            raise OSError(ctypes.get_errno(), f"mount {directory}")


def records(fd: int) -> list[bytes]:
    """Return all finished records of a ring."""
    page = mmap.PAGESIZE
    with mmap.mmap(fd, page + 2 * RING_BYTES, mmap.MAP_SHARED, mmap.PROT_READ, offset=page) as mapped:
        (end,) = struct.unpack_from("<Q", mapped)
        found, at = [], 0
        while at < end:
            (header,) = struct.unpack_from("<I", mapped, page + at)
            size = header & ~(BUSY | DISCARD)
            if header & BUSY:
                break
            if not header & DISCARD:
                found.append(mapped[page + at + 8 : page + at + 8 + size])
            at += (size + 8 + 7) // 8 * 8
    return found


def probe() -> int:
    """Run a process that changes its user, executes a program and ends with 7; return its pid once it has ended."""
    pid = os.fork()
    if not pid:
        os.setresuid(PROBE_UID, PROBE_UID, PROBE_UID)
        os.execv(sys.executable, [sys.executable, "-ISc", "raise SystemExit(7)"])
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 7, status
    return pid


def check(credentials: str) -> None:
    """Capture with one way to see changes of credentials, and compare the records of a process with what it did."""
    from pipeline.bpf import loader
    from pipeline.records import declared

    header = declared.HEADER_LAYOUT.struct("time_boot_ns", "tgid", "ppid", "kind")
    euid = declared.HEADER_LAYOUT.size + declared.TASK_LAYOUT.offset("euid")
    pid_ns = Path("/proc/self/ns/pid").stat().st_ino
    with loader.Capture(
        ring_bytes=RING_BYTES, credentials=credentials, capabilities_usage="on", signal_senders="on", calls="on",
        pid_ns=pid_ns,
    ) as capture:  # fmt: skip
        for tier in capture.tiers:
            print(f"aarch64: {credentials}: {'on ' if tier.is_on else 'off'} {tier.name}: {tier.detail}", flush=True)
        on = {tier.name for tier in capture.tiers if tier.is_on}
        wanted = {"core", "context", "iter", "signal", "calls", loader.CREDENTIALS[credentials].name}
        assert wanted <= on, f"off: {wanted - on}"
        pid = probe()
        time.sleep(0.1)
        seen = [record for fd in capture.fds.rings.values() for record in records(fd)]
        misses = sum(program.recursion_misses for program in capture.programs)
    own = sorted((header.unpack_from(record), record) for record in seen if header.unpack_from(record)[1] == pid)
    kinds = [declared.KIND_NAMES[fields[3]] for fields, _ in own]
    print(f"aarch64: {credentials}: records of the process: {' '.join(kinds)}; missed: {misses}", flush=True)
    wanted_kinds = {"fork", "exec", "exit"} | ({"cred"} if credentials != "sampled" else set())
    assert wanted_kinds <= set(kinds), kinds
    assert [kind for kind in kinds if kind in {"fork", "exec", "exit"}] == ["fork", "exec", "exit"], kinds
    assert {fields[2] for fields, _ in own} == {os.getpid()}, own
    last = next(record for fields, record in own if declared.KIND_NAMES[fields[3]] == "exit")
    assert struct.unpack_from("<I", last, euid) == (PROBE_UID,)


def main() -> int:
    """Check every way to see changes of credentials; 0 all work."""
    mount_all()
    sys.path.insert(0, "/opt")
    stand_in = types.ModuleType("pipeline.bpf._libbpf_log")
    stand_in.print_function = lambda receive: 0  # type: ignore[attr-defined]  # NULL: libbpf prints nothing
    sys.modules[stand_in.__name__] = stand_in
    from pipeline.bpf import libbpf, loader

    version = libbpf.library().libbpf_version_string().decode()
    print(f"aarch64: {os.uname().machine}, Linux {os.uname().release}, libbpf {version}", flush=True)
    code = 0
    for credentials in loader.CREDENTIALS:
        try:
            check(credentials)
        except Exception:  # the next one is to be tried too
            traceback.print_exc()
            code = 1
    return code


if __name__ == "__main__":
    if os.getpid() != 1:
        sys.exit("this is the first process of a guest, which it powers off: run tests/vm/aarch64")
    code = 1
    try:
        code = main()
    except BaseException:
        traceback.print_exc()
    print(f"\naarch64: exit code {code}", flush=True)
    Path("/proc/sysrq-trigger").write_text("o")
    time.sleep(60)

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
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

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
PROBE_ARGV = [sys.executable, "-ISc", "raise SystemExit(7)"]
RING_BYTES = 1 << 20
#: The instruction that is a full barrier in an atomic operation that returns a value, by whether the processor has
#: atomic instructions: with acquire and release, or behind a loop. Its name, a mask, and the bits under it.
BARRIERS = {True: ("ldaddal", 0xFFE0FC00, 0xF8E00000), False: ("dmb ish", 0xFFFFFFFF, 0xD5033BBF)}
#: Children that each CPU makes and waits for, one after another.
STORM_FORKS = 100
#: The first kernel that has atomic operations with a result on aarch64. Older ones get no programs.
ATOMICS = (5, 18)
#: The first kernel whose functions have trampolines on aarch64. Before it, the kernel rejects these tiers.
TRAMPOLINES = (6, 4)
TRAMPOLINE_TIERS = {"cred_fentry", "calls"}


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
        os.execv(sys.executable, PROBE_ARGV)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 7, status
    return pid


def storm() -> Counter[int]:
    """Make children on all CPUs at once; return the pids of all that have ended."""
    parents = {}
    for cpu in os.sched_getaffinity(0):
        read, write = os.pipe()
        parent = os.fork()
        if not parent:
            os.sched_setaffinity(0, {cpu})
            for _ in range(STORM_FORKS):
                child = os.fork()
                if not child:
                    os._exit(0)
                os.waitpid(child, 0)
                os.write(write, struct.pack("<I", child))
            os._exit(0)
        os.close(write)
        parents[parent] = read
    pids = Counter(parents.keys())
    for parent, read in parents.items():
        with os.fdopen(read, "rb") as pipe:
            pids.update(pid for (pid,) in struct.iter_unpack("<I", pipe.read()))
        assert os.waitpid(parent, 0)[1] == 0
    return pids


def check(credentials: str, kernel: tuple[int, ...]) -> None:
    """Capture with one way to see changes of credentials, and compare the records of processes with what they did."""
    is_refused, has_trampolines = kernel < ATOMICS, kernel >= TRAMPOLINES
    from pipeline.bpf import loader
    from pipeline.errors import UnsupportedError
    from pipeline.records import declared

    pid_ns = Path("/proc/self/ns/pid").stat().st_ino
    try:
        capture = loader.Capture(
            ring_bytes=RING_BYTES, credentials=credentials, capabilities_usage="on", signal_senders="on", calls="on",
            pid_ns=pid_ns,
        )  # fmt: skip
    except UnsupportedError as error:
        print(f"aarch64: {credentials}: {error}", flush=True)
        assert is_refused or (credentials == "fentry" and not has_trampolines)
        return
    with capture:
        assert not is_refused
        for tier in capture.tiers:
            print(f"aarch64: {credentials}: {'on ' if tier.is_on else 'off'} {tier.name}: {tier.detail}", flush=True)
        on = {tier.name for tier in capture.tiers if tier.is_on}
        method = ("fentry" if has_trampolines else "kprobe") if credentials == "auto" else credentials
        wanted = {"core", "context", "iter", "signal", "calls", loader.CREDENTIALS[method].name}
        wanted -= set() if has_trampolines else TRAMPOLINE_TIERS
        assert wanted <= on, f"off: {wanted - on}"
        assert has_trampolines or not on & TRAMPOLINE_TIERS, on
        print(f"aarch64: {credentials}: barriers: {check_barriers(capture._program_fds)}", flush=True)
        pid, made = probe(), storm()
        time.sleep(0.1)
        seen = [record for fd in capture.fds.rings.values() for record in records(fd)]
        misses = sum(program.recursion_misses for program in capture.programs)
    print(f"aarch64: {credentials}: storm: {check_storm(seen, made, declared)}; missed: {misses}", flush=True)
    assert not misses
    layout = declared.HEADER_LAYOUT
    header = layout.struct("time_boot_ns", "tgid", "ppid", "kind")
    own = sorted((header.unpack_from(record), record) for record in seen if header.unpack_from(record)[1] == pid)
    kinds = [declared.KIND_NAMES[fields[3]] for fields, _ in own]
    print(f"aarch64: {credentials}: records of the process: {' '.join(kinds)}", flush=True)
    wanted_kinds = {"fork", "exec", "exit"} | ({"cred"} if method != "sampled" else set())
    assert wanted_kinds <= set(kinds), kinds
    assert [kind for kind in kinds if kind in {"fork", "exec", "exit"}] == ["fork", "exec", "exit"], kinds
    assert {fields[2] for fields, _ in own} == {os.getpid()}, own
    by_kind = dict(zip(kinds, (record for _, record in own), strict=True))
    euid = declared.HEADER_LAYOUT.size + declared.TASK_LAYOUT.offset("euid")
    assert [struct.unpack_from("<I", by_kind[kind], euid)[0] for kind in ("fork", "exec", "exit")] == [
        0, PROBE_UID, PROBE_UID,
    ]  # fmt: skip
    check_exec(by_kind["exec"], declared)


def check_barriers(fds: Sequence[int]) -> str:
    """Check that the JIT has made full barriers of the atomic operations behind reservations; return which ones."""
    from pipeline.bpf import syscall

    name, mask, value = BARRIERS["atomics" in Path("/proc/cpuinfo").read_text()]
    counts = {}
    for fd in fds:
        program = syscall.info(fd, 80)[64:].split(b"\0")[0].decode()
        counts[program] = sum(each & mask == value for each in machine_code(fd))
    assert all(counts[program] for program in ("pl_on_fork", "pl_on_exec", "pl_on_exit")), counts
    return ", ".join(f"{program} {count}" for program, count in counts.items() if count) + f" times {name}"


def machine_code(fd: int) -> list[int]:
    """Return the instructions that the kernel's JIT has made of a program and its functions."""
    from pipeline.bpf import syscall

    code, info = ctypes.create_string_buffer(1 << 20), ctypes.create_string_buffer(256)
    # jited_prog_len and jited_prog_insns of struct bpf_prog_info (include/uapi/linux/bpf.h).
    struct.pack_into("<I4xQ", info, 16, len(code), ctypes.addressof(code))
    attributes = ctypes.create_string_buffer(struct.pack("<IIQ", fd, len(info), ctypes.addressof(info)), 16)
    syscall.bpf(syscall.OBJ_GET_INFO_BY_FD, attributes)
    (size,) = struct.unpack_from("<I", info, 16)
    assert 0 < size < len(code), size
    return [word for (word,) in struct.iter_unpack("<I", code.raw[:size])]


def check_exec(record: bytes, declared: Any) -> None:
    """Compare path, name and arguments of the probe's exec with what it executed."""
    body = declared.HEADER_LAYOUT.size + declared.TASK_LAYOUT.size
    sizes = declared.EXEC_LAYOUT.struct("path_bytes", "name_bytes", "args_bytes", "argc").unpack_from(record, body)
    path, name, args = cut(record[body + declared.EXEC_LAYOUT.size :], sizes[:3])
    wanted = os.path.realpath(sys.executable)
    assert (path.decode(), sizes[3]) == (wanted, len(PROBE_ARGV)), (path, sizes[3])
    # Directories of the process may follow the name.
    assert name.split(b"\0")[0].decode() == sys.executable, name
    assert args.decode() == "".join(f"{each}\0" for each in PROBE_ARGV), args


def cut(data: bytes, sizes: Sequence[int]) -> list[bytes]:
    """Return the first parts of these sizes."""
    ends = [sum(sizes[: number + 1]) for number in range(len(sizes))]
    return [data[end - size : end] for end, size in zip(ends, sizes, strict=True)]


def check_storm(seen: list[bytes], made: Counter[int], declared: Any) -> str:
    """Check that each process of a storm has one fork and one exit, in order, and that the numbers have no gap."""
    header = declared.HEADER_LAYOUT.struct("time_boot_ns", "ring_seq", "tgid", "kind", "cpu")
    times: dict[tuple[str, int], list[int]] = {}
    numbers: dict[int, list[int]] = {}
    for time_ns, number, tgid, kind, cpu in map(header.unpack_from, seen):
        times.setdefault((declared.KIND_NAMES[kind], tgid), []).append(time_ns)
        numbers.setdefault(cpu, []).append(number)
    for cpu, found in numbers.items():
        assert sorted(found) == list(range(len(found))), f"CPU {cpu}: {found}"
    for pid, count in made.items():
        forks, exits = times.get(("fork", pid), []), times.get(("exit", pid), [])
        assert len(forks) == len(exits) == count, (pid, count, forks, exits)
        assert all(born < ended for born, ended in zip(sorted(forks), sorted(exits), strict=True)), (forks, exits)
    return f"{made.total()} forks and exits of {made.total()} on {len(numbers)} CPUs"


def main() -> int:
    """Check every way to see changes of credentials; 0: each one that this kernel should have works."""
    mount_all()
    sys.path.insert(0, "/opt")
    stand_in = types.ModuleType("pipeline.bpf._libbpf_log")
    stand_in.print_function = lambda receive: 0  # type: ignore[attr-defined]  # NULL: libbpf prints nothing
    sys.modules[stand_in.__name__] = stand_in
    from pipeline.bpf import libbpf, loader
    from pipeline.bpf import probe as host_probe

    version = libbpf.library().libbpf_version_string().decode()
    print(f"aarch64: {os.uname().machine}, Linux {os.uname().release}, libbpf {version}", flush=True)
    for finding in host_probe.findings():
        print(f"aarch64: doctor: {finding.name}: {finding.detail}", flush=True)
    kernel = tuple(map(int, os.uname().release.split(".")[:2]))
    code = 0
    for credentials in ("auto", *loader.CREDENTIALS):
        try:
            check(credentials, kernel)
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

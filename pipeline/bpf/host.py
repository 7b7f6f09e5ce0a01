"""Read which CPUs, BTF and capabilities this host offers for eBPF. probe.py tries them out."""

from __future__ import annotations

from pathlib import Path

from pipeline import proc_text
from pipeline.bpf.words import MISSED
from pipeline.errors import UnsupportedError
from pipeline.records.capabilities import CAP_BPF, CAP_PERFMON, CAP_SYS_ADMIN, CAP_SYS_PTRACE

BTF = Path("/sys/kernel/btf/vmlinux")

#: CPUs that the maps have room for; the next element of `pl_shared` has another use.
CPU_ROOM = MISSED

#: What an error names; the programs are tried on any kernel, see features.py.
OLDEST = "Linux 5.10 (x86-64), 5.18 (aarch64), else 6.2, or a kernel with their BPF features"

CAPABILITIES = {
    "CAP_SYS_PTRACE": CAP_SYS_PTRACE,
    "CAP_SYS_ADMIN": CAP_SYS_ADMIN,
    "CAP_PERFMON": CAP_PERFMON,
    "CAP_BPF": CAP_BPF,
}


def parse_cpus(text: str) -> list[int]:
    """Return the numbers of a CPU list such as ``0-3,8``."""
    numbers: list[int] = []
    for part in text.strip().split(","):
        if part:
            first, _, last = part.partition("-")
            numbers.extend(range(int(first), int(last or first) + 1))
    return numbers


def possible_cpus() -> list[int]:
    """Return the CPUs that this machine can have, online or offline."""
    return parse_cpus(Path("/sys/devices/system/cpu/possible").read_text())


def online_cpus() -> list[int]:
    """Return the CPUs that are online."""
    return parse_cpus(Path("/sys/devices/system/cpu/online").read_text())


def effective_capabilities() -> frozenset[str]:
    """Return those of CAPABILITIES that are effective in this process."""
    mask = proc_text.effective_capabilities(Path("/proc/self/status").read_bytes())
    return frozenset(name for name, bit in CAPABILITIES.items() if mask >> bit & 1)


def missing_capabilities() -> list[str]:
    """Return the capabilities that loading needs and this process lacks; CAP_SYS_ADMIN includes both."""
    have = effective_capabilities()
    return [] if "CAP_SYS_ADMIN" in have else [name for name in ("CAP_BPF", "CAP_PERFMON") if name not in have]


def require() -> None:
    """Check the host before anything is loaded.

    Raises:
        UnsupportedError: something is missing; the message says what to do.
    """
    if not BTF.exists():
        raise UnsupportedError(
            f"this kernel has no type information ({BTF} is missing)",
            feature="btf",
            needs="CONFIG_DEBUG_INFO_BTF",
            hint="use a distribution kernel that has it, or --source proc-connector",
        )
    if missing := missing_capabilities():
        raise UnsupportedError(
            f"not permitted to load BPF programs: {' and '.join(missing)} missing",
            feature="capabilities",
            needs="CAP_BPF and CAP_PERFMON",
            hint="run as root, or give the service these capabilities",
        )
    if max(possible_cpus()) >= CPU_ROOM:
        raise UnsupportedError(
            f"this machine can have CPU {max(possible_cpus())}; the maps have room for {CPU_ROOM}",
            feature="cpus",
            needs=f"at most {CPU_ROOM} CPUs",
            hint="limit them with nr_cpus= on the kernel's command line, or use --source proc-connector",
        )

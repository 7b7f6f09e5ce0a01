"""Which of the two sets of BPF objects this kernel can load. The sets are described in ``programs/sets.bpf.h``.

The newer set is used if its core object loads. If not, each thing that it needs is tried alone; if the kernel lacks
one, the older set is used. No version is compared: distributions add features to their kernels.
"""

from __future__ import annotations

import os
from pathlib import Path

from pipeline.bpf import libbpf, misses, syscall
from pipeline.errors import LoadError

OBJECTS = Path(__file__).parent / "programs"

#: What the newer set needs, by the program of probe.bpf.o that tries it.
NEWER_NEEDS = {
    "pl_try_cast": "bpf_rdonly_cast (Linux 6.2)",
    "pl_try_dynptr": "bpf_ringbuf_reserve_dynptr (Linux 5.19)",
    "pl_try_loop": "bpf_loop (Linux 5.17)",
    "pl_try_fetch": "atomic operations that return a value (Linux 5.12)",
}

#: If this variable is "old", the older set is used on every kernel: for tests and benches.
FORCE = "PROCLINE_BPF_PROGRAMS"

#: Machines that the older set is for. On others its addition to a counter is no full barrier.
OLD_MACHINES = ("x86_64",)

#: Objects that exist in both sets.
OLD_NAMES = (
    "procline", "context", "signal", "calls", "cred_fentry", "cred_kprobe", "cred_sampled", "cred_syscalls", "iter",
    "probe",
)  # fmt: skip

#: Attach kinds whose programs PREEMPT_RT can preempt on every kernel.
TRAMPOLINES = ("fentry", "fexit")
#: Why they are not used where `share_buffers`.
SHARED_BUFFERS = "a program that is preempted would share its buffer with the next process (Linux 5.12 prevents that)"


def share_buffers(program_fd: int) -> bool:
    """Return whether programs of TRAMPOLINES run for another process on a CPU on which they were preempted.

    A record could then contain facts of both. The kernels that skip such runs are those that count them; any program
    shows whether this one does.
    """
    return "PREEMPT_RT" in os.uname().version and syscall.info_bytes(program_fd) < misses.COUNTING_INFO_BYTES


def is_forced() -> bool:
    """Return whether the environment selects the older set."""
    return os.environ.get(FORCE) == "old"


def object_path(name: str, is_old: bool) -> Path:
    """Return the path of an object, such as ``procline``, of one of the sets."""
    return OBJECTS / f"{name}{'.old' if is_old else ''}.bpf.o"


def lacking() -> list[str]:
    """Return why the older set is used, empty if it is not: what the newer one needs and this kernel does not have.

    Each thing is tried, which takes some ms.

    Raises:
        UnsupportedError: this host has no libbpf.
    """
    if is_forced():
        return [f"nothing, {FORCE} selects them"]
    missing = []
    for program, name in NEWER_NEEDS.items():
        try:
            libbpf.TierObject(OBJECTS / "probe.bpf.o", {}, only=program).close()
        except LoadError:
            missing.append(name)
    return missing

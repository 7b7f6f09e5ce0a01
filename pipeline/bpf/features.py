"""Which of the two sets of BPF objects this kernel can load. The sets are described in ``programs/sets.bpf.h``.

The newer set is used if its core object loads. If not, each thing that it needs is tried alone; if the kernel lacks
one, the older set is used. No version is compared: distributions add features to their kernels.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

from pipeline.bpf import libbpf
from pipeline.errors import LoadError

OBJECTS = Path(__file__).parent / "programs"

_ATOMICS = "atomic operations that return a value (Linux 5.12)"

#: What the newer set needs, by the program of probe.bpf.o that tries it.
NEWER_NEEDS = {
    "pl_try_cast": "bpf_rdonly_cast (Linux 6.2)",
    "pl_try_dynptr": "bpf_ringbuf_reserve_dynptr (Linux 5.19)",
    "pl_try_loop": "bpf_loop (Linux 5.17)",
    "pl_try_fetch": _ATOMICS,
}

#: If this variable is "old", the older set is used on every kernel: for tests and benches. If it is "old-MACHINE", with
#: a key of OLD_MACHINES, the set of that machine is used. That for aarch64 is right on x86-64, too; not so the reverse.
FORCE = "PROCLINE_BPF_PROGRAMS"

#: The older set of each machine that has one: what the names of its objects end with.
OLD_MACHINES = {"x86_64": ".old.bpf.o", "aarch64": ".old.aarch64.bpf.o"}

#: Machines whose older set needs no atomic operations that return a value. There an addition is a full barrier
#: (programs/sets.bpf.h), and programs take locks where others exchange words.
_LOCKING_MACHINES = ("x86_64",)

#: Objects that exist in both sets.
OLD_NAMES = (
    "procline", "context", "signal", "calls", "cred_fentry", "cred_kprobe", "cred_sampled", "cred_syscalls", "iter",
    "probe",
)  # fmt: skip


def is_forced() -> bool:
    """Return whether the environment selects the older set."""
    return os.environ.get(FORCE) in {"old", *(f"old-{machine}" for machine in OLD_MACHINES)}


def has_locks() -> bool:
    """Return whether the older set has locks where the newer one exchanges words."""
    return _old_machine() in _LOCKING_MACHINES


def object_path(name: str, is_old: bool) -> Path:
    """Return the path of an object, such as ``procline``, of one of the sets."""
    return OBJECTS / f"{name}{OLD_MACHINES[_old_machine()] if is_old else '.bpf.o'}"


def without_older(lacks: Collection[str]) -> str:
    """Return why no older set is for this machine and a kernel that lacks something; empty if one is."""
    machine = _old_machine()
    if machine not in OLD_MACHINES:
        return f"there are none for older kernels on {machine}"
    if _ATOMICS in lacks and not has_locks():
        return f"on {machine} those for older kernels need atomic operations that return a value as well (Linux 5.18)"
    return ""


def _old_machine() -> str:
    """Return the machine whose older set is used: this one, unless the environment names another one."""
    named = os.environ.get(FORCE, "").partition("old-")[2]
    return named if named in OLD_MACHINES else os.uname().machine


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

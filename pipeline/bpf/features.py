"""Which of the two sets of BPF objects this kernel can load. The sets are described in ``programs/sets.bpf.h``.

The newer set is used if its core object loads. If not, each thing that it needs is tried alone, to say what the kernel
lacks, and the older set is tried. No version is compared: distributions add features to their kernels.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import NamedTuple, TypeVar

from pipeline.bpf import host, libbpf, misses, syscall
from pipeline.errors import LoadError, UnsupportedError

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

#: On these machines an addition is a full barrier (programs/sets.bpf.h). So their older set needs no atomic operations
#: that return a value, and its programs take locks where other sets exchange words.
_LOCKING_MACHINES = ("x86_64",)

#: Errors by which the kernel says that something is short at the moment, and nothing about what was tried.
SHORTAGES = frozenset({errno.ENOMEM, errno.EAGAIN, errno.EINTR, errno.EMFILE, errno.ENFILE})
#: Errors that do not mean that the kernel lacks a feature. It checks permissions before it reads the program.
_SAYS_NOTHING = SHORTAGES | {errno.EPERM}

#: Objects that exist in both sets.
OLD_NAMES = (
    "procline", "context", "signal", "calls", "cred_fentry", "cred_kprobe", "cred_sampled", "cred_syscalls", "iter",
    "probe",
)  # fmt: skip

#: What the version of a kernel contains that preempts nearly everything.
REAL_TIME = "PREEMPT_RT"
#: Attach kinds whose programs PREEMPT_RT can preempt on every kernel.
TRAMPOLINES = ("fentry", "fexit")
#: Why they are not used where `share_buffers`.
SHARED_BUFFERS = "a program that is preempted would share its buffer with the next process (Linux 5.12 prevents that)"


def share_buffers(program_fd: int) -> bool:
    """Return whether programs of TRAMPOLINES run for another process on a CPU on which they were preempted.

    A record could then contain facts of both. The kernels that skip such runs are those that count them; any program
    shows whether this one does.
    """
    return REAL_TIME in os.uname().version and syscall.info_bytes(program_fd) < misses.COUNTING_INFO_BYTES


def is_split(function: str) -> bool:
    """Return whether the compiler divided a kernel function: callers in the same file may call only its second part.

    A program on the function would miss these calls. gcc names the second part ``FUNCTION.part.0``. True if unknown.
    """
    part = f" {function}.part.".encode()
    kept = b""
    try:
        with Path("/proc/kallsyms").open("rb", buffering=0) as symbols:
            while read := symbols.read(1 << 20):  # of 5 MB
                if part in kept + read:
                    return True
                kept = read[-len(part) :]
    except OSError:
        return True
    return not kept


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


Loaded = TypeVar("Loaded")


class Needs(NamedTuple):
    """The needs of the newer set that this kernel does not meet, each by its name in NEWER_NEEDS.

    Attributes:
        lacking: what the kernel lacks.
        unknown: what the kernel may have, with the reason for which it refused the trial.
    """

    lacking: tuple[str, ...]
    unknown: Mapping[str, str]


def needs() -> Needs:
    """Try each thing that the newer set needs, which takes some ms.

    Raises:
        UnsupportedError: this host has no libbpf.
    """
    lacking: list[str] = []
    unknown: dict[str, str] = {}
    for program, name in NEWER_NEEDS.items():
        try:
            libbpf.TierObject(OBJECTS / "probe.bpf.o", {}, only=program).close()
        except LoadError as error:
            if says_nothing(error):
                unknown[name] = os.strerror(errno_of(error))
            else:
                lacking.append(name)
    return Needs(tuple(lacking), unknown)


def errno_of(error: LoadError) -> int:
    """Return what the kernel answered; 0 if that is unknown."""
    return error.__cause__.errno or 0 if isinstance(error.__cause__, OSError) else 0


def says_nothing(error: LoadError) -> bool:
    """Whether the kernel refused for a reason that does not depend on what was loaded."""
    return errno_of(error) in _SAYS_NOTHING


def choose(load: Callable[[bool], Loaded]) -> tuple[Loaded, tuple[str, ...]]:
    """Load the newer set, or the older one if the kernel rejects that.

    Args:
        load: loads the core object; the argument is whether that of the older set.

    Returns:
        What `load` returned, and why it is of the older set: what the kernel lacks, or how it rejects the newer set.
        Empty: it is of the newer set.

    Raises:
        UnsupportedError: the kernel lacks something for the newer set, and rejects the older one, or there is none for
            this machine.
        LoadError: the kernel rejected what there is for another reason.
    """
    if is_forced():
        found = Needs((f"nothing, {FORCE} selects them",), {})
        if reason := without_older(()):
            raise _too_old(found, reason)
        return load(True), found.lacking
    try:
        return load(False), ()
    except LoadError as error:
        # A traceback would keep this frame and the caller's, and with it the caller's view of a map.
        refusal = error.with_traceback(None)
    found = needs()
    if reason := without_older(found.lacking):
        if not found.lacking:
            raise refusal
        raise _too_old(found, reason) from refusal
    try:
        return load(True), found.lacking or (f"nothing that is known, but {_rejection(refusal, found)}",)
    except LoadError as error:
        if found.lacking:
            raise _too_old(found, f"it rejects those for older kernels too: {error}") from error
        both = f"{_rejection(refusal, found)}; it rejects those for older kernels too: {error}"
        raise LoadError(both, program=refusal.program, log_tail=refusal.log_tail) from refusal.__cause__


def _rejection(refusal: LoadError, found: Needs) -> str:
    return f"the kernel rejects the newer BPF programs: {refusal}{_unknown(found)}"


def _unknown(found: Needs) -> str:
    if not found.unknown:
        return ""
    reasons = ", ".join(dict.fromkeys(found.unknown.values()))
    return f" (it is not known whether the kernel has {', '.join(found.unknown)}: {reasons})"


def _too_old(found: Needs, reason: str) -> UnsupportedError:
    lacks = f"{', '.join(found.lacking)}{_unknown(found)}"
    return UnsupportedError(
        f"kernel {os.uname().release} is too old for the BPF programs: it lacks {lacks}; {reason}",
        feature="kernel",
        needs=host.OLDEST,
        hint="use --source proc-connector",
    )

"""Detect what this host offers to the capture, by reading and by trying, for `procline doctor`.

A probe has three outcomes: present, absent, unknown. Attach kinds are tested by attaching an empty program of the same
kind, because a kernel may list a kind and still reject it. A general feature test would not do: one that uses fentry
reports that tp_btf does not work either.
"""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pipeline.bpf import host
from pipeline.errors import LoadError, UnsupportedError

OBJECT = Path(__file__).parent / "programs" / "probe.bpf.o"

LOCKDOWN = Path("/sys/kernel/security/lockdown")

#: Attach kind -> what is missing without it, and what to do.
ATTACH_KINDS = {
    "tp_btf": ("fork, exec, exit: nothing can be captured", "use --source proc-connector"),
    "iter": ("start and repair read /proc instead, which is slower", ""),
    "fentry": ("changes of credentials: kprobe or comparison are used instead", ""),
    "kprobe": ("changes of credentials: fentry or comparison are used instead", ""),
    "tp/syscalls": ('capture.credentials = "syscalls" cannot be used', ""),
}

#: Ways to capture changes of credentials that `auto` selects, best first, as in loader.CREDENTIALS: attach kind -> its
#: effect.
_CREDENTIALS = {
    "fentry": "seen at once, at no cost to others",
    "kprobe": "seen at once, at no cost to others",
    "iter": "seen within capture.sampling_interval_s by comparison, at no cost to others; not seen: a change that is "
    "reverted before the next comparison, and changes of a process that ends before it, except those that its exit "
    "record contains",
}
#: The alternative to comparison, which a user must select.
_SYSCALLS = (
    'capture.credentials = "syscalls" sees every change at once; every system call of the host is then slower by '
    f"{host.SYSCALLS_COST}"
)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that a host has or lacks.

    Attributes:
        name: what was tested.
        ok: True if present, False if absent, None if unknown.
        detail: what was found.
        hint: what to do; empty if nothing is needed.
    """

    name: str
    ok: bool | None
    detail: str
    hint: str = ""


def findings() -> list[Finding]:
    """Run all probes; briefly loads and attaches empty programs if that is permitted."""
    kinds = {kind: attach_kind(kind) for kind in ATTACH_KINDS}
    return [
        Finding("kernel", True, os.uname().release),
        _btf(),
        _libbpf(),
        _capabilities(),
        *kinds.values(),
        programs(),
        credentials(kinds),
        _jit(),
        _lockdown(),
        _memlock(),
        _cpus(),
    ]


def attach_kind(kind: str) -> Finding:
    """Test one of ATTACH_KINDS."""
    name = f"attach {kind}"
    program = f"pl_try_{kind.replace('/', '_')}"
    without, hint = ATTACH_KINDS[kind]
    if missing := host.missing_capabilities():
        return Finding(name, None, f"not tried: {' and '.join(missing)} missing", "run this as root")
    try:
        from pipeline.bpf import features, libbpf

        one = libbpf.TierObject(OBJECT, {}, only=program)
    except UnsupportedError as error:
        return Finding(name, None, f"not tried: {error}")
    except LoadError as error:
        return _refused(name, "load", error, without, hint)
    try:
        one.attach()
    except LoadError as error:
        return _refused(name, "attach", error, without, hint)
    else:
        if kind in features.TRAMPOLINES and features.share_buffers(one.program_fd(program)):
            return Finding(name, False, f"{features.SHARED_BUFFERS}; {without}", hint)
    finally:
        one.close()
    return Finding(name, True, "works")


def credentials(kinds: Mapping[str, Finding]) -> Finding:
    """Return how an instance will capture changes of credentials, and why no better way works.

    Args:
        kinds: results of `attach_kind`, by attach kind.
    """
    name = "credentials"
    advice = _SYSCALLS if kinds["tp/syscalls"].ok else ""
    better: list[str] = []
    for kind, meaning in _CREDENTIALS.items():
        if kinds[kind].ok:
            why = f" ({'; '.join(better)})" if better else ""
            return Finding(name, True, f"by {kind}: {meaning}{why}", advice if kind == "iter" else "")
        better.append(f"{kind} {kinds[kind].detail.partition(';')[0]}")
    if any(kinds[kind].ok is None for kind in _CREDENTIALS):
        return Finding(name, None, "; ".join(better), next(kinds[k].hint for k in _CREDENTIALS if kinds[k].ok is None))
    return Finding(
        name, False, f"seen at the next fork, exec, exit, change of name or of cgroup ({'; '.join(better)})",
        "; ".join(filter(None, ("needs one of fentry, kprobe, iter", advice))),
    )  # fmt: skip


def _refused(name: str, step: str, error: LoadError, without: str, hint: str) -> Finding:
    cause = error.__cause__
    code = cause.errno if isinstance(cause, OSError) else None
    detail = f"rejected at {step}" + (f" ({errno.errorcode.get(code, code)})" if code else f": {error}")
    if code in (errno.ENOMEM, errno.EAGAIN, errno.EINTR, errno.EMFILE, errno.ENFILE):
        return Finding(name, None, detail, "try again")
    return Finding(name, False, f"{detail}; {without}", hint)


def _libbpf() -> Finding:
    from pipeline.bpf import libbpf

    try:
        found = libbpf.library()
    except UnsupportedError as error:
        return Finding("libbpf", False, str(error).removesuffix(f"; {error.hint}"), error.hint)
    return Finding("libbpf", True, f"{found.libbpf_version_string().decode()} ({found.path})")


def programs() -> Finding:
    """Return which set of programs this kernel gets, and what it lacks for the newer one."""
    from pipeline.bpf import features

    if missing := host.missing_capabilities():
        return Finding("programs", None, f"not tried: {' and '.join(missing)} missing", "run this as root")
    try:
        lacking = features.lacking()
    except UnsupportedError as error:
        return Finding("programs", None, f"not tried: {error}")
    if not lacking:
        return Finding("programs", True, "the newer set")
    machine = os.uname().machine
    lacks = f"this kernel lacks {', '.join(lacking)}"
    if machine not in features.OLD_MACHINES:
        detail = f"none for older kernels on {machine}; {lacks}"
        return Finding("programs", False, detail, "use --source proc-connector")
    return Finding(
        "programs", True, f"the set for older kernels, which costs more for each event; {lacks}",
        "a newer kernel gets the newer set; docs/kernels.md says what else it offers",
    )  # fmt: skip


def _btf() -> Finding:
    try:
        size = host.BTF.stat().st_size
    except FileNotFoundError:
        return Finding("btf", False, f"{host.BTF} is missing", "needs a kernel with CONFIG_DEBUG_INFO_BTF")
    except OSError as error:
        return Finding("btf", None, f"{host.BTF}: {error.strerror}")
    return Finding("btf", True, f"{size} bytes")


def _capabilities() -> Finding:
    have = host.effective_capabilities()
    missing = host.missing_capabilities()
    if missing:
        return Finding(
            "capabilities", False, f"{' and '.join(missing)} missing", "run as root, or give the service these"
        )
    if "CAP_SYS_PTRACE" not in have:
        return Finding(
            "capabilities", True, f"{', '.join(sorted(have))}; no CAP_SYS_PTRACE: no executables from /proc at start"
        )
    return Finding("capabilities", True, ", ".join(sorted(have)))


def _jit() -> Finding:
    try:
        value = Path("/proc/sys/net/core/bpf_jit_enable").read_text().strip()
    except OSError as error:
        return Finding("jit", None, f"net.core.bpf_jit_enable: {error.strerror}")
    if value == "0":
        return Finding("jit", False, "BPF programs are interpreted", "sysctl net.core.bpf_jit_enable=1")
    return Finding("jit", True, f"net.core.bpf_jit_enable={value}")


def _lockdown() -> Finding:
    try:
        text = LOCKDOWN.read_text()
    except OSError as error:
        return Finding("lockdown", None, f"{LOCKDOWN}: {error.strerror}")
    mode = text.partition("[")[2].partition("]")[0]
    if mode == "confidentiality":
        return Finding("lockdown", False, mode, "BPF programs may not read kernel memory in this mode")
    return Finding("lockdown", True, mode or text.strip())


def _memlock() -> Finding:
    soft, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    amount = "unlimited" if soft == resource.RLIM_INFINITY else f"{soft} bytes"
    # libbpf raises it where it must: on kernels before Linux 5.11, which need CAP_SYS_RESOURCE for that.
    return Finding("memlock", True, f"{amount}; counts before Linux 5.11 only, since then the memory cgroup does")


def _cpus() -> Finding:
    online, possible = host.online_cpus(), host.possible_cpus()
    detail = f"{len(online)} online of {len(possible)} possible"
    if max(possible) >= host.CPU_ROOM:
        return Finding(
            "cpus", False, f"{detail}; the highest is {max(possible)}", f"at most {host.CPU_ROOM} are possible"
        )
    return Finding("cpus", True, detail)

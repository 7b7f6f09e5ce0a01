"""Detect what this host offers to the capture, by reading and by trying, for `procline doctor`.

A probe has three outcomes: present, absent, unknown. Attach kinds are tested by attaching an empty program of the same
kind, because a kernel may list a kind and still reject it. A general feature test would not do: one that uses fentry
reports that tp_btf does not work either.
"""

from __future__ import annotations

import errno
import os
import re
import resource
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pipeline.bpf import host, syscall
from pipeline.config import methods
from pipeline.errors import LoadError, UnsupportedError

OBJECT = Path(__file__).parent / "programs" / "probe.bpf.o"

LOCKDOWN = Path("/sys/kernel/security/lockdown")
#: How the kernel preempts itself: all settings, the one in use in parentheses. Needs debugfs.
PREEMPT = Path("/sys/kernel/debug/sched/preempt")
COMMAND_LINE = Path("/proc/cmdline")
#: Settings with which a program can be preempted.
_PREEMPTING = ("full", "lazy")
#: What the version of a kernel contains that has no other setting.
_ALWAYS = "PREEMPT"

#: Attach kind -> what is missing without it, and what to do.
ATTACH_KINDS = {
    "tp_btf": ("fork, exec, exit: nothing can be captured", "use --source proc-connector"),
    "iter": ("start and repair read /proc instead, which is slower", ""),
    "fentry": ("changes of credentials: kprobe or comparison are used instead", ""),
    "kprobe": ("changes of credentials: fentry or comparison are used instead", ""),
    "tp/syscalls": ('capture.credentials = "syscalls" cannot be used', ""),
}

#: Methods for changes of credentials (values of `capture.credentials`), best first, as in loader.CREDENTIALS -> attach
#: kind.
_METHODS = {"fentry": "fentry", "kprobe": "kprobe", "sampled": "iter", "syscalls": "tp/syscalls"}
#: Those that `auto` selects from.
_OF_AUTO = ("fentry", "kprobe", "sampled")
#: Those with a limit or a price, which the complete report always shows.
_LIMITED = ("sampled", "syscalls")
#: What to do if a method does not see all changes at once on this kernel.
_COMPLETED = "docs/sources.md says how such changes are found, and marked"
#: What to do if the method that `auto` uses sees too little.
_SYSCALLS = f'capture.credentials = "syscalls": {methods.SEES["syscalls"]}'

#: What programs of a method record, for those that some kernels have no attach point for.
_CHANGES = {
    "pl_set_loginuid": "the login uid",
    "pl_tty_release": "the release of a terminal",
    "pl_tty_hangup": "hangups of terminals",
    "pl_change_pid": "session and process group",
    "pl_move_pid": "setpgid() of a child",
    "pl_tty_set": "a new terminal",
    "pl_clear_tty": "the terminal of a new session",
    "pl_switch_ns": "namespaces",
}

#: What to do if the kernel does not permit BPF programs to a process with the capabilities, as in a user namespace.
_NOT_PERMITTED = "run as root of the host, or use --source proc-connector"


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


def findings(choice: str = "auto", task_iterator: str = "auto") -> list[Finding]:
    """Run all probes; briefly loads programs, and attaches some that record nothing, if that is permitted.

    Args:
        choice: the setting `capture.credentials`.
        task_iterator: the setting `capture.task_iterator`.
    """
    kinds = {kind: attach_kind(kind) for kind in ATTACH_KINDS}
    late = seen_late(method_of(kinds, choice, task_iterator), task_iterator)
    return [
        Finding("kernel", True, os.uname().release),
        _btf(),
        _libbpf(),
        _capabilities(),
        *kinds.values(),
        programs(),
        credentials(kinds, choice, task_iterator, late),
        *limits(kinds, task_iterator),
        _jit(),
        _lockdown(),
        preemption(kinds),
        memlock(),
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


def method_of(kinds: Mapping[str, Finding], choice: str = "auto", task_iterator: str = "auto") -> str:
    """Return which method an instance will use, a key of loader.CREDENTIALS; "off" if none; arguments as below."""
    works = _methods(kinds, task_iterator)
    candidates = _OF_AUTO if choice == "auto" else (choice,)
    return next((each for each in candidates if each in works and works[each].ok), "off")


def seen_late(method: str, task_iterator: str = "auto") -> str:
    """Return which changes a method does not see at once on this kernel; empty: it sees all, or that is unknown.

    Args:
        method: a key of loader.CREDENTIALS, or "off".
        task_iterator: the setting `capture.task_iterator`.
    """
    if method in {"sampled", "off"} or host.missing_capabilities():
        return ""
    from pipeline.bpf import loader

    try:
        with loader.CredentialsTrial(method, task_iterator) as trial:
            (gaps,) = (gaps for name, gaps in trial.gaps.items() if name == loader.CREDENTIALS[method].name)
            is_completed = any(tier.is_on for tier in trial.tiers if tier.name == loader.CREDENTIALS["sampled"].name)
    except (LoadError, UnsupportedError):
        return ""  # other findings say why
    late = [", ".join(_CHANGES.get(program, program) for program in gaps.lacking)] if gaps.lacking else []
    if gaps.is_uncounted:
        late.append("what the programs miss, which this kernel does not count")
    if not late:
        return ""
    when = (
        "within capture.sampling_interval_s, by comparison" if is_completed else "with the next record of the process"
    )
    return f"on this kernel seen only {when}: {'; '.join(late)}"


def credentials(
    kinds: Mapping[str, Finding], choice: str = "auto", task_iterator: str = "auto", late: str = ""
) -> Finding:
    """Return how an instance will capture changes of credentials, and why no better way works.

    Args:
        kinds: results of `attach_kind`, by attach kind.
        choice: the setting `capture.credentials`.
        task_iterator: the setting `capture.task_iterator`.
        late: the result of `seen_late` for the method that the instance will use.
    """
    works = _methods(kinds, task_iterator)
    if choice == "auto":
        return _automatic(works, late)
    hint = _alternative(choice, works)
    if choice == "off":
        return Finding("credentials", True, f'capture.credentials is "off": {methods.SEES["off"]}', hint)
    found = works[choice]
    if found.ok:
        return Finding("credentials", True, _by(choice, late), hint or (_COMPLETED if late else ""))
    detail = f'capture.credentials is "{choice}": {_reason(choice, found)}'
    return Finding("credentials", found.ok, detail, found.hint if found.ok is None else 'set it to "auto"')


def limits(kinds: Mapping[str, Finding], task_iterator: str = "auto") -> list[Finding]:
    """Return what the methods with a limit or a price see and cost, whichever method is used; arguments as above."""
    return [
        Finding(
            f"method {method}", found.ok,
            methods.SEES[method] + ("" if found.ok else f" ({_reason(method, found)})"), found.hint,
        )
        for method, found in _methods(kinds, task_iterator).items()
        if method in _LIMITED
    ]  # fmt: skip


def _methods(kinds: Mapping[str, Finding], task_iterator: str) -> dict[str, Finding]:
    found = {method: kinds[kind] for method, kind in _METHODS.items()}
    if task_iterator == "off":
        found["sampled"] = Finding("attach iter", False, 'capture.task_iterator is "off"')
    return found


def _reason(method: str, found: Finding) -> str:
    """Return why a method does not work."""
    return f"{_METHODS[method]} {found.detail.partition(';')[0]}"


def _by(method: str, late: str) -> str:
    """Return what an instance sees by a method."""
    return f"by {_METHODS[method]}: {'; '.join(filter(None, (methods.SEES[method], late)))}"


def _automatic(works: Mapping[str, Finding], late: str) -> Finding:
    name = "credentials"
    better: list[str] = []
    for method in _OF_AUTO:
        if works[method].ok:
            why = f" ({'; '.join(better)})" if better else ""
            hint = _alternative(method, works) or (_COMPLETED if late else "")
            return Finding(name, True, f"{_by(method, late)}{why}", hint)
        better.append(_reason(method, works[method]))
    unknown = [works[method] for method in _OF_AUTO if works[method].ok is None]
    if unknown:
        return Finding(name, None, "; ".join(better), unknown[0].hint)
    advice = _SYSCALLS if works["syscalls"].ok else ""
    return Finding(
        name, False,
        f"{methods.SEES['off']}; hangups of terminals by the comparison with /proc ({'; '.join(better)})",
        "; ".join(filter(None, ("needs one of fentry, kprobe, iter", advice))),
    )  # fmt: skip


def _alternative(method: str, works: Mapping[str, Finding]) -> str:
    """Return what to do about the limits or the price of a method; empty if it has none."""
    if method not in {*_LIMITED, "off"}:
        return ""
    automatic = next((each for each in _OF_AUTO if works[each].ok), "off")
    if automatic != method:
        return f'capture.credentials = "auto" uses {automatic}: {methods.SEES[automatic]}'
    return _SYSCALLS if works["syscalls"].ok else f"no other method works: {_reason('syscalls', works['syscalls'])}"


def _refused(name: str, step: str, error: LoadError, without: str, hint: str) -> Finding:
    from pipeline.bpf import features

    code = features.errno_of(error)
    detail = f"rejected at {step}" + (f" ({errno.errorcode.get(code, code)})" if code else f": {error}")
    if code in features.SHORTAGES:
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
    """Return which set of programs this kernel gets, and why not the newer one."""
    from pipeline.bpf import features, libbpf

    if missing := host.missing_capabilities():
        return Finding("programs", None, f"not tried: {' and '.join(missing)} missing", "run this as root")
    try:
        core, lacking = features.choose(lambda is_old: libbpf.CoreObject(features.object_path("procline", is_old)))
    except UnsupportedError as error:
        if error.feature == "libbpf":
            return Finding("programs", None, f"not tried: {error}")
        return Finding("programs", False, str(error).removesuffix(f"; {error.hint}"), error.hint)
    except LoadError as error:
        if features.says_nothing(error):
            is_short = features.errno_of(error) in features.SHORTAGES
            return Finding("programs", None, str(error), "try again" if is_short else _NOT_PERMITTED)
        return Finding("programs", False, str(error), "use --source proc-connector")
    core.close()
    if not lacking:
        return Finding("programs", True, "the newer set")
    return Finding(
        "programs", True, f"the set for older kernels, which costs more for each event; lacking: {', '.join(lacking)}",
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


def preemption(kinds: Mapping[str, Finding]) -> Finding:
    """Return whether this kernel can preempt BPF programs, and then skips events of other processes.

    Args:
        kinds: results of `attach_kind`, by attach kind.
    """
    setting = preempt_setting()
    if not setting:
        return Finding("preemption", None, f"set at boot; {PREEMPT} shows how, and cannot be read")
    from pipeline.bpf import features

    if setting not in {*_PREEMPTING, _ALWAYS, features.REAL_TIME}:
        return Finding("preemption", True, f"{setting}: programs are not preempted")
    if features.SHARED_BUFFERS in kinds["fentry"].detail:
        return Finding("preemption", True, f"{setting}: fentry is not used")
    return Finding(
        "preemption", True,
        f"{setting}: programs of fentry can be preempted, and since Linux 7.0 those on tracepoints too; events of "
        "other processes on that CPU are skipped meanwhile, and counted as lost, or in runs_skipped",
        "nothing to do: a repair follows each loss; docs/sources.md says which events each program misses",
    )  # fmt: skip


def preempt_setting() -> str:
    """Return how this kernel preempts itself, such as ``full``; empty if that is unknown."""
    from pipeline.bpf import features

    kinds = [word for word in os.uname().version.split() if word.startswith("PREEMPT")]
    if features.REAL_TIME in kinds:
        return features.REAL_TIME
    if not kinds:
        return "voluntary or none"
    with suppress(OSError):
        if chosen := re.search(r"\((\w+)\)", PREEMPT.read_text()):
            return chosen[1]
    if _ALWAYS in kinds:
        return _ALWAYS
    with suppress(OSError):
        *_, last = ("", *(word for word in COMMAND_LINE.read_text().split() if word.startswith("preempt=")))
        # Newer kernels ignore the other values.
        if (setting := last.removeprefix("preempt=")) in _PREEMPTING:
            return setting
    return ""


def memlock() -> Finding:
    """Return whether the memory of maps counts against RLIMIT_MEMLOCK, and whether an instance can raise that."""
    soft, hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    amount = "unlimited" if soft == resource.RLIM_INFINITY else f"{soft} bytes"
    if missing := host.missing_capabilities():
        return Finding("memlock", None, f"not tried: {' and '.join(missing)} missing", "run this as root")
    is_counted = _counts_memory(hard)
    if is_counted is None:
        return Finding("memlock", None, f"{amount}; it is not known whether BPF memory counts against it")
    if not is_counted:
        return Finding("memlock", True, f"{amount}; BPF memory does not count against it on this kernel")
    detail = f"{amount}; BPF memory counts against it on this kernel"
    if soft == resource.RLIM_INFINITY:
        return Finding("memlock", True, detail)
    # libbpf does the same at the start of an instance.
    if _can_set_memlock(resource.RLIM_INFINITY, resource.RLIM_INFINITY):
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (soft, hard))
        return Finding("memlock", True, f"{detail}, and the start of an instance raises it")
    return Finding(
        "memlock", False, f"{detail}, and raising it needs CAP_SYS_RESOURCE",
        "raise it before the start: ulimit -l unlimited, LimitMEMLOCK=infinity in a unit, or --ulimit=memlock=-1:-1 "
        "for a container. Where it is too low, the start fails with EPERM",
    )  # fmt: skip


def _counts_memory(hard: int) -> bool | None:
    """Return whether the kernel permits a map only with a limit above 0; None if it permits none with `hard` either."""
    soft = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
    made = []
    try:
        for limit in (0, hard):
            resource.setrlimit(resource.RLIMIT_MEMLOCK, (limit, hard))
            try:
                os.close(syscall.create_array())
                made.append(True)
            except OSError:
                made.append(False)
    finally:
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (soft, hard))
    return not made[0] if any(made) else None


def _can_set_memlock(soft: int, hard: int) -> bool:
    try:
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (soft, hard))
    except (ValueError, OSError):
        return False
    return True


def _cpus() -> Finding:
    online, possible = host.online_cpus(), host.possible_cpus()
    detail = f"{len(online)} online of {len(possible)} possible"
    if max(possible) >= host.CPU_ROOM:
        return Finding(
            "cpus", False, f"{detail}; the highest is {max(possible)}", f"at most {host.CPU_ROOM} are possible"
        )
    return Finding("cpus", True, detail)

"""The unknown facts about a process and its lineage, and why they are unknown."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from pipeline.records.limits import KTHREADD
from pipeline.why.facts import Link
from pipeline.why.phrases import program_text, time_text
from pipeline.why.programs import Role, role_of
from pipeline.why.proof import Finding, Unknown

if TYPE_CHECKING:
    from pipeline.why.facts import Facts, Process

#: What hides a secret in arguments, see pipeline/secrets.
_HIDDEN = "*****"
#: Signals that the kernel sends by itself: ILL, TRAP, BUS, FPE, KILL, SEGV, PIPE, XCPU, XFSZ, SYS.
_KERNELS = frozenset({4, 5, 7, 8, 9, 11, 13, 24, 25, 31})
#: Processes that are named one by one, at most.
NAMED_MAX = 4


def unknowns(facts: Facts, findings: list[Finding]) -> Iterator[Unknown]:
    """Yield what is missing."""
    yield from _origin(facts)
    yield from _subject(facts)
    yield from _gaps(facts)
    kinds = {finding.kind for finding in findings}
    yield from _sessions(facts, kinds)
    for finding in findings:
        yield from _of_finding(finding)


def _of_finding(finding: Finding) -> Iterator[Unknown]:
    """Yield what a finding leaves open."""
    pid = finding.pid
    if finding.kind == "cron_job":
        yield Unknown("crontab", "Which crontab, and which line of it, the job is from: cron does not say.", pid)
    elif finding.kind == "at_job":
        yield Unknown("at_job", "Who submitted the job, and when: atd does not say.", pid)
    elif (
        finding.kind == "ended"
        and finding.facts.get("cause") in {"signaled", "coredumped"}
        and not finding.facts.get("signal_sender")
    ):
        kernel = (
            ", or the kernel because of a fault or a lack of memory" if finding.facts.get("code") in _KERNELS else ""
        )
        text = f"Who sent the signal: a process{kernel}. "
        text += "capture.signal_senders may be off, or the kernel sent it."
        yield Unknown("signal_sender", text, pid)
    elif finding.kind == "user_change" and finding.facts.get("how") == "unknown":
        text = (
            f"How pid {pid} could change its user: its file has no set-user-ID bit, and it had no right to change ids."
        )
        yield Unknown("user_change", text, pid)
    elif finding.kind in {"user_change", "group_change"} and len(finding.facts["candidates"]) > 1:
        what = "user" if finding.kind == "user_change" else "group"
        text = f"Which of the two programs of pid {pid} changed its {what}: the change was not recorded when it "
        text += 'happened. With capture.credentials = "syscalls", an instance records each change.'
        yield Unknown("user_change", text, pid)


def _origin(facts: Facts) -> Iterator[Unknown]:
    """Yield where the history ends, and why."""
    oldest = facts.processes[-1]
    entry = oldest.image
    marks = entry.get("marks") or ()
    links = [process for process in facts.lineage if process.link is Link.PARENT]
    if links:
        # The first unknown step: what is above it is known from parents only.
        below = facts.processes[facts.lineage.index(links[0])]
        first = below.images[-1]
        reason = "its fork was not recorded"
        if "before_capture" in (first.get("marks") or ()):
            reason = "it was running when the capture began"
            reason += f" ({time_text(facts.capture_began_ns)} UTC)" if facts.capture_began_ns else ""
        text = f"Who started pid {below.pid}, and what it ran before {program_text(first)}: {reason}. "
        text += "Above it, only parents are known."
        yield Unknown("creator", text, below.pid)
    text = f"What started pid {oldest.pid}: "
    if facts.is_cut:
        text = f"What led to pid {oldest.pid}: the lineage is longer than what is read."
        yield Unknown("lineage", text, oldest.pid)
    elif oldest.pid != 1 and entry.get("ppid") != KTHREADD:
        if entry.get("creator_pid") and "before_capture" not in marks:
            text += f"it was pid {entry['creator_pid']}, which ended so long ago that it is forgotten."
        elif entry.get("ppid") == 0:
            text += "it came from outside of this pid namespace."
        else:
            text += "the recorded history begins with it."
        yield Unknown("lineage", text, oldest.pid)


def _subject(facts: Facts) -> Iterator[Unknown]:
    entry = facts.subject.image
    last = facts.subject.head or entry
    marks = entry.get("marks") or ()
    for kind, is_missing, text in (
        ("arguments", facts.arguments_hidden, f"Command lines of other users: {facts.arguments_hidden}."),
        ("arguments", not entry.get("argv") and not facts.arguments_hidden, "The command line: it could not be read."),
        ("arguments", entry.get("argv") and entry.get("args_truncated"),
         "The whole command line: it is longer than what was recorded."),
        ("secrets", any(_HIDDEN in word for word in entry.get("argv") or ()),
         "Parts of the command line: Procline hid what looks like a secret."),
        ("path", entry.get("path") is None and not entry.get("is_kworker"),
         "The path of the executable: the kernel did not report it."),
        ("user", entry.get("uid") is None, "The user: the ids of the process could not be read."),
        ("end", "exit_unseen" in (last.get("marks") or ()),
         "When and how it ended: the event was lost, so the time is an upper limit."),
        ("end", facts.subject.head is None and not facts.subject.ended_ns,
         "What became of it later: its last image is not retained."),
        ("start_time", "start_ticks" in marks and "before_capture" not in marks,
         "Its exact start: the time is from /proc and up to 10 ms early."),
        ("cgroup", entry.get("cgroup_source") == "inherited" and (entry.get("cgroup") or "/") != "/",
         "Whether its cgroup, and so its unit and container, is still that of its creator: nothing has confirmed it."),
    ):  # fmt: skip
        if is_missing:
            yield Unknown(kind, text, entry["pid"])


def _gaps(facts: Facts) -> Iterator[Unknown]:
    """Yield which processes have lost events or lost images."""
    for mark, text in (
        ("gap", "events were lost, or were completed from /proc. Programs and users in between may be missing"),
        ("head_only", "only the identity is known, because an event was recorded without its details"),
        ("elided", "earlier programs of it are no longer retained"),
    ):
        found = [process for process in facts.processes if _has(process, mark)]
        if found:
            named = ", ".join(str(process.pid) for process in found[:NAMED_MAX])
            more = f" and {len(found) - NAMED_MAX} more" if len(found) > NAMED_MAX else ""
            yield Unknown(mark, f"Part of the history of pid {named}{more}: {text}.", found[0].pid)


def _has(process: Process, mark: str) -> bool:
    return any(mark in (image.get("marks") or ()) for image in process.images)


def _sessions(facts: Facts, kinds: set[str]) -> Iterator[Unknown]:
    """Yield that an sshd is in the lineage, but no session is known."""
    if "ssh_session" in kinds:
        return
    for process in facts.lineage:
        for image in process.images:
            role = role_of(image)
            if role is not None and role[0] is Role.SSH and facts.subject.pid != process.pid:
                text = (
                    f"Whether this is an ssh login, and from where: pid {process.pid} is named {role[1]}, but Procline "
                )
                text += "knows no session. It does not believe an sshd in a container or with its own mounts, and "
                yield Unknown("ssh_session", text + "forgets old sessions.", process.pid)
                return

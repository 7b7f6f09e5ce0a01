"""Findings about how the process came to be: creator, adopter, jobs of cron and at, package managers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from pipeline.records.limits import KTHREADD
from pipeline.why.facts import Link
from pipeline.why.phrases import capital, command_text, path_text, program_text, quoted, time_text
from pipeline.why.programs import Role, maintainer_script, proof_of_program, role_of
from pipeline.why.proof import Finding, Proof
from pipeline.why.users import user_text

if TYPE_CHECKING:
    from pipeline.shm.layout.entry_types import EntryFields
    from pipeline.why.facts import Facts, Process

#: Package managers in one lineage that are mentioned, at most.
PACKAGES_MAX = 4


def findings(facts: Facts) -> Iterator[Finding]:
    """Yield who started the subject and as part of what."""
    yield from _started(facts)
    if (found := _adopted(facts)) is not None:
        yield found
    yield from _jobs(facts)
    yield from _packages(facts)


def _started(facts: Facts) -> Iterator[Finding]:
    entry = facts.subject.image
    start_ns = entry.get("start_time_ns")
    if not facts.lineage:
        if entry.get("ppid") == KTHREADD and entry["pid"] != 1:
            text = "The kernel itself started it, as it does with helper programs such as modprobe."
            yield Finding.of(entry, "started_by_kernel", Proof.KERNEL, "fork", text, None, start_ns)
        elif entry["pid"] == 1:
            text = "It is pid 1, the first process: the kernel started it when the host, or the container, started."
            yield Finding.of(entry, "is_init", Proof.KERNEL, "fork", text, None, start_ns)
        return
    above = facts.lineage[0]
    shown = f"pid {above.pid}, {program_text(above.image)}"
    command = command_text(above.image, 120)
    shown += f" with the command line {command}" if command else ""
    shown += f", as {user_text(facts, above.image)}"
    details: dict[str, Any] = {"creator_pid": above.pid, "creator_entity_id": above.image.get("entity_id")}
    if above.link is Link.CREATOR:
        yield Finding.of(entry, "started", Proof.KERNEL, "fork", f"{capital(shown)}, started it.", details, start_ns)
    else:
        text = f"Its parent is {shown}. Whether that process started it is not known."
        yield Finding.of(entry, "parent", Proof.KERNEL, "/proc", text, details, start_ns)


def _adopted(facts: Facts) -> Finding | None:
    entry, adopter = facts.subject.image, facts.adopter
    if not entry.get("is_adopted"):
        return None
    creator = next((each for each in facts.lineage[:1] if each.link is Link.CREATOR), None)
    is_predicted = "adoption_predicted" in (entry.get("marks") or ())
    ended_ns = creator.ended_ns if creator else None
    by = f"Pid {entry.get('ppid')}" + (f", {program_text(adopter)}," if adopter is not None else "")
    text = f"{by} adopted it after pid {entry.get('creator_pid')}, which had started it, ended"
    text += f" at {time_text(ended_ns)}." if ended_ns else "."
    if is_predicted:
        text += " That follows from the kernel's rules; the kernel has not confirmed it yet."
    details = {
        "adopter_pid": entry.get("ppid"), "adopter_entity_id": entry.get("parent_entity_id"),
        "creator_pid": entry.get("creator_pid"), "creator_entity_id": entry.get("creator_entity_id"),
    }  # fmt: skip
    proof = Proof.INFERRED if is_predicted else Proof.KERNEL
    return Finding.of(entry, "adopted", proof, "reparent", text, details, ended_ns)


def _jobs(facts: Facts) -> Iterator[Finding]:
    """Yield the job of cron or at that the subject belongs to: the last one in its lineage."""
    chain = facts.oldest_first
    daemons = [number for number, process in enumerate(chain) if _job_role(process)]
    if not daemons:
        return
    # The daemon forks itself for a job, so the first of a row of such processes is the daemon.
    number = daemons[-1]
    while number and _job_role(chain[number - 1]):
        number -= 1
    found, started = _job_role(chain[number]), _job(chain[number:])
    if found is None or started is None:
        return  # cron itself
    role, name, is_named, daemon = found
    is_roots = _is_roots(daemon)
    proof = proof_of_program(facts, daemon) if is_named and is_roots else Proof.CLAIMED
    who = f"{name} (pid {daemon['pid']}, {program_text(daemon)})"
    if proof is not Proof.ROOT:
        who = f"a program named {quoted(name)} (pid {daemon['pid']}, {program_text(daemon)})"
        who += ", which anybody may have named so" if is_roots else ", which had no rights of root"
    command = command_text(started)
    text = f"It is part of a job of {who}. The job: pid {started['pid']}, {program_text(started)}"
    text += f" with the command line {command}" if command else ""
    text += f", as {user_text(facts, started)}."
    details: dict[str, Any] = {
        "program": name, "daemon_pid": daemon["pid"], "daemon_entity_id": daemon.get("entity_id"),
        "job_pid": started["pid"], "job_entity_id": started.get("entity_id"), "job_argv": started.get("argv"),
    }  # fmt: skip
    kind = "cron_job" if role is Role.CRON else "at_job"
    yield Finding.of(daemon, kind, proof, "lineage", text, details, started.get("start_time_ns"))


def _is_roots(entry: EntryFields) -> bool:
    """Whether a program ran with an id of root. A user can execute cron too, with a library of his own in it."""
    return 0 in (entry.get("uid"), entry.get("euid"), entry.get("suid"))


def _job_role(process: Process) -> tuple[Role, str, bool, EntryFields] | None:
    """Return the role of a process that was cron or at in one of its images, with that image."""
    for image in reversed(process.images):
        if (found := role_of(image)) and found[0] in (Role.CRON, Role.AT):
            return *found, image
    return None


def _job(chain: list[Process]) -> EntryFields | None:
    """Return the first image that is not the daemon's."""
    for process in chain:
        for image in reversed(process.images):
            found = role_of(image)
            if found is None or found[0] not in (Role.CRON, Role.AT):
                return image
    return None


def _packages(facts: Facts) -> Iterator[Finding]:
    """Yield the package managers, and the maintainer scripts of dpkg, among the subject and its lineage."""
    count = 0
    last = ""
    for process in facts.oldest_first:
        for image in reversed(process.images):
            if not image.get("is_exec"):
                continue
            own = image is facts.subject.image
            if (script := maintainer_script(image)) is not None:
                package, name = script
                is_proven = facts.is_on_host(image) and _is_roots(image)
                of = f"of the package {package}" if package else "of a package that was not installed yet"
                path = path_text(image.get("script_path") or "")
                text = f"Pid {image['pid']} ran the maintainer script {name} {of} ({path})."
                details: dict[str, Any] = {"package": package, "script": name, "path": image.get("script_path")}
                proof = Proof.ROOT if is_proven else Proof.CLAIMED
                yield Finding.of(image, "maintainer_script", proof, "exec", text, details, image.get("exec_time_ns"))
            role = role_of(image)
            if role is None or role[0] is not Role.PACKAGES or count == PACKAGES_MAX or role[1] == last:
                continue
            count, last = count + 1, role[1]
            proof = proof_of_program(facts, image) if role[2] else Proof.CLAIMED
            named = role[1] if proof is Proof.ROOT else f"a program named {quoted(role[1])}"
            text = f"It is part of a run of {named}" if not own else f"It is {named}"
            command = command_text(image)
            text += f" (pid {image['pid']}" + (f", command line {command})" if command else ")")
            details = {"program": role[1], "argv": image.get("argv"), "path": image.get("path")}
            yield Finding.of(image, "package_manager", proof, "exec", f"{text}.", details, image.get("exec_time_ns"))

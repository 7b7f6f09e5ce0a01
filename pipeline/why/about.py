"""Findings about the process itself: its program, the state of its executable, and its end."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pipeline.records.declared import EXEC_DELETED, EXEC_MEMFD
from pipeline.screen.processes import ending, sender_of
from pipeline.screen.times import duration
from pipeline.select.programs import Kind, descriptor_of, program_of
from pipeline.why import host as hosts
from pipeline.why.facts import file_of
from pipeline.why.phrases import capital, path_text, program_text, quoted, time_text
from pipeline.why.programs import FOREIGN
from pipeline.why.proof import Finding, Proof

if TYPE_CHECKING:
    from pipeline.shm.layout.entry_types import EntryFields
    from pipeline.why.facts import Facts
    from pipeline.why.host import Host

#: Directories in which every user may create files.
_PUBLIC = ("/tmp/", "/var/tmp/", "/dev/shm/")


def findings(facts: Facts, host: Host) -> Iterator[Finding]:
    """Yield the findings about the subject, and about executables in its lineage that are unusual."""
    yield _program(facts)
    if (package := _package(facts)) is not None:
        yield package
    yield from _executables(facts)
    yield from _file_now(facts, host)
    if (end := _ended(facts)) is not None:
        yield end


def _program(facts: Facts) -> Finding:
    entry = facts.subject.image
    program = program_of(entry)
    path = program_text(entry)
    script, proof = program.script, Proof.KERNEL
    if entry.get("is_kworker"):
        text = "It is a kernel thread: it has no executable."
    elif script is not None and script == entry.get("script_path"):
        text = f"It runs the script {path_text(script)}, for which the kernel started {path}."
    elif script is not None:
        proof = Proof.CLAIMED
        text = f"{capital(path)} runs {_script_text(script)}, as its arguments say."
    elif (source := descriptor_of(entry)) is not None:
        is_kernels = source == entry.get("script_path")
        proof = Proof.KERNEL if is_kernels else Proof.CLAIMED
        said = "" if is_kernels else ", as its arguments say"
        text = f"{capital(path)} reads its script from an open file, {quoted(source)}{said}."
    elif program.kind is Kind.SHELL and _has_commands(entry.get("argv") or ()):
        text = f"{capital(path)} runs the commands in its arguments."
    else:
        text = f"It runs {path}."
        proof = Proof.KERNEL if entry.get("path") or entry.get("file") else Proof.CLAIMED
    file = file_of(entry)
    details: dict[str, Any] = {
        "name": program.name, "kind": program.kind.value, "path": entry.get("path"), "script": script,
        "script_is_claimed": proof is Proof.CLAIMED and script is not None, "interpreter": program.interpreter,
        "inode": entry.get("inode"), "sha256": entry.get("file_sha256"),
        "file_uid": file.get("uid") if file.get("inode") else None,
        "file_mode": file.get("mode") if file.get("inode") else None,
    }  # fmt: skip
    return Finding.of(entry, "program", proof, "exec", text, details, entry.get("exec_time_ns"))


def _has_commands(argv: Sequence[str]) -> bool:
    """Whether the arguments of a shell contain its commands, as in ``sh -ec 'make all'``."""
    options = itertools.takewhile(lambda word: word.startswith(("-", "+")), argv[1:])
    return any("c" in word for word in options if not word.startswith("--"))


def _package(facts: Facts) -> Finding | None:
    """Return which package installed the executable; None: unknown."""
    entry = facts.subject.image
    package = entry.get("file_package")
    if package is None:
        return None
    if package.get("name") is None:
        text = f"No Debian package installed {program_text(entry)}."
    else:
        named = f"{package['name']} {package.get('version')}"
        text = f"The Debian package {named} installed {program_text(entry)}; the file may have been changed since."
    return Finding.of(entry, "executable_package", Proof.ROOT, "/var/lib/dpkg", text, dict(package))


def _script_text(script: str) -> str:
    return f"the script {quoted(script)}" if "/" in script or "." in script else f"{quoted(script)}"


def _executables(facts: Facts) -> Iterator[Finding]:
    """Yield what is unusual about executables: in memory, deleted, or where everybody may create files.

    A child that executes nothing runs what its creator executed, so only the latter is mentioned.
    """
    seen = set()
    for process in facts.processes:
        for image in process.images:
            is_own = image.get("is_exec") or image is facts.subject.image or process is facts.processes[-1]
            if not is_own or (unusual := _unusual(image)) is None:
                continue
            kind, path, text = unusual
            if (kind, path) not in seen:
                seen.add((kind, path))
                verb = "runs" if image is facts.subject.image and not facts.subject.ended_ns else "ran"
                details = {"path": path or None, "inode": image.get("inode")}
                text = f"Pid {image['pid']} {verb} {text}"
                yield Finding.of(image, kind, Proof.KERNEL, "exec", text, details, image.get("exec_time_ns"))


def _unusual(entry: EntryFields) -> tuple[str, str, str] | None:
    """Return what is unusual about an executable: kind, path, and the rest of a sentence."""
    file = file_of(entry)
    path, script = entry.get("path") or "", entry.get("script_path") or ""
    flags = file.get("flags") or 0
    if flags & EXEC_MEMFD or path.startswith("/memfd:"):
        name = path.removeprefix("/") or file.get("basename") or "memfd:"
        text = f"from memory (memfd). It is no file on any disk; the name {quoted(name)} was chosen freely."
        return "executable_in_memory", path, text
    if flags & EXEC_DELETED:
        return (
            "executable_deleted",
            path,
            f"{program_text(entry)}, which had been deleted already when it was executed.",
        )
    if path.startswith(_PUBLIC):
        owner = f" (owner of the file: uid {file['uid']})" if file.get("inode") and file.get("uid") is not None else ""
        text = f"{program_text(entry)}, in a directory where every user may create files{owner}."
        return "executable_in_public_directory", path, text
    if script.startswith(_PUBLIC):
        text = f"the script {path_text(script)}, in a directory where every user may create files."
        return "executable_in_public_directory", script, text
    return None


def _file_now(facts: Facts, host: Host) -> Iterator[Finding]:
    """Yield whether the file at the subject's path is another one now."""
    entry = facts.subject.image
    if facts.subject.ended_ns or not facts.is_on_host(entry) or (entry.get("path") or "").startswith("/memfd:"):
        return
    if file_of(entry).get("filesystem") in FOREIGN:
        return  # it may block
    state = host.executable(entry)
    if state == hosts.DELETED:
        if not (file_of(entry).get("flags") or 0) & EXEC_DELETED:
            text = f"Its executable {program_text(entry)} has been deleted or moved since."
            yield Finding.of(
                entry, "executable_gone", Proof.KERNEL, "file system, now", text, {"path": entry.get("path")}
            )
    elif state == hosts.REPLACED:
        text = f"The file {program_text(entry)} is another one now: it was replaced since, as an update does."
        yield Finding.of(entry, "executable_replaced", Proof.KERNEL, "file system, now", text,
                       {"path": entry.get("path"), "inode": entry.get("inode")})  # fmt: skip


def _sender_text(sender: Mapping[str, Any] | None) -> str:
    if sender is None:
        return ""
    who = f"pid {sender['pid']}" if sender.get("pid") else "a process outside of the recorded pid namespace"
    name = f", which was named {quoted(str(sender['comm']))}" if sender.get("comm") else ""
    return f"; {who}{name} and ran as user {sender.get('uid')}, sent it"


def _ended(facts: Facts) -> Finding | None:
    """Return how the subject ended; None: it runs, or ran at the time that was asked about."""
    last = facts.subject.head or facts.subject.image
    ended_ns = facts.subject.ended_ns
    if ended_ns is None:
        return None
    how = ending(last)
    start_ns = last.get("start_time_ns")
    after = f", after {duration(max(0, ended_ns - start_ns))}" if start_ns is not None else ""
    is_unseen = "exit_unseen" in (last.get("marks") or ())
    sender = sender_of(last)
    if is_unseen:
        text = f"It had ended by {time_text(ended_ns)}; the end itself was not seen."
    elif last.get("exit_cause") == "exited":
        text = f"It exited with {how} at {time_text(ended_ns)}{after}."
    elif how:
        text = f"It was killed by {how} at {time_text(ended_ns)}{after}{_sender_text(sender)}."
    else:
        text = f"It ended at {time_text(ended_ns)}{after}; its exit status is not known."
    details = {
        "cause": last.get("exit_cause"), "code": last.get("exit_cause_code"), "wait_status": last.get("exit_code"),
        "lived_ns": None if start_ns is None else ended_ns - start_ns, "cpu_user_ns": last.get("cpu_user_ns"),
        "cpu_system_ns": last.get("cpu_system_ns"), "max_rss_bytes": last.get("max_rss_bytes"),
        "read_bytes": last.get("read_bytes"), "write_bytes": last.get("write_bytes"), "signal_sender": sender,
    }  # fmt: skip
    proof = Proof.INFERRED if is_unseen else Proof.KERNEL
    return Finding.of(last, "ended", proof, "exit", text, details, ended_ns)

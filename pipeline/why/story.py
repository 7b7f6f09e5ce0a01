"""The story of a process as text that can be pasted into a report."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from typing import TYPE_CHECKING

from pipeline.screen.lines import Line
from pipeline.screen.sizes import counted, size
from pipeline.screen.styles import Style
from pipeline.screen.times import duration, since
from pipeline.select.programs import Kind
from pipeline.trust import WRITABLE_BY_OTHERS
from pipeline.why.facts import Link
from pipeline.why.phrases import capital, command_text, quoted, time_text, word_text
from pipeline.why.proof import Finding, Proof, Unknown
from pipeline.why.steps import Step, steps
from pipeline.why.summary import summary
from pipeline.why.users import group_text, user_text

if TYPE_CHECKING:
    from pipeline.why.facts import Facts

#: Which finding is shown in which section. Kinds that are missing here are in the summary or in the steps.
_USER = frozenset({
    "ssh_session", "ssh_authentication", "login_session", "login_user", "kubernetes_session", "user_change",
    "group_change",
})  # fmt: skip
_HIDDEN = frozenset({"program", "started", "parent", "ended", "started_by_kernel", "is_init"})
_PROOF_NOTE = {Proof.INFERRED: " [inferred]", Proof.CLAIMED: " [claimed]", Proof.ROOT: "", Proof.KERNEL: ""}
#: The order of the other findings; those that are missing here come last, about the subject first.
_ORDER = {
    kind: number
    for number, kind in enumerate((
        "executable_package", "container", "unit", "user_manager", "user_unit", "triggered_by", "cron_job", "at_job",
        "maintainer_script", "package_manager", "adopted",
    ))
}  # fmt: skip
_LABEL = 10
#: Columns before the pid of a step.
_TIME = 27
#: An exec that follows its fork sooner is not mentioned in the facts.
EXEC_LATE_NS = 1_000_000_000
LEGEND = (
    'Text in "quotes" and lines marked [claimed] were chosen by a process or a user and prove nothing; [inferred]: it '
    "follows from other facts. Everything else was recorded by the kernel, or by the source that the line names."
)


def story(facts: Facts, findings: list[Finding], missing: list[Unknown]) -> Iterator[tuple[Line, int]]:
    """Yield the lines of the story, each with the indent of its continuation on a narrow screen."""
    yield Line((summary(facts, findings), Style.HEADING)), 0
    yield Line(), 0
    yield from ((line, _LABEL) for line in _facts(facts, findings))
    yield from _section("How it came to be (oldest first, UTC)", _steps(steps(facts, findings)), _TIME)
    yield from _section(
        f"Why it runs as {user_text(facts, facts.subject.image)}",
        [_finding(each, number) for number, each in enumerate(_of(findings, _USER), 1)]
        or [Line(f"  {_no_change(facts, findings)}")],
    )
    others = [each for each in findings if each.kind not in _USER and each.kind not in _HIDDEN]
    others.sort(key=lambda each: _ORDER.get(each.kind, len(_ORDER) + (each.pid != facts.subject.pid)))
    yield from _section("Worth knowing", [_finding(each) for each in others])
    yield from _section("Not known", [Line(("  - ", Style.FAINT), each.text) for each in missing])
    yield Line(), 0
    yield Line((LEGEND, Style.FAINT)), 0


def _section(title: str, lines: list[Line], indent: int = 4) -> Iterator[tuple[Line, int]]:
    if lines:
        yield Line(), 0
        yield Line((title, Style.HEADING)), 0
        yield from ((line, indent) for line in lines)


def _of(findings: list[Finding], kinds: frozenset[str]) -> list[Finding]:
    return [each for each in findings if each.kind in kinds]


def _finding(finding: Finding, number: int | None = None) -> Line:
    line = Line((f"  {number}. " if number else "  - ", Style.FAINT), finding.text)
    return line.add(_PROOF_NOTE[finding.proof], Style.WARNING)


def _facts(facts: Facts, findings: list[Finding]) -> Iterator[Line]:
    entry = facts.subject.image
    by_kind = {finding.kind: finding for finding in findings}

    def row(label: str, text: str, style: Style = Style.PLAIN) -> Line:
        return Line((f"{label:{_LABEL}}", Style.FAINT), (text, style))

    program = by_kind["program"]
    yield row("Program", capital(program.text.removeprefix("It runs ").removesuffix(".")) + _file_note(program) + ".")
    if command := command_text(entry, 1000):
        yield row("Command", command)
    if entry.get("cwd"):
        yield row("Directory", quoted(entry["cwd"]))
    start_ns = entry.get("start_time_ns")
    yield row("Started", f"{time_text(start_ns)} UTC, {since(start_ns, facts.now_ns)}" if start_ns else "unknown")
    exec_ns = entry.get("exec_time_ns")
    if entry.get("is_exec") and exec_ns and start_ns and exec_ns - start_ns >= EXEC_LATE_NS:
        yield row("Executed", f"{time_text(exec_ns)} UTC: until then the process ran another program")
    if facts.at_ns is not None:
        yield row("Asked for", f"{time_text(facts.at_ns)} UTC; the story is as of then")
    if ended := by_kind.get("ended"):
        style = Style.FAILED if ended.facts.get("wait_status") else Style.PLAIN
        yield row("Ended", capital(ended.text.removeprefix("It was ").removeprefix("It ")), style)
        if used := _used(ended):
            yield row("Used", used)
    user = f"{user_text(facts, entry)}, group {group_text(facts, entry)}"
    yield row("User", user, Style.ROOT if entry.get("euid") == 0 else Style.PLAIN)
    if entry.get("tty"):
        yield row("Terminal", word_text(str(entry["tty"])))


def _used(ended: Finding) -> str:
    """Return what a process used until its end; empty if that is unknown."""
    facts = ended.facts
    parts = []
    if facts.get("cpu_user_ns") is not None and facts.get("cpu_system_ns") is not None:
        parts.append(f"{duration(facts['cpu_user_ns'] + facts['cpu_system_ns'])} of CPU time")
    if facts.get("max_rss_bytes") is not None:
        parts.append(f"at most {size(facts['max_rss_bytes'])} of memory")
    if facts.get("read_bytes") is not None and facts.get("write_bytes") is not None:
        parts.append(f"{size(facts['read_bytes'])} read from and {size(facts['write_bytes'])} written to storage")
    return ", ".join(parts)


def _file_note(program: Finding) -> str:
    """Return who owns the file that runs, and whether others can change it."""
    uid, mode = program.facts.get("file_uid"), program.facts.get("file_mode")
    in_memory = str(program.facts.get("path") or "").startswith("/memfd:")
    if uid is None or in_memory or program.facts.get("kind") == Kind.KERNEL.value:
        return ""
    owner = "root" if uid == 0 else f"uid {uid}"
    what = "file" if program.facts.get("script") is None else "file of the interpreter"
    others = (
        "not only its owner can write to it"
        if int(str(mode or 0)) & WRITABLE_BY_OTHERS
        else f"only {owner} can write to it"
    )
    return f"; the {what} belongs to {owner}, and {others}"


def _no_change(facts: Facts, findings: list[Finding]) -> str:
    # Above a parent that is not known to be the creator, users prove nothing about this process.
    links = [each.link for each in facts.lineage]
    oldest = facts.processes[links.index(Link.PARENT) if Link.PARENT in links else -1]
    if not facts.lineage:
        is_by_kernel = any(each.kind in {"is_init", "started_by_kernel"} for each in findings)
        return "The kernel started it with this user." if is_by_kernel else "Nothing before it is known."
    return f"No change of user is recorded since pid {oldest.pid}, where the recorded history begins."


def _steps(found: list[Step]) -> list[Line]:
    lines = []
    day = last = None
    for step in found:
        if step.omitted:
            lines.append(Line((f"  … {counted(step.omitted, 'more process')} …", Style.FAINT)))
        entry = step.process.image
        start_ns = entry.get("start_time_ns")
        line = Line("  ")
        own_day = None if start_ns is None else datetime.datetime.fromtimestamp(start_ns // 10**9, datetime.UTC).date()
        line.add(time_text(start_ns)[0 if own_day != day else 11 :].rjust(23), Style.TIME)
        day = own_day
        line.add("  ").add(f"pid {step.process.pid}", Style.PID).add(": " + ", ".join(step.parts))
        if (command := command_text(entry, 100)) and command != last:
            line.add(f"  {command}", Style.FAINT)
        last = command
        lines.append(line)
    return lines

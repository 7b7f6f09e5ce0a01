"""The story in two or three sentences."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.screen.processes import ending
from pipeline.screen.times import duration
from pipeline.why import users
from pipeline.why.facts import Link
from pipeline.why.phrases import container_mark, name_text, path_text, quoted, time_text, unit_text, word_text
from pipeline.why.proof import Proof
from pipeline.why.users import user_text

if TYPE_CHECKING:
    from pipeline.why.facts import Facts
    from pipeline.why.proof import Finding

#: Programs that give a session, a job or a service its user: their changes are no surprise.
_EXPECTED = frozenset({"cron", "crond", "atd", "sshd", "sshd-session", "login", "systemd", "systemd-executor", "init"})
#: Changes of user that the summary names, at most.
CHANGES_MAX = 3


def state_of(facts: Facts) -> str:
    """Return ``running`` or ``ended``: now, or at the time that was asked about."""
    return "ended" if facts.subject.ended_ns and facts.at_ns is None else "running"


def summary(facts: Facts, findings: list[Finding]) -> str:
    """Return what the process is, who started it, and how it ended, in a few sentences."""
    by_kind = {finding.kind: finding for finding in findings}
    return " ".join(
        filter(None, [_what(facts, by_kind), _who(facts, findings, by_kind), _changes(facts, findings), _end(facts)])
    )


def _what(facts: Facts, by_kind: dict[str, Finding]) -> str:
    entry = facts.subject.image
    verb = "ran" if state_of(facts) == "ended" or facts.at_ns is not None else "runs"
    text = f"{name_text(entry)} (pid {entry['pid']}) {verb} as {user_text(facts, entry)}"
    if container := by_kind.get("container"):
        name = container.facts.get("name") or str(container.facts["id"])[:12]
        text += f" in the container {word_text(name)}{container_mark(entry)}"
    elif (unit := by_kind.get("unit")) and unit.proof is Proof.ROOT:
        text += f" in the systemd unit {unit_text(str(unit.facts['unit']))}"
    return text + "."


def _who(facts: Facts, findings: list[Finding], by_kind: dict[str, Finding]) -> str:
    if not facts.lineage:
        for kind in ("started_by_kernel", "is_init"):
            if kind in by_kind:
                return by_kind[kind].text
        return "Who started it is not known."
    above = facts.lineage[0]
    when = time_text(facts.subject.image.get("start_time_ns")) + " UTC"
    name = f"{name_text(above.image)} (pid {above.pid})"
    if above.link is Link.CREATOR:
        text = f"{name} started it on {when}"
    else:
        text = f"It has run since {when}; its parent is {name}, but who started it is not known"
    via = []
    for kind, job in (("cron_job", "cron"), ("at_job", "at")):
        if kind in by_kind and by_kind[kind].proof is Proof.ROOT:
            via.append(f"as part of a job of {job}")
    if "triggered_by" in by_kind and by_kind["triggered_by"].proof is Proof.ROOT:
        via.append(f"triggered by {unit_text(str(by_kind['triggered_by'].facts['unit']))}")
    session = by_kind.get("ssh_session")
    if session is not None and session.source != "context event":
        user, ip = session.facts.get("username") or "?", session.facts.get("client_ip")
        where = (
            "an unknown address" if not ip else str(ip) if session.proof is Proof.ROOT else f"{quoted(ip)} (unverified)"
        )
        via.append(f"in the ssh session of {word_text(user)} from {where}")
    elif "login_session" in by_kind and by_kind["login_session"].facts.get("user"):
        via.append(f"in a login session of {word_text(by_kind['login_session'].facts['user'])}")
    if "maintainer_script" in by_kind and by_kind["maintainer_script"].proof is Proof.ROOT:
        package = by_kind["maintainer_script"].facts.get("package")
        via.append(
            f"by a maintainer script of the package {package}" if package else "by a package's maintainer script"
        )
    elif "package_manager" in by_kind and by_kind["package_manager"].proof is Proof.ROOT:
        outermost = next(finding for finding in findings if finding.kind == "package_manager")
        if outermost.pid != facts.subject.pid:
            via.append(f"in a run of {outermost.facts['program']}")
    return ", ".join([text, *via]) + "."


def _changes(facts: Facts, findings: list[Finding]) -> str:
    """Return which programs changed the user, apart from those that give each session or job its user."""
    changed = [
        finding for finding in findings
        if finding.kind == "user_change" and finding.facts.get("program") not in _EXPECTED
        and finding.facts.get("creator_pid") != 1  # a service manager gives each service its user
    ]  # fmt: skip
    if not changed:
        return ""
    names = [
        str(each.facts["program"] or " or ".join(path_text(str(path or "?")) for path in each.facts["candidates"]))
        for each in changed[-CHANGES_MAX:]
    ]
    is_on_host = all(facts.is_on_host(image) for process in facts.processes for image in process.images)
    first = users.text_of(changed[-len(names)].facts["from"], is_on_host=is_on_host)
    last = users.text_of(changed[-1].facts["to"], is_on_host=is_on_host)
    return f"On the way, {' and then '.join(dict.fromkeys(names))} changed the user from {first} to {last}."


def _end(facts: Facts) -> str:
    subject = facts.subject
    start_ns = subject.image.get("start_time_ns")
    at_ns = facts.at_ns
    if subject.ended_ns is None:
        if at_ns is not None or subject.head is None:
            return ""
        age = f" after {duration(max(0, facts.now_ns - start_ns))}" if start_ns is not None else ""
        return f"It is still running{age}."
    last = subject.head or subject.image
    how = ending(last)
    after = f" after {duration(max(0, subject.ended_ns - start_ns))}" if start_ns is not None else ""
    later = "Later it" if at_ns is not None and subject.ended_ns > at_ns else "It"
    if last.get("exit_cause") == "exited":
        return f"{later} exited{after} with {how}."
    return f"{later} was killed{after} by {how}." if how else f"{later} ended{after}; how is not known."

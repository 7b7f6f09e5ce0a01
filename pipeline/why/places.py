"""Findings about where the process runs: its systemd unit, login session, container and terminal."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from pipeline.procfs.containers import container_of_path
from pipeline.select.container_names import is_believed
from pipeline.select.units import readable, unit_of, user_unit_of
from pipeline.software.container_files import NotAllowedError
from pipeline.why import systemd
from pipeline.why.phrases import container_mark, path_text, quoted, time_text, unit_text, word_text
from pipeline.why.proof import Finding, Proof, Unknown

if TYPE_CHECKING:
    from pipeline.shm.layout.entry_types import EntryFields
    from pipeline.why.facts import Facts, Process
    from pipeline.why.host import Host

_SESSION = re.compile(r"session-(\w+)\.scope\Z")
_USER_MANAGER = re.compile(r"user@(\d+)\.service\Z")


def findings(facts: Facts, host: Host) -> Iterator[Finding | Unknown]:
    """Yield the places of the subject, and what is not known about them."""
    entry = facts.subject.image
    yield from _container(facts, host)
    unit = unit_of(entry.get("cgroup"))
    container_id = entry.get("container_id")
    if unit is None or (container_id and container_id in unit):
        return
    if session := _SESSION.match(unit):
        yield from _session(facts, host, unit, session[1])
    else:
        yield from _unit(facts, host, unit)


def _verb(facts: Facts) -> str:
    return "ran" if facts.subject.ended_ns or facts.at_ns is not None else "runs"


def _is_systemd(facts: Facts, host: Host) -> bool:
    return host.is_systemd or ((facts.init or {}).get("path") or "").endswith("/systemd")


def _proof(facts: Facts, host: Host) -> Proof:
    """Return what the name of a unit proves. A cgroup that was taken from the creator may be another one by now."""
    is_read = facts.subject.image.get("cgroup_source") != "inherited"
    return Proof.ROOT if is_read and _is_systemd(facts, host) else Proof.INFERRED


def _unit(facts: Facts, host: Host, unit: str) -> Iterator[Finding | Unknown]:
    entry = facts.subject.image
    proof = _proof(facts, host)
    inner = user_unit_of(entry.get("cgroup"))
    if manager := _USER_MANAGER.match(unit):
        text = f"It {_verb(facts)} under the service manager of uid {manager[1]} (user@{manager[1]}.service)."
        yield Finding.of(entry, "user_manager", proof, "cgroup", text, {"unit": unit, "uid": int(manager[1])})
        if inner:
            text = f"In it, its unit is {quoted(readable(inner))}; that user chose the name."
            yield Finding.of(entry, "user_unit", Proof.CLAIMED, "cgroup", text, {"unit": inner})
        return
    known = host.unit(unit)
    text = f"It {_verb(facts)} in the systemd unit {unit_text(unit)}"
    if not _is_systemd(facts, host):
        text = f"Its cgroup is named like the systemd unit {unit_text(unit)}, but pid 1 is not known to be systemd"
    details: dict[str, Any] = {"unit": unit, "cgroup": entry.get("cgroup")}
    if known is not None:
        text += f" ({known.description})" if known.description and known.description != unit else ""
        details |= {"description": known.description, "file": known.file}
        if _is_this_run(facts, unit, known) and known.invocation:
            details["invocation_id"] = known.invocation
            text += f"; its messages: journalctl _SYSTEMD_INVOCATION_ID={known.invocation}"
    yield Finding.of(entry, "unit", proof, "cgroup", f"{text}.", details)
    if known is not None:
        yield from _timer(facts, unit, known)
    elif host.is_systemd:
        text = f"What {unit_text(unit)} is and what started it: systemd does not know the unit now, or did not answer."
        yield Unknown("unit", text, entry["pid"])


def _first_in(facts: Facts, unit: str) -> Process:
    """Return the oldest process of the lineage in a unit."""
    return next((each for each in facts.oldest_first if unit_of(each.image.get("cgroup")) == unit), facts.subject)


def _is_this_run(facts: Facts, unit: str, known: systemd.UnitFacts) -> bool:
    """Whether the subject lives and was started by the run of its unit that systemd describes now."""
    start_ns = _first_in(facts, unit).image.get("start_time_ns")
    is_older = None not in (start_ns, known.since_ns) and (start_ns or 0) < (known.since_ns or 0)
    return not facts.subject.ended_ns and not is_older


def _timer(facts: Facts, unit: str, known: systemd.UnitFacts) -> Iterator[Finding | Unknown]:
    entry = facts.subject.image
    first = _first_in(facts, unit)
    start_ns = first.image.get("start_time_ns")
    if known.trigger and _is_this_run(facts, unit, known):
        text = f"{known.trigger} started this run of {unit_text(unit)}, as systemd recorded."
        yield Finding.of(entry, "triggered_by", Proof.ROOT, "systemd", text, {"unit": known.trigger, "timer_ns": None})
        return
    for timer in known.timers:
        late_ns = None if start_ns is None or timer.last_ns is None else start_ns - timer.last_ns
        if late_ns is not None and 0 <= late_ns <= systemd.TIMER_DELAY_NS:
            moment = time_text(timer.last_ns)[:19]
            text = f"Probably {timer.name} started it: it elapsed at {moment} UTC, and pid {first.pid} started then."
            details = {"unit": timer.name, "timer_ns": timer.last_ns}
            yield Finding.of(entry, "triggered_by", Proof.INFERRED, "systemd", text, details)
            return
    if known.timers:
        names = " and ".join(timer.name for timer in known.timers)
        yield Unknown("trigger", f"Whether a timer started {unit_text(unit)}: {names} can, but elapsed at another time "
                                 f"or its time is not known.", entry["pid"])  # fmt: skip


def _session(facts: Facts, host: Host, unit: str, number: str) -> Iterator[Finding | Unknown]:
    entry = facts.subject.image
    known = host.login_session(number)
    proof = _proof(facts, host)
    details: dict[str, Any] = {"unit": unit, "session": number}
    text = f"It {_verb(facts)} in the login session {number} of systemd-logind"
    if known is not None:
        details |= {
            "user": known.get("USER"), "service": known.get("SERVICE"), "remote_host": known.get("REMOTE_HOST"),
            "tty": known.get("TTY"), "leader_pid": int(known["LEADER"]) if known.get("LEADER", "").isdigit() else None,
            "file": known.get("file"),
        }  # fmt: skip
        for key, words in (
            ("USER", ", of the user"),
            ("SERVICE", ", opened by"),
            ("REMOTE_HOST", " from"),
            ("TTY", " on"),
        ):
            text += f"{words} {word_text(known[key])}" if known.get(key) else ""
    source = "cgroup" if known is None else "systemd-logind"
    yield Finding.of(entry, "login_session", proof, source, f"{text}.", details)
    if known is None:
        text = f"Details of the login session {number}: systemd-logind has no record of it now."
        yield Unknown("login_session", text, entry["pid"])


def _container(facts: Facts, host: Host) -> Iterator[Finding | Unknown]:
    entry = facts.subject.image
    container_id = entry.get("container_id")
    if not container_id:
        return
    place = container_of_path(entry.get("cgroup") or "")
    runtime = place.runtime if place and place.container_id == container_id else ""
    details: dict[str, Any] = {
        "id": container_id, "trust": entry.get("container_trust"), "runtime": runtime or None,
        "pod_uid": place.pod_uid or None if place else None,
        "name": None, "image": None, "pod": None, "namespace": None, "file": None,
        "created_ns": entry.get("container_created_at_ns"),
    }  # fmt: skip
    text = f"It {_verb(facts)} in the {runtime + ' ' if runtime else ''}container {_id(container_id)}"
    text += container_mark(entry)
    reason = (
        "no file of a container runtime on this host has it"
        if host.has_container_files()
        else ("this host has no files of a container runtime that Procline knows")
    )
    source = "cgroup"
    is_roots = is_believed(entry)
    try:
        names = host.container(container_id) if is_roots else None
        if not is_roots:
            reason = "somebody other than root may have named its cgroup, like any container"
    except NotAllowedError:
        names, reason = None, "only root may read the files of the container runtime: run procline why as root"
    if names is not None:
        source = names.file
        details |= {"name": names.name, "image": names.image, "pod": names.pod, "namespace": names.namespace,
                    "file": names.file}  # fmt: skip
        text += f", named {word_text(names.name)}" if names.name else ""
        text += f", image {word_text(names.image)}" if names.image else ""
        text += f", of the pod {word_text('/'.join(filter(None, [names.namespace, names.pod])))}" if names.pod else ""
        text += f" (names by {path_text(names.file)}, which only root can change)"
    first = _entered(facts, container_id)
    if first is not None:
        details["entered_pid"] = first["pid"]
        text += f". Pid {first['pid']} was the first process of its lineage in it"
    # A user can name a delegated cgroup like a container, so the id alone is what the path says.
    proof = Proof.ROOT if names is not None else Proof.INFERRED
    yield Finding.of(entry, "container", proof, source, f"{text}.", details)
    if names is None:
        yield Unknown("container_name", f"The name of the container: {reason}.", entry["pid"])


def _id(container_id: str) -> str:
    return container_id[:12] if re.fullmatch(r"[0-9a-fA-F]{64}", container_id) else quoted(container_id, 80)


def _entered(facts: Facts, container_id: str) -> EntryFields | None:
    """Return the process of the lineage that was in the container first, if the one before it was not."""
    chain = facts.oldest_first
    for number, process in enumerate(chain):
        if process.image.get("container_id") == container_id:
            return process.image if number else None
    return None

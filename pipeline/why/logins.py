"""Findings about how the process got its user: logins, ssh sessions, and changes of user."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from pipeline.host.digest import sha256
from pipeline.screen.processes import change_limits
from pipeline.screen.times import between
from pipeline.why import users
from pipeline.why.facts import Link, extra_of, file_of
from pipeline.why.phrases import capital, command_text, program_text, quoted, time_text, word_text
from pipeline.why.programs import Role, changes_users, proof_of_program, role_of
from pipeline.why.proof import Finding, Proof
from pipeline.why.users import Change, group_text, user_text

if TYPE_CHECKING:
    from pipeline.shm.layout.entry_types import EntryFields
    from pipeline.why.facts import Facts

#: Maximum number of user changes that are described; the latest are kept.
CHANGES_MAX = 16


def findings(facts: Facts) -> Iterator[Finding]:
    """Yield logins and changes of user, oldest first."""
    found = [*_ssh(facts), *_login_uid(facts), *_agents(facts)]
    printed: set[str | None] = {None}
    for change in users.changes(facts)[-CHANGES_MAX:]:
        found.append(_changed(facts, change, printed))
    yield from sorted(found, key=lambda each: _order_ns(facts, each))


def _order_ns(facts: Facts, finding: Finding) -> int:
    """Return the time by which a finding is ordered.

    A login comes before the change of user that sshd makes for it, which happens a little earlier.
    """
    if finding.kind in {"ssh_session", "ssh_authentication"}:
        chain = facts.oldest_first
        number = next((n for n, each in enumerate(chain) if each.image.get("entity_id") == finding.entity_id), 0)
        while number and (role := role_of(chain[number - 1].image)) and role[0] is Role.SSH:
            number -= 1
        return chain[number].image.get("start_time_ns") or 0
    return finding.time_ns or 0


def _ssh(facts: Facts) -> Iterator[Finding]:
    """Yield the innermost ssh session that the subject descends from, and what is said of its authentication."""
    inside = [process for process in facts.processes if process.image.get("ssh_session")]
    if not inside:
        return
    session: dict[str, Any] = inside[0].image["ssh_session"] or {}
    same = [each for each in inside if (each.image.get("ssh_session") or {}).get("id") == session.get("id")]
    first = same[-1].images[-1]
    is_passed = session.get("client_source") == "exec"
    # The resolver accepts only the host's own sshd. An address that was read later could be the user's own text.
    proof = Proof.ROOT if is_passed else Proof.CLAIMED
    user = word_text(session["username"]) if session.get("username") else "an unknown user"
    where = "an unknown address"
    if session.get("client_ip"):
        where = str(session["client_ip"]) if is_passed else quoted(session["client_ip"])
        where += f" port {session['client_port']}" if session.get("client_port") else ""
    text = f"{capital(user)} logged in by ssh from {where}; pid {first['pid']} is the first process of that session."
    if not is_passed and session.get("client_ip"):
        text += " The address is from the environment of a process of that user, who can change it."
    source = "sshd, as it executed the session" if is_passed else "environment of a process"
    details = {key: session.get(key) for key in ("id", "username", "client_ip", "client_port", "client_source")}
    yield Finding.of(first, "ssh_session", proof, source, text, details, first.get("start_time_ns"))
    if method := session.get("auth_method"):
        fingerprint = fingerprint_of(session.get("public_key"))
        text = f"Authentication: {quoted(method)}"
        text += f" with the key {fingerprint}" if fingerprint else ""
        text += ", by sshd's file about the session, which belongs to the user."
        details = {"auth_method": method, "public_key": session.get("public_key"), "fingerprint": fingerprint}
        source = "file of sshd (ExposeAuthInfo)"
        yield Finding.of(first, "ssh_authentication", Proof.CLAIMED, source, text, details, first.get("start_time_ns"))


def fingerprint_of(public_key: str | None) -> str | None:
    """Return the fingerprint of a key as in sshd's log: ``SHA256:…``; None if there is no valid key."""
    words = (public_key or "").split()
    if len(words) < 2:
        return None
    try:
        raw = base64.b64decode(words[1], validate=True)
    except (binascii.Error, ValueError):
        return None
    return "SHA256:" + base64.b64encode(sha256(raw).digest()).decode().rstrip("=")


def _login_uid(facts: Facts) -> Iterator[Finding]:
    """Yield the login uid. The kernel keeps it through su and sudo, but a process without one may set its own."""
    auid = facts.subject.image.get("auid")
    if auid is None:
        return
    before: EntryFields | None = None
    link: Link | None = None
    for process in facts.oldest_first:
        before, link = None if link is Link.PARENT else before, process.link
        for image in reversed(process.images):
            if image.get("auid") == auid and (before is None or before.get("auid") != auid):
                begun, above = image, before
            before = image
    name = next(
        (each.get("user") for process in facts.processes for each in process.images
         if each.get("uid") == auid and each.get("user") and facts.is_on_host(each)), None,
    )  # fmt: skip
    user = f"{name} (uid {auid})" if name and name.isprintable() else "root" if auid == 0 else f"uid {auid}"
    text = f"The login user is {user}: the kernel keeps it through su and sudo."
    if above is None:
        proof = Proof.INFERRED
        text += f" It was set before the recorded history begins with pid {begun['pid']}."
    else:
        setters, is_inferred = users.makers(facts, above, begun)
        proof = _proof_of_setting(facts, above, begun, setters, is_inferred=is_inferred)
        if proof is Proof.INFERRED and is_inferred:
            text += f" Pid {begun['pid']} ran {program_text(above)} and then {program_text(begun)}. This is inferred: "
            text += f"{program_text(setters[0])} set it; but the other one could have chosen any user."
        else:
            text += f" Pid {begun['pid']}, {' or '.join(map(program_text, setters))}, set it" + _SETTING[proof]
    is_by_root = None if above is None or proof is Proof.INFERRED else proof is Proof.ROOT
    details = {"auid": auid, "user": name, "is_set_by_root": is_by_root}
    yield Finding.of(begun, "login_user", proof, "login uid", text, details, begun.get("start_time_ns"))


#: How a process set its login uid, by the proof of it.
_SETTING = {
    Proof.ROOT: " with the rights of root.",
    Proof.INFERRED: ". It began with the rights of root and gave them up; after that it could choose any user.",
    Proof.CLAIMED: ". It had no special rights, so it could choose any user.",
}


def _proof_of_setting(
    facts: Facts, above: EntryFields, begun: EntryFields, setters: tuple[EntryFields, ...], *, is_inferred: bool
) -> Proof:
    """Return what proves that root chose the login uid.

    Args:
        facts: what is known.
        above: an image.
        begun: the image after it, in which the login uid shows.
        setters: images with a program that could set it.
        is_inferred: the purpose of the program shows that it was this one.

    The ids of an image are those at its end. A worker of a daemon no longer has root's ids then. Its own code or that
    of an intruder may have set the uid after it gave them up.
    """
    if not _has_root(above):
        return Proof.CLAIMED
    if _has_root(begun):
        return Proof.ROOT
    # A program that su runs from a service can have no login uid yet, and set its own.
    if is_inferred or len(setters) > 1:
        return Proof.INFERRED
    # Programs that choose a user set the login uid before they give up the rights of root.
    return Proof.ROOT if changes_users(facts, setters[0]) else Proof.INFERRED


def _has_root(entry: EntryFields) -> bool:
    """Whether a process had root among its ids, so that it could act as root at any time."""
    return 0 in (entry.get("uid"), entry.get("euid"), entry.get("suid"))


def _agents(facts: Facts) -> Iterator[Finding]:
    """Yield sessions that an agent of root reported."""
    entry = facts.subject.image
    extra = extra_of(entry)
    k8s = (extra.get("session") or {}).get("k8s") or {}
    if k8s:
        user = quoted(k8s.get("k8s_username") or "?")
        text = f"It belongs to a Kubernetes session of the user {user}, as an agent reported."
        yield Finding.of(entry, "kubernetes_session", Proof.ROOT, "context event", text, dict(k8s))
    if (ssh := extra.get("ssh")) and not entry.get("ssh_session"):
        text = f"It belongs to an ssh session of {quoted(ssh.get('ssh_username') or '?')} from "
        text += f"{quoted(ssh.get('ssh_client_ip') or '?')}, as an agent reported."
        yield Finding.of(entry, "ssh_session", Proof.ROOT, "context event", text, dict(ssh))


def _changed(facts: Facts, change: Change, printed: set[str | None]) -> Finding:
    """Return a change of user in words. `printed`: the command lines that need no repetition; it is added to them."""
    image, before, how = change.image, change.before, change.how
    shown = group_text if change.is_group else user_text
    old, new = shown(facts, before), shown(facts, image)
    maker = change.maker
    role = role_of(maker) if maker is not None else None
    proof = proof_of_program(facts, maker) if maker is not None and role and role[2] else Proof.CLAIMED
    name = role[1] if role and proof is Proof.ROOT else None
    if maker is not None:
        who = f"Pid {image['pid']}, {program_text(maker)},"
    else:
        who = f"Pid {image['pid']} ran {program_text(before)} and then {program_text(image)}: one of them"
    file = file_of(image)
    what = "group" if change.is_group else "user"
    if how == users.SET_USER_ID:
        owner = "root" if file.get("uid") == 0 else f"uid {file.get('uid')}"
        kind_of_file = "set-group-ID file" if change.is_group else "set-user-ID file"
        became = f"{old} became {new}"
        if not change.is_group and before.get("uid") == image.get("uid"):
            became = f"{old} got the rights of {users.text_of(users.ids(image), is_on_host=facts.is_on_host(image))}"
        text = f"Pid {image['pid']} executed {program_text(image)}, a {kind_of_file} of {owner}: {became}."
    elif how == users.PRIVILEGED:
        right = "as root" if before.get("euid") == 0 else "with the capability to change ids"
        text = f"{who} ran {right} and changed its {what} to {new}."
    elif how == users.OWN_IDS:
        text = f"{who} went from {old} to {new}, which was one of its own ids."
    else:
        text = f"{who} went from {old} to {new}. How it could do that is not known."
    if change.is_inferred:
        text += f" This is inferred: {name} makes such changes"
        text += f" and ran just before {program_text(image)}." if maker is before else "."
    command = None if maker is None else command_text(maker)
    if role and role[0] is Role.SWITCH and command not in printed:
        printed.add(command)
        text += f" Its command line: {command}."
    limits = change_limits(image.get("extra")) if how != users.SET_USER_ID else None
    if limits is not None:
        when = between(*limits, time_text)
        text += f" A comparison found the last change of its credentials or session, which happened {when}."
        text += f" The change of {what} was this one, or an earlier one."
    creator = facts.creator_of(change.process)
    details = {
        "from": users.ids(before), "to": users.ids(image), "how": how, "program": name,
        "program_proof": proof.value if role else None, "path": maker.get("path") if maker else None,
        "argv": maker.get("argv") if maker else None, "candidates": [each.get("path") for each in change.makers],
        "creator_pid": creator.pid if creator else None,
        # The last change may be one of the session, with which a process can move the first limit as it likes.
        "changed_after_ns": None, "changed_before_ns": limits[1] if limits else None,
    }  # fmt: skip
    # A fork does not execute, so the change is later than its start; the exact moment is not recorded.
    at = image.get("exec_time_ns") if image.get("is_exec") else image.get("start_time_ns")
    kind = "group_change" if change.is_group else "user_change"
    known = Proof.INFERRED if change.is_inferred else Proof.KERNEL
    return Finding.of(image, kind, known, "credentials", text, details, at)

"""Users of processes, and where they changed between consecutive images and processes.

Everything here follows from the ids that the kernel reports. Names of programs decide nothing.

The ids of an image are those at its end, or now. So a process that changes its user after it forked shows the later
user. `changes` takes this into account: a child that has more rights than its creator has in the table did not gain
them, but the creator gave its own up later.

An instance that does not record each change at once finds it with the next record of the process. That is often the
exec of the program for which the change was made. `makers` says which programs can have made it.
"""

from __future__ import annotations

import re
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline.records.capabilities import CAP_SETGID, CAP_SETUID
from pipeline.why.facts import Link, file_of
from pipeline.why.phrases import quoted
from pipeline.why.programs import Role, changes_users, role_of

if TYPE_CHECKING:
    from pipeline.shm.layout.entry_types import EntryFields
    from pipeline.why.facts import Facts, Process

_PLAIN = re.compile(r"[\w.-]{1,64}\Z", re.ASCII)

#: How a change was possible.
SET_USER_ID = "set_user_id_file"
PRIVILEGED = "privileged_caller"
OWN_IDS = "own_ids"
UNKNOWN = "unknown"


@dataclass(frozen=True)
class Change:
    """A change of ids.

    Attributes:
        process: the process in which it happened.
        before: the image before it, of the same process or of its creator.
        image: the image in which it happened.
        how: SET_USER_ID, PRIVILEGED, OWN_IDS or UNKNOWN.
        is_group: only group ids changed.
        makers: the images whose programs can have made the change: one, or `before` and `image`.
        is_inferred: the purpose of the program shows that it was this one.
    """

    process: Process
    before: EntryFields
    image: EntryFields
    how: str
    is_group: bool
    makers: tuple[EntryFields, ...]
    is_inferred: bool

    @property
    def maker(self) -> EntryFields | None:
        """The image whose program made the change; None: one of two did."""
        return self.makers[0] if len(self.makers) == 1 else None


def ids(entry: EntryFields) -> dict[str, Any]:
    """Return the ids and names of a user, for JSON."""
    return {key: entry.get(key) for key in ("uid", "euid", "gid", "egid", "user", "euser", "group", "egroup")}


def text_of(numbers: dict[str, Any], *, is_on_host: bool) -> str:
    """Return the effective user in a word.

    Args:
        numbers: what `ids` returns.
        is_on_host: the names are those of the host. In a container, any user can be named root.
    """
    uid = numbers.get("euid")
    name = numbers.get("euser") if is_on_host else None
    return "root" if uid == 0 else name if name and _PLAIN.match(name) else f"uid {uid}"


def user_text(facts: Facts, entry: EntryFields) -> str:
    """Return the user of an image in words; names inside a container were chosen there, so they are quoted."""
    uid, euid = entry.get("uid"), entry.get("euid")
    if uid is None:
        return "an unknown user"
    text = _one(facts, entry, uid, entry.get("user"))
    if euid is not None and euid != uid:
        text += f" with the rights of {_one(facts, entry, euid, entry.get('euser'))}"
    return text


def _one(facts: Facts, entry: EntryFields, uid: int, name: str | None) -> str:
    if uid == 0:
        return "root"
    if not name:
        return f"uid {uid}"
    return f"{name} (uid {uid})" if facts.is_on_host(entry) and name.isprintable() else f"uid {uid} ({quoted(name)})"


def group_text(facts: Facts, entry: EntryFields) -> str:
    """Return the effective group of an image in words."""
    gid, name = entry.get("egid"), entry.get("egroup")
    if gid is None:
        return "an unknown group"
    if not name:
        return f"gid {gid}"
    return f"{name} (gid {gid})" if facts.is_on_host(entry) and name.isprintable() else f"gid {gid} ({quoted(name)})"


def makers(facts: Facts, before: EntryFields, image: EntryFields) -> tuple[tuple[EntryFields, ...], bool]:
    """Return the images whose programs can have made a change, and whether that is inferred.

    Args:
        facts: what is known.
        before: an image.
        image: the image after it, in which the change shows. No set-user-ID file explains the change.
    """
    if facts.sees_each_change or not image.get("is_exec"):
        return (image,), False
    is_before, is_image = changes_users(facts, before), changes_users(facts, image)
    role = role_of(before)
    if role is not None and role[0] is Role.SERVICE_MANAGER and "change_sampled" in (image.get("marks") or ()):
        is_before = False  # a service can begin as root, and give up its rights itself after its exec
    if is_before != is_image:
        return (before if is_before else image,), True
    return (before, image), False


def changes(facts: Facts) -> list[Change]:
    """Return all changes of users and groups on the way to the subject, oldest first.

    A process of which only the parent is known is not compared with it: what forked it is unknown.
    """
    found = []
    before: EntryFields | None = None
    link: Link | None = None
    for process in facts.oldest_first:
        if link is Link.PARENT:
            before = None
        link = process.link
        for image in reversed(process.images):
            if before is not None and (change := _change(facts, process, before, image)):
                found.append(change)
            before = image
    return found


def _change(facts: Facts, process: Process, before: EntryFields, image: EntryFields) -> Change | None:
    users = [(entry.get("uid"), entry.get("euid")) for entry in (before, image)]
    groups = [(entry.get("gid"), entry.get("egid")) for entry in (before, image)]
    if any(None in ids_of for ids_of in users):
        return None
    is_group = users[0] == users[1]
    if is_group and (groups[0] == groups[1] or any(None in ids_of for ids_of in groups)):
        return None
    how = _how(before, image, is_group=is_group)
    if how == UNKNOWN and not image.get("is_exec") and before["pid"] != process.pid:
        return None  # a fork grants nothing, so the creator gave up rights after it
    if how == SET_USER_ID:
        made: tuple[tuple[EntryFields, ...], bool] = (image,), False
    elif how == UNKNOWN and image.get("is_exec") and not facts.sees_each_change:
        # What a program is for says nothing about a change that it had no right to make.
        made = (before, image), False
    else:
        made = makers(facts, before, image)
    return Change(process, before, image, how, is_group, *made)


def _how(before: EntryFields, image: EntryFields, *, is_group: bool) -> str:
    """Return how the ids could change from one image to the next."""
    is_by_exec = image.get("is_exec")
    file = file_of(image)
    mode = file.get("mode") or 0
    owned = {before.get("uid"), before.get("euid"), before.get("suid")}
    if is_by_exec and is_group and mode & stat.S_ISGID and mode & stat.S_IXGRP:
        return SET_USER_ID
    # If the caller had the owner's rights already, the bit of the file gave it nothing.
    is_set_user_id = bool(file.get("inode") and mode & stat.S_ISUID)
    if is_by_exec and is_set_user_id and not is_group and file.get("uid") != before.get("euid"):
        return SET_USER_ID
    needed = CAP_SETGID if is_group else CAP_SETUID
    if before.get("euid") == 0 or (before.get("cap_effective") or 0) >> needed & 1:
        return PRIVILEGED
    if not is_group and {image.get("uid"), image.get("euid")} <= owned:
        return OWN_IDS
    return UNKNOWN

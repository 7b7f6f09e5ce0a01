"""The systemd unit to which a cgroup belongs.

systemd names the cgroup of a unit after the unit (systemd.slice(5)), with escapes as in systemd-escape(1). A process
may create cgroups below its own, if they were delegated to it, and choose their names. So the unit is the first service
or scope on the path; names below it are not read. Users have their own service manager, which runs in a unit
``user@UID.service`` of the host; everything below that is chosen by the user.
"""

from __future__ import annotations

import functools
import re

#: Text for a process that is in no unit.
NO_UNIT = "no unit"
#: A unit that holds processes; slices hold only other units.
_UNIT = re.compile(r"[^/]+\.(?:service|scope|socket|mount|swap)\Z")
_MANAGER_OF_USER = re.compile(r"user@\d+\.service\Z")
_HEX_ESCAPES = re.compile(r"(?:\\x[0-9a-f]{2})+")


@functools.lru_cache(maxsize=4096)
def unit_of(cgroup: str | None) -> str | None:
    """Return the system unit of a cgroup path.

    Args:
        cgroup: the path below the root of cgroup version 2, as in an entry.

    Returns:
        The name of the unit, or None if the path is unknown or names none.

    Example:
        >>> unit_of("/system.slice/ssh.service")
        'ssh.service'
        >>> unit_of("/user.slice/user-1000.slice/user@1000.service/app.slice/gnome-shell.scope")
        'user@1000.service'
    """
    for part in (cgroup or "").split("/"):
        if _UNIT.match(part):
            return part
    return None


@functools.lru_cache(maxsize=4096)
def user_unit_of(cgroup: str | None) -> str | None:
    """Return the unit below a user's own service manager. The user chooses its name; None: there is none."""
    parts = (cgroup or "").split("/")
    for number, part in enumerate(parts):
        if _MANAGER_OF_USER.match(part):
            return next((below for below in parts[number + 1 :] if _UNIT.match(below)), None)
    return None


def shown_unit(cgroup: str | None) -> str | None:
    """Return the unit of a cgroup path as screens name it, without systemd's escapes; None: there is none.

    A unit of a user's own service manager follows the manager, because the user chose its name: it must not look like a
    unit of the system.

    Example:
        >>> shown_unit("/user.slice/user-1000.slice/user@1000.service/app.slice/ssh.service")
        'user@1000/ssh.service'
    """
    unit, own = unit_of(cgroup), user_unit_of(cgroup)
    if unit is None:
        return None
    return readable(unit) if own is None else f"{unit.removesuffix('.service')}/{readable(own)}"


def readable(unit: str) -> str:
    r"""Return the name of a unit without systemd's escapes, as in ``dev-disk-by\x2dlabel``."""
    return _HEX_ESCAPES.sub(
        lambda found: bytes.fromhex(found[0].replace("\\x", "")).decode("utf-8", "surrogateescape"), unit
    )

"""Recognise programs that start others, and decide whether a file that only root can change proves it.

A program is recognised by the path of its executable, or of its script, as the kernel reports it. The names that a
process gives itself count only where the kernel has no path, and then as a claim.
"""

from __future__ import annotations

import enum
import posixpath
import re
from typing import TYPE_CHECKING

from pipeline.trust import WRITABLE_BY_OTHERS
from pipeline.why.facts import file_of
from pipeline.why.proof import Proof

if TYPE_CHECKING:
    from pipeline.shm.layout.entry_types import EntryFields
    from pipeline.why.facts import Facts


class Role(enum.Enum):
    """The kind of service that a program does for others."""

    SSH = "ssh"
    LOGIN = "login"
    SWITCH = "switch"  #: runs a program as another user: su, sudo
    CRON = "cron"
    AT = "at"
    SERVICE_MANAGER = "service_manager"
    RUNTIME = "runtime"  #: runs containers
    PACKAGES = "packages"


_ROLES = {
    Role.SSH: ("sshd", "sshd-session", "sshd-auth", "dropbear"),
    Role.LOGIN: ("login", "gdm-session-worker", "lightdm", "sddm-helper"),
    Role.SWITCH: ("su", "sudo", "sudo-rs", "su-rs", "doas", "runuser", "setpriv", "pkexec", "gosu", "su-exec", "sg",
                  "newgrp", "chpst", "start-stop-daemon", "run0"),
    Role.CRON: ("cron", "crond", "anacron", "fcron"),
    Role.AT: ("atd",),
    Role.SERVICE_MANAGER: ("systemd", "systemd-executor", "init", "openrc-run", "runsv", "s6-supervise",
                           "supervisord"),
    Role.RUNTIME: ("runc", "crun", "conmon", "containerd-shim", "containerd-shim-runc-v2", "dockerd", "containerd",
                   "podman", "crio", "systemd-nspawn", "lxc-start", "youki", "kata-runtime", "bwrap"),
    Role.PACKAGES: ("apt", "apt-get", "aptitude", "dpkg", "dpkg-deb", "unattended-upgrade", "rpm", "dnf", "dnf5",
                    "dnf-3", "yum", "zypper", "pacman", "apk", "snap", "flatpak", "pip", "pip3", "pipx", "uv", "npm",
                    "npx", "yarn", "pnpm", "gem", "bundle", "cargo", "composer"),
}  # fmt: skip
_ROLE_OF = {name: role for role, names in _ROLES.items() for name in names}
#: Directories that only root writes on every usual distribution.
_SYSTEM = ("/usr/bin/", "/usr/sbin/", "/usr/lib/", "/usr/lib64/", "/usr/libexec/", "/bin/", "/sbin/", "/lib/",
           "/lib64/")  # fmt: skip
#: File systems on which the owner of a file says nothing about this host's root, and which may not answer.
FOREIGN = frozenset({"fuse", "nfs", "cifs", "9p", "ceph", "afs"})
_VERSION = re.compile(r"-?\d+(?:\.\d+)*\Z")
_MAINTAINER_SCRIPT = re.compile(
    r"/var/lib/dpkg/(?:info/(?P<package>[a-z0-9][a-z0-9+.-]*(?::[a-z0-9]+)?)\.|tmp\.ci/)"
    r"(?P<script>preinst|postinst|prerm|postrm|config|triggers)\Z"
)


def role_of(entry: EntryFields) -> tuple[Role, str, bool] | None:
    """Return the role of a program, its name, and whether the kernel reported that name; None: it has no role."""
    path = entry.get("path")
    for named in (entry.get("script_path"), path):
        if named and (found := _role(posixpath.basename(named))):
            return *found, True
    argv = entry.get("argv") or []
    name = posixpath.basename(path or "")
    if name.startswith("busybox") and argv and (found := _role(posixpath.basename(argv[0]))):
        return *found, False
    if not path and (found := _role(entry.get("comm") or "")):
        return *found, False
    return _module(name, argv)


def _role(name: str) -> tuple[Role, str] | None:
    for each in (name, _VERSION.sub("", name)):
        if each in _ROLE_OF:
            return _ROLE_OF[each], each
    return None


def _module(name: str, argv: list[str]) -> tuple[Role, str, bool] | None:
    """Return the role of ``python -m pip`` and of ``node …/npm-cli.js``, which only the arguments show."""
    if name.startswith("python") and "-m" in argv[1:-1] and (found := _role(argv[argv.index("-m") + 1])):
        return *found, False
    if name.startswith(("python", "node")) and len(argv) > 1:
        script = posixpath.basename(argv[1]).removesuffix(".js").removesuffix("-cli")
        if found := _role(script):
            return *found, False
    return None


#: Programs that choose a user, and then execute another program.
_CHANGERS = frozenset({Role.SSH, Role.LOGIN, Role.SWITCH, Role.CRON, Role.AT, Role.SERVICE_MANAGER})


def changes_users(facts: Facts, entry: EntryFields) -> bool:
    """Whether a program is proven to be one that chooses a user for others, such as su, sshd or cron."""
    role = role_of(entry)
    return role is not None and role[0] in _CHANGERS and role[2] and proof_of_program(facts, entry) is Proof.ROOT


def proof_of_program(facts: Facts, entry: EntryFields) -> Proof:
    """Return what the name of a program proves.

    `Proof.ROOT`: the kernel ran the file with that name from a system directory of the host, and only root can change
    it. Otherwise anybody could have given a program this name.
    """
    script = entry.get("script_path")
    if not facts.is_on_host(entry):
        return Proof.CLAIMED
    if script:
        return Proof.ROOT if script.startswith(_SYSTEM) and "/../" not in script else Proof.CLAIMED
    file = file_of(entry)
    is_roots = bool(
        file.get("inode")
        and file.get("uid") == 0
        and not (file.get("mode") or 0) & WRITABLE_BY_OTHERS
        and file.get("filesystem") not in FOREIGN
        and not file.get("is_fileless")
        and not file.get("mount_detached")
        and (entry.get("path") or "").startswith(_SYSTEM)
    )
    return Proof.ROOT if is_roots else Proof.CLAIMED


def maintainer_script(entry: EntryFields) -> tuple[str | None, str] | None:
    """Return package and name of the maintainer script that dpkg runs in a process; the package may be unknown."""
    found = _MAINTAINER_SCRIPT.match(entry.get("script_path") or "")
    return None if found is None else (found["package"], found["script"])

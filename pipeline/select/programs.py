"""The program that a process runs, as a person would name it: a script before its interpreter.

The names are for people. They come from arguments, which a process chooses, so nothing is decided by them.
"""

from __future__ import annotations

import enum
import posixpath
import re
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from pipeline.shm.layout.entry_types import EntryFields


class Kind(enum.Enum):
    """The sort of a program; screens show each in its own colour."""

    SHELL = "shell"
    SCRIPT = "script"
    INTERPRETER = "interpreter"
    MANAGER = "manager"  #: starts or logs in others: init, a service manager, cron, sshd, sudo, a container runtime
    OTHER = "other"
    KERNEL = "kernel"  #: a kernel thread


class Program(NamedTuple):
    """A program, as a person would name it.

    Attributes:
        name: of the script if there is one, otherwise of the executable.
        kind: what sort of program it is.
        interpreter: name of the interpreter of a script, otherwise None.
        script: the script as it was named, with its path; None: no script.
    """

    name: str
    kind: Kind
    interpreter: str | None = None
    script: str | None = None


#: The fields of an entry that decide what its program is called.
NAMED_BY = ("comm", "path", "script_path", "argv", "is_kworker")
SHELLS = frozenset({"sh", "bash", "dash", "zsh", "fish", "ksh", "mksh", "ash", "csh", "tcsh", "busybox", "rbash"})
MANAGERS = frozenset({
    "systemd", "init", "systemd-executor", "(sd-pam)", "cron", "crond", "atd", "anacron", "sshd", "sshd-session",
    "sshd-auth", "login", "su", "sudo", "doas", "setpriv", "runuser", "tini", "dumb-init", "containerd",
    "containerd-shim", "containerd-shim-runc-v2", "dockerd", "conmon", "runc", "crun", "podman", "supervisord", "tmux",
    "screen",
})  # fmt: skip
_INTERPRETER = re.compile(r"(python|perl|ruby|node|nodejs|php|lua|tclsh|Rscript|pypy|guile)(?:[\d.]+\w?)?\Z")
#: Interpreters with the options of another one.
_FAMILIES = {"nodejs": "node", "pypy": "python"}
#: Options of interpreters that take the next argument, by the interpreter's name without its version.
_WITH_VALUE = {
    "python": frozenset("WX"), "perl": frozenset("IMm"), "ruby": frozenset("ICEr"), "node": frozenset("r"),
    "php": frozenset("cdz"), "lua": frozenset("l"),
}  # fmt: skip
#: A script that is an open file, as in ``bash <(curl …)``. The number says nothing.
_DESCRIPTOR = re.compile(r"/dev/(?:fd/\d+|stdin)|/proc/(?:self|\d+)/fd/\d+")
#: Options after which the program itself is an argument, so that there is no script.
_PROGRAM_FOLLOWS = {
    "python": frozenset("c"), "perl": frozenset("eE"), "ruby": frozenset("e"), "node": frozenset("ep"),
    "php": frozenset("r"), "lua": frozenset("e"),
}  # fmt: skip


def program_of(entry: EntryFields) -> Program:
    """Return the program that a process runs.

    Args:
        entry: an entry or an event in its JSON form; `path`, `script_path`, `argv`, `comm` and `is_kworker` are read.

    Example:
        >>> program_of({"path": "/usr/bin/python3.13", "argv": ["python3", "x.py"]})
        Program(name='x.py', kind=<Kind.SCRIPT: 'script'>, interpreter='python3.13', script='x.py')
    """
    comm = entry.get("comm") or "?"
    if entry.get("is_kworker"):
        return Program(comm, Kind.KERNEL)
    path = entry.get("path")
    executable = (path or "").rpartition("/")[2] or comm
    script = entry.get("script_path")
    if script and not _DESCRIPTOR.fullmatch(script):
        return Program(posixpath.basename(script) or script, Kind.SCRIPT, executable, script)
    argv = entry.get("argv") or ()
    if named := _INTERPRETER.match(executable):
        script = _script_of(_FAMILIES.get(named[1], named[1]), argv)
        if script and not _DESCRIPTOR.fullmatch(script):
            return Program(posixpath.basename(script) or script, Kind.SCRIPT, executable, script)
        return Program(executable, Kind.INTERPRETER)
    if executable in SHELLS:
        script = next((word for word in argv[1:2] if not word.startswith(("-", "+"))), None)
        if script and executable != "busybox" and not _DESCRIPTOR.fullmatch(script):
            return Program(posixpath.basename(script) or script, Kind.SCRIPT, executable, script)
        return Program(executable, Kind.SHELL)
    if executable in MANAGERS:
        return Program(executable, Kind.MANAGER)
    return Program(executable, Kind.OTHER)


def descriptor_of(entry: EntryFields) -> str | None:
    """Return the open file from which a shell or an interpreter reads its script, as in ``bash <(curl …)``.

    Example:
        >>> descriptor_of({"path": "/usr/bin/bash", "argv": ["bash", "/dev/fd/63"]})
        '/dev/fd/63'
    """
    words = (entry.get("script_path"), *(entry.get("argv") or ())[1:2])
    found = next((word for word in words if word and _DESCRIPTOR.fullmatch(word)), None)
    return found if found and program_of(entry).kind in {Kind.SHELL, Kind.INTERPRETER} else None


def names_of(entry: EntryFields) -> set[str]:
    """Return the names of the program that a process runs, as people ask for it.

    They are those of the script, of the executable, and of the process itself (comm). A process chooses the first and
    the last of these.

    Args:
        entry: the fields NAMED_BY.

    Example:
        >>> sorted(names_of({"path": "/usr/bin/python3.13", "argv": ["python3", "x.py"], "comm": "worker"}))
        ['python3.13', 'worker', 'x.py']
    """
    path = entry.get("path")
    names = {program_of(entry).name, entry.get("comm"), posixpath.basename(path) if path else None}
    return {name for name in names if name}


def _script_of(family: str, argv: list[str] | tuple[str, ...]) -> str | None:
    """Return the script among the arguments of an interpreter; ``python -m x`` names the module x."""
    words = iter(argv[1:])
    for word in words:
        if word == "--":
            return next(words, None)
        if not word.startswith("-") or word == "-":
            return word if word != "-" else None
        if word.startswith("--"):
            continue
        option = word[-1]
        if word[1] in _PROGRAM_FOLLOWS.get(family, ()) or option in _PROGRAM_FOLLOWS.get(family, ()):
            return None
        if family == "python" and word[1] == "m":
            return word[2:] or next(words, None)
        if len(word) == 2 and option in _WITH_VALUE.get(family, ()):
            next(words, None)
    return None

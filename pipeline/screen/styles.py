"""The colours of all screens, by what a piece of text means.

A screen names the meaning, never a colour. The sixteen colours of any terminal are used, without backgrounds, so that
light and dark terminals both work. No meaning is carried by colour alone.
"""

from __future__ import annotations

import enum
from typing import Any

import click

from pipeline.select.programs import Kind


class Style(enum.Enum):
    """The meaning of a piece of text."""

    escape: str  # what begins it on a terminal; an attribute, because a look-up by enum members is slow

    PLAIN = "plain"
    PID = "pid"
    PROGRAM = "program"  #: name of a program that is neither of the following
    SHELL = "shell"
    SCRIPT = "script"
    INTERPRETER = "interpreter"
    MANAGER = "manager"  #: a program that starts or logs in others
    PATH = "path"
    ARGUMENT = "argument"
    USER = "user"
    ROOT = "root"  #: the user with uid 0
    CONTAINER = "container"
    TIME = "time"
    EXITED = "exited"
    FAILED = "failed"
    BORN = "born"
    CHANGED = "changed"
    WARNING = "warning"
    HEADING = "heading"
    MATCH = "match"  #: what a search has found
    FAINT = "faint"  #: guide lines, labels and notes


#: How click shows each style.
_LOOK: dict[Style, dict[str, Any]] = {
    Style.PLAIN: {},
    Style.PID: {"bold": True},
    Style.PROGRAM: {"fg": "green"},
    Style.SHELL: {"fg": "blue"},
    Style.SCRIPT: {"fg": "cyan"},
    Style.INTERPRETER: {"fg": "cyan"},
    Style.MANAGER: {"fg": "magenta"},
    Style.PATH: {"dim": True},
    Style.ARGUMENT: {},
    Style.USER: {"fg": "yellow"},
    Style.ROOT: {"fg": "red"},
    Style.CONTAINER: {"fg": "cyan", "bold": True},
    Style.TIME: {"dim": True},
    Style.EXITED: {"fg": "bright_black"},
    Style.FAILED: {"fg": "red"},
    Style.BORN: {"fg": "green", "bold": True},
    Style.CHANGED: {"fg": "yellow"},
    Style.WARNING: {"fg": "yellow", "bold": True},
    Style.HEADING: {"bold": True},
    Style.MATCH: {"fg": "red", "bold": True},
    Style.FAINT: {"dim": True},
}

#: What ends each style.
END = "\033[0m"
for _style, _look in _LOOK.items():
    _style.escape = click.style("", reset=False, **_look)

#: The style of a program's name.
OF_KIND = {
    Kind.SHELL: Style.SHELL,
    Kind.SCRIPT: Style.SCRIPT,
    Kind.INTERPRETER: Style.INTERPRETER,
    Kind.MANAGER: Style.MANAGER,
    Kind.OTHER: Style.PROGRAM,
    Kind.KERNEL: Style.FAINT,
}


def rich_style(style: Style) -> str:
    """Return a style in the words of rich and textual, as in ``bold green``."""
    look = dict(_LOOK[style])
    words = [word for word in ("bold", "dim") if look.get(word)]
    if "fg" in look:
        words.append(str(look["fg"]))
    return " ".join(words) or "default"

"""The filter of the screen: a selection as commands have it, typed as one line, and words to search for."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field

from pipeline.select.selection import Selection

#: Keys of the line that is typed, and the fields of `Selection` that they fill.
KEYS = {"user": "users", "unit": "units", "container": "containers", "path": "paths", "under": "under"}
FORMS = "words, or user=NAME unit=NAME container=ID path=PATTERN under=PID"


@dataclass(frozen=True)
class Filter:
    """Which processes are wanted.

    Attributes:
        selection: by user, unit, container, path or subtree.
        words: all of them must occur in the pid, command line, path or user; in lower case.
    """

    selection: Selection = field(default_factory=Selection)
    words: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        """Whether anything is asked for."""
        return bool(self.selection) or bool(self.words)

    def __str__(self) -> str:
        """The line that `parse` reads."""
        parts = [
            f"{key}={shlex.quote(str(value))}" for key, name in KEYS.items() for value in getattr(self.selection, name)
        ]
        if self.selection.is_failed:
            parts.append("failed")
        return " ".join([*parts, *(shlex.quote(word) for word in self.words)])


def parse(text: str) -> Filter:
    """Return the filter that a line describes.

    Raises:
        ValueError: the line cannot be understood; the error says why.

    Example:
        >>> parse("user=root path=*/python* serve").words
        ('serve',)
    """
    values: dict[str, list[str]] = {name: [] for name in KEYS.values()}
    words: list[str] = []
    is_failed = False
    try:
        parts = shlex.split(text)
    except ValueError as error:
        raise ValueError(f"{error}: close the quotation mark") from None
    for part in parts:
        key, is_given, value = part.partition("=")
        if is_given and key in KEYS and value:
            values[KEYS[key]] += value.split(",") if key in {"user", "under"} else [value]
        elif part == "failed":
            is_failed = True
        else:
            words.append(part.lower())
    if not all(value.isdigit() for value in values["under"]):
        raise ValueError("under= needs a pid: use a number")
    selection = Selection(
        users=tuple(values["users"]), units=tuple(values["units"]), containers=tuple(values["containers"]),
        paths=tuple(values["paths"]), under=tuple(int(value) for value in values["under"]), is_failed=is_failed,
    )  # fmt: skip
    return Filter(selection, tuple(words))

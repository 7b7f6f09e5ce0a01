"""Parser of the table of entry fields. entry_fields.py contains the table."""

from __future__ import annotations

import re
from typing import NamedTuple

SHOWN = ("both", "entry", "event", "exit", "some", "property")


class EntryField(NamedTuple):
    """One line of the table.

    Attributes:
        name: the key in JSON.
        shown: one of SHOWN.
        type: as in docs/wire-schema.md.
        value: words that name the source of the value; ``["computed"]`` means by hand.
        meaning: may be empty.
        group: name of the group.
        is_copied: whether the encoder writes the group with a generated function.
        example: in Python, what the property is of the entry that the examples of docstrings have.
    """

    name: str
    shown: str
    type: str
    value: list[str]
    meaning: str
    group: str
    is_copied: bool
    example: str = "False"

    @property
    def attribute(self) -> str:
        """The name of the attribute of `Entry`."""
        return self.value[self.value.index("named") + 1] if "named" in self.value else self.name

    @property
    def known(self) -> str | None:
        """The KNOWN_ name, without that prefix, that decides whether the value is null."""
        return self.value[self.value.index("known") + 1] if "known" in self.value else None


def parse(table: str) -> tuple[EntryField, ...]:
    """Return the fields of a table in its order.

    Raises:
        ValueError: a line has a syntax error.
    """
    fields: list[EntryField] = []
    group: list[str] = []
    for line in table.splitlines():
        if not line.strip():
            continue
        if line.startswith("["):
            group = line[1:-1].split()
        elif line.startswith("    >>> "):
            fields[-1] = fields[-1]._replace(example=line[8:])
        elif line.startswith(" "):
            fields[-1] = fields[-1]._replace(meaning=f"{fields[-1].meaning} {line.strip()}".strip())
        else:
            cells = re.split(r" {2,}", line.strip(), maxsplit=4)
            if len(cells) < 4 or cells[1] not in SHOWN:
                raise ValueError(f"not a line of the table (name, shown, type, value, meaning): {line!r}")
            is_copied = group[1:] == ["copied"]
            if is_copied and cells[3] == "computed":
                raise ValueError(f"{cells[0]} is computed, in a group whose fields are copied")
            fields.append(
                EntryField(cells[0], cells[1], cells[2], cells[3].split(), "".join(cells[4:]), group[0], is_copied)
            )
    return tuple(fields)

"""Parser of tables of fields: of that in entry_fields.py, and of the lines of that in file_fields.py."""

from __future__ import annotations

import re
from collections.abc import Iterator
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
    """Return the fields of a table of entries in its order.

    Raises:
        ValueError: a line has a syntax error.
    """
    fields = []
    for (name, shown, kind, value), meaning, example, group, is_copied in lines(table, 4):
        if shown not in SHOWN:
            raise ValueError(f"{name} is shown in {shown!r}, which is none of {', '.join(SHOWN)}")
        if is_copied and value == "computed":
            raise ValueError(f"{name} is computed, but the fields of its group are copied")
        field = EntryField(name, shown, kind, value.split(), meaning, group, is_copied)
        fields.append(field._replace(example=example) if example else field)
    return tuple(fields)


def lines(table: str, columns: int) -> Iterator[tuple[list[str], str, str, str, bool]]:
    """Yield the first columns of each field, its meaning, example and group, and whether the group is copied.

    Raises:
        ValueError: a line has fewer columns.
    """
    group: list[str] = []
    found: list[str] = []
    meaning = example = ""
    for line in [*(line for line in table.splitlines() if line.strip()), "[]"]:  # the last one ends the field above it
        if line.startswith("    >>> "):
            example = line[8:]
        elif line.startswith(" "):
            meaning = f"{meaning} {line.strip()}".strip()
        else:
            if found:
                yield found, meaning, example, group[0], group[1:] == ["copied"]
            found = []
            if line.startswith("["):
                group = line[1:-1].split()
                continue
            cells = re.split(r" {2,}", line.strip(), maxsplit=columns)
            if len(cells) < columns:
                raise ValueError(f"not a line of the table ({columns} columns and a meaning): {line!r}")
            found, meaning, example = cells[:columns], "".join(cells[columns:]), ""

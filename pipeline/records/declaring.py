"""How the layout of a struct is declared once, for every language that reads it.

A declaration is a table with one line for each field. The numpy dtypes and the `struct` formats are made from it when
they are needed; the C headers, the Cython declarations and the tables in docs/ are written by ``script/generate``.
This module needs neither numpy nor anything else of the project, so that small processes can use it.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from functools import cached_property
from typing import NamedTuple

_TYPE = r"(\d*)([a-zA-Z])(\d+)"  # compiled at the first use: many processes use no field
_FORMATS = {"u1": "B", "u2": "H", "u4": "I", "u8": "Q", "i4": "i", "i8": "q"}


class Key(NamedTuple):
    """One key of a msgpack map.

    Attributes:
        name: as it is sent.
        type: uint, int, str, bin and so on, then a length if it is fixed.
        meaning: for the reader of docs/.
        optional: when the key is there, such as ``optional, since 1.6``; empty: always.
        bits: a reader rejects a larger number; 0: its range is not limited here.
    """

    name: str
    type: str
    meaning: str
    optional: str = ""
    bits: int = 0


class Field:
    """One field of a layout.

    Args:
        name: in every language.
        type: as numpy writes it, without the byte order: ``u8``, ``i4``, ``S16`` (text that ends with a NUL),
            ``V16`` (bytes); a number in front makes it an array, ``9u8``.
        unit: bytes, mask, ns (boot) and so on; ``-``: none.
        meaning: may be empty where the name says it.
        offset: bytes from the beginning of the struct.

    Attributes:
        element: type of the value, or of each element of an array.
        count: elements of an array; 1 for a single value.
        is_array: whether the field is an array of numbers.
        size: bytes of the whole field.
    """

    __slots__ = ("count", "element", "is_array", "meaning", "name", "offset", "size", "type", "unit")

    def __init__(self, name: str, type: str, unit: str, meaning: str, offset: int) -> None:
        match = re.fullmatch(_TYPE, type)
        if match is None:
            raise ValueError(f"{name}: {type!r} is not a type of a field")
        self.name, self.type, self.unit, self.meaning, self.offset = name, type, unit, meaning, offset
        self.element, self.is_array, self.count = match[2] + match[3], bool(match[1]), int(match[1] or 1)
        self.size = self.count * int(match[3])

    @property
    def format(self) -> str:
        """The field in a `struct` format, without the byte order."""
        if self.element[0] in "SV":
            return f"{self.size}s"
        return (str(self.count) if self.is_array else "") + _FORMATS[self.element]


class Layout:
    """A struct: little-endian, without padding that is not declared.

    Args:
        name: of the dtype and in texts, such as ``HEADER``.
        c_name: of the C struct, such as ``pl_header``.
        size: bytes.
        about: what the struct is, a sentence for the reader of docs/.
        table: one line for each field: name, type, unit and meaning, two or more blanks apart. A line that is indented
            further continues the meaning.
    """

    def __init__(self, name: str, c_name: str, size: int, about: str, table: str) -> None:
        self.name, self.c_name, self.size, self.about = name, c_name, size, " ".join(about.split())
        self._table = table

    @cached_property
    def fields(self) -> dict[str, Field]:
        """The fields by their names, made from the table at the first use: a process uses few of all layouts.

        Raises:
            ValueError: the sizes of the fields do not add up to `size`, or a field is not aligned.
        """
        fields: dict[str, Field] = {}
        offset = 0
        for cells in _rows(self._table):
            field = Field(*cells, offset)
            if field.element[0] not in "SV" and offset % (field.size // field.count):
                raise ValueError(f"{self.name}.{field.name} is not aligned at offset {offset}")
            fields[field.name] = field
            offset += field.size
        if offset != self.size:
            raise ValueError(f"{self.name}: the fields have {offset} bytes, not {self.size}")
        return fields

    def offset(self, field: str) -> int:
        """Return where a field begins, in bytes."""
        return self.fields[field].offset

    def span(self, field: str) -> slice:
        """Return the bytes of a field, as a slice of the struct's bytes."""
        offset = self.fields[field].offset
        return slice(offset, offset + self.fields[field].size)

    def word(self, field: str) -> int:
        """Return the position of a field in the struct, counted in elements of its own size."""
        found = self.fields[field]
        return found.offset // (found.size // found.count)

    def dtype(self) -> list[tuple[str, str] | tuple[str, str, int]]:
        """Return what `numpy.dtype` makes the dtype of."""
        return [
            (field.name, _byte_order(field.element), field.count)
            if field.is_array
            else (field.name, _byte_order(field.element))
            for field in self.fields.values()
        ]

    def struct(self, *fields: str, whole: bool = False) -> struct.Struct:
        """Return a `struct.Struct` that reads these fields, in the order of the layout.

        Args:
            fields: names.
            whole: the format has the size of the layout; otherwise it ends with the last of the fields.
        """
        form, at = "<", 0
        for field in fields:
            found = self.fields[field]
            if found.offset < at:
                raise ValueError(f"{self.name}.{field} is not behind the fields named before it")
            form += f"{found.offset - at}x{found.format}" if found.offset > at else found.format
            at = found.offset + found.size
        return struct.Struct(f"{form}{self.size - at}x" if whole and at < self.size else form)


def _rows(table: str) -> Iterator[tuple[str, str, str, str]]:
    """Yield name, type, unit and meaning of each field of a table."""
    lines = [line for line in table.splitlines() if line.strip()]
    indent = min((len(line) - len(line.lstrip()) for line in lines), default=0)
    cells: list[str] = []
    for line in lines:
        if line[indent] == " ":
            cells[3] = f"{cells[3]} {line.strip()}".lstrip()
            continue
        if cells:
            yield cells[0], cells[1], cells[2], cells[3]
        cells = re.split(r" {2,}", line.strip(), maxsplit=3)
        if len(cells) not in (3, 4):
            raise ValueError(f"not a line of a layout (name, type, unit, meaning): {line!r}")
        cells += [""] * (4 - len(cells))
    if cells:
        yield cells[0], cells[1], cells[2], cells[3]


def _byte_order(kind: str) -> str:
    return f"<{kind}" if kind[0] in "ui" and kind[1:] != "1" else kind

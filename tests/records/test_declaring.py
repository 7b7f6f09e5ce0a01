"""How a layout is declared: fields, offsets, dtypes and struct formats."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.records.declaring import Layout

TABLE = """
    time_ns   u8   ns    when it was,
                         on some clock
    code      i4   -
    counts    3u2  -     by kind
    flags     u1   mask  A_*
    reserved  V1   -
    name      S8   -     with its NUL
"""


def make(table: str = TABLE, size: int = 28) -> Layout:
    return Layout("SAMPLE", "pl_sample", size, "A sample.", table)


def test_fields_have_offsets_sizes_and_meanings() -> None:
    fields = make().fields
    assert [(field.name, field.offset, field.size) for field in fields.values()] == [
        ("time_ns", 0, 8), ("code", 8, 4), ("counts", 12, 6), ("flags", 18, 1), ("reserved", 19, 1), ("name", 20, 8),
    ]  # fmt: skip
    assert (fields["time_ns"].meaning, fields["code"].meaning) == ("when it was, on some clock", "")
    assert (fields["counts"].count, fields["counts"].element, fields["counts"].is_array) == (3, "u2", True)


def test_dtype_and_struct_read_the_same_bytes() -> None:
    layout = make()
    data = bytes(range(1, 29))
    record = np.frombuffer(data, np.dtype(layout.dtype()))[0]
    values = layout.struct("time_ns", "code", "counts", "flags", whole=True).unpack(data)
    assert values == (record["time_ns"], record["code"], *record["counts"], record["flags"])
    assert layout.struct("code").unpack_from(data) == (record["code"],)
    assert data[layout.span("name")] == record["name"]
    assert (layout.word("code"), layout.word("counts"), layout.offset("name")) == (2, 6, 20)


@pytest.mark.parametrize(
    ("table", "size", "message"),
    [
        (TABLE, 32, "28 bytes, not 32"),
        ("a  u1  -\nb  u4  -", 5, "SAMPLE.b is not aligned at offset 1"),
        ("a  u1", 1, "not a line of a layout"),
        ("a  int  -", 4, "'int' is not a type"),
    ],
)
def test_a_wrong_declaration_is_refused(table: str, size: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(table, size).offset("a")


def test_fields_of_a_struct_come_in_the_order_of_the_layout() -> None:
    with pytest.raises(ValueError, match="code is not behind"):
        make().struct("counts", "code")

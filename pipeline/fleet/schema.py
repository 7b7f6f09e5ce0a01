"""Columns of the files of events, made from the fields of the stream, and the types that decode a message into them."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from pipeline.shm.layout.entry_fields import FIELDS

#: Columns in front of the event's own fields.
LEADING = {
    "host": ("VARCHAR", "name of the host as it is in the subject: other characters than letters, digits, `_` and `-` "
             "are `_`"),
    "topic": ("VARCHAR", "`fork`, `exec`, `exit`, `cred`, `context`, `reparent` or `snapshot`"),
    "boot": ("VARCHAR", "boot id of the host, 32 hex digits"),
    "stream": ("UBIGINT", "id of the stream; with `topic` and `seq` it identifies the event"),
}  # fmt: skip
#: The first part of a `chain` whose older part is unknown.
CUT = "…"
#: Columns behind them, computed when an event is stored.
TRAILING = {
    "chain": ("VARCHAR", "file names of the executables of its lineage, oldest first, with `/` in between, its own at "
              "the end: `systemd/sshd/bash/curl`. Equal neighbours are written once, and an unknown one is empty. "
              "It begins with `…` if the event has only the nearest eight images"),
}  # fmt: skip
_ANCESTOR = "STRUCT(pid UBIGINT, start_time_ns BIGINT, comm VARCHAR, path VARCHAR, entity_id VARCHAR)"
#: DuckDB's type of each type in docs/wire-schema.md. Maps are stored as JSON text.
_SQL = {
    "str": "VARCHAR", "uint": "UBIGINT", "int": "BIGINT", "bool": "BOOLEAN", "[str]": "VARCHAR[]", "map": "VARCHAR",
    "[map]": f"{_ANCESTOR}[]",
}  # fmt: skip
_SHOWN = ("both", "event", "exit", "some")
#: The fields of events with their types in docs/wire-schema.md.
EVENT_TYPES = {field.name: field.type for field in FIELDS if field.shown in _SHOWN}
EVENT_COLUMNS = {name: _SQL[kind] for name, kind in EVENT_TYPES.items()}
#: All columns of a file of events with their types.
COLUMNS = {name: kind for name, (kind, _) in LEADING.items()} | EVENT_COLUMNS | {n: k for n, (k, _) in TRAILING.items()}
#: What DuckDB reads before it computes `chain`.
SPOOLED = {name: kind for name, (kind, _) in LEADING.items()} | EVENT_COLUMNS


class Ancestor(msgspec.Struct, omit_defaults=True):
    """One process of a lineage."""

    pid: Annotated[int, Meta(ge=0)] | None = None
    start_time_ns: Annotated[int, Meta(ge=-(1 << 63), le=(1 << 63) - 1)] | None = None
    comm: str | None = None
    path: str | None = None
    entity_id: str | None = None


def _nested(levels: int) -> Any:
    """Return the type of values in maps: all that JSON can hold, so not bytes."""
    scalar = str | int | float | bool | None
    return scalar | list[_nested(levels - 1)] | dict[str, _nested(levels - 1)] if levels else scalar  # type: ignore[misc]


#: An event has eight images of its lineage.
_LINEAGE_MAX = 256
#: A number that does not fit its column would stop the whole batch, so it is rejected with its message.
_PYTHON: dict[str, Any] = {
    "str": str | None,
    "uint": Annotated[int, Meta(ge=0)] | None,
    "int": Annotated[int, Meta(ge=-(1 << 63), le=(1 << 63) - 1)] | None,
    "bool": bool | None,
    "[str]": list[str] | None,
    "map": dict[str, _nested(6)] | None,  # type: ignore[misc]
    "[map]": Annotated[list[Ancestor], Meta(max_length=_LINEAGE_MAX)] | None,
}
#: An event with the columns in front of it. Unknown keys of a message are ignored, and null values are not written.
Row = msgspec.defstruct(
    "Row",
    [("host", str, ""), ("topic", str, ""), ("boot", str, ""), ("stream", int, 0)]
    + [(name, _PYTHON[kind], None) for name, kind in EVENT_TYPES.items()],
    omit_defaults=True,
    module=__name__,
)

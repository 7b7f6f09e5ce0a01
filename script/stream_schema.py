"""Make docs/stream.schema.json, the JSON Schema of the public stream, from the declarations.

Fields of processes come from ``pipeline/shm/layout/entry_fields.py``, the other ones from the types in
``pipeline/bus/stream/event_dict.py``, keys of headers from ``pipeline/bus/stream/declared.py``, keys of files from
``pipeline/shm/layout/file_fields.py``. The keys of `extra` come from their table in docs/wire-schema.md, which tests
compare with the code. Standard library only.
"""

from __future__ import annotations

import json
import re
import sys
import typing
from pathlib import Path
from types import NoneType, UnionType
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from pipeline.bus.stream import declared as stream  # noqa: E402 - found by the line above
from pipeline.bus.stream import event_dict as events  # noqa: E402
from pipeline.shm.layout import declared as segments  # noqa: E402
from pipeline.shm.layout import entry_fields, file_fields  # noqa: E402

PATH = "docs/stream.schema.json"
WIRE = ROOT / "docs" / "wire-schema.md"

Schema = dict[str, Any]

_UINT: Schema = {"type": "integer", "minimum": 0}
#: Types as the tables write them.
_TYPES: dict[str, Schema] = {
    "uint": _UINT, "int": {"type": "integer"}, "bool": {"type": "boolean"}, "str": {"type": "string"},
    "map": {"type": "object"}, "[str]": {"type": "array", "items": {"type": "string"}},
}  # fmt: skip
_ANCESTOR: Schema = {"$ref": "#/$defs/ancestor"}
_FILE: Schema = {"$ref": "#/$defs/file"}
#: Fields of which more is known than the table's type.
_FIELDS: dict[str, Schema] = {
    "marks": {"type": "array", "items": {"enum": list(segments.MARKS)}},
    "source": {"enum": list(segments.SOURCE_NAMES)},
    "exit_cause": {"enum": list(segments.EXIT_CAUSES)},
    "file": _FILE,
    "interpreter": _FILE,
    "extra": {"$ref": "#/$defs/extra"},
    "lineage": {"type": "array", "items": _ANCESTOR},
    **{state.name: {"enum": list(state.values)} for state in segments.STATES if state.values},
}
#: Fields that are never null.
_ALWAYS = ("pid", "lineage")
#: Fields that depend on the kind of the event.
_FIRST = ("event", "seq", "order", "time_ns")
#: Keys of headers that the table types loosely.
_HEADER: dict[str, Schema] = {
    "boot": {"type": "string", "pattern": "^[0-9a-f]{32}$"},
    "seqs": {"type": "array", "items": _UINT},
    "next": {"type": "array", "items": _UINT},
    "only": {"type": "array", "items": {"type": "string"}},
    "unwatched": {
        "type": "array", "maxItems": 8,
        "items": {"type": "array", "items": {"type": "integer"}, "minItems": 2, "maxItems": 2},
    },
}  # fmt: skip

_ABOUT = """\
Each line that `procline subscribe --json` prints, and each event in the body of a message, is valid against this
schema. In a message, text that is not UTF-8 is a msgpack bin; in JSON, each of its bytes is a character from U+DC80 to
U+DCFF. Integers need 64 bits. Other keys may be added in later minor versions, so ignore unknown ones. Publishers of
earlier minor versions lack the keys that were added since. docs/wire-schema.md explains all of it."""


def _plain(markdown: str) -> str:
    """Return a text of a table without its links and escapes."""
    return re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", markdown).replace("\\", "").strip()


def _nullable(schema: Schema) -> Schema:
    if "$ref" in schema:
        return {"anyOf": [schema, {"type": "null"}]}
    if "enum" in schema:
        return {"enum": [*schema["enum"], None]}
    return schema | {"type": [schema["type"], "null"]}


def _described(schema: Schema, meaning: str) -> Schema:
    return schema | ({"description": _plain(meaning)} if meaning else {})


def _object(properties: dict[str, Schema], optional: typing.Container[str] = ()) -> Schema:
    required = [name for name in properties if name not in optional]
    return {"type": "object", "properties": properties, "required": required}


def fields(*shown: str) -> dict[str, Schema]:
    """Return the schemas of the fields of a process that are shown so."""
    found = {}
    for field in entry_fields.FIELDS:
        if field.shown in shown and field.name not in _FIRST:
            schema = _FIELDS.get(field.name) or _TYPES.get(field.type) or {"type": "array", "items": {"type": "object"}}
            found[field.name] = _described(schema if field.name in _ALWAYS else _nullable(schema), field.meaning)
    return found


def of_type(hint: Any) -> Schema:
    """Return the schema of a type that `pipeline.bus.stream.event_dict` uses."""
    arguments = typing.get_args(hint)
    if hint is NoneType:
        return {"type": "null"}
    if typing.get_origin(hint) is typing.Literal:
        return {"const": arguments[0]} if len(arguments) == 1 else {"enum": list(arguments)}
    if typing.get_origin(hint) is UnionType:
        (schema,) = (of_type(each) for each in arguments if each is not NoneType)
        return _nullable(schema)
    if hint is events.Ancestor:
        return _ANCESTOR
    if typing.get_origin(hint) is list:
        return {"type": "array", "items": of_type(arguments[0])}
    if typing.get_origin(hint) is dict:
        value = {} if arguments[1] is object else {"additionalProperties": of_type(arguments[1])}
        return {"type": "object"} | value
    return {int: {"type": "integer"}, str: {"type": "string"}, bool: {"type": "boolean"}}[hint]


def event(kind: type) -> Schema:
    """Return the schema of a kind of event. Fields of processes are in a definition of their own."""
    hints = typing.get_type_hints(kind)
    is_snapshot = kind is events.SnapshotEvent
    of_process = fields("both", "entry" if is_snapshot else "event") if "pid" in hints else {}
    costs = fields("exit") if "cpu_user_ns" in hints else {}
    own = {name: of_type(hint) for name, hint in hints.items() if name not in of_process and name not in costs}
    for name in ("seq", "order"):
        if hints.get(name) is int:
            own[name] = _UINT
    if "context" in own:
        own["context"] = {"$ref": "#/$defs/context"}
    optional: frozenset[str] = getattr(kind, "__optional_keys__", frozenset())
    about = (kind.__doc__ or "").split("\n\n")[0].replace("``", "`")
    if not of_process:
        return {"description": about} | _object(own, optional)
    if is_snapshot:  # entries have other fields than events
        return {"description": about} | _object(own | of_process | costs, optional)
    return {"description": about, "allOf": [{"$ref": "#/$defs/process"}]} | _object(own | costs, optional)


def table(heading: str, first_cell: str) -> dict[str, tuple[str, str]]:
    """Return type and meaning of each key in a table of docs/wire-schema.md."""
    text = WIRE.read_text(encoding="utf-8")
    rows = text[text.index(f"{heading}\n") :].partition(f"| {first_cell} |")[2].split("\n")[2:]
    found = {}
    for row in rows:
        if not row.startswith("|"):
            break
        names, types, meaning = (cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1])
        keys = re.findall(r"`(\w+)`", names)
        kinds = types.split(", ") if types else [""]
        for key, kind in zip(keys, kinds if len(kinds) == len(keys) else kinds * len(keys), strict=True):
            found[key] = kind, meaning
    return found


def header() -> Schema:
    """Return the schema of a header. JSON has no bytes, so `boot` is written in hex."""
    found = {}
    for key in stream.HEADER_KEYS:
        meaning = f"{key.optional}: {key.meaning}" if key.optional else key.meaning
        found[key.name] = _described(_HEADER.get(key.name) or _TYPES[key.type], meaning)
    optional = {key.name for key in stream.HEADER_KEYS if key.optional}
    found["major"] |= {"const": segments.STREAM_VERSION[0]}
    return {"description": "The second frame of a message. `boot` is a bin, here in hex."} | _object(found, optional)


def file() -> Schema:
    """Return the schema of a file."""
    found = {}
    for field in file_fields.FIELDS:
        schema = _TYPES[field.type]
        found[field.name] = _described(_nullable(schema) if field.is_nullable else schema, field.meaning)
    return _object(found)


def extra() -> Schema:
    """Return the schema of the rare facts."""
    lists = {"[map]": {"type": "array", "items": {"type": "object"}}, "": {}}
    found = {
        key: _described((_TYPES | lists)[kind], meaning) for key, (kind, meaning) in table("#### Extra", "key").items()
    }
    return _object(found, found)


def schema() -> Schema:
    """Return the schema of the stream."""
    kinds = {
        "fork": events.ForkEvent, "exec": events.ExecEvent, "exit": events.ExitEvent, "cred": events.CredEvent,
        "context_event": events.ContextEvent, "reparent": events.ReparentEvent, "loss": events.LossEvent,
        "stats": events.StatsEvent, "snapshot": events.SnapshotEvent, "missed": events.MissedEvent,
        "unwatched": events.UnwatchedEvent,
    }  # fmt: skip
    context = {"error": {"type": ["string", "null"]}, "target": _ANCESTOR}
    ancestor = {name: of_type(hint) for name, hint in typing.get_type_hints(events.Ancestor).items()}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"Events of Procline's stream, version {segments.STREAM_VERSION[0]}.{segments.STREAM_VERSION[1]}",
        "$comment": "Generated by script/generate; do not edit.",
        "description": _ABOUT.replace("\n", " "),
        "oneOf": [{"$ref": f"#/$defs/{name}"} for name in kinds],
        "$defs": {
            **{name: event(kind) for name, kind in kinds.items()},
            "process": {"description": "What every event about a process has."} | _object(fields("both", "event")),
            "ancestor": _object(ancestor),
            "file": file(),
            "extra": extra(),
            "context": {"description": "The keys of its kind, and these."} | _object(context, {"target"}),
            "header": header(),
        },
    }


def text() -> str:
    """Return the file."""
    return json.dumps(schema(), indent=2, ensure_ascii=False) + "\n"

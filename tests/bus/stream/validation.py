"""Validate events and headers against docs/stream.schema.json."""

from __future__ import annotations

import copy
import functools
import json
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator

SCHEMA: dict[str, Any] = json.loads(
    (Path(__file__).parents[3] / "docs" / "stream.schema.json").read_text(encoding="utf-8")
)
DEFINITIONS: dict[str, Any] = SCHEMA["$defs"]


def _kinds() -> dict[str, str]:
    """Return the definition of each kind of event, by the value of its `event`."""
    found = {}
    for each in SCHEMA["oneOf"]:
        name = each["$ref"].rpartition("/")[2]
        kind = DEFINITIONS[name]["properties"]["event"]
        found |= dict.fromkeys(kind.get("enum", [kind.get("const")]), name)
    return found


KINDS = _kinds()


def _without_required(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_required(each) for name, each in value.items() if name != "required"}
    return [_without_required(each) for each in value] if isinstance(value, list) else value


@functools.cache
def validator(definition: str, *, is_complete: bool = True) -> Draft202012Validator:
    """Return the validator of a definition, or of the schema (``""``)."""
    schema = copy.copy(SCHEMA) if is_complete else _without_required(SCHEMA)
    if definition:
        del schema["oneOf"]
        schema["$ref"] = f"#/$defs/{definition}"
    return Draft202012Validator(schema)


def known_keys(definition: str) -> set[str]:
    """Return the keys that a definition describes."""
    found = set(DEFINITIONS[definition].get("properties", ()))
    for part in DEFINITIONS[definition].get("allOf", ()):
        found |= known_keys(part["$ref"].rpartition("/")[2])
    return found


def faults(event: Any, definition: str = "", *, is_complete: bool = True) -> list[str]:
    """Return what is wrong with an event, or with another object; also keys that the schema does not describe.

    Args:
        event: as a decoder returns it.
        definition: what it must be; "": the definition of its kind.
        is_complete: whether keys may not be missing; those of earlier minor versions may.
    """
    event = json.loads(json.dumps(event))  # tuples become lists
    definition = definition or KINDS.get(event.get("event"), "")
    if not definition:
        return [f"no kind of event: {event.get('event')!r}"]
    found = [
        f"{definition}: {'.'.join(map(str, error.absolute_path))}: {error.message[:200]}"
        for error in validator(definition, is_complete=is_complete).iter_errors(event)
    ]
    return found + [f"{definition}: {name} is not described" for name in set(event) - known_keys(definition)]

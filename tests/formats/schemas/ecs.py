"""Checks documents against the Elastic Common Schema."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_SCHEMA = json.loads(Path(__file__).with_suffix(".json").read_text())
VERSION: str = _SCHEMA["version"]
FIELDS: dict[str, dict[str, Any]] = _SCHEMA["fields"]
REQUIRED = ("@timestamp", "ecs.version")
OWN = "procline"

_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?Z")
_TEXT = ("keyword", "wildcard", "match_only_text", "text", "constant_keyword")


def has(name: str) -> bool:
    """Whether ECS has a field, or it is in the namespace of Procline."""
    return name in FIELDS or any(each.startswith(f"{name}.") for each in FIELDS) or name.startswith(f"{OWN}.")


def errors(document: dict[str, Any]) -> list[str]:
    """Return what is wrong with a document."""
    found = [*_walk("", document)]
    found += [f"{name} is required" for name in REQUIRED if _get(document, name) is None]
    categories = _get(document, "event.category") or []
    for kind in _get(document, "event.type") or []:
        for category in categories:
            expected = FIELDS["event.category"]["expected_types"].get(category, [])
            if kind not in expected:
                found.append(f"event.type {kind!r} is not expected in event.category {category!r}")
    if document.get("ecs", {}).get("version") != VERSION:
        found.append("ecs.version")
    return found


def _get(document: dict[str, Any], name: str) -> Any:
    node: Any = document
    for part in name.split("."):
        node = node.get(part) if isinstance(node, dict) else None
    return node


def _walk(name: str, value: Any) -> Iterator[str]:
    if name == OWN:
        return
    field = FIELDS.get(name)
    if field is not None and field["type"] not in ("object", "nested", "flattened"):
        yield from _check(name, field, value)
    elif isinstance(value, dict):
        for key, each in value.items():
            yield from _walk(f"{name}.{key}" if name else key, each)
    elif isinstance(value, list) and value and all(isinstance(each, dict) for each in value):
        for each in value:
            yield from _walk(name, each)
    else:
        yield f"{name} is no field"


def _check(name: str, field: dict[str, Any], value: Any) -> Iterator[str]:
    if isinstance(value, list) != bool(field.get("array")):
        yield f"{name}: {value!r} and a list are not the same"
        return
    for each in value if isinstance(value, list) else [value]:
        if not _is_of(field["type"], each):
            yield f"{name}: {each!r} is no {field['type']}"
        elif "values" in field and each not in field["values"]:
            yield f"{name}: {each!r} is none of {field['values']}"
        elif "pattern" in field and not re.fullmatch(field["pattern"], each):
            yield f"{name}: {each!r} does not match {field['pattern']}"


def _is_of(kind: str, value: Any) -> bool:
    if kind in _TEXT:
        return isinstance(value, str)
    if kind == "long":
        return type(value) is int and -(1 << 63) <= value < 1 << 63
    if kind == "date":
        return isinstance(value, str) and _TIME.fullmatch(value) is not None
    if kind == "boolean":
        return isinstance(value, bool)
    raise AssertionError(f"a type without a check: {kind}")

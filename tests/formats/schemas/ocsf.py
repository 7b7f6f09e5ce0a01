"""Checks documents against the Open Cybersecurity Schema Framework."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_SCHEMA = json.loads(Path(__file__).with_suffix(".json").read_text())
VERSION: str = _SCHEMA["version"]
CLASSES: dict[str, dict[str, Any]] = _SCHEMA["classes"]
OBJECTS: dict[str, dict[str, Any]] = _SCHEMA["objects"]
#: What a value of a type must be: the type in JSON, and a pattern.
TYPES: dict[str, dict[str, Any]] = _SCHEMA["types"]
OWN = "unmapped"

_JSON_TYPES: dict[str, type] = {"string_t": str, "integer_t": int, "long_t": int, "boolean_t": bool, "float_t": float}


def has(name: str) -> bool:
    """Whether a class has an attribute, or it is in the object for what has no name."""
    return any(_find(each, name.split(".")) for each in CLASSES.values())


def _find(node: dict[str, Any], parts: list[str]) -> bool:
    attribute = node["attributes"].get(parts[0])
    if attribute is None:
        return False
    if len(parts) == 1 or parts[0] == OWN:
        return True
    below = OBJECTS.get(attribute.get("object_type", ""))
    return below is not None and _find(below, parts[1:])


def errors(document: dict[str, Any]) -> list[str]:
    """Return what is wrong with a document."""
    node = next((each for each in CLASSES.values() if each["uid"] == document.get("class_uid")), None)
    if node is None:
        return [f"no class {document.get('class_uid')!r}"]
    metadata = document.get("metadata", {})
    profiles = set(metadata.get("profiles", []))
    found = [*_walk("", node, document, profiles)]
    found += [f"{profile} is no profile of the class or its objects" for profile in profiles - set(_SCHEMA["profiles"])]
    if document.get("type_uid") != node["uid"] * 100 + document.get("activity_id", -1):
        found.append("type_uid is not class_uid * 100 + activity_id")
    if metadata.get("version") != VERSION:
        found.append("metadata.version")
    return found


def _walk(path: str, node: dict[str, Any], value: Any, profiles: set[str]) -> Iterator[str]:
    if not isinstance(value, dict):
        yield f"{path} is no object"
        return
    attributes = node["attributes"]
    for key, each in value.items():
        attribute = attributes.get(key)
        where = f"{path}.{key}" if path else key
        if attribute is None:
            yield f"{where} is no attribute"
        elif "profiles" in attribute and not profiles.intersection(attribute["profiles"]):
            yield f"{where} needs one of the profiles {attribute['profiles']}"
        else:
            yield from _attribute(where, attribute, each, profiles)
    for key, attribute in attributes.items():
        is_used = "profiles" not in attribute or bool(profiles.intersection(attribute["profiles"]))
        if attribute["requirement"] == "required" and is_used and key not in value:
            yield f"{path}.{key} is required"
    for kind, names in node.get("constraints", {}).items():
        count = sum(name in value for name in names)
        if (kind == "at_least_one" and count == 0) or (kind == "just_one" and count != 1):
            yield f"{path}: {kind} of {names}"


def _attribute(path: str, attribute: dict[str, Any], value: Any, profiles: set[str]) -> Iterator[str]:
    if attribute.get("is_array"):
        if not isinstance(value, list):
            yield f"{path} is no list"
            return
        for number, each in enumerate(value):
            yield from _attribute(f"{path}[{number}]", {**attribute, "is_array": False}, each, profiles)
        return
    if "object_type" in attribute:
        below = OBJECTS.get(attribute["object_type"])
        if below is not None:
            yield from _walk(path, below, value, profiles)
        elif not isinstance(value, dict):  # an object with any attributes
            yield f"{path} is no object"
        return
    if "enum" in attribute and str(value) not in attribute["enum"]:
        yield f"{path}: {value!r} is none of {attribute['enum']}"
    yield from _typed(path, attribute["type"], value)


def _typed(path: str, name: str, value: Any) -> Iterator[str]:
    kind = TYPES[name]
    wanted = _JSON_TYPES[kind.get("type", name)]
    if type(value) is not wanted:
        yield f"{path}: {value!r} is no {name}"
    elif "regex" in kind and not re.search(kind["regex"], value):
        yield f"{path}: {value!r} does not match {kind['regex']}"
    elif "max_len" in kind and len(value) > kind["max_len"]:
        yield f"{path}: longer than {kind['max_len']}"
    elif "range" in kind and not kind["range"][0] <= value <= kind["range"][1]:
        yield f"{path}: {value!r} is not in {kind['range']}"

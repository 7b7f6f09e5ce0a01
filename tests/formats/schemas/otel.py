"""Checks documents against OTLP in JSON, and their attributes against the semantic conventions of OpenTelemetry.

The messages are written out here, from opentelemetry/proto/logs/v1/logs.proto and the rules of OTLP for JSON: names in
lowerCamelCase, 64-bit numbers as text, ids in hexadecimal form.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_SCHEMA = json.loads(Path(__file__).with_suffix(".json").read_text())
VERSION: str = _SCHEMA["version"]
NAMES = frozenset(_SCHEMA["attributes"])
#: Attributes with a variable last part.
TEMPLATES = frozenset(_SCHEMA["templates"])
OWN = "procline."
#: The conventions have these as ``int`` and as ``string[]``; all others that documents use are ``string``.
INTEGERS = frozenset(
    f"process.{name}"
    for name in (
        "pid", "parent_pid", "vpid", "session_leader.pid", "group_leader.pid", "args_count", "exit.code", "user.id",
        "real_user.id", "saved_user.id",
    )
) | {"thread.id"}  # fmt: skip
TEXTS = frozenset({"process.command_args"})

_DIGITS = re.compile(r"\d+")


def has(name: str) -> bool:
    """Whether the conventions have an attribute, or it is in the namespace of Procline, or a field of a log record."""
    is_of_record = name.startswith("record.") and name.removeprefix("record.") in _MESSAGES["LogRecord"]
    return is_of_record or name in NAMES or name in TEMPLATES or name.startswith(OWN)


def plain(value: dict[str, Any]) -> Any:
    """Return the value of an ``AnyValue``."""
    ((kind, content),) = value.items()
    if kind == "arrayValue":
        return [plain(each) for each in content["values"]]
    if kind == "kvlistValue":
        return {each["key"]: plain(each["value"]) for each in content["values"]}
    return int(content) if kind == "intValue" else content


def errors(document: dict[str, Any]) -> list[str]:
    """Return what is wrong with a line."""
    return [*_message("LogsData", document)]


def _message(name: str, value: Any) -> Iterator[str]:
    if not isinstance(value, dict):
        yield f"{name}: {value!r} is no message"
        return
    for key, each in value.items():
        check = _MESSAGES[name].get(key)
        if check is None:
            yield f"{name} has no field {key}"
        else:
            yield from check(each)
    if name == "AnyValue" and len(value) != 1:
        yield f"AnyValue: {value!r} has not one value"


def _all(name: str) -> Any:
    def check(value: Any) -> Iterator[str]:
        if not isinstance(value, list):
            yield f"{value!r} is no list of {name}"
            return
        for each in value:
            yield from _message(name, each)

    return check


def _is(kind: type, pattern: str = "") -> Any:
    def check(value: Any) -> Iterator[str]:
        if type(value) is not kind or (pattern and not re.fullmatch(pattern, str(value))):
            yield f"{value!r} is not {kind.__name__} {pattern}"

    return check


def _number(low: int, high: int) -> Any:
    """A number of 64 bits, which JSON has as text."""

    def check(value: Any) -> Iterator[str]:
        if not isinstance(value, str) or not re.fullmatch(r"-?\d+", value) or not low <= int(value) <= high:
            yield f"{value!r} is no number from {low} to {high} as text"

    return check


def _severity(value: Any) -> Iterator[str]:
    if type(value) is not int or not 1 <= value <= 24:
        yield f"severityNumber {value!r}"


def _attributes(value: Any) -> Iterator[str]:
    yield from _all("KeyValue")(value)
    names = [each["key"] for each in value]
    yield from (f"{name} is there twice" for name in sorted({name for name in names if names.count(name) > 1}))
    for each in value:
        yield from _attribute(each["key"], each["value"])


def _attribute(name: str, value: dict[str, Any]) -> Iterator[str]:
    if name.startswith(OWN):
        return
    if name not in NAMES and not any(name.startswith(f"{template}.") for template in TEMPLATES):
        yield f"{name} is no attribute"
    wanted = "intValue" if name in INTEGERS else "arrayValue" if name in TEXTS else "stringValue"
    if [*value] != [wanted]:
        yield f"{name}: {value} is not {wanted}"
    elif name in TEXTS and any([*each] != ["stringValue"] for each in value["arrayValue"]["values"]):
        yield f"{name}: {value} is not a list of texts"


def _one(name: str) -> Any:
    return lambda value: _message(name, value)


_U64 = (0, (1 << 64) - 1)
_MESSAGES: dict[str, dict[str, Any]] = {
    "LogsData": {"resourceLogs": _all("ResourceLogs")},
    "ResourceLogs": {"resource": _one("Resource"), "scopeLogs": _all("ScopeLogs"), "schemaUrl": _is(str, "https://.*")},
    "Resource": {"attributes": _attributes},
    "ScopeLogs": {
        "scope": _one("InstrumentationScope"), "logRecords": _all("LogRecord"), "schemaUrl": _is(str, "https://.*"),
    },
    "InstrumentationScope": {"name": _is(str), "version": _is(str)},
    "LogRecord": {
        "timeUnixNano": _number(*_U64), "observedTimeUnixNano": _number(*_U64), "severityNumber": _severity,
        "severityText": _is(str), "body": _one("AnyValue"), "attributes": _attributes,
        "traceId": _is(str, "[0-9a-f]{32}"), "spanId": _is(str, "[0-9a-f]{16}"), "eventName": _is(str),
    },
    "KeyValue": {"key": _is(str, ".+"), "value": _one("AnyValue")},
    "KeyValueList": {"values": _all("KeyValue")},
    "ArrayValue": {"values": _all("AnyValue")},
    "AnyValue": {
        "stringValue": _is(str), "boolValue": _is(bool), "intValue": _number(-(1 << 63), (1 << 63) - 1),
        "doubleValue": _is(float), "arrayValue": _one("ArrayValue"), "kvlistValue": _one("KeyValueList"),
    },
}  # fmt: skip

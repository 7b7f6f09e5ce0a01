"""Events as log records of OpenTelemetry, in the JSON form of OTLP."""

from __future__ import annotations

from typing import Any

from pipeline.formats.declared import OTEL_SEMCONV_VERSION
from pipeline.formats.facts import GAPS, Fields, facts_of, message_of
from pipeline.formats.mapping import fill
from pipeline.version import __version__

#: Severity numbers of the log data model.
INFO, WARN = 9, 13
_SCHEMA_URL = f"https://opentelemetry.io/schemas/{OTEL_SEMCONV_VERSION}"
#: What the names of fields of the record begin with in the table; others are attributes.
_RECORD = "record."
_VARIABLES = "process.environment_variable"


def document(event: Fields, host: str) -> dict[str, Any]:
    """Return an event as ``LogsData`` with one record: a line of a file that the collector reads.

    Args:
        event: of the stream.
        host: name of the host that the event comes from.
    """
    return {
        "resourceLogs": [
            {
                "resource": {"attributes": attributes({"host.name": host, "os.type": "linux"})},
                "scopeLogs": [
                    {
                        "scope": {"name": "procline", "version": __version__},
                        "logRecords": [log_record(event)],
                        "schemaUrl": _SCHEMA_URL,
                    }
                ],
                "schemaUrl": _SCHEMA_URL,
            }
        ]
    }


def log_record(event: Fields) -> dict[str, Any]:
    """Return an event as a ``LogRecord``, for programs that send many in one request."""
    kind = str(event.get("event"))
    is_gap = kind in GAPS
    record: dict[str, Any] = {
        "severityNumber": WARN if is_gap else INFO,
        "severityText": "WARN" if is_gap else "INFO",
        "eventName": f"procline.{kind}",
        "body": {"stringValue": message_of(event)},
    }
    values: dict[str, Any] = {}
    fill(values, "otel", facts_of(event))
    found: dict[str, Any] = {}
    for name, value in values.items():
        if name.startswith(_RECORD):
            record[name.removeprefix(_RECORD)] = value
        elif name == _VARIABLES:  # a template: each variable has an attribute of its own
            found |= {f"{name}.{variable}": content for variable, content in value.items()}
        else:
            found[name] = value
    record["attributes"] = attributes(found)
    return record


def attributes(values: dict[str, Any]) -> list[dict[str, Any]]:
    """Return attributes in the form of OTLP."""
    return [{"key": key, "value": any_value(value)} for key, value in values.items()]


def any_value(value: Any) -> dict[str, Any]:
    """Return a value as ``AnyValue``. JSON has numbers of 64 bits as text there."""
    if isinstance(value, bool):
        return {"boolValue": value}
    if isinstance(value, int):
        return {"intValue": str(value)}
    if isinstance(value, float):
        return {"doubleValue": value}
    if isinstance(value, dict):
        return {"kvlistValue": {"values": attributes(value)}}
    if isinstance(value, list):
        return {"arrayValue": {"values": [any_value(each) for each in value]}}
    return {"stringValue": value}

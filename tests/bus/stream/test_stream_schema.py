"""docs/stream.schema.json describes what is sent: the golden files of all versions, and what no file has."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgpack
import pytest
from jsonschema import Draft202012Validator

from pipeline.bus.stream.messages import MAJOR, MINOR, Header, missed_event, unwatched_event
from pipeline.resolver.entries import entry_extra
from pipeline.resolver.entries.model import NO_FILE
from pipeline.resolver.stream._encoder import FIELDS
from pipeline.shm.layout.entry_fields import ENTRY_FIELDS, EXIT_FIELDS
from tests.bus.stream import validation

GOLDEN = sorted((Path(__file__).parent / "golden").glob("*.json"))


def messages(path: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(path.read_text())
    return found


def test_the_schema_is_one() -> None:
    Draft202012Validator.check_schema(validation.SCHEMA)
    assert f"version {MAJOR}.{MINOR}" in validation.SCHEMA["title"]


def test_every_key_is_described() -> None:
    assert validation.known_keys("fork") == set(FIELDS)
    assert validation.known_keys("exit") == {*FIELDS, *EXIT_FIELDS}
    assert validation.known_keys("reparent") == {*FIELDS, "new_parent"}
    assert validation.known_keys("cred") == {*FIELDS, "changed_after_ns"}
    assert validation.known_keys("context_event") == {*FIELDS, "changed_after_ns", "context"}
    assert validation.known_keys("snapshot") > set(ENTRY_FIELDS)
    assert validation.known_keys("header") == set(Header._fields)
    assert validation.known_keys("file") == set(entry_extra.shown_file(NO_FILE))


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_golden_messages_are_valid(path: Path) -> None:
    is_complete = path.stem == f"{MAJOR}.{MINOR}"
    found = messages(path)
    for message in found:
        header = msgpack.unpackb(bytes.fromhex(message["header"]))
        header["boot"] = header["boot"].hex()
        header |= {"only": [each.decode() for each in header["only"]]} if "only" in header else {}
        assert validation.faults(header, "header", is_complete=is_complete) == []
        for event in message["events"]:
            if event["event"] == "stats":
                event = {name: event[name] for name in ("event", "seq", "order", "time_ns")}  # others are made up
                assert validation.faults(event, is_complete=False) == []
            else:
                assert validation.faults(event, is_complete=is_complete) == []
    assert {event["event"] for message in found for event in message["events"]} > {"fork", "exec", "exit", "loss"}


def test_one_definition_fits_an_event() -> None:
    events = [event for message in messages(GOLDEN[-1]) for event in message["events"] if event["event"] != "stats"]
    events += [
        missed_event(topic="proc.exec", first=1, last=2, time_ns=3, reason="gap"),
        missed_event(topic=None, first=None, last=None, time_ns=3, reason="restart"),
        unwatched_event(from_ns=1, to_ns=2, time_ns=3),
    ]
    for event in events:
        assert validation.validator("").is_valid(event), event["event"]
        assert validation.faults(event) == []


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("pid", -1), ("pid", None), ("pid", "1"), ("argv", [1]), ("marks", ["none of them"]), ("exit_cause", "bored"),
        ("lineage", None), ("lineage", [{"pid": 1}]), ("file", {"path": "/"}), ("seq", None), ("event", "forked"),
        ("is_exec", 1), ("source", "hearsay"),
    ],
)  # fmt: skip
def test_a_wrong_event_is_found(key: str, value: object) -> None:
    (event,) = (event for message in messages(GOLDEN[-1]) for event in message["events"] if event["event"] == "exec")
    assert not validation.faults(event)
    assert validation.faults(event | {key: value})
    assert validation.faults({name: value for name, value in event.items() if name != key})

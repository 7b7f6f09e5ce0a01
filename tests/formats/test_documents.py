"""Every event becomes a valid document of every schema, with the right values."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from pipeline import convert_event
from pipeline.errors import ConfigError
from pipeline.formats.declared import FORMATS
from tests.formats.events import AT_NS, BOOT, ENTITY, KILLER, NEWEST, PARENT, cases, event, golden, made
from tests.formats.schemas import ecs, ocsf, otel
from tests.sampling import some, times

CHECKS = {"ecs": ecs.errors, "ocsf": ocsf.errors, "otel": otel.errors}
CASES = cases()


def converted(given: dict[str, Any], form: str) -> dict[str, Any]:
    """Return the document as a receiver reads it."""
    document: dict[str, Any] = json.loads(json.dumps(convert_event(given, form, host="web1")))
    return document


def record_of(given: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the log record of an event, and its attributes as a dict."""
    record = converted(given, "otel")["resourceLogs"][0]["scopeLogs"][0]["logRecords"][0]
    return record, {each["key"]: otel.plain(each["value"]) for each in record["attributes"]}


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("case", CASES, ids=[name for name, _ in CASES])
def test_every_event_is_a_valid_document(case: tuple[str, dict[str, Any]], form: str) -> None:
    given = case[1]
    before = copy.deepcopy(given)
    document = convert_event(given, form, host="web1")
    text = json.dumps(document, allow_nan=False)
    text.encode().decode()
    assert "\\ud" not in text, "half of a surrogate pair: strict parsers reject it"
    assert CHECKS[form](json.loads(text)) == []
    assert repr(given) == repr(before), "the event is the caller's"


@pytest.mark.parametrize("form", FORMATS)
def test_the_checks_find_errors(form: str) -> None:
    document = converted(event("exec"), form)
    assert CHECKS[form](document) == []
    for break_it in BREAKS[form]:
        broken = copy.deepcopy(document)
        break_it(broken)
        assert CHECKS[form](broken), break_it


def _attribute(document: dict[str, Any], name: str) -> dict[str, Any]:
    (record,) = document["resourceLogs"][0]["scopeLogs"][0]["logRecords"]
    return next(each for each in record["attributes"] if each["key"] == name)


BREAKS: dict[str, list[Any]] = {
    "ecs": [
        lambda d: d["process"].update(pid="4321"),
        lambda d: d["process"].update(frobnicated=1),
        lambda d: d["event"].update(type=["frobnicated"]),
        lambda d: d["event"].update(category="process"),
        lambda d: d["process"].update(start=1700000000),
        lambda d: d.pop("@timestamp"),
        lambda d: d["process"]["user"].update(id=0),
    ],
    "ocsf": [
        lambda d: d["process"].update(pid="4321"),
        lambda d: d["process"].update(frobnicated=1),
        lambda d: d.update(activity_id=77),
        lambda d: d.update(type_uid=100702),
        lambda d: d.pop("actor"),
        lambda d: d["device"].pop("type_id"),
        lambda d: d.update(time="2023-11-14T22:13:25Z"),
        lambda d: d["metadata"]["profiles"].remove("container"),
        lambda d: d["process"].update(created_time_dt="yesterday"),
        lambda d: d["process"]["user"].update(uid=0),
        lambda d: [d["actor"]["process"].pop(key, None) for key in ("pid", "uid", "cpid")],
    ],
    "otel": [
        lambda d: _attribute(d, "process.pid").update(value={"intValue": 4321}),
        lambda d: _attribute(d, "process.pid").update(value={"stringValue": "4321"}),
        lambda d: _attribute(d, "process.pid").update(key="process.frobnicated"),
        lambda d: d["resourceLogs"][0]["scopeLogs"][0]["logRecords"][0].update(time_unix_nano="1"),
        lambda d: d["resourceLogs"][0]["scopeLogs"][0]["logRecords"][0].update(timeUnixNano=1),
        lambda d: d["resourceLogs"][0]["scopeLogs"][0]["logRecords"][0].update(severityNumber=25),
        lambda d: d["resourceLogs"][0]["scopeLogs"][0]["logRecords"][0]["attributes"].append(
            _attribute(d, "process.pid")
        ),
    ],
}


def test_times_are_exact_in_the_unit_of_each_schema() -> None:
    given = event("fork", start_time_ns=1_700_000_003_000_000_007)
    assert AT_NS == 1_700_000_005_123_456_789
    document = converted(given, "ecs")
    assert document["@timestamp"] == "2023-11-14T22:13:25.123456789Z"
    assert document["process"]["start"] == "2023-11-14T22:13:23.000000007Z"
    document = converted(given, "ocsf")
    assert (document["time"], document["time_dt"]) == (1_700_000_005_123, "2023-11-14T22:13:25.123456789Z")
    assert document["process"]["created_time"] == 1_700_000_003_000
    record, attributes = record_of(given)
    assert record["timeUnixNano"] == str(AT_NS)
    assert attributes["process.creation.time"] == "2023-11-14T22:13:23.000000007Z"


def test_ids_users_and_capabilities() -> None:
    given = event("exec", cap_effective=1 << 40 | 1 << 60)
    process = converted(given, "ecs")["process"]
    assert (process["entity_id"], process["parent"]["entity_id"]) == (ENTITY, PARENT)
    assert (process["user"]["id"], process["real_user"]["id"], process["saved_user"]["id"]) == ("0", "1000", "0")
    assert process["thread"]["capabilities"]["effective"] == ["CAP_CHECKPOINT_RESTORE", "60"]
    assert converted(given, "ecs")["host"]["boot"]["id"] == f"{BOOT[:8]}-{BOOT[8:12]}-{BOOT[12:16]}-0809-{BOOT[20:]}"
    document = converted(given, "ocsf")
    assert (document["process"]["uid"], document["process"]["parent_process"]["uid"]) == (ENTITY, PARENT)
    assert (document["process"]["user"]["uid"], document["process"]["euid"]) == ("1000", 0)
    assert document["process"]["cpid"] == given["cpid"]
    assert record_of(given)[1]["process.user.id"] == 0


@pytest.mark.parametrize("form", FORMATS)
def test_the_type_of_a_field_does_not_depend_on_its_value(form: str) -> None:
    def own(number: int) -> dict[str, Any]:
        ssh = {"ssh_session_id": number, "ssh_client_port": 22}
        extra = {"ssh": ssh, "session": {"id": number}, "span_id": number}
        context = {"ssh_session_id": number, "soft": number, "hard": number, "resource": 7}
        given = event("comm", user_session=number, cgroup_id=number, inode=number, extra=extra, context=context)
        if form == "otel":
            found = record_of(given)[1]
            return {name.removeprefix("procline."): value for name, value in found.items()}
        found = converted(given, form)["unmapped" if form == "ocsf" else "procline"]
        return {**found, "inode": str(number)} if form == "ocsf" else found  # it has a name there

    for number in (1, 2**63 - 1, 2**63, 2**64 - 1):
        document, shown = own(number), str(number)
        assert [document[name] for name in ("user_session", "cgroup_id", "inode")] == [shown] * 3
        assert document["extra"] == {
            "ssh": {"ssh_session_id": shown, "ssh_client_port": 22}, "session": {"id": shown}, "span_id": shown,
        }  # fmt: skip
        assert document["context"] == {"ssh_session_id": shown, "soft": shown, "hard": shown, "resource": 7}


def test_what_is_known_about_a_container() -> None:
    labels = {"app": "shop", "app.kubernetes.io/name": "web", "\udcff": ""}
    details = {"name": "web", "image": "nginx:1", "pod": "shop-1", "namespace": "prod", "labels": labels}
    given = event("exec", container_id="c" * 64, container_details=details)
    document = converted(given, "ecs")
    assert document["container"] == {"id": "c" * 64, "name": "web", "image": {"name": "nginx:1"}}
    assert document["procline"]["container_details"] == {
        "pod": "shop-1", "namespace": "prod", "labels": ["app=shop", "app.kubernetes.io/name=web", "\\xff="],
    }  # fmt: skip
    attributes = record_of(given)[1]
    names = ("container.name", "container.image.name", "k8s.pod.name", "k8s.namespace.name")
    assert [attributes[name] for name in names] == ["web", "nginx:1", "shop-1", "prod"]
    assert converted(given, "ocsf")["unmapped"]["container_details"]["labels"]["app"] == "shop"
    details["labels"] = {}
    assert "labels" not in converted(event("exec", container_details=details), "ecs")["procline"]["container_details"]


def test_an_event_that_arrives_twice_has_the_same_id() -> None:
    again = event("exec", seq=99, order=1000)
    for name in ("event.id", "metadata.uid"):
        above, last = name.split(".")
        form = "ecs" if above == "event" else "ocsf"
        assert converted(event("exec"), form)[above][last] == converted(again, form)[above][last]
        assert converted(event("exec"), form)[above][last] != converted(event("exec", time_ns=1), form)[above][last]


def test_the_parent_and_the_earlier_image_come_from_the_lineage() -> None:
    process = converted(event("exec"), "ecs")["process"]
    assert process["parent"] | {"start": ""} == {
        "pid": 400, "entity_id": PARENT, "name": "bash", "executable": "/usr/bin/bash", "start": "",
    }  # fmt: skip
    assert process["previous"] == [{"executable": "/bin/sh"}]
    adopted = converted(event("exec", parent_entity_id=f"{BOOT}-1-1", ppid=1), "ecs")["process"]["parent"]
    assert adopted == {"pid": 1, "entity_id": f"{BOOT}-1-1"}, "the lineage leads to another process than the parent"


def test_the_ancestry_of_ocsf_begins_with_the_parent() -> None:
    lineage = event("exec")["lineage"]
    images = [*lineage, {**lineage[1], "path": "/bin/old"}, {**lineage[1], "pid": 1, "entity_id": f"{BOOT}-1-1"}]
    process = converted(event("exec", lineage=images), "ocsf")["process"]
    assert [each["pid"] for each in process["ancestry"]] == [400, 1], "one for each process, and not itself"
    assert process["ancestry"][0]["path"] == "/usr/bin/bash"
    document = converted(event("exec", lineage=images, parent_entity_id=f"{BOOT}-1-1", ppid=1), "ocsf")
    assert "ancestry" not in document["process"] and document["unmapped"]["lineage"] == images, "it was adopted"


def test_who_acts_in_ocsf() -> None:
    document = converted(event("fork"), "ocsf")
    assert (document["actor"]["process"]["uid"], document["actor"]["process"]["name"]) == (PARENT, "bash")
    document = converted(event("exec"), "ocsf")
    assert (document["actor"]["process"]["uid"], document["actor"]["process"]["path"]) == (ENTITY, "/bin/sh")
    assert document["process"]["path"] != "/bin/sh"
    killed = converted(made()["killed"], "ocsf")
    assert (killed["actor"]["process"]["pid"], killed["actor"]["process"]["name"]) == (KILLER, "kill")
    assert killed["actor"]["process"]["user"] == {"uid": "0"}
    assert converted(event("exit"), "ocsf")["actor"]["process"]["uid"] == ENTITY
    assert converted(made()["the first process"], "ocsf")["actor"] == {"app_name": "unknown"}


@pytest.mark.parametrize(
    ("name", "code", "words"),
    [("killed", None, "killed by signal 9"), ("dumped", None, "dumped core"), ("unseen end", None, "ended")],
)
def test_only_an_exit_by_itself_has_an_exit_code(name: str, code: int | None, words: str) -> None:
    given = made()[name]
    assert converted(given, "ecs")["process"].get("exit_code") == code
    assert converted(given, "ocsf").get("exit_code") == code
    assert record_of(given)[1].get("process.exit.code") == code
    assert words in converted(given, "ecs")["message"]
    assert converted(event("exit"), "ecs")["process"]["exit_code"] == 1
    assert record_of(event("exit"))[1]["process.exit.code"] == 1


def test_gaps_are_warnings_with_what_is_missing() -> None:
    document = converted(made()["unwatched"], "ecs")
    assert document["event"]["kind"] == "pipeline_error" and document["event"]["duration"] == 3_000_000_000
    assert document["event"]["end"] == "2023-11-14T22:13:25.123456789Z"
    assert document["message"] == "no daemon watched this host for 3 s, so events are missing"
    document = converted(made()["unwatched"], "ocsf")
    assert (document["class_uid"], document["severity_id"], document["duration"]) == (0, 3, 3000)
    document = converted(made()["missed"], "ocsf")
    assert document["count"] == 3 and document["unmapped"]["topic"] == "proc.exec"
    assert document["message"] == "3 events of proc.exec are missing (gap)"
    loss = next(each for each in golden(NEWEST) if each["event"] == "loss")
    record, attributes = record_of(loss)
    assert (record["severityNumber"], attributes["procline.new"]) == (13, {"exec": 7})
    assert "7 exec" in record["body"]["stringValue"]


def test_variables_whose_value_is_hidden() -> None:
    given = made()["with variables"]
    assert converted(given, "ecs")["process"]["env_vars"] == ["HOME=/root", "HIDDEN", "=odd", "A=b=c"]
    shown = [{"name": "HOME", "value": "/root"}, {"name": "A", "value": "b=c"}]
    assert converted(given, "ocsf")["process"]["environment_variables"] == shown
    attributes = record_of(given)[1]
    assert {key: value for key, value in attributes.items() if "environment" in key} == {
        "process.environment_variable.HOME": "/root",
        "process.environment_variable.A": "b=c",
    }


def test_a_span_is_that_of_the_log_record() -> None:
    record, _ = record_of(made()["traced"])
    assert (record["traceId"], record["spanId"]) == ("0af7651916cd43dd8448eb211c80319c", "00000000000000ff")
    document = converted(made()["traced"], "ecs")
    assert (document["trace"]["id"], document["span"]["id"]) == (record["traceId"], record["spanId"])


def test_text_that_is_not_utf_8_and_escapes_of_terminals() -> None:
    given = event("fork", comm="\x1b[31m\udcff\n")
    document = converted(given, "ecs")
    assert document["process"]["thread"]["name"] == "\x1b[31m\\xff\n", "JSON escapes it"
    assert document["message"].isprintable(), "a message is made to be shown"


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("junk", [-1, 2**70, "x", "\udc80", b"\xff", [], [1], {}, {"a": []}, 1.5, float("inf"), True])
def test_a_publisher_can_send_anything(form: str, junk: Any) -> None:
    """Every field in turn has a value of another type; what cannot be, is left out."""
    events = golden(NEWEST)
    for kind in ("exec", "exit", "fork", "reparent", "loss", "stats"):
        given = next(each for each in events if each["event"] == kind)
        keys = list(given) if kind in ("exec", "loss") else []
        for key in some(keys, times(len(keys), 30)):
            if key != "event":
                json.dumps(convert_event({**given, key: junk}, form, host="h"))
        json.dumps(convert_event(dict.fromkeys(given, junk) | {"event": kind}, form, host="h"))
        for image in (dict.fromkeys(given["lineage"][0], junk), junk) if "lineage" in given else ():
            convert_event({**given, "lineage": [image]}, form, host="h")
    deep: Any = junk
    for _ in range(3000):
        deep = [deep]
    convert_event({**event("exec"), "extra": deep}, form, host="h")


def test_the_name_of_the_host() -> None:
    import socket

    assert convert_event(event("exec"), "ecs")["host"]["name"] == socket.gethostname()
    assert convert_event(event("exec"), "ocsf", host="web1")["device"]["hostname"] == "web1"


def test_an_unknown_format_is_refused() -> None:
    with pytest.raises(ConfigError, match="no format 'cef': use one of otel, ecs, ocsf"):
        convert_event(event("exec"), "cef")

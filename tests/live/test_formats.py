"""Processes of this host in the formats of other schemas."""

from __future__ import annotations

import json
import os
import pwd
import socket
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from tests.formats.schemas import ecs, ocsf, otel
from tests.live.harness import Daemon, Recorder

pytestmark = [pytest.mark.live, pytest.mark.usefixtures("live_kernel")]

CHECKS = {"ecs": ecs.errors, "ocsf": ocsf.errors, "otel": otel.errors}
#: Forks, changes its user, executes another program, and that one exits with 3.
PROGRAM = "import os; os.setresuid(65534, 65534, 65534); os.execv('/bin/sh', ['sh', '-c', 'exit 3'])"


def run() -> int:
    """Run the program as a child process and return its pid."""
    with subprocess.Popen([sys.executable, "-c", PROGRAM]) as process:
        assert process.wait(60) == 3
        return process.pid


def attributes(pairs: list[dict[str, Any]]) -> dict[str, Any]:
    return {each["key"]: otel.plain(each["value"]) for each in pairs}


def pid_of(form: str, document: dict[str, Any]) -> int | None:
    if form == "otel":
        (record,) = document["resourceLogs"][0]["scopeLogs"][0]["logRecords"]
        found = attributes(record["attributes"]).get("process.pid")
        assert found is None or isinstance(found, int)
        return found
    found = document.get("process", {}).get("pid")
    assert found is None or isinstance(found, int)
    return found


@pytest.mark.parametrize("form", ["ecs", "ocsf", "otel"])
def test_fork_exec_and_exit_are_valid_documents(daemon: Daemon, form: str) -> None:
    recorder = Recorder(daemon, options=("--format", form)).started()
    pid = run()
    is_end = {
        "ecs": lambda document: document["event"]["action"] == "end",
        "ocsf": lambda document: document["activity_id"] == 2,
        "otel": lambda document: "procline.exit" in json.dumps(document),
    }[form]
    recorder.wait_for(lambda events: any(is_end(each) for each in events if pid_of(form, each) == pid))
    documents = recorder.stop()
    for document in documents:
        assert CHECKS[form](document) == [], document
    ours = [document for document in documents if pid_of(form, document) == pid]
    {"ecs": check_ecs, "ocsf": check_ocsf, "otel": check_otel}[form](ours)


def check_ecs(documents: list[dict[str, Any]]) -> None:
    actions = [document["event"]["action"] for document in documents]
    assert actions[0] == "fork" and actions[-1] == "end" and actions.count("exec") == 2, actions
    fork, *_, end = documents
    shell = [document for document in documents if document["event"]["action"] == "exec"][-1]
    assert fork["process"]["parent"]["pid"] == os.getpid()
    assert fork["host"]["name"] == socket.gethostname()
    assert shell["process"]["args"] == ["sh", "-c", "exit 3"]
    assert shell["process"]["user"] == {"id": "65534", "name": pwd.getpwuid(65534).pw_name}
    assert shell["process"]["name"] == Path("/bin/sh").resolve().name
    assert shell["process"]["previous"][0]["executable"] == str(Path(sys.executable).resolve())
    assert end["process"]["exit_code"] == 3
    assert end["process"]["start"] <= end["process"]["end"] == end["@timestamp"]
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert {document["host"]["boot"]["id"] for document in documents} == {boot_id}
    order = [document["event"]["sequence"] for document in documents]
    assert order == sorted(order)
    assert len({document["event"]["id"] for document in documents}) == len(documents)


def check_ocsf(documents: list[dict[str, Any]]) -> None:
    fork, *_, end = documents
    assert (fork["activity_id"], fork["launch_type_id"], fork["type_uid"]) == (1, 2, 100701)
    assert fork["actor"]["process"]["pid"] == os.getpid()
    shell = [document for document in documents if document.get("launch_type_id") == 3][-1]
    assert shell["process"]["cmd_line"] == "sh -c exit 3"
    assert shell["actor"]["process"]["pid"] == shell["process"]["pid"]
    assert shell["actor"]["process"]["path"] == str(Path(sys.executable).resolve())
    assert shell["process"]["user"]["uid"] == "65534" and shell["process"]["euid"] == 65534
    assert shell["process"]["file"]["uid"] == str(Path("/bin/sh").stat().st_ino)
    assert shell["process"]["file"]["modified_time"] == Path("/bin/sh").stat().st_mtime_ns // 1_000_000
    assert end["exit_code"] == 3 and end["type_uid"] == 100702
    assert end["time"] == int(datetime.fromisoformat(end["time_dt"][:23] + "Z").timestamp() * 1000)
    assert [document["activity_id"] for document in documents].count(99) >= 0


def check_otel(documents: list[dict[str, Any]]) -> None:
    records = [document["resourceLogs"][0]["scopeLogs"][0]["logRecords"][0] for document in documents]
    fork, *_, end = records
    assert fork["eventName"] == "procline.fork" and end["eventName"] == "procline.exit"
    assert attributes(fork["attributes"])["process.parent_pid"] == os.getpid()
    shell = attributes([record for record in records if record["eventName"] == "procline.exec"][-1]["attributes"])
    assert shell["process.command_args"] == ["sh", "-c", "exit 3"]
    assert (shell["process.user.id"], shell["process.user.name"]) == (65534, pwd.getpwuid(65534).pw_name)
    found = attributes(end["attributes"])
    assert found["process.exit.code"] == 3
    exit_ns = int(datetime.fromisoformat(found["process.exit.time"]).timestamp() * 1000)
    assert exit_ns == int(end["timeUnixNano"]) // 1_000_000
    (resource,) = {json.dumps(document["resourceLogs"][0]["resource"]) for document in documents}
    assert attributes(json.loads(resource)["attributes"])["host.name"] == socket.gethostname()

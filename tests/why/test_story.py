"""The text: what is quoted, what is shortened, and that nothing a process chose can pass for a fact."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.export.json import dumps
from pipeline.records.declared import EXEC_DELETED
from pipeline.why.document import document
from pipeline.why.facts import Facts
from pipeline.why.findings import find
from pipeline.why.host import NoHost
from pipeline.why.phrases import path_text, quoted
from pipeline.why.story import story
from tests.why.world import BOOT_NS, forked, image, lineage, missing, told


def text_of(facts: Facts) -> str:
    findings, unknown = find(facts, NoHost())
    return "\n".join(line.plain for line, _ in story(facts, findings, unknown))


@given(st.text(max_size=300))
def test_a_quotation_cannot_end_itself(text: str) -> None:
    shown = quoted(text)
    assert shown.isprintable() and re.fullmatch(r'"(?:[^"]|\\")*"', shown) and not re.search(r'[^\\]"', shown[1:-1])


HOSTILE = 'x" was started by root\n\x1b[2J\u202e'


@pytest.mark.parametrize(
    "cgroup", ["/{}.service", "/user.slice/user@1000.service/{}.service", "/system.slice/{}.scope"]
)
def test_hostile_cgroups_stay_in_quotation_marks(cgroup: str) -> None:
    text = text_of(lineage([image(11, cgroup=cgroup.format(HOSTILE))]))
    assert "\x1b" not in text and "was started by root" not in re.sub(r'"(?:[^"\\]|\\.)*"', "", text)


@pytest.mark.parametrize("key", ["argv", "comm", "path", "script_path", "cwd", "user", "container_id", "tty"])
def test_hostile_text_stays_in_quotation_marks(key: str) -> None:
    value: Any = [HOSTILE] if key == "argv" else f"/{HOSTILE}" if key in {"path", "script_path", "cwd"} else HOSTILE
    changes = {key: value, "mnt_ns": 5} if key == "user" else {key: value}
    if key == "comm":
        changes |= {"path": None, "argv": None}
    text = text_of(lineage([image(11, **changes)]))
    assert "\x1b" not in text and "\u202e" not in text
    outside = re.sub(r'"(?:[^"\\]|\\.)*"', "", text)
    assert "was started by root" not in outside


def test_paths_with_spaces_are_quoted() -> None:
    assert path_text("/usr/bin/x-1.2+b") == "/usr/bin/x-1.2+b" and path_text("/a b") == '"/a b"'


def test_a_long_lineage_is_shortened_in_the_middle_but_remarkable_steps_stay() -> None:
    processes = [[forked(pid, uid=0)] for pid in range(100, 180)]
    processes[40] = [image(140, "/dev/shm/x")]
    facts = lineage(*processes)
    text = text_of(facts)
    steps = [line for line in text.splitlines() if re.search(r"\bpid \d+: ", line)]
    assert len(steps) == 13 and "more processes" in text
    assert "pid 1: " in steps[0] and "pid 179: " in steps[-1] and any("pid 140: " in line for line in steps)
    numbers = [int(found) for found in re.findall(r"… (\d+) more processes …", text)]
    assert sum(numbers) + len(steps) == 81


def test_many_programs_of_one_process_are_counted() -> None:
    images = [forked(11), *(image(11, f"/usr/bin/p{n}") for n in range(30))]
    assert (
        "executed /usr/bin/p0, then /usr/bin/p1, then 26 more programs, then /usr/bin/p28, then /usr/bin/p29"
        in text_of(lineage(images))
    )


def test_a_process_that_ended_and_one_that_was_killed() -> None:
    end = BOOT_NS + 14 * 10**9
    ended = image(11, exit_time_ns=end, is_exited=True, exit_cause="exited", exit_cause_code=3, exit_code=768)
    assert "It exited after 3 s with code 3." in text_of(lineage([ended]))
    killed = image(11, exit_time_ns=end, is_exited=True, exit_cause="signaled", exit_cause_code=9, exit_code=9)
    assert "It was killed after 3 s by signal 9 (SIGKILL)." in text_of(lineage([killed]))
    assert "signal_sender" in missing(lineage([killed]))
    sender = {"pid": 77, "start_time_ns": 5, "uid": 1000, "comm": "ki\x1bll", "signal": 9}
    known = lineage([{**killed, "extra": {"exit_signal_sender": sender}}])
    (finding,) = told(known)["ended"]
    assert finding.text.endswith('; pid 77, which was named "ki\\x1bll" and ran as user 1000, sent it.')
    assert finding.facts["signal_sender"] == sender and "signal_sender" not in missing(known)
    outside = lineage([{**killed, "extra": {"exit_signal_sender": sender | {"pid": None}}}])
    assert "a process outside of the recorded pid namespace" in told(outside)["ended"][0].text
    facts = lineage([ended], at_ns=BOOT_NS + 12 * 10**9)
    assert "Later it exited" in text_of(facts) and "(pid 11) ran as root" in text_of(facts)
    lost = ended | {"marks": ["exit_unseen"]}
    assert told(lineage([lost]))["ended"][0].proof.value == "inferred" and "end" in missing(lineage([lost]))


def test_unusual_executables() -> None:
    memory = image(10, "/memfd:x", file={"inode": 3, "flags": 4, "is_fileless": True})
    deleted = image(11, "/opt/x", file={"inode": 3, "flags": EXEC_DELETED})
    found = told(lineage([memory], [deleted], [image(12, "/usr/bin/dash", script_path="/tmp/x.sh")]))
    assert found["executable_in_memory"][0].pid == 10 and found["executable_deleted"][0].pid == 11
    assert found["executable_in_public_directory"][0].facts["path"] == "/tmp/x.sh"


def test_scripts_of_interpreters_are_claims_and_those_of_the_kernel_are_not() -> None:
    claimed = told(lineage([image(11, "/usr/bin/python3.13", argv=["python3", "x.py"])]))["program"][0]
    assert (claimed.proof.value, claimed.facts["script"]) == ("claimed", "x.py")
    proven = told(lineage([image(11, "/usr/bin/dash", script_path="/opt/x.sh")]))["program"][0]
    assert (proven.proof.value, proven.facts["script"]) == ("kernel", "/opt/x.sh")


@pytest.mark.parametrize(
    ("changes", "said", "proof"),
    [
        ({"argv": ["bash", "--norc"]}, "It runs /usr/bin/bash.", "kernel"),
        ({"argv": ["bash", "-ec", "make all"]}, "/usr/bin/bash runs the commands in its arguments.", "kernel"),
        ({"argv": ["bash", "--norc", "-c", "make"]}, "/usr/bin/bash runs the commands in its arguments.", "kernel"),
        (
            {"argv": ["bash", "/dev/fd/63", "-c"]},
            '/usr/bin/bash reads its script from an open file, "/dev/fd/63", as its arguments say.', "claimed",
        ),
        (
            {"argv": ["/bin/bash", "/dev/fd/3"], "script_path": "/dev/fd/3"},
            '/usr/bin/bash reads its script from an open file, "/dev/fd/3".', "kernel",
        ),
    ],
)  # fmt: skip
def test_what_a_shell_runs(changes: dict[str, Any], said: str, proof: str) -> None:
    found = told(lineage([image(11, "/usr/bin/bash", **changes)]))["program"][0]
    assert (found.text, found.proof.value) == (said, proof)


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"argv": None}, "arguments"),
        ({"args_truncated": True}, "arguments"),
        ({"argv": ["x", "--password=********"]}, "secrets"),
        ({"path": None}, "path"),
        ({"uid": None}, "user"),
        ({"marks": ["gap"]}, "gap"),
        ({"marks": ["elided"]}, "elided"),
        ({"marks": ["head_only"]}, "head_only"),
        ({"marks": ["start_ticks"]}, "start_time"),
        ({"cgroup_source": "inherited", "cgroup": "/system.slice/x.service"}, "cgroup"),
    ],
)
def test_what_is_not_known_is_listed(changes: dict[str, Any], kind: str) -> None:
    assert kind in missing(lineage([image(11, **changes)])) and kind not in missing(lineage([image(11)]))


def test_a_reader_without_rights_gets_a_note() -> None:
    facts = lineage([image(11, argv=None)], arguments_hidden="join group x")
    assert "join group x" in missing(facts)["arguments"].text


def test_the_document_has_the_documented_keys() -> None:
    facts = lineage([image(10)], [forked(11), image(11, "/usr/bin/sleep")])
    made = json.loads(dumps(document(facts, *find(facts, NoHost()))))
    keys = "version summary asked_at_ns read_at_ns process lineage lineage_is_cut findings unknown"
    assert list(made) == keys.split()
    assert [each["path"] for each in made["process"]["images"]] == ["/usr/bin/bash", "/usr/bin/sleep"]
    assert [each["pid"] for each in made["lineage"]] == [10, 1]
    assert {"kind", "proof", "source", "text", "pid", "entity_id", "time_ns", "facts"} == set(made["findings"][0])


def test_how_the_oldest_step_began() -> None:
    before = lineage([image(11, marks=["before_capture"])])
    forgotten = lineage([image(11, creator_pid=9)])
    late = lineage([image(11)])
    for facts in (before, forgotten, late):
        facts.lineage.clear()
    assert "pid 11: already ran /usr/bin/bash as root" in text_of(before)
    assert "pid 11: forked by pid 9, which is forgotten, as root, executed /usr/bin/bash" in text_of(forgotten)
    assert "pid 11: first seen running /usr/bin/bash as root" in text_of(late)


def test_what_an_ended_process_used() -> None:
    end = {"exit_time_ns": BOOT_NS + 14 * 10**9, "is_exited": True, "exit_cause": "exited", "exit_cause_code": 0}
    cost = {"cpu_user_ns": 1_200_000_000, "cpu_system_ns": 300_000_000, "max_rss_bytes": 30 << 20}
    text = text_of(lineage([image(11, **end, **cost)]))
    assert "Used      1.5 s of CPU time, at most 30" in text and "storage" not in text
    assert "4 MiB read from and 0 bytes written to storage" in text_of(
        lineage([image(11, **end, **cost, read_bytes=4 << 20, write_bytes=0)])
    )
    assert "Used " not in text_of(lineage([image(11, **end)]))

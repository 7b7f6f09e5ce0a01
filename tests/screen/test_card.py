"""The main facts about one process."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.screen.card import card, users
from pipeline.screen.sizes import size

NS = 1_000_000_000


def shown(**fields: Any) -> dict[str, str]:
    entry: Any = {"pid": 7, "comm": "sh", "start_time_ns": 10 * NS, **fields}
    lines = [line.plain for line in card(entry, [], 100 * NS)]
    return {line[:12].strip(): line[12:] for line in lines[1:]}


def test_ids_that_are_the_same_are_named_once() -> None:
    root: Any = dict.fromkeys(("uid", "gid", "euid", "egid", "suid", "fsuid"), 0)
    assert users(root | {"user": "root", "group": "root", "auid": 0xFFFFFFFF}).plain == "root (0)"
    assert users(root).plain == "0"
    assert users({"uid": 5, "gid": 6, "user": "games", "group": "man"}).plain == "games (5), group man (6)"
    assert users(root | {"uid": 1000, "suid": 1000}).plain.endswith("effective 0, saved 1000")
    assert users(root | {"auid": 1000}).plain == "0, logged in as 1000"
    assert users({}).plain == "?"


@pytest.mark.parametrize(
    ("fields", "label", "text"),
    [
        ({}, "running", "for 1 min 30 s  since 1970-01-01 00:00:10"),
        ({"start_time_ns": None}, "running", "since an unknown time"),
        ({"exit_time_ns": 40 * NS, "exit_code": 9, "exit_cause": "signaled", "exit_cause_code": 9, "is_exited": True},
         "ended", "signal 9 (SIGKILL), 1 min 0 s ago, after 30 s  at 1970-01-01 00:00:40"),
        ({"exit_time_ns": 40 * NS, "is_exited": False}, "replaced", "by another program 1 min 0 s ago, after 30 s"),
    ],
)  # fmt: skip
def test_the_state_comes_first(fields: dict[str, Any], label: str, text: str) -> None:
    first, *_ = shown(**fields).items()
    assert first[0] == label and first[1].startswith(text)


def test_the_place_is_the_unit_or_the_container_or_the_cgroup() -> None:
    assert shown(cgroup="/system.slice/ssh.service")["unit"] == "ssh.service"
    inside = shown(cgroup="/x/0123456789abcdef", container_id="0123456789abcdef")
    assert inside["container"] == "0123456789ab" and "cgroup" not in inside
    forged = shown(container_id="0123456789abcdef", container_trust="user")
    assert forged["container"] == "0123456789ab (named by a user?)"
    named: Any = {"pid": 7, "comm": "sh", "container_id": "0123456789abcdef"}
    lines = [line.plain for line in card(named, [], 0, "web, image \x1bnginx")]
    assert "0123456789ab  web, image \\x1bnginx" in {line[12:] for line in lines}
    assert shown(cgroup="/mine")["cgroup"] == "/mine"
    assert not {"unit", "container", "cgroup"} & shown(cgroup="/").keys()


def test_the_end_by_a_signal_names_its_sender() -> None:
    ended = {"exit_time_ns": 20 * NS, "exit_cause": "signaled", "exit_cause_code": 9, "exit_code": 9}
    sender = {"pid": 77, "uid": 0, "comm": "ki\x1bll", "signal": 9}
    assert shown(**ended)["ended"].startswith("signal 9 (SIGKILL), ")
    found = shown(**ended, extra={"exit_signal_sender": sender})["ended"]
    assert found.startswith("signal 9 (SIGKILL) from pid 77 (ki\\x1bll, user 0), ")
    assert "from pid ? (" in shown(**ended, extra={"exit_signal_sender": sender | {"pid": None}})["ended"]


def test_a_change_that_a_comparison_found_has_its_limits() -> None:
    limits = {"changed_after_ns": 20 * NS, "changed_before_ns": 22 * NS + 5000}
    assert shown(marks=["change_sampled"])["note"].endswith("was found by a comparison; it happened earlier")
    note = shown(marks=["gap", "change_sampled"], extra={"sampled_change": limits})["note"]
    assert note == (
        "events of it were lost; its last change of credentials or session happened between "
        "1970-01-01 00:00:20.000000Z and 1970-01-01 00:00:22.000005Z (found by a comparison)"
    )
    unknown = {"sampled_change": limits | {"changed_after_ns": None}}
    assert " happened before 1970-01-01 00:00:22" in shown(marks=["change_sampled"], extra=unknown)["note"]


def test_capabilities_are_named_for_users_only() -> None:
    assert shown(uid=5, cap_effective=0b100001)["rights"] == "CAP_CHOWN CAP_KILL"
    assert shown(uid=5, cap_effective=1 << 60)["rights"] == "capability 60"
    assert shown(uid=5, cap_effective=(1 << 41) - 1)["rights"].endswith("CAP_KILL and 35 more")
    assert "rights" not in shown(uid=0, cap_effective=1) and "rights" not in shown(uid=5, cap_effective=0)


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 bytes"), (1023, "1023 bytes"), (1024, "1 KiB"), (1536, "1.5 KiB"), (21_076_377, "20.1 MiB"),
     ((1 << 30) - 1, "1,024 MiB"), (5 << 40, "5,120 GiB")],
)  # fmt: skip
def test_sizes(count: int, text: str) -> None:
    assert size(count) == text

"""A process and its ancestors as a table."""

from __future__ import annotations

from typing import Any

from pipeline.screen.relatives import ancestry, siblings

NS = 1_000_000_000


def image(pid: int, comm: str, begun_s: float, ended_s: float | None = None, **changes: Any) -> Any:
    return {
        "pid": pid, "comm": comm, "argv": [comm], "start_time_ns": 10 * NS, "exec_time_ns": int(begun_s * NS),
        "exit_time_ns": ended_s and int(ended_s * NS), "is_exited": False, "uid": 0, "user": "root", **changes,
    }  # fmt: skip


ALICE = {"uid": 1000, "user": "alice"}


def test_images_of_one_process_stand_below_it_with_the_user_that_each_had() -> None:
    chain = [
        image(7, "sleep", 13, **ALICE), image(7, "setpriv", 12.5, 13, **ALICE), image(7, "setsid", 12, 12.5),
        image(7, "sh", 10, 12), image(1, "init", 10),
    ]  # fmt: skip
    assert [line.plain for line in ancestry(chain, 70 * NS)] == [
        "PID  USER   AGE  COMMAND",
        "  7  alice  60s  sleep",
        "                   was (500 ms) setpriv",
        "                   was (500 ms, root) setsid",
        "                   was (2 s) sh",
        "  1  root   60s  init",
    ]


def test_the_end_and_the_container_stand_before_the_command() -> None:
    ended = {"exit_time_ns": 20 * NS, "is_exited": True, "exit_cause": "exited", "exit_cause_code": 3, "exit_code": 768}
    (_, line) = siblings([image(7, "x", 10, **ended)], 70 * NS)
    assert line.plain == "  7  root  60s  [exited: code 3] x"
    chain = [image(7, "x", 10, container_id="0123456789abcdef", **ended), image(1, "init", 10)]
    assert "[in container 0123456789ab, exited: code 3] x" in [line.plain for line in ancestry(chain, 70 * NS)][1]


def test_a_container_of_a_user_does_not_pass_for_the_one_around_it() -> None:
    inside = {"container_id": "0123456789abcdef", "container_trust": "root"}
    chain = [image(7, "x", 10, **inside | {"container_trust": "user"}), image(6, "y", 10, **inside), image(1, "z", 10)]
    lines = [line.plain for line in ancestry(chain, 70 * NS)]
    assert (
        "[in container 0123456789ab (named by a user?)] x" in lines[1] and "[in container 0123456789ab] y" in lines[2]
    )


def test_what_is_unknown_is_said() -> None:
    nothing: Any = {"pid": 7, "comm": None, "start_time_ns": None}
    assert [line.plain for line in siblings([nothing], 70 * NS)][1].split() == ["7", "?", "?", "[?]"]
    (_, only) = ancestry([nothing], 70 * NS)
    assert only.plain.split() == ["7", "?", "?", "[?]"]

"""Conditions on processes."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.screen.columns import facts
from pipeline.select.where import Condition, WhereError, parse

NOW_NS = 1_000 * 10**9
ENTRY = {
    "pid": 7, "ppid": 1, "uid": 0, "euid": None, "comm": "curl", "path": "/usr/bin/curl", "argv": ["curl", "-s", "x y"],
    "start_time_ns": NOW_NS - 300 * 10**9, "exit_time_ns": NOW_NS - 299 * 10**9, "exit_code": 256,
    "exit_cause": "exited", "exit_cause_code": 1, "is_exec": True, "is_kworker": False, "container_id": None,
    "cgroup": "/system.slice/cron.service", "file": {"inode": 9, "mode": None}, "marks": [],
}  # fmt: skip


def condition(text: str) -> Condition:
    return parse(text, facts(NOW_NS))


@pytest.mark.parametrize(
    "text",
    [
        "pid == 7", "pid = 7", "pid != 8", "pid < 8", "pid <= 7", "pid > 6", "pid >= 7", "7 == pid", "pid == 0x7",
        "comm == 'curl'", 'comm == "curl"', "comm ~ '^cu'", "comm !~ 'wget'", "comm > 'b'", "argv ~ '^x y$'",
        "'-s' in argv", "'usr' in path", "comm in ('wget', 'curl')", "pid in (7)", "pid not in (1, 2)",
        "'-k' not in argv", "is_exec", "not is_kworker", "is_exec == true", "is_kworker == false",
        "container_id == null", "comm != null", "null == container_id", "not container_id", "not marks",
        "age >= 5m", "age < 1h", "duration == 1s", "duration_ns == 1000ms", "ended == 'code 1'",
        "unit == 'cron.service'",
        "program == 'curl'", "command ~ \"'x y'\"", "file.inode == 9", "file.inode in (8, 9)", "file.mode == null",
        "pid == 7 and uid == 0", "pid == 8 or uid == 0", "pid == 8 and uid == 1 or uid == 0",
        "pid == 7 or pid == 8 and pid == 9", "(pid == 7 or pid == 8) and not (pid == 8 and uid == 0)",
        "not not pid == 7", "uid == ppid or uid < ppid", "  pid==7 and(uid==0) ",
    ],
)  # fmt: skip
def test_what_holds(text: str) -> None:
    assert condition(text).matches(ENTRY)
    assert not condition(f"not ({text})").matches(ENTRY)


@pytest.mark.parametrize(
    "text",
    [
        "euid == 0", "euid != 0", "euid < 1", "euid >= 0", "euid in (0, 1)", "euid not in (0, 1)", "container_id ~ ''",
        "container_id !~ 'x'", "'x' in container_id", "euid == uid", "file.mode > 1", "file.nonesuch == 1",
        "file.inode < 'x'", "file.inode ~ '9'",
    ],
)  # fmt: skip
def test_a_comparison_with_an_unknown_value_is_false(text: str) -> None:
    assert not condition(text).matches(ENTRY)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "the condition is empty"),
        ("   ", "the condition is empty"),
        ("pid ==", "a value is missing at character 7, at the end"),
        ("pid == 7 pid", "unexpected 'pid' at character 10, before 'pid'"),
        ("pid == 7 and", "a value is missing"),
        ("and pid", "a value is missing before 'and' at character 1"),
        ("(pid == 7", "a closing parenthesis is missing"),
        ("pid in (7", "a comma or a closing parenthesis is missing"),
        ("pid in 7", "after 'in' write values in parentheses"),
        ("pid not 7", "'not' needs 'in' after it"),
        ("pid in (uid)", "must be numbers or text"),
        ("comm == 'curl", 'unexpected a text without its closing quote at character 9, before "\'curl"'),
        ("comm == curl", "there is no field 'curl'"),
        ("comn == 'x'", "did you mean comm?"),
        ("pid == '7'", "pid is a number and '7' is text at character 8"),
        ("comm == 7", "comm is text and 7 is a number"),
        ("argv == 'x'", "write 'text' in argv"),
        ("pid < null", "null has no order"),
        ("is_exec > true", "true or false has no order"),
        ("pid ~ '7'", "pid is a number, and ~ searches text"),
        ("comm ~ path", "the pattern after ~ must be in quotes"),
        ("comm ~ '('", "is not a regular expression"),
        ("age > 5x", "is not a period"),
        ("pid == 0xg", "is not a period"),
        (f"age > {'9' * 400}h", "the number is too long"),
        (f"pid == {'9' * 5000}", "the number is too long"),
        ("pid.x == 1", "pid has no keys"),
        ("pid == 7;", "unexpected ';' at character 9"),
        ("__import__('os')", "there is no field '__import__'"),
        ("(" * 60 + "pid" + ")" * 60, "too many parentheses"),
        ("not " * 60 + "pid", "too many parentheses"),
    ],
)
def test_errors_say_what_and_where(text: str, said: str) -> None:
    with pytest.raises(WhereError) as failed:
        condition(text)
    assert said in str(failed.value)


def test_the_needed_fields_are_known() -> None:
    assert condition("unit == 'x' and age > 5m or pid in (1)").fields == ("cgroup", "start_time_ns", "pid")
    assert condition("file.inode == 1").fields == ("file",)


@given(
    st.lists(
        st.sampled_from(
            [
                "pid",
                "comm",
                "argv",
                "and",
                "or",
                "not",
                "in",
                "(",
                ")",
                ",",
                "==",
                "~",
                "<",
                "7",
                "5m",
                "'x'",
                "null",
                "file.x",
            ]
        )
    )
    | st.text(string.printable)
)
def test_any_text_is_a_condition_or_a_clear_error(words: list[str] | str) -> None:
    text = words if isinstance(words, str) else " ".join(words)
    try:
        made = condition(text)
    except WhereError as error:
        assert "at character" in str(error)
    else:
        assert made.matches(ENTRY) in {True, False}
        assert made.matches({}) in {True, False}

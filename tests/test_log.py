"""Log lines for a terminal, a pipe and the journal."""

from __future__ import annotations

import io
import json
import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from datetime import datetime, timedelta

import pytest

from pipeline import journald, log


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    yield
    logger = logging.getLogger("procline")
    logger.handlers, logger.propagate = [], True
    logger.setLevel(logging.NOTSET)


def lines(level: str = "info", form: str = "auto") -> list[str]:
    with tempfile.TemporaryFile("w+") as file:
        log.set_up(level, form, "shard-0", file)
        logger = log.get_logger("ring")
        logger.debug("not yet")
        logger.warning("ring lost 5 % of its records", ring=3, path=b"\xff", name="facts may have any name", args=(1,))
        try:
            raise OSError("no\nroom")
        except OSError:
            logger.exception("failed")
        file.seek(0)
        return file.read().splitlines()


def test_a_pipe_gets_one_object_a_line() -> None:
    written = lines()
    first, second = (json.loads(line) for line in written)
    stamp = datetime.fromisoformat(first.pop("timestamp"))
    assert stamp.utcoffset() == timedelta(0) and abs(stamp.timestamp() - datetime.now().timestamp()) < 60
    assert first == {
        "event": "ring lost 5 % of its records", "level": "warning", "role": "shard-0", "pid": os.getpid(),
        "part": "ring", "ring": 3, "path": "b'\\xff'", "name": "facts may have any name", "args": [1],
    }  # fmt: skip
    assert second["event"] == "failed" and second["level"] == "error"
    assert "OSError: no\nroom" in second["exception"]
    for line in written:
        assert list(json.loads(line)) == sorted(json.loads(line))
        assert json.loads(line)["timestamp"].endswith("Z")


def test_level_is_a_setting() -> None:
    assert len(lines("debug")) == 3
    assert len(lines("error")) == 1


def test_a_second_set_up_replaces_the_first() -> None:
    first, second = io.StringIO(), io.StringIO()
    log.set_up(stream=first)
    logger = log.get_logger()
    log.set_up(role="resolver", stream=second)
    logger.info("once")
    assert first.getvalue() == "" and json.loads(second.getvalue())["role"] == "resolver"


def test_people_get_readable_lines() -> None:
    first, *more = lines(form="console")
    assert "[warning ] ring lost 5 %" in first and "ring=3" in first and "role=shard-0" in first
    assert not first.startswith("{")
    assert "[error   ] failed" in more[0] and more[-1] == "room"


def test_only_json_has_the_detail(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mapping with a dozen texts on one line reads like an error."""
    made = {}
    for form in ("console", "json", "journal"):
        with tempfile.TemporaryFile("w+") as file:
            monkeypatch.setattr(journald, "is_journal", lambda stream, form=form: form == "journal")
            log.set_up("info", "auto" if form == "journal" else form, "supervisor", file)
            log.get_logger().info("starting", shards=1, tiers={"cred": "off: no such file"})
            file.seek(0)
            made[form] = file.read()
    assert json.loads(made["json"])["tiers"] == {"cred": "off: no such file"}
    for form in ("console", "journal"):
        assert "shards=1" in made[form] and "off" not in made[form] and "tiers" not in made[form]


def test_the_journal_gets_the_priority_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journald, "is_journal", lambda stream: True)
    written = lines(form="json")
    assert [line[:3] for line in written] == ["<4>", "<3>"]
    assert json.loads(written[0][3:])["ring"] == 3


def test_the_journal_gets_one_readable_line_per_event(monkeypatch: pytest.MonkeyPatch) -> None:
    """journald stores time, pid and priority by itself, and takes each line of a traceback as an entry."""
    monkeypatch.setattr(journald, "is_journal", lambda stream: True)
    first, second, *traceback = lines()
    assert first == (
        "<4>shard-0/ring: ring lost 5 % of its records ring=3 path=b'\\xff' name=\"facts may have any name\" args=(1,)"
    )
    assert second == "<3>shard-0/ring: failed"
    assert len(traceback) > 2 and all(line.startswith("<3>") for line in traceback)
    with tempfile.TemporaryFile("w+") as file:
        log.set_up(role="resolver", stream=file)
        log.get_logger().info("two\nlines", why="a\nb", empty="", plain=0.5)
        file.seek(0)
        assert file.read() == '<6>resolver: two\\nlines why="a\\nb" empty="" plain=0.5\n'


@pytest.mark.parametrize("before", ["", "import os; os.close(2); "])
def test_a_closed_log_pipe_does_not_end_the_daemon(before: str) -> None:
    code = f"""if True:
        {before}from pipeline import journald, log
        log.set_up(role="resolver")
        input()
        for _ in range(3):
            log.get_logger().error("nobody reads this" * 1000)
    """
    child = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1
    )
    assert child.stdin and child.stderr
    child.stderr.close()
    child.stdin.write("\n")
    child.stdin.close()
    assert child.wait(60) in {0, 120}  # 120: the interpreter's final flush failed because the pipe was closed


def test_a_process_without_standard_error_can_log() -> None:
    code = "from pipeline import log; log.set_up(); log.get_logger().error('nobody reads this')"
    command = ["sh", "-c", 'exec "$0" -c "$1" 2>&-', sys.executable, code]
    assert subprocess.run(command, check=False, timeout=20).returncode == 0


def test_journal_is_known_by_device_and_inode() -> None:
    with tempfile.TemporaryFile("w") as file:
        status = os.fstat(file.fileno())
        assert journald.is_journal(file, {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"})
        assert not journald.is_journal(file, {"JOURNAL_STREAM": "1:2"})
        assert not journald.is_journal(file, {})
    assert not journald.is_journal(io.StringIO(), {"JOURNAL_STREAM": "1:2"})

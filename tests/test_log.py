"""Lines of the log, as a terminal, a pipe and the journal get them."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tempfile

import pytest
import structlog

from pipeline import log
from pipeline.config import Log


@pytest.fixture(autouse=True)
def restored() -> None:
    structlog.reset_defaults()


def lines(settings: Log, stream: io.TextIOBase | None = None) -> list[str]:
    with tempfile.TemporaryFile("w+") as file:
        log.set_up(settings, "shard-0", file)
        logger = log.get_logger("ring")
        logger.debug("not yet")
        logger.warning("ring lost records", ring=3, path=b"\xff")
        try:
            raise OSError("no\nroom")
        except OSError:
            logger.exception("failed")
        file.seek(0)
        return file.read().splitlines()


def test_a_pipe_gets_one_object_a_line() -> None:
    first, second = (json.loads(line) for line in lines(Log()))
    assert first["event"] == "ring lost records" and first["ring"] == 3
    assert (
        first["role"] == "shard-0"
        and first["part"] == "ring"
        and first["pid"] == os.getpid()
        and first["level"] == "warning"
    )
    assert first["timestamp"].endswith("Z")
    assert "OSError: no\nroom" in second["exception"]


def test_level_is_a_setting() -> None:
    assert len(lines(Log(level="debug"))) == 3
    assert len(lines(Log(level="error"))) == 1


def test_people_get_readable_lines() -> None:
    first = lines(Log(format="console"))[0]
    assert "ring lost records" in first and "ring=3" in first and not first.startswith("{")


def test_the_journal_gets_the_priority_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log, "is_journal", lambda stream: True)
    written = lines(Log())
    assert [line[:3] for line in written] == ["<4>", "<3>"]
    assert json.loads(written[0][3:])["ring"] == 3


def test_a_reader_that_went_away_does_not_end_the_daemon() -> None:
    code = """if True:
        from pipeline import config, log
        log.set_up(config.Log(), "resolver")
        input()
        log.get_logger().error("nobody reads this")
    """
    child = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1
    )
    assert child.stdin and child.stderr
    child.stderr.close()
    child.stdin.write("\n")
    child.stdin.close()
    assert child.wait(20) in {0, 120}  # 120: the interpreter's own flush at the end found the pipe closed


def test_journal_is_known_by_device_and_inode() -> None:
    with tempfile.TemporaryFile("w") as file:
        status = os.fstat(file.fileno())
        assert log.is_journal(file, {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"})
        assert not log.is_journal(file, {"JOURNAL_STREAM": "1:2"})
        assert not log.is_journal(file, {})
    assert not log.is_journal(io.StringIO(), {"JOURNAL_STREAM": "1:2"})


def test_rich_can_be_imported_before_and_after() -> None:
    for code in ("import pipeline.log, rich.tree", "import rich.tree, pipeline.log, rich.text"):
        subprocess.run([sys.executable, "-c", code], check=True)

"""`procline fleet query` and `fleet hosts`: forms, names that others chose, and what is wrong use."""

from __future__ import annotations

import csv
import io
import json
import time
from pathlib import Path

import pytest

from pipeline.bus.stream.messages import MAJOR, MINOR
from pipeline.cli.operate.fleet import STORE_VARIABLE, command
from pipeline.fleet.named_queries import QUERIES
from pipeline.fleet.open_store import VIEWS
from pipeline.fleet.store import Store
from tests.cli.conftest import Command
from tests.fleet.traffic import NS, SimulatedHost

HOSTILE = "/tmp/\x1b[31mred\nline\u202e"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("fleet") / "store"
    with SimulatedHost("web-1.example.org", 1, time.time_ns() - 60 * NS) as host, Store(root) as opened:
        shell = host.run(1, b"/bin/bash")
        host.end(host.run(shell, HOSTILE.encode(), args=[b"a b", b"\x1b]0;x\x07"]), 256)
        for message in [
            *host.sent(),
            host.gap("proc.exec", 4, 4, None, None),
            host.gap("proc.exit", None, None, None, None),
        ]:
            opened.add(*message)
        opened.commit()
    return root


@pytest.fixture(autouse=True)
def chosen(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(STORE_VARIABLE, str(store))


@pytest.mark.parametrize("name", command.commands)
def test_help_is_one_screen_and_ends_with_examples(procline: Command, name: str) -> None:
    done = procline("fleet", name, "--help")
    lines = done.out.splitlines()
    assert done.code == 0 and len(lines) <= 40 and "Examples:" in done.out and max(map(len, lines)) <= 110


def test_questions_and_views_are_listed(procline: Command) -> None:
    done = procline("fleet", "query")
    assert done.code == 0
    assert all(f"\n{name} " in done.out for name in [*QUERIES, *VIEWS])
    assert "FROM programs" in procline("fleet", "query", "--show", "where").out


def test_an_answer_as_a_table(procline: Command) -> None:
    done = procline("fleet", "query", "spawners")
    assert (done.code, done.err) == (0, "")
    heading, *rows = (line.split() for line in done.out.splitlines())
    assert heading == ["HOST", "PATH", "PROCESSES", "LAST_SEEN"]
    assert [row[:3] for row in rows] == [
        ["web-1_example_org", "/bin/bash", "1"],
        ["web-1_example_org", "/usr/lib/systemd/systemd", "1"],
    ]


@pytest.mark.parametrize("form", ["table", "json", "csv"])
def test_names_that_others_chose_are_escaped(procline: Command, form: str) -> None:
    sql = "SELECT path, argv, chain, NULL AS nothing FROM lifetimes JOIN chains USING (path)"
    done = procline("fleet", "query", sql, "--format", form)
    assert done.code == 0
    assert done.out.replace("\n", "").isprintable()
    if form == "json":
        [row] = json.loads(done.out)
        assert row == {"path": HOSTILE, "argv": ["a b", "\x1b]0;x\x07"], "chain": row["chain"], "nothing": None}
        assert row["chain"].endswith("\x1b[31mred\nline\u202e")
    elif form == "csv":
        [heading, row] = csv.reader(io.StringIO(done.out))
        assert (
            heading == ["path", "argv", "chain", "nothing"]
            and row[0] == "/tmp/\\x1b[31mred\\nline\\u202e"
            and row[3] == ""
        )
    else:
        assert len(done.out.splitlines()) == 2 and "/tmp/\\x1b[31mred\\nline\\u202e" in done.out


def test_columns_that_others_chose_are_escaped(procline: Command) -> None:
    for form in ("table", "json", "csv"):
        done = procline("fleet", "query", 'SELECT 1 AS "\x1b[31m"', "--format", form)
        assert done.code == 0 and done.out.replace("\n", "").isprintable()


def test_values_of_every_type_can_be_printed(procline: Command) -> None:
    sql = (
        "SELECT DATE '2026-01-02' AS d, TIMESTAMP '2026-01-02 03:04:05' AS t, 1.5::DECIMAL(9, 2) AS n, 'x'::BLOB AS b, "
        "{'a': [1, NULL]} AS s, MAP {'k': 1} AS m, 170141183460469231731687303715884105727 AS h, INTERVAL 1 DAY AS i, "
        "uuid() AS u, 'nan'::DOUBLE AS f, true AS y"
    )
    for form in ("table", "json", "csv"):
        done = procline("fleet", "query", sql, "--format", form)
        assert (done.code, done.err) == (0, ""), form
    [row] = json.loads(procline("fleet", "query", sql, "--format", "json").out)
    assert (row["d"], row["t"], row["n"], row["s"]) == ("2026-01-02", "2026-01-02T03:04:05Z", 1.5, {"a": [1, None]})


def test_no_rows_is_code_1(procline: Command) -> None:
    for form, out in (("table", ""), ("json", "[]\n"), ("csv", "host,topic,cause,count,first,from_time,to_time\n")):
        done = procline("fleet", "query", "lost", "nobody", "--format", form)
        assert (done.code, done.out) == (1, out)
        assert done.err == "procline: the store has no host nobody; `procline fleet hosts` lists them\n"


@pytest.mark.parametrize(
    "question", [("where", "/bin/nothing"), ("ancestry", "web-1", "4711"), ("SELECT 1 WHERE false",)], ids=" ".join
)
def test_an_answer_without_rows_is_reported(procline: Command, question: tuple[str, ...]) -> None:
    done = procline("fleet", "query", *question)
    assert (done.code, done.out) == (1, "")
    says = "the store has no host web-1;" if question[0] == "ancestry" else "the answer has no rows\n"
    assert done.err.startswith(f"procline: {says}")


def test_a_long_table_is_cut_with_a_note(procline: Command) -> None:
    done = procline("fleet", "query", "SELECT * FROM range(50)", "--limit", "7")
    assert len(done.out.splitlines()) == 8 and "only the first 7 rows" in done.err
    assert (
        len(procline("fleet", "query", "SELECT * FROM range(5000)", "--limit", "7", "--format", "csv").out.splitlines())
        == 5001
    )


def test_a_time_that_begins_with_a_dash_is_an_argument(procline: Command) -> None:
    done = procline("fleet", "query", "ancestry", "web-1.example.org", "100", "-1s")
    assert done.code == 0 and done.out.splitlines()[1].split()[:3] == ["0", "100", "/bin/bash"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["query", "nonsense"], "neither SQL nor a named query; `procline fleet query` lists them"),
        (["query", "wher", "x"], "neither SQL nor a named query; did you mean where?"),
        (["query", "where"], "needs PROGRAM"),
        (["query", "where", "a", "--formt", "csv"], "'--formt'"),
        (["query", "SELECT 1", "--nonsense"], "'--nonsense'"),
        (["query", "SELECT nonsense"], "nonsense"),
        (["query", "DROP VIEW events CASCADE"], "one SELECT"),
        (["query", "SELECT * FROM nowhere"], "lists the views"),
        (["query", "--show", "nonsense"], "there is no named query"),
        (["query", "--show"], "NAME"),
        (["hosts", "--store", "/dev/null/x"], "not a store"),
        (["ingest"], "--from"),
        (["nonsense"], "No such command"),
    ],
)
def test_wrong_use_is_one_line_and_code_2(procline: Command, arguments: list[str], says: str) -> None:
    done = procline("fleet", *arguments)
    assert (done.code, done.out, len(done.err.splitlines())) == (2, "", 1), done
    assert says in done.err


def test_hosts_with_their_losses(procline: Command) -> None:
    heading, row = procline("fleet", "hosts").out.splitlines()
    assert heading.split() == ["HOST", "LAST", "EVENT", "LAG", "EVENTS", "LOST", "GAPS", "REJECTED", "VERSION"]
    assert row.startswith("web-1.example.org  ") and row.split()[-5:] == ["6", "4+", "2", "0", f"{MAJOR}.{MINOR}"]
    [facts] = json.loads(procline("fleet", "hosts", "--format", "json").out)
    assert facts | {"name": "web-1.example.org", "lost": 4, "uncounted": 1, "gaps": 2, "events": 6} == facts


def test_a_store_without_hosts(procline: Command, tmp_path: Path) -> None:
    Store(tmp_path / "empty").close()
    done = procline("fleet", "hosts", "--store", str(tmp_path / "empty"))
    assert (done.code, done.out, done.err) == (1, "", "procline: the store has no host yet\n")

"""The questions of docs/fleet.md over three simulated hosts, compared with what happened there."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import pytest

from pipeline.errors import ConfigError
from pipeline.fleet.named_queries import QUERIES, ask, parsed
from pipeline.fleet.open_store import VIEWS, OpenStore, QueryError
from pipeline.fleet.store import Store
from tests.fleet.filled_store import AGES_H, HOUR_NS, NOW_NS, Fleet, execs
from tests.fleet.traffic import NS, SimulatedHost, split


def running(host: SimulatedHost, path: str) -> int:
    processes = [*host.forked(), host.story.processes[1]]
    return sum(process.alive and process.paths[-1:] == [path.encode()] for process in processes)


@pytest.mark.expensive
@pytest.mark.parametrize(
    "program", ["/usr/bin/curl", "bash", "ls", "/opt/new/agent", "sleep", "systemd", "sshd", "nothing"]
)
def test_where_an_executable_runs_or_ran(fleet: Fleet, program: str) -> None:
    expected = {
        (host.name.replace(".", "_"), path, count, running(host, path))
        for host in fleet.hosts
        for path, count in execs(host).items()
        if program in (path, path.rpartition("/")[2])
    }
    found = fleet.ask("where", program)
    assert {(row["host"], row["path"], row["runs"], row["running"]) for row in found} == expected
    for row in found:
        age_h = {name.replace(".", "_"): age for name, age in AGES_H.items()}[row["host"]]
        begin = datetime.fromtimestamp((NOW_NS - age_h * HOUR_NS) / NS, UTC).replace(tzinfo=None)
        assert row["last_seen"] >= row["first_seen"] >= begin


def test_the_ancestry_of_a_process_is_complete_beyond_what_its_event_has(fleet: Fleet) -> None:
    processes = fleet.web_1.story.processes
    expected = []
    process = processes[fleet.deep[-1]]
    while process is not None:
        expected.append((process.tgid, process.paths[-1].decode(), fleet.web_1.unix_ns(process.start)))
        process = process.parent  # type: ignore[assignment]
    found = fleet.ask("ancestry", "web-1.example.org", str(fleet.deep[-1]))
    epoch = datetime(1970, 1, 1)
    assert len(expected) == 13
    assert [(row["pid"], row["path"]) for row in found] == [each[:2] for each in expected]
    for row, (_, _, start_ns) in zip(found[:-1], expected, strict=False):
        assert int((row["started"] - epoch).total_seconds() * 1e6) == pytest.approx(start_ns // 1000, abs=1)
    assert [row["depth"] for row in found] == list(range(13))
    assert found[-3]["argv"] == ["/usr/bin/zsh"] and {row["source"] for row in found} == {"event"}


def test_a_pid_at_a_time_is_the_process_that_had_it_then(fleet: Fleet) -> None:
    host = fleet.web_1
    process = next(each for each in host.forked() if each.paths == [b"/usr/bin/ls"])
    alive_ns = host.unix_ns(process.end) - 1
    assert fleet.ask("ancestry", host.name, str(process.tgid), str(alive_ns))[0]["path"] == "/usr/bin/ls"
    # After its fork and before its exec it was its parent's executable.
    forked_ns = host.unix_ns(process.start) + 1500
    assert fleet.ask("ancestry", host.name, str(process.tgid), str(forked_ns))[0]["path"] == "/bin/bash"
    assert fleet.ask("ancestry", host.name, str(process.tgid), str(host.unix_ns(process.start) - 1)) == []
    assert fleet.ask("ancestry", fleet.db.name, str(process.tgid + 1000)) == []


@pytest.mark.parametrize(("period", "age_h"), [("1h", 1), ("24h", 24), ("31h", 31), ("200h", 200)])
def test_executables_that_are_new(fleet: Fleet, period: str, age_h: int) -> None:
    first: dict[str, str] = {}
    for host in fleet.hosts:  # the oldest first
        for path in execs(host):
            first.setdefault(path, host.name)
    expected = {(path, host.replace(".", "_")) for path, host in first.items() if AGES_H[host] <= age_h}
    found = fleet.ask("new", period)
    assert {(row["path"], row["first_host"]) for row in found} == expected
    assert sorted(found, key=lambda row: (row["first_seen"], row["path"])) == found
    for row in found:
        assert row["runs"] == sum(execs(host)[row["path"]] for host in fleet.hosts)
        assert row["hosts"] == sum(row["path"] in execs(host) for host in fleet.hosts)


def test_hosts_on_which_a_lineage_occurred(fleet: Fleet) -> None:
    whole = [row for row in fleet.ask("lineage", "sshd", "shell", "curl") if not row["is_cut"]]
    assert [(row["host"], row["chain"].rpartition("/systemd/")[2], row["runs"]) for row in whole] == [
        ("web-1_example_org", "sshd/zsh/curl", 1)
    ]
    # The curl at the end of the deep chain may have been below sshd: its event does not go so far up.
    [cut] = [row for row in fleet.ask("lineage", "sshd shell curl") if row["is_cut"]]
    assert cut["chain"].startswith("…/") and cut["chain"].endswith("/step7/curl")
    assert {row["host"] for row in fleet.ask("lineage", "cron", "dash", "curl") if not row["is_cut"]} == {
        "web-2_example_org"
    }
    assert {row["host"] for row in fleet.ask("lineage", "sshd", "ls")} == {"web-1_example_org", "web-2_example_org"}
    assert fleet.ask("lineage", "cron", "ls") == [] == fleet.ask("lineage", "ss.d", "ls")


def test_top_spawners_of_each_host(fleet: Fleet) -> None:
    found = fleet.ask("spawners", "2")
    for host in fleet.hosts:
        forks: Counter[str] = Counter()
        for process in host.forked():
            [tgid] = {parent for parent, _ in process.parents}
            forks[host.story.processes[tgid].paths[-1].decode()] += 1
        shown = [(row["path"], row["processes"]) for row in found if row["host"] == host.name.replace(".", "_")]
        assert shown == sorted(forks.items(), key=lambda item: (-item[1], item[0]))[:2]
    assert {row["host"] for row in fleet.ask("spawners", "9", "db")} == {"db"}


def test_life_times(fleet: Fleet) -> None:
    lives: dict[str, list[float]] = {}
    for host in fleet.hosts:
        for process in host.forked():
            if not process.alive:
                lives.setdefault(process.paths[-1].decode(), []).append((process.end - process.start) / NS)
    found = {row["path"]: row for row in fleet.ask("lifetimes")}
    assert {path: row["processes"] for path, row in found.items()} == {path: len(each) for path, each in lives.items()}
    for path, each in lives.items():
        assert found[path]["max_s"] == pytest.approx(max(each))
        assert found[path]["mean_s"] == pytest.approx(sum(each) / len(each))
        each.sort()
        for share, name in ((0.5, "median_s"), (0.99, "p99_s")):
            exact = each[math.ceil(share * len(each)) - 1]
            assert exact * 0.999 <= found[path][name] <= exact * 2**0.5 * 1.001
    assert dict(fleet.sql("SELECT path, sum(processes) FROM ends GROUP BY path")) == {
        p: len(each) for p, each in lives.items()
    }
    failures = sum(process.code != 0 and not process.alive for host in fleet.hosts for process in host.forked())
    assert fleet.sql("SELECT sum(failures) FROM ends") == [(failures,)]
    assert fleet.sql("SELECT count(*) FROM lifetimes WHERE exit_code <> 0") == [(failures,)]


def test_what_was_lost_where(fleet: Fleet) -> None:
    found = fleet.ask("lost")
    assert [(row["host"], row["topic"], row["count"], row["cause"]) for row in found] == [
        ("web-2_example_org", "proc.exec", 70, "gap"),
        ("web-2_example_org", "proc.exit", None, "gap"),
    ]
    assert fleet.ask("lost", "db") == []
    assert fleet.sql("SELECT host, lost, gaps, uncounted FROM hosts ORDER BY host") == [
        ("db", 0, 0, 0), ("web-1_example_org", 0, 0, 0), ("web-2_example_org", 70, 2, 1),
    ]  # fmt: skip


def test_numbers_that_never_came_are_a_loss(tmp_path: Path) -> None:
    with SimulatedHost("one", 1, NOW_NS - HOUR_NS) as host, Store(tmp_path / "store") as store:
        for _ in range(20):
            host.end(host.run(1, b"/bin/true"))
        for message in split(host.sent(), 1):
            first = int(message.headers["Procline-First"])
            if not (message.subject.endswith(".exit") and (5 <= first < 9 or first in {12, 20})):
                store.add(*message)
        store.add(*host.gap("proc.exit", 5, 2, None, None))
        store.commit()
        with OpenStore(tmp_path / "store") as opened:
            found = list(opened.query("SELECT topic, cause, first, count FROM losses ORDER BY first"))
    assert found == [("proc.exit", "gap", 5, 2), ("proc.exit", "missing", 7, 2), ("proc.exit", "missing", 12, 1)]


def test_every_event_is_there_once(fleet: Fleet) -> None:
    total = sum(int(host.encoder.sequences()[:8].sum()) for host in fleet.hosts)
    assert fleet.sql("SELECT count(*), count(DISTINCT (host, boot, stream, topic, seq)) FROM events") == [
        (total, total)
    ]


@pytest.mark.parametrize("name", VIEWS)
def test_every_view_can_be_read(fleet: Fleet, name: str) -> None:
    assert fleet.opened.query(f"SELECT * FROM {name}").columns


@pytest.mark.parametrize(
    ("name", "values", "says"),
    [
        ("where", [], "needs PROGRAM"),
        ("where", ["a", "b"], "too many"),
        ("ancestry", ["db", "x"], "'x' is not a value for PID"),
        ("ancestry", ["db", "0"], "PID"),
        ("ancestry", ["db", "1", "yesterday"], "TIME"),
        ("new", ["soon"], "PERIOD"),
        ("spawners", ["0"], "TOP"),
        ("lineage", [], "needs PROGRAMS"),
    ],
)
def test_wrong_arguments_are_explained(name: str, values: list[str], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        parsed(name, values)


def test_an_empty_store_answers(tmp_path: Path) -> None:
    Store(tmp_path / "store").close()
    values = {"where": ["ls"], "ancestry": ["db", "1"], "lineage": ["sshd ls"]}
    with OpenStore(tmp_path / "store") as opened:
        for name in QUERIES:
            assert list(ask(opened, name, values.get(name, []))) == []
        for name in VIEWS:
            assert list(opened.query(f"SELECT * FROM {name}")) == []


ATTACKS = [
    "DROP VIEW events",
    "CREATE TABLE x (i INTEGER)",
    "INSERT INTO host_rows SELECT * FROM host_rows",
    "WITH x AS (DELETE FROM host_rows RETURNING *) SELECT * FROM x",
    "SELECT 1; SELECT 2",
    "COPY (SELECT 1) TO 'OUT'",
    "WITH x AS (COPY (SELECT 1) TO 'OUT') SELECT * FROM x",
    "WITH y AS (WITH x AS (COPY (SELECT 1) TO 'OUT') SELECT * FROM x) SELECT * FROM y",
    "SELECT 1) UNION ALL (WITH x AS (COPY (SELECT 1) TO 'OUT') SELECT * FROM x",
    "SELECT * FROM query('WITH x AS (COPY (SELECT 1) TO ''OUT'') SELECT * FROM x')",
    "EXPLAIN ANALYZE COPY (SELECT 1) TO 'OUT'",
    "EXPORT DATABASE 'OUT'",
    "ATTACH 'OUT' AS other",
    "SELECT * FROM read_text('/etc/passwd')",
    "SELECT * FROM read_csv('/etc/passwd')",
    "SELECT * FROM '/etc/passwd'",
    "SELECT * FROM glob('/etc/*')",
    "SELECT * FROM read_blob('STORE/catalogue.sqlite')",
    "SELECT * FROM read_text('STORE/events/../catalogue.sqlite')",
    "SELECT * FROM read_text('STORE/events/../../../../../../etc/passwd')",
    "SET enable_external_access = true",
    "SET memory_limit = '1TB'",
    "RESET lock_configuration",
    "PRAGMA enable_external_access",
    "INSTALL httpfs",
    "LOAD httpfs",
    "CALL force_checkpoint()",
    "SELECT * FROM query_table('/etc/passwd')",
    "SELECT * FROM sqlite_scan('STORE/catalogue.sqlite', 'files')",
    "'); DROP VIEW events; --",
    "",
    "SELECT",
]  # fmt: skip


@pytest.mark.expensive
def test_sql_cannot_write_and_cannot_read_other_files(fleet: Fleet, tmp_path: Path) -> None:
    """One test for all statements: with one for each, several workers would make the store, which takes a second."""
    before = {path: path.stat().st_mtime_ns for path in fleet.root.rglob("*")}
    places = (tmp_path / "out", fleet.root / "events" / "out", fleet.root / "programs" / "out.parquet")
    for attack, place in itertools.product(ATTACKS, places):
        if place is not places[0] and "OUT" not in attack:
            continue
        sql = attack.replace("OUT", str(place)).replace("STORE", str(fleet.root))
        try:
            list(fleet.opened.query(sql))
        except QueryError:
            pass
        else:
            pytest.fail(f"this was not refused: {sql}")
        assert not place.exists(), sql
        assert {path: path.stat().st_mtime_ns for path in fleet.root.rglob("*")} == before, sql
        assert fleet.sql("SELECT count(*) FROM hosts") == [(3,)], sql


def test_a_question_that_takes_too_long_ends(fleet: Fleet) -> None:
    with OpenStore(fleet.root, limit_s=0.3) as opened:
        with pytest.raises(QueryError, match=r"after 0\.3 s"):
            list(
                opened.query(
                    "SELECT count(*) FROM range(100000000) a, range(100000) b WHERE hash(a.range, b.range) = 7"
                )
            )
        assert list(opened.query("SELECT 1")) == [(1,)]


def test_a_question_that_needs_too_much_memory_ends(fleet: Fleet) -> None:
    with OpenStore(fleet.root, memory_bytes=32 << 20) as opened, pytest.raises(QueryError, match="memory"):
        list(opened.query("SELECT list(repeat('x', 1000) || range) FROM range(1000000)"))


def test_order_of_a_question_is_kept(fleet: Fleet) -> None:
    seqs = [seq for (seq,) in fleet.sql("SELECT seq FROM events ORDER BY seq DESC, host, topic")]
    assert seqs == sorted(seqs, reverse=True) and len(seqs) > 100

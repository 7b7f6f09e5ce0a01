"""Data of fleet.py: a large store made by DuckDB, and recorded traffic of the real encoder as forwarded messages."""

from __future__ import annotations

import shutil
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import loads
import replay

from pipeline.fleet import parquet
from pipeline.fleet.catalogue import Catalogue, File, Host
from pipeline.fleet.schema import COLUMNS
from pipeline.forward.batches import token
from pipeline.shm.layout.declared import STREAM_VERSION, TOPICS

NS = 10**9
DAY_NS = 86_400 * NS
FILE_EVENTS = 1_000_000
#: Files that are made; the others are copies of them.
MADE_FILES = 3
#: Programs with the chain above them. Each has 40 names on a host, and there are 20 kinds of hosts.
SCENARIOS = (
    (["/usr/lib/systemd/systemd", "/usr/sbin/sshd", "/usr/lib/openssh/sshd-session", "/usr/bin/bash"], "/usr/bin/tool"),
    (["/usr/lib/systemd/systemd", "/usr/sbin/cron", "/usr/bin/dash"], "/usr/libexec/job"),
    (["/usr/lib/systemd/systemd", "/usr/bin/containerd-shim", "/usr/bin/dash"], "/opt/app/bin/check"),
    (["/usr/lib/systemd/systemd", "/usr/bin/gitlab-runner", "/usr/bin/bash", "/usr/bin/make"], "/usr/lib/gcc/step"),
)
CURL = "/usr/bin/curl"
RARE = "/tmp/.x/miner"


def make_store(root: Path, events: int, hosts: int, days: int, now_ns: int, memory_bytes: int) -> None:
    """Make a store with this many events: a fork, an exec and an exit of each process.

    One process in 2,000 is curl below a login shell. RARE ran three times on one host, in the last hour.
    """
    catalogue = Catalogue.create(root)
    (root / "tmp").mkdir()
    database = parquet.connect(memory_bytes, root / "tmp")
    per_day = max(events // days // FILE_EVENTS, 1)
    per_file = events // days // per_day // 3
    first_ns = now_ns // DAY_NS * DAY_NS - (days - 1) * DAY_NS
    span_ns = min(DAY_NS, now_ns - first_ns - (days - 1) * DAY_NS)
    made: list[File] = []
    for number in range(per_day * days):
        day = number // per_day
        name = time.strftime("%Y-%m-%d", time.gmtime((first_ns + day * DAY_NS) // NS))
        file = File(catalogue.next_file(), name, 2, 3 * per_file, 0)
        if len(made) < MADE_FILES:
            _make_batch(database, number, per_file, hosts, first_ns, span_ns)
            database.execute(f"UPDATE batch SET day = '{name}'")
            file = parquet.write_batch(database, root, file)
            database.execute("DROP TABLE batch")
        else:
            file = _copied(root, made[number % MADE_FILES], file)
        made.append(file)
        with catalogue.transaction():
            catalogue.add_files([file], now_ns)
    # The last batch is small and of the last minutes.
    _make_batch(database, len(made), 1000, hosts, now_ns - 600 * NS, 300 * NS, has_rare=True)
    [(rows, name)] = database.execute("SELECT count(*), any_value(day) FROM batch").fetchall()
    file = parquet.write_batch(database, root, File(catalogue.next_file(), name, 0, rows, 0))
    with catalogue.transaction():
        catalogue.add_files([file], now_ns)
    database.close()
    with catalogue.transaction():
        catalogue.set_hosts(
            Host(f"host-{n:04}", f"host-{n:04}", boot_of(n), 1, "1.5", 0, now_ns, now_ns, 0, events // hosts, 0, 0)
            for n in range(hosts)
        )
    catalogue.close()


def _copied(root: Path, source: File, target: File) -> File:
    """Copy a file with its sums; to make all of them would take an hour."""
    for kind in (parquet.EVENTS, parquet.PROGRAMS):
        path = parquet.path_of(root, kind, target)
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(parquet.path_of(root, kind, source), path)
    return target._replace(bytes=source.bytes)


def boot_of(host: int) -> str:
    """Return the boot id of a host of `make_store`."""
    return f"{host:032x}"


def _make_batch(
    database: Any, number: int, processes: int, hosts: int, from_ns: int, span_ns: int, has_rare: bool = False
) -> None:
    chains = ", ".join(f"[{', '.join(map(parquet.text, chain))}]" for chain, _ in SCENARIOS)
    stems = ", ".join(parquet.text(stem) for _, stem in SCENARIOS)
    rare = f"WHEN {has_rare} AND i < 3 THEN {parquet.text(RARE)}"
    # hash() makes what is random: the same in every run.
    database.execute(f"""
    CREATE OR REPLACE TEMP TABLE process AS
    SELECT i, CASE WHEN {has_rare} AND i < 3 THEN 7 ELSE hash(i, {number}, 1) % {hosts} END AS h,
        {from_ns} + (hash(i, {number}, 2) % {span_ns})::BIGINT AS start_ns,
        (2000 + hash(i, {number}, 3) % 30000)::UBIGINT AS pid,
        (hash(i, {number}, 4) % {len(SCENARIOS)})::BIGINT AS s, ([{chains}])[s + 1] AS above,
        CASE {rare} WHEN i % 2000 = 5 THEN {parquet.text(CURL)}
            ELSE ([{stems}])[s + 1] || (40 * (h % 20)
                + floor(40 * pow((hash(i, {number}, 5) % 10000) / 10000, 2)))::INTEGER END AS own,
        (1000000 * exp((hash(i, {number}, 6) % 1000) / 90))::BIGINT AS life_ns
    FROM range({processes}) t(i)
    """)
    ancestor = (
        "{'pid': (100 + n * 37 + h % 50)::UBIGINT, 'start_time_ns': ("
        + str(from_ns - DAY_NS)
        + " - n * 1000000)::BIGINT, "
        "'comm': split_part(p, '/', -1), 'path': p, 'entity_id': printf('%032x-%x-%x', h, 100 + n * 37, n * 1000000)}"
    )
    lineage = f"list_reverse(list_transform(above, lambda p, n: {ancestor}))"
    entity = "printf('%032x-%x-%x', h, pid, (start_ns % 1000000000000000)::BIGINT)"
    shared = {
        "host": "printf('host-%04d', h)", "boot": "printf('%032x', h)", "stream": "1", "pid": "pid", "tid": "pid",
        "ppid": "lineage[1].pid", "start_time_ns": "start_ns", "fork_time_ns": "start_ns",
        "seq": f"i + {number} * 10000000",
        "uid": "(1000 + s)::UBIGINT", "gid": "(1000 + s)::UBIGINT", "euid": "(1000 + s)::UBIGINT",
        '"user"': "'user' || s",
        "cwd": "'/srv/app/' || (i % 500)", "cgroup": "'/system.slice/unit-' || (i % 60) || '.service'",
        "entity_id": entity, "parent_entity_id": "lineage[1].entity_id", "source": "'event'", "images": "2",
        "sid": "lineage[1].pid", "pgid": "pid", "inode": "hash(own) % 1000000", "lineage_complete": "true",
        "lineage_truncated": "false", "is_exec": "true", "pid_ns": "4026531836", "mnt_ns": "4026531841",
    }  # fmt: skip
    arguments = "[split_part(own, '/', -1), '-o', 'out/' || i || '.o', '--level=' || (i % 9)]"
    kinds = {
        "fork": {"time_ns": "start_ns", "path": "lineage[1].path", "comm": "lineage[1].comm"},
        "exec": {
            "time_ns": "start_ns + 300000", "path": "own", "comm": "split_part(own, '/', -1)[1:15]", "argv": arguments,
            "argc": "4", "file": "'{\"path\":\"' || own || '\",\"mode\":33261,\"uid\":0,\"filesystem\":\"ext4\"}'",
            "exec_time_ns": "start_ns + 300000",
        },
        "exit": {
            "time_ns": "start_ns + life_ns", "path": "own", "comm": "split_part(own, '/', -1)[1:15]", "argv": arguments,
            "argc": "4", "exit_time_ns": "start_ns + life_ns", "exit_code": "CASE WHEN i % 50 = 0 THEN 256 ELSE 0 END",
            "exit_cause": "'exited'", "cpu_user_ns": "(life_ns / 3)::UBIGINT",
            "cpu_system_ns": "(life_ns / 9)::UBIGINT",
            "max_rss_bytes": "(1 << 20) * (1 + i % 300)", "exec_time_ns": "start_ns + 300000", "is_exited": "true",
        },
    }  # fmt: skip
    selects = []
    for kind, own in kinds.items():
        values = {name.strip('"'): value for name, value in (shared | own).items()}
        values |= {"topic": f"'{kind}'", "event": f"'{kind}'", "lineage": "lineage"}
        values["chain"] = "array_to_string(list_transform(list_reverse(lineage), lambda a: a.comm), '/')" + (
            "" if kind == "fork" else " || '/' || split_part(own, '/', -1)"
        )
        columns = ", ".join(f'({values.get(name, "NULL")})::{sql} AS "{name}"' for name, sql in COLUMNS.items())
        selects.append(f"SELECT {columns} FROM with_lineage")
    day = f"strftime(make_timestamp({from_ns} // 1000), '%Y-%m-%d')"
    database.execute(
        f"CREATE OR REPLACE TEMP TABLE batch AS WITH with_lineage AS (SELECT *, {lineage} AS lineage FROM process) "
        f"SELECT *, {day} AS day FROM ({' UNION ALL '.join(selects)})"
    )


def record(events: int, batch_events: int) -> list[tuple[str, int, int, bytes]]:
    """Record a build with the daemon's applier and encoder; returns topic, first, count and data of its batches."""
    taken: list[Any] = []

    class Recorder:
        def __init__(self, encoder: Any) -> None:
            self._encoder = encoder

        def take(self) -> None:
            taken.extend((m.topic, m.first, m.count, bytes(m.body)) for m in self._encoder.take())

    load = loads.Load(loads.build(events), strings=loads.compiler_runs())
    with replay.Resolver(2, encode=True) as resolver:
        resolver.enter()
        resolver.encoder = Recorder(resolver.encoder)  # type: ignore[assignment]
        resolver.take_in(load.messages(2, batch_events))
    return [
        (TOPICS[topic], first, count, struct.pack(">BI", 0xDD, count) + body) for topic, first, count, body in taken
    ]


def messages_of(recorded: list[tuple[str, int, int, bytes]], host: int) -> Iterator[tuple[str, dict[str, str], bytes]]:
    """Yield the messages of a simulated host that sends the recording: subject, headers, data."""
    name, boot = f"host-{host}.example.org", boot_of(host)
    for topic, first, count, data in recorded:
        yield f"procline.{token(name)}.{topic.partition('.')[2]}", {
            "Nats-Msg-Id": f"{boot}-1-{topic}-{first}", "Procline-Host": name, "Procline-Boot": boot,
            "Procline-Stream": "1", "Procline-Topic": topic, "Procline-First": str(first),
            "Procline-Count": str(count), "Procline-Version": "{}.{}".format(*STREAM_VERSION),
            "Content-Encoding": "zstd",
        }, data  # fmt: skip

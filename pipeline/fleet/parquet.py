"""The Parquet files of a store: where they are, and the SQL that writes and merges them.

The events of a file have one day, and are sorted by topic, host and time. Its twin in `programs` has the same number
and sums up the same events by host, topic, executable and chain; most questions need only this.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import UnsupportedError
from pipeline.fleet.catalogue import File
from pipeline.fleet.schema import COLUMNS, CUT, SPOOLED

if TYPE_CHECKING:
    import duckdb

EVENTS, PROGRAMS = "events", "programs"
#: Classes of life times for each factor of two.
CLASSES = 2
#: Columns of the files in `programs`, with their types and meanings.
PROGRAM_COLUMNS = {
    "host": ("VARCHAR", "as in `events`"),
    "topic": ("VARCHAR", "`fork`, `exec`, `exit` or `snapshot`"),
    "path": ("VARCHAR", "the executable; of a fork that of the process that forked"),
    "chain": ("VARCHAR", "as in `events`"),
    "lifetime_class": (
        "SMALLINT",
        "of `exit`: twice the binary logarithm of the life time in ns, without its fraction",
    ),
    "count": ("UBIGINT", "how many such events there were"),
    "first_ns": ("BIGINT", "time of the first one"),
    "last_ns": ("BIGINT", "time of the last one"),
    "failures": ("UBIGINT", "of `exit`: ends by a signal, or with another exit code than 0"),
    "lifetime_ns": ("HUGEINT", "of `exit`: sum of the life times"),
    "lifetime_max_ns": ("BIGINT", "of `exit`: the longest one"),
    "cpu_ns": ("HUGEINT", "of `exit`: sum of the CPU times"),
}
#: Events of other days than these around the time of storing are put to the day of storing. So a host with a wrong
#: clock cannot make thousands of files.
PAST_DAYS, FUTURE_DAYS = 8, 1
_DAY_NS = 86_400 * 10**9
_ORDER = "ORDER BY topic, host, time_ns, seq"
_NAMES = (
    "list_append(list_transform(list_reverse(coalesce(lineage, [])), "
    "lambda each: coalesce(split_part(each.path, '/', -1), '')), coalesce(split_part(path, '/', -1), ''))"
)
_CHAIN = (
    f"CASE WHEN lineage_truncated THEN '{CUT}/' ELSE '' END || "
    "array_to_string(list_filter(names, lambda each, place: place = 1 OR each <> names[place - 1]), '/')"
)
_PARQUET = "(FORMAT parquet, COMPRESSION zstd)"


def connect(memory_bytes: int, temporary: Path) -> duckdb.DuckDBPyConnection:
    """Return a database in memory, which puts what exceeds the limit into a directory.

    Raises:
        UnsupportedError: DuckDB is not installed.
    """
    try:
        import duckdb
    except ImportError:
        raise UnsupportedError(
            "procline fleet needs the package duckdb, which is not installed; install it with: "
            "pip install 'procline[fleet]'",
            feature="procline fleet", needs="duckdb",
        ) from None  # fmt: skip
    # Nothing is downloaded: what is needed is built in.
    settings: dict[str, str | bool | int | float | list[str]] = {
        "memory_limit": f"{memory_bytes >> 20}MiB", "temp_directory": str(temporary),
        "autoinstall_known_extensions": "false", "autoload_known_extensions": "false",
    }  # fmt: skip
    return duckdb.connect(":memory:", config=settings)


def path_of(root: Path, kind: str, file: File) -> Path:
    """Return the path of a file of a kind, EVENTS or PROGRAMS."""
    return root / kind / f"day={file.day}" / f"{file.id:08}.parquet"


def text(value: str | os.PathLike[str]) -> str:
    """Return a text as SQL."""
    return "'" + os.fspath(value).replace("'", "''") + "'"


def read_sql(root: Path, kind: str, files: Iterable[File]) -> str:
    """Return the SQL of a table with the rows of files; without any, of an empty table."""
    names = [text(path_of(root, kind, file)) for file in files]
    columns = COLUMNS if kind == EVENTS else {name: sql for name, (sql, _) in PROGRAM_COLUMNS.items()}
    if not names:
        nothing = ", ".join(f"NULL::{sql} AS {quoted(name)}" for name, sql in columns.items())
        return f"(SELECT {nothing} WHERE false)"
    return f"read_parquet([{', '.join(names)}], union_by_name = true, hive_partitioning = false)"


def quoted(name: str) -> str:
    """Return the name of a column as SQL; some are key words."""
    return f'"{name}"'


def load_spool(db: duckdb.DuckDBPyConnection, spool: Path, now_ns: int, line_max_bytes: int) -> list[tuple[str, int]]:
    """Read the spooled events into the table `batch`; returns its days with their numbers of events."""
    columns = ", ".join(f"{quoted(name)}: {text(kind)}" for name, kind in SPOOLED.items())
    earliest, latest = now_ns - PAST_DAYS * _DAY_NS, now_ns + FUTURE_DAYS * _DAY_NS
    # DuckDB computes a column of a subquery once. It would compute an alias of the same SELECT again for each use.
    spooled = (
        f"SELECT *, {_NAMES} AS names FROM read_json({text(spool)}, format = 'newline_delimited', "
        f"columns = {{{columns}}}, maximum_object_size = {line_max_bytes})"
    )
    db.execute(
        f"CREATE OR REPLACE TEMP TABLE batch AS SELECT * EXCLUDE (names), {_CHAIN} AS chain, strftime("
        f"make_timestamp(CASE WHEN time_ns BETWEEN {earliest} AND {latest} THEN time_ns ELSE {now_ns} END // 1000), "
        f"'%Y-%m-%d') AS day FROM ({spooled})"
    )
    return db.execute("SELECT day, count(*) FROM batch GROUP BY day ORDER BY day").fetchall()


def write_batch(db: duckdb.DuckDBPyConnection, root: Path, file: File) -> File:
    """Write the events of one day of `batch` and their sums; returns the file with its size."""
    events, programs = (path_of(root, kind, file) for kind in (EVENTS, PROGRAMS))
    _directories(events, programs)
    day = f"FROM batch WHERE day = {text(file.day)}"
    columns = ", ".join(map(quoted, COLUMNS))
    db.execute(f"COPY (SELECT {columns} {day} {_ORDER}) TO {text(events)} {_PARQUET}")
    db.execute(f"COPY ({_summed(day)}) TO {text(programs)} {_PARQUET}")
    return _finished(file, events, programs)


def merge(db: duckdb.DuckDBPyConnection, root: Path, files: Sequence[File], file: File) -> File:
    """Write the events of several files of a day into one; returns it with its size."""
    events, programs = (path_of(root, kind, file) for kind in (EVENTS, PROGRAMS))
    _directories(events, programs)
    db.execute(f"COPY (SELECT * FROM {read_sql(root, EVENTS, files)} {_ORDER}) TO {text(events)} {_PARQUET}")
    db.execute(f"COPY ({_merged(read_sql(root, PROGRAMS, files))}) TO {text(programs)} {_PARQUET}")
    return _finished(file, events, programs)


def remove(root: Path, file: File) -> None:
    """Remove a file with its sums."""
    for kind in (EVENTS, PROGRAMS):
        path_of(root, kind, file).unlink(missing_ok=True)


def unknown(root: Path, known: set[int]) -> list[Path]:
    """Return the files that a killed writer left."""
    found = []
    for kind in (EVENTS, PROGRAMS):
        for path in (root / kind).glob("day=*/*"):
            name = path.name.partition(".")[0]
            if not (name.isdigit() and int(name) in known and path.suffix == ".parquet"):
                found.append(path)
    return found


def _summed(source: str) -> str:
    # Limited, because the times of a hostile message can be any two numbers.
    limit = (1 << 63) - 1
    difference = f"greatest(least(exit_time_ns::HUGEINT - start_time_ns, {limit}), -{limit})::BIGINT"
    lifetime = f"CASE WHEN topic = 'exit' THEN {difference} END"
    return (
        "SELECT host, topic, path, chain, "
        f"floor({CLASSES} * log2(greatest({lifetime}, 1)))::SMALLINT AS lifetime_class, count(*)::UBIGINT AS count, "
        "min(time_ns) AS first_ns, max(time_ns) AS last_ns, "
        "count(*) FILTER (topic = 'exit' AND exit_code <> 0)::UBIGINT AS failures, "
        f"sum({lifetime})::HUGEINT AS lifetime_ns, max({lifetime}) AS lifetime_max_ns, "
        "sum(cpu_user_ns::HUGEINT + cpu_system_ns)::HUGEINT AS cpu_ns "
        f"{source} AND topic IN ('fork', 'exec', 'exit', 'snapshot') "
        "GROUP BY host, topic, path, chain, lifetime_class ORDER BY topic, path, host"
    )


def _merged(source: str) -> str:
    return (
        "SELECT host, topic, path, chain, lifetime_class, sum(count)::UBIGINT AS count, min(first_ns) AS first_ns, "
        "max(last_ns) AS last_ns, sum(failures)::UBIGINT AS failures, sum(lifetime_ns)::HUGEINT AS lifetime_ns, "
        f"max(lifetime_max_ns) AS lifetime_max_ns, sum(cpu_ns)::HUGEINT AS cpu_ns FROM {source} "
        "GROUP BY host, topic, path, chain, lifetime_class ORDER BY topic, path, host"
    )


def _directories(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)


def _finished(file: File, *paths: Path) -> File:
    """Make the files durable, and return the entry of the catalogue."""
    for path in [*paths, *(path.parent for path in paths), *(path.parent.parent for path in paths)]:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    return file._replace(bytes=sum(path.stat().st_size for path in paths))

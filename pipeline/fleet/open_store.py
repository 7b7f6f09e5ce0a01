"""A store, opened for questions: views over its files, in a DuckDB that can read these files and change nothing.

The rules that make SQL of others safe, in the order in which they are applied:

1. The database is in memory, so there is nothing that a statement could change for others.
2. Only the directories of the store can be read, and the settings are locked (`enable_external_access`,
   `lock_configuration`).
3. A question is one SELECT, which is run inside `query()`. DuckDB 2.0 accepts COPY in the WITH clause of a SELECT, but
   not below its top level, so no question can write a file, not even in the directories of the store.
4. Memory, temporary files and time are bounded.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from pipeline.errors import ConfigError, ProclineError, UnsupportedError
from pipeline.fleet import parquet
from pipeline.fleet.catalogue import Catalogue, as_dicts
from pipeline.fleet.losses import all_losses

if TYPE_CHECKING:
    import duckdb

MEMORY_BYTES = 2 << 30
_TEMPORARY_BYTES = 16 << 30
_FETCHED_ROWS = 2048
#: The views with their meanings and SQL. `host_rows` and `loss_rows` are tables in memory.
VIEWS: dict[str, tuple[str, str]] = {
    "events": (
        "every stored event, with all fields of the stream",
        "SELECT make_timestamp(time_ns // 1000) AS time, * FROM {events}",
    ),
    "programs": (
        "sums by host, topic, executable and chain, which most questions need instead of the events",
        "SELECT * FROM {programs}",
    ),
    "executions": (
        "which executables ran where, how often, and when first and last",
        "SELECT host, path, split_part(path, '/', -1) AS program, sum(count)::BIGINT AS runs, "
        "make_timestamp(min(first_ns) // 1000) AS first_seen, make_timestamp(max(last_ns) // 1000) AS last_seen "
        "FROM programs WHERE topic = 'exec' GROUP BY host, path",
    ),
    "chains": (
        "which lineages occurred where, by the file names of the executables",
        "SELECT host, chain, path, sum(count)::BIGINT AS runs, make_timestamp(min(first_ns) // 1000) AS first_seen, "
        "make_timestamp(max(last_ns) // 1000) AS last_seen "
        "FROM programs WHERE topic = 'exec' GROUP BY host, chain, path",
    ),
    "spawners": (
        "which executables made processes, and how many",
        "SELECT host, path, sum(count)::BIGINT AS processes, make_timestamp(max(last_ns) // 1000) AS last_seen "
        "FROM programs WHERE topic = 'fork' GROUP BY host, path",
    ),
    "ends": (
        "ended processes by the executable that they ran last: failures, life time and CPU time",
        "SELECT host, path, sum(count)::BIGINT AS processes, sum(failures)::BIGINT AS failures, "
        "sum(lifetime_ns) / sum(count) / 1e9 AS mean_s, sum(cpu_ns) / 1e9 AS cpu_s "
        "FROM programs WHERE topic = 'exit' GROUP BY host, path",
    ),
    "lifetimes": (
        "each process that was seen to end",
        "SELECT host, pid, path, argv, \"user\", make_timestamp(start_time_ns // 1000) AS started, "
        "make_timestamp(time_ns // 1000) AS ended, (exit_time_ns::HUGEINT - start_time_ns) / 1e9 AS lifetime_s, "
        "exit_code, (cpu_user_ns::HUGEINT + cpu_system_ns) / 1e9 AS cpu_s, entity_id "
        "FROM {events} WHERE topic = 'exit'",
    ),
    "hosts": (
        "what is known about each host; `procline fleet hosts` shows it",
        "SELECT h.host, h.name, h.version, make_timestamp(first_event_ns // 1000) AS first_event, "
        "make_timestamp(last_event_ns // 1000) AS last_event, make_timestamp(stored_ns // 1000) AS stored, "
        "lag_ns / 1e9 AS lag_s, events, least(coalesce(lost, 0), 9223372036854775807)::BIGINT AS lost, "
        "coalesce(gaps, 0) AS gaps, coalesce(uncounted, 0) AS uncounted, doubles, refused, boot, stream "
        "FROM host_rows h LEFT JOIN ("
        "SELECT host, sum(events) AS lost, count(*) AS gaps, count(*) FILTER (events IS NULL) AS uncounted "
        "FROM loss_rows WHERE cause <> 'begin' GROUP BY host) USING (host)",
    ),
    "losses": (
        "what was lost where: records of kernel and forwarder, and numbers that never came",
        "SELECT host, topic, cause, events AS count, first, make_timestamp(from_ns // 1000) AS from_time, "
        "make_timestamp(to_ns // 1000) AS to_time, boot, stream FROM loss_rows",
    ),
}  # fmt: skip
_HOST_ROWS = {
    "host": "VARCHAR", "name": "VARCHAR", "boot": "VARCHAR", "stream": "UBIGINT", "version": "VARCHAR",
    "first_event_ns": "BIGINT", "last_event_ns": "BIGINT", "stored_ns": "BIGINT", "lag_ns": "BIGINT",
    "events": "BIGINT", "doubles": "BIGINT", "refused": "BIGINT",
}  # fmt: skip
_LOSS_ROWS = {
    "host": "VARCHAR", "boot": "VARCHAR", "stream": "UBIGINT", "topic": "VARCHAR", "first": "BIGINT",
    "events": "BIGINT", "from_ns": "BIGINT", "to_ns": "BIGINT", "cause": "VARCHAR",
}  # fmt: skip


class QueryError(ProclineError):
    """A question is wrong, or took too much time or memory."""


class QueryResult:
    """The answer to a question.

    Attributes:
        columns: names of the columns.
    """

    def __init__(self, columns: list[str], batches: Iterator[list[tuple[Any, ...]]]) -> None:
        self.columns = columns
        self._batches = batches

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        for batch in self._batches:
            yield from batch


class OpenStore:
    """A store that answers questions. It sees the store as it was when it was opened.

    Args:
        root: directory of the store.
        memory_bytes: what DuckDB may use.
        limit_s: a question that takes longer is ended.

    Raises:
        ConfigError: the directory is not a store, or cannot be read.
        LayoutError: another version wrote it.
        UnsupportedError: DuckDB is not installed.
    """

    def __init__(self, root: Path, *, memory_bytes: int = MEMORY_BYTES, limit_s: float = 300.0) -> None:
        self.root = root
        self._limit_s = limit_s
        catalogue = Catalogue.open(root)
        with contextlib.ExitStack() as stack:
            stack.callback(catalogue.close)
            self.files = catalogue.files()
            self.hosts, self.losses = catalogue.hosts(), all_losses(catalogue)
        with contextlib.ExitStack() as stack:
            temporary = stack.enter_context(tempfile.TemporaryDirectory(prefix="procline-fleet-"))
            self._timer = threading.Timer(0, lambda: None)
            self._db = parquet.connect(memory_bytes, Path(temporary))
            stack.callback(self._db.close)
            self._prepare()
            self._stack = stack.pop_all()

    def _prepare(self) -> None:
        db, root = self._db, self.root.resolve()
        self._fill("host_rows", _HOST_ROWS, as_dicts(self.hosts))
        self._fill("loss_rows", _LOSS_ROWS, as_dicts(self.losses))
        sources = {kind: self.source(kind) for kind in (parquet.EVENTS, parquet.PROGRAMS)}
        directories = ", ".join(parquet.text(f"{root / kind}/") for kind in sources)
        try:
            # The columns of each file are read once, not again for each view and each part of a question.
            db.execute("SET parquet_metadata_cache = true")
            for name, (_, sql) in VIEWS.items():
                db.execute(f"CREATE VIEW {name} AS {sql.format(**sources)}")
            db.execute(f"SET max_temp_directory_size = '{_TEMPORARY_BYTES >> 20}MiB'")
            db.execute(f"SET allowed_directories = [{directories}]")
            db.execute("SET enable_external_access = false")
            db.execute("SET lock_configuration = true")
        except self._errors() as error:
            reason = " ".join(str(error).split())
            raise ConfigError(
                f"cannot read the store {root}: {reason}; make sure that this user can read its files, and if one is "
                "damaged, restore it from a copy",
                key="store", value=str(root),
            ) from None  # fmt: skip

    def _fill(self, table: str, columns: Mapping[str, str], rows: list[dict[str, Any]]) -> None:
        shape = json.dumps([dict(columns)])
        self._db.execute(
            f"CREATE TABLE {table} AS SELECT unnest(from_json($1, {parquet.text(shape)}), recursive := true)",
            [json.dumps([{name: row[name] for name in columns} for row in rows])],
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Release memory and temporary files."""
        self._timer.cancel()
        self._stack.close()

    def source(self, kind: str) -> str:
        """Return the SQL of a table with all rows of the files of a kind."""
        return parquet.read_sql(self.root.resolve(), kind, self.files)

    def query(self, sql: str) -> QueryResult:
        """Run one SELECT of somebody who may read the store, and change nothing.

        Raises:
            QueryError: it is not one SELECT, DuckDB rejects it, or it took too much time or memory.
        """
        return self._run(f"SELECT * FROM query({parquet.text(sql.strip().rstrip(';'))})", {}, is_foreign=True)

    def ask(self, sql: str, parameters: Mapping[str, Any]) -> QueryResult:
        """Run a statement of this package.

        Raises:
            QueryError: it took too much time or memory.
        """
        return self._run(sql, dict(parameters), is_foreign=False)

    def _run(self, sql: str, parameters: dict[str, Any], *, is_foreign: bool) -> QueryResult:
        self._timer.cancel()
        self._timer = threading.Timer(self._limit_s, self._db.interrupt)
        self._timer.daemon = True
        self._timer.start()
        try:
            cursor = self._db.execute(sql, parameters) if parameters else self._db.execute(sql)
            columns = [column[0] for column in cursor.description or ()]
            first = cursor.fetchmany(_FETCHED_ROWS)
        except BaseException as error:
            self._timer.cancel()
            raise self._explained(error, is_foreign) from None
        return QueryResult(columns, self._batches(cursor, first, self._timer, is_foreign))

    def _batches(
        self, cursor: duckdb.DuckDBPyConnection, rows: list[tuple[Any, ...]], timer: threading.Timer, is_foreign: bool
    ) -> Iterator[list[tuple[Any, ...]]]:
        try:
            while rows:
                yield rows
                rows = cursor.fetchmany(_FETCHED_ROWS)
        except self._errors() as error:
            raise self._explained(error, is_foreign) from None
        finally:
            timer.cancel()

    def _explained(self, error: BaseException, is_foreign: bool) -> BaseException:
        import duckdb

        if not isinstance(error, duckdb.Error):
            return error
        if isinstance(error, duckdb.InterruptException):
            return QueryError(f"the question was ended after {self._limit_s:g} s; narrow it down, or raise --limit-s")
        if isinstance(error, duckdb.OutOfMemoryException):
            return QueryError("the question needs too much memory; narrow it down, or raise --memory")
        text = " ".join(str(error).split()).partition(" LINE 1:")[0]
        if "Expected a single SELECT statement" in text:
            text = "a question must be one SELECT statement"
        if is_foreign and isinstance(error, duckdb.CatalogException):
            text += "; `procline fleet query` without arguments lists the views"
        return QueryError(text)

    @staticmethod
    def _errors() -> type[Exception]:
        import duckdb

        return duckdb.Error


def require() -> None:
    """Check that the packages of the extra `fleet` are installed.

    Raises:
        UnsupportedError: one is missing.
    """
    import importlib.util

    for name, package in (
        ("duckdb", "duckdb"),
        ("msgspec", "msgspec"),
        ("nats", "nats-py"),
        ("zstandard", "zstandard"),
    ):
        if importlib.util.find_spec(name) is None:
            raise UnsupportedError(
                f"procline fleet needs the package {package}, which is not installed; install it with: "
                "pip install 'procline[fleet]'",
                feature="procline fleet", needs=package,
            )  # fmt: skip

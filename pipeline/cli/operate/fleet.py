"""`procline fleet`: store the events of many hosts from JetStream, and answer questions about all of them."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from pipeline.cli import common

if TYPE_CHECKING:
    from pipeline.fleet.catalogue import Host
    from pipeline.fleet.losses import Loss
    from pipeline.fleet.open_store import OpenStore
    from pipeline.screen.lines import Line

STORE = Path("/var/lib/procline-fleet/store")
STORE_VARIABLE = "PROCLINE_FLEET_STORE"
FROM_VARIABLE = "PROCLINE_FLEET_FROM"
#: Names of the credentials of the service begin so.
_CREDENTIAL = "procline-fleet-ingest"
#: How often the state is sent to systemd, s.
_STATUS_S = 1.0
_F = TypeVar("_F", bound=Callable[..., Any])


def _store_option(function: _F) -> _F:
    return click.option(
        "--store", type=click.Path(path_type=Path, file_okay=False), default=STORE, envvar=STORE_VARIABLE,
        metavar="DIR",
        help=f"Directory of the store.  [${STORE_VARIABLE} or {STORE}]",
    )(function)  # fmt: skip


def _format_option(function: _F) -> _F:
    return click.option(
        "--format", "form", type=common.OneOf(["table", "json", "csv"]), default="table", metavar="FORMAT",
        help="table, json or csv.",
    )(function)  # fmt: skip


@click.group(
    epilog="""\b
Examples:
  procline fleet ingest --from nats://hub:4222 --store /var/lib/procline-fleet/store
  procline fleet hosts                              last event, lag and loss of each host
  procline fleet query                              the named queries, and the views for SQL
  procline fleet query where curl                   on which hosts curl ran or runs
  procline fleet query lineage sshd shell curl      where somebody who logged in downloaded something
  procline fleet query --help                       the options of a command, with examples
"""
)
def command() -> None:
    """Keep the events of many hosts in one store, and answer questions about all of them.

    `procline forward` on each host sends its events to a NATS server with JetStream. `ingest` stores them from there.
    """


@command.command(
    epilog="""\b
Examples:
  procline fleet ingest --from nats://hub:4222
  procline fleet ingest --from tls://hub:4222 --credentials ingest.creds --tls-ca hub-ca.pem
  procline fleet ingest --from nats://hub:4222 --store /tmp/fleet --once
  procline fleet ingest --from nats://hub:4222 --keep-days 30
"""
)
@click.option(
    "--from", "url", required=True, envvar=FROM_VARIABLE, metavar="URL",
    help=f"NATS server; several are separated by commas.  [${FROM_VARIABLE}]",
)  # fmt: skip
@_store_option
@click.option("--stream", default="PROCLINE", show_default=True, metavar="NAME", help="Stream of JetStream.")
@click.option(
    "--credentials", type=click.Path(path_type=Path, exists=True, dir_okay=False), metavar="FILE",
    help="Credentials file of NATS.  [default: that of the service]",
)  # fmt: skip
@click.option(
    "--tls-ca", "ca", type=click.Path(path_type=Path, exists=True, dir_okay=False), metavar="FILE",
    help="Authorities that may sign the server's certificate.  [default: of the service, or those of the system]",
)  # fmt: skip
@click.option("--once", is_flag=True, help="End when no message waits.")
@click.option(
    "--commit-seconds", "commit_s", type=click.FloatRange(0.1, 30), default=5.0, show_default=True, metavar="SECONDS",
    help="Age at which a batch is stored. Full batches are stored at once.",
)  # fmt: skip
@click.option("--keep-days", type=click.IntRange(1, 36_500), metavar="DAYS", help="Remove older days.  [default: none]")
@click.option(
    "--memory", "memory_mib", type=click.IntRange(128, 1 << 20), default=1024, show_default=True, metavar="MIB",
    help="Memory that DuckDB may use.",
)  # fmt: skip
@common.json_option
def ingest(
    url: str, store: Path, stream: str, credentials: Path | None, ca: Path | None, once: bool, commit_s: float,
    keep_days: int | None, memory_mib: int, as_json: bool,
) -> int:  # fmt: skip
    """Read events from JetStream and store each exactly once.

    It runs until SIGTERM or Ctrl-C, and then stores what it has. After a kill it continues where it was. One process at
    a time can write to a store; readers do not disturb it. At the end it prints what it has done, with --json as JSON.
    """
    from pipeline.fleet.open_store import require

    require()
    from pipeline.host.credentials import credential
    from pipeline.host.notify import notify

    credentials = credentials or credential(f"{_CREDENTIAL}.creds")
    ca = ca or credential(f"{_CREDENTIAL}.ca")
    from pipeline.fleet.ingest import Ingester, NatsStream, run
    from pipeline.fleet.store import Store
    from pipeline.screen.progress import Progress

    with Store(store, memory_bytes=memory_mib << 20, keep_days=keep_days) as opened, Progress() as progress:
        told_s = 0.0

        def tick() -> None:
            waiting = ingester.progress.waiting
            status = (
                f"{opened.totals.events:,} events stored"
                + ("" if waiting is None else f", {waiting:,} messages waiting")
                + ("" if not opened.totals.refused else f", {opened.totals.refused:,} rejected")
            )
            progress.show(status)
            nonlocal told_s
            if time.monotonic() - told_s >= _STATUS_S:
                told_s = time.monotonic()
                notify(f"STATUS={status}")

        def report(line: str) -> None:
            progress.clear()
            click.echo(f"procline: {line}", err=True)

        nats_stream = NatsStream(url, stream, credentials, ca)
        ingester = Ingester(opened, nats_stream, commit_s=commit_s, once=once, report=report, tick=tick)
        begin = time.monotonic()
        notify("READY=1", "STATUS=connecting")  # it waits for the server, and needs none to start
        run(ingester)
        notify("STOPPING=1")
        progress.close()
        _tell_totals(opened.totals, ingester.progress.lags_s, time.monotonic() - begin, as_json)
    return 0


def _tell_totals(totals: Any, lags: Any, seconds: float, as_json: bool) -> None:
    from dataclasses import asdict

    ordered = sorted(lags)
    shares = {"p50": 0.5, "p99": 0.99, "max": 1.0}
    lags_s = {
        name: ordered[min(int(len(ordered) * share), len(ordered) - 1)] for name, share in shares.items() if ordered
    }
    if as_json:
        from pipeline.export.json import dumps

        click.echo(dumps(asdict(totals) | {"seconds": seconds, "lag_s": lags_s}))
        return
    click.echo(
        f"{totals.events:,} events of {totals.messages:,} messages in {totals.batches:,} batches, {seconds:.0f} s; "
        f"{totals.doubles:,} were stored already, {totals.refused:,} messages rejected"
    )


@command.command(
    # A time such as -5m is an argument.
    context_settings={"ignore_unknown_options": True},
    epilog="""\b
Examples:
  procline fleet query where /usr/bin/curl
  procline fleet query ancestry web-1 4711 "2026-11-28T13:05:00Z"
  procline fleet query new 7d --format csv
  procline fleet query lineage sshd shell curl
  procline fleet query "SELECT host, count(*) FROM lifetimes WHERE exit_code <> 0 GROUP BY host"
  procline fleet query --show where               the SQL of a named query, to begin with
""",
)
@click.argument("question", metavar="[SQL|NAME]", required=False)
@click.argument("arguments", nargs=-1, metavar="[ARGUMENT]...")
@_store_option
@_format_option
@click.option("--show", is_flag=True, help="Print the SQL of a named query.")
@click.option(
    "--limit", type=click.IntRange(1, 1_000_000), default=1000, show_default=True, metavar="ROWS",
    help="Maximum number of rows in a table. JSON and CSV have all rows.",
)  # fmt: skip
@click.option(
    "--limit-s", type=click.FloatRange(0.1, 86_400), default=300.0, show_default=True, metavar="SECONDS",
    help="Stop the question after this time.",
)  # fmt: skip
@click.option(
    "--memory", "memory_mib", type=click.IntRange(128, 1 << 20), default=2048, show_default=True, metavar="MIB",
    help="Memory that DuckDB may use.",
)  # fmt: skip
def query(
    question: str | None, arguments: tuple[str, ...], store: Path, form: str, show: bool, limit: int, limit_s: float,
    memory_mib: int,
) -> int:  # fmt: skip
    """Ask a named query, or a question in SQL. Without arguments, list the named queries and the views.

    SQL is that of DuckDB: one SELECT. It cannot change the store, and can read no other files. Times are UTC.

    Exits with 1 if the answer has no rows, and says so.
    """
    from pipeline.fleet.open_store import require

    require()
    from pipeline.fleet.named_queries import QUERIES, ask
    from pipeline.fleet.open_store import OpenStore
    from pipeline.fleet.output import write
    from pipeline.screen.progress import Progress

    for word in (question or "", *arguments):
        if word.startswith("--") and len(word.split()) == 1:
            raise click.NoSuchOption(word.partition("=")[0])
    if question is None:
        if show:
            raise click.UsageError("--show needs the NAME of a named query")
        return _list_named_queries()
    if show:
        if question not in QUERIES:
            raise click.UsageError(f"there is no named query {question!r}{_known(question)}")
        click.echo(QUERIES[question].sql.strip())
        return 0
    if question not in QUERIES and (arguments or not any(mark.isspace() for mark in question.strip())):
        raise click.UsageError(f"{question!r} is neither SQL nor a named query{_known(question)}")
    with OpenStore(store, memory_bytes=memory_mib << 20, limit_s=limit_s) as opened:
        with Progress("asking the store", ticks=True):
            rows = ask(opened, question, arguments) if question in QUERIES else opened.query(question)
        if write(rows, form, limit=limit):
            return 0
        click.echo(f"procline: {_why_empty(opened, question, arguments)}", err=True)
        return 1


def _why_empty(opened: OpenStore, question: str, arguments: tuple[str, ...]) -> str:
    """Say why an answer has no rows: an unknown host is named."""
    from pipeline.export.text import printable
    from pipeline.fleet.named_queries import QUERIES, parsed

    host = parsed(question, arguments).get("host") if question in QUERIES else None
    if host and not list(opened.ask("SELECT 1 FROM hosts WHERE host = $host", {"host": host})):
        return f"the store has no host {printable(host)}; `procline fleet hosts` lists them"
    return "the answer has no rows"


def _known(question: str) -> str:
    """Return the end of a message about a named query that does not exist."""
    from pipeline.fleet.named_queries import QUERIES

    return common.guess(question, QUERIES) or "; `procline fleet query` lists them"


def _list_named_queries() -> int:
    from pipeline.fleet.named_queries import listing
    from pipeline.fleet.open_store import VIEWS
    from pipeline.screen.lines import Line
    from pipeline.screen.styles import Style
    from pipeline.screen.tables import Column, table
    from pipeline.screen.terminal import Screen

    screen = Screen()
    views = ((name, meaning) for name, (meaning, _) in VIEWS.items())
    for title, rows in (("NAMED QUERY", listing()), ("VIEW", views)):
        cells: list[list[Line | str]] = [[Line((name, Style.PROGRAM)), meaning] for name, meaning in rows]
        screen.wrap(table([Column(title), Column("MEANING")], cells))
        screen.wrap([Line()])
    screen.wrap([Line('`procline fleet query "DESCRIBE events"` shows the columns of a view.')])
    return 0


@command.command(
    epilog="""\b
Examples:
  procline fleet hosts
  procline fleet hosts --format json | jq '.[] | select(.lost > 0)'
  procline fleet query lost web-1                 what a host lost, and when
"""
)
@_store_option
@_format_option
def hosts(store: Path, form: str) -> int:
    """Show the hosts of the store: last event, lag, losses and version.

    LAG is how old the newest event was when it was stored. LOST counts events that are missing for a known reason or
    whose numbers never came; a plus says that there are also losses of unknown size. GAPS is the number of losses.

    Exits with 1 if the store has no host.
    """
    from pipeline.fleet.catalogue import Catalogue
    from pipeline.fleet.losses import BEGIN, all_losses
    from pipeline.fleet.open_store import QueryResult
    from pipeline.fleet.output import write
    from pipeline.screen.progress import Progress

    catalogue = Catalogue.open(store)
    try:
        with Progress("reading the store", ticks=True):
            known, losses = catalogue.hosts(), all_losses(catalogue)
    finally:
        catalogue.close()
    by_host: dict[str, list[Loss]] = {}
    for loss in losses:
        if loss.cause != BEGIN:
            by_host.setdefault(loss.host, []).append(loss)
    if form == "table":
        _show_hosts(known, by_host)
    else:
        names = ["host", "name", "last_event_ns", "lag_ns", "events", "lost", "uncounted", "gaps", "refused", "doubles",
                 "version", "boot", "stored_ns"]  # fmt: skip
        rows = [_facts(host, by_host.get(host.host, [])) for host in known]
        write(QueryResult(names, iter([[tuple(row[name] for name in names) for row in rows]])), form, limit=len(rows))
    if not known:
        click.echo("procline: the store has no host yet", err=True)
    return 0 if known else 1


def _facts(host: Host, losses: list[Loss]) -> dict[str, Any]:
    return host._asdict() | {
        "lost": sum(loss.events or 0 for loss in losses),
        "uncounted": sum(loss.events is None for loss in losses),
        "gaps": len(losses),
    }


def _show_hosts(known: list[Host], losses: dict[str, list[Loss]]) -> None:
    from pipeline.screen.lines import Line
    from pipeline.screen.styles import Style
    from pipeline.screen.tables import Column, table
    from pipeline.screen.terminal import Screen
    from pipeline.screen.times import brief, moment, since

    now_ns = time.time_ns()

    def row(host: Host) -> list[Line | str]:
        facts = _facts(host, losses.get(host.host, []))
        lost = f"{facts['lost']:,}" + ("+" if facts["uncounted"] else "")
        last = Line("-")
        if host.last_event_ns is not None:
            last = Line(since(host.last_event_ns, now_ns), (f"  {moment(host.last_event_ns)[:19]}Z", Style.TIME))
        return [
            host.name or host.host, last, "-" if host.lag_ns is None else brief(max(host.lag_ns, 0)),
            f"{host.events:,}",
            Line((lost, Style.WARNING if facts["gaps"] else Style.PLAIN)), f"{facts['gaps']:,}", f"{host.refused:,}",
            host.version or "-",
        ]  # fmt: skip

    right = {"EVENTS", "LOST", "GAPS", "REJECTED", "LAG"}
    titles = ("HOST", "LAST EVENT", "LAG", "EVENTS", "LOST", "GAPS", "REJECTED", "VERSION")
    if known:
        Screen().cut(table([Column(title, title in right) for title in titles], [row(host) for host in known]))

"""`procline forward`: send the events of this host to NATS JetStream or to a file."""

from __future__ import annotations

import dataclasses
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pipeline.cli import common
from pipeline.errors import UnsupportedError

if TYPE_CHECKING:
    from pipeline.config.schema import Config
    from pipeline.forward.forwarder import Checked

EXIT_NO_DESTINATION = 3


@click.command(
    epilog="""\b
Examples:
  procline forward --to nats://127.0.0.1:4222 --create-stream    once, on the hub: create the stream
  procline forward --to tls://hub:4222 --credentials host.creds --check --json
  procline forward --to tls://hub:4222 --credentials host.creds --spool spool
  procline forward --to jsonl:/var/log/procline.jsonl --format ecs
"""
)
@click.option("--to", metavar="WHERE", help="nats://HOST:PORT, tls://..., jsonl or jsonl:FILE.")
@click.option("--spool", metavar="DIR", help="Keep unconfirmed messages in this directory.")
@click.option("--host", metavar="HOST", help="Name of this host.  [default: its host name]")
@click.option("--credentials", metavar="FILE", help="Credentials for NATS: .creds, or a key.")
@click.option("--tls-ca", metavar="FILE", help="Authorities that may sign the server's certificate.")
@click.option(
    "--format",
    "form",
    type=common.OneOf(["native", "otel", "ecs", "ocsf"]),
    metavar="FORMAT",
    help="Names of fields: native, otel, ecs or ocsf.",
)
@click.option("--create-stream", is_flag=True, help="Create the stream in JetStream, and exit.")
@click.option("--check", "is_check", is_flag=True, help="Connect, report, and exit.")
@click.option("--json", "as_json", is_flag=True, help="Print what --check reports as JSON.")
@common.config_options
@common.name_option
def command(
    to: str | None, spool: str | None, host: str | None, credentials: str | None, tls_ca: str | None,
    form: str | None, create_stream: bool, is_check: bool, as_json: bool, config_file: Path | None,
    changes: tuple[str, ...], name: str,
) -> int:  # fmt: skip
    """Send the events of this host to NATS JetStream, or write them as JSON lines, until SIGTERM or Ctrl-C.

    JetStream stores each event once, whatever is killed. A record in the stream says which events are missing. While
    the server is away, messages wait in the spool or in memory. The section `forward` of the settings has more options.

    --check and --create-stream exit with 3 if the destination cannot be used.
    """
    given = {
        "forward.to": to, "forward.spool": spool, "forward.host": host, "forward.credentials": credentials,
        "forward.tls_ca": tls_ca, "forward.format": form,
    }  # fmt: skip
    import asyncio  # deferred: the help needs none

    with _parts():
        from pipeline import log
        from pipeline.config import loading
        from pipeline.forward.forwarder import Forwarder, check, is_lines, server_of
        from pipeline.forward.forwarder import create_stream as create

    options = dict(loading.parse_option(change) for change in changes)
    options |= {key: value for key, value in given.items() if value is not None}
    config: Config = loading.load(config_file, options)
    settings = config.forward
    log.set_up(config.log.level, config.log.format, "forward")
    if as_json and not is_check:
        raise click.UsageError("--json is for --check: events go to --to jsonl as JSON")
    if not is_lines(settings):
        with _parts():
            from pipeline.forward.connection import DestinationError

        server = server_of(settings)
        if create_stream or is_check:
            from pipeline.screen.progress import Progress

            if create_stream:
                try:
                    with Progress("creating the stream", ticks=True):
                        is_new = asyncio.run(create(server, settings))
                except DestinationError as error:
                    click.echo(f"procline: {error}", err=True)
                    return EXIT_NO_DESTINATION
                click.echo(f"stream {server.stream}: {'created' if is_new else 'it exists already'}", err=as_json)
            if is_check:
                with Progress("connecting", ticks=True) as progress:
                    found = asyncio.run(check(server, progress.show))
                return _report(found, as_json)
            return 0
    elif create_stream or is_check:
        raise click.UsageError("--create-stream and --check are for NATS: use --to nats://HOST:PORT")
    asyncio.run(Forwarder(settings, name).run())
    return 0


def _parts() -> AbstractContextManager[None]:
    """Report what to install if a package of the extra `forward` is missing."""
    return common.optional_imports(_not_installed)


def _not_installed(name: str) -> UnsupportedError:
    return UnsupportedError(
        f"the package {name!r} is not installed",
        feature="forward",
        needs=name,
        hint="pip install 'procline[daemon,forward]'",
    )


def _report(found: list[Checked], as_json: bool) -> int:
    """Print what was found at each address; return the exit code."""
    if as_json:
        from pipeline.export.json import dumps

        click.echo(dumps([dataclasses.asdict(each) for each in found]))
    for each in () if as_json else found:
        click.echo(str(each) if each.error is None else f"procline: {each.error}", err=each.error is not None)
    return EXIT_NO_DESTINATION if any(each.error is not None for each in found) else 0

"""`procline keys`: key pairs for the stream over TCP, and the list of clients that are allowed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from pipeline.cli import common
from pipeline.errors import ConfigError

if TYPE_CHECKING:
    from pipeline.screen.lines import Line

_ACTIONS = ("new", "list", "allow", "revoke")


@click.command(
    epilog="""\b
Examples:
  procline keys new server --dir /etc/procline           the server's pair: server.key, server.key_secret
  procline keys new alice --dir ~/.config/procline       on the client's host
  procline keys allow alice.key --dir /etc/procline/clients
  procline keys list --dir /etc/procline/clients
  procline keys revoke alice --config /etc/procline/procline.toml
"""
)
@click.argument("action", metavar="new|list|allow|revoke", type=common.OneOf(_ACTIONS))
@click.argument("subject", metavar="[NAME|FILE]", required=False)
@click.option(
    "--dir", "directory", type=click.Path(path_type=Path, file_okay=False), metavar="DIR",
    help="Directory of the key pair (new; default: the current one), or of the allowed keys (default: the setting "
    "stream.curve_clients_dir).",
)  # fmt: skip
@common.config_options
@common.json_option
def command(
    action: str, subject: str | None, directory: Path | None, config_file: Path | None, changes: tuple[str, ...],
    as_json: bool,
) -> int:  # fmt: skip
    """Create keys for the stream over TCP, and list, allow or revoke those of clients.

    \b
    new NAME     Create a key pair: NAME.key (public), and NAME.key_secret, which only its owner can read.
    list         Show the keys of the clients that may connect.
    allow FILE   Allow a client: copy its public key to the list.
    revoke NAME  Remove a key from the list, under all of its names. NAME can also be the key itself.

    Give the server's NAME.key to the clients, and each client's NAME.key to the server. A running instance uses the
    changed list at once, without a restart. The connections of a revoked key end within a second.

    Exits with 1 if the key to revoke is not in the list.
    """  # noqa: D301 - click reads the backspace itself
    if action == "list":
        return _list(_clients(directory, config_file, changes), as_json)
    if subject is None:
        raise click.UsageError(f"`keys {action}` needs {'a FILE' if action == 'allow' else 'a NAME'}")
    if action == "new":
        from pipeline.bus import auth

        public, secret = auth.generate_keys(directory or Path(), subject)
        _print({"public": str(public), "secret": str(secret), "key": auth.load_public_key(public).decode()}, as_json)
        return 0
    clients = _clients(directory, config_file, changes)
    return _allow(clients, Path(subject), as_json) if action == "allow" else _revoke(clients, subject, as_json)


def _clients(directory: Path | None, config_file: Path | None, changes: tuple[str, ...]) -> Path:
    """Return the directory of the allowed keys."""
    if directory is not None:
        return directory
    from pipeline.config import loading

    settings, _ = loading.load_with_origins(config_file, dict(loading.parse_option(change) for change in changes))
    if not settings.stream.curve_clients_dir:
        raise ConfigError(
            "the directory of the allowed keys is not set: use --dir, or a --config with stream.curve_clients_dir",
            key="stream.curve_clients_dir",
        )
    return Path(settings.stream.curve_clients_dir)


def _listed(clients: Path) -> list[tuple[Path, str | None]]:
    """Return the files in the list with their keys; None: the file has no usable key."""
    from pipeline.bus import auth

    try:
        files = sorted(path for path in clients.iterdir() if path.name.endswith(auth.PUBLIC_SUFFIX))
    except OSError as error:
        raise ConfigError(
            f"cannot read the keys in {clients}: {error.strerror}; name another directory with --dir, or run as a user "
            "who can read it",
            key="dir", value=clients,
        ) from None  # fmt: skip
    listed: list[tuple[Path, str | None]] = []
    for path in files:
        try:
            listed.append((path, auth.load_public_key(path).decode()))
        except ConfigError:
            listed.append((path, None))
    return listed


def _list(clients: Path, as_json: bool) -> int:
    listed = _listed(clients)
    if as_json:
        from pipeline.export.json import dumps

        click.echo(dumps([{"name": path.stem, "key": key} for path, key in listed]))
        return 0
    from pipeline.screen.lines import Line
    from pipeline.screen.styles import Style
    from pipeline.screen.tables import Column, table
    from pipeline.screen.terminal import Screen

    def row(path: Path, key: str | None) -> list[Line | str]:
        return [Line(path.stem), Line(key) if key is not None else Line(("not a key", Style.WARNING))]

    if listed:
        Screen().cut(table([Column("NAME"), Column("KEY")], [row(*each) for each in listed]))
    else:
        click.echo(f"procline: {clients} has no key: no client can connect", err=True)
    return 0


def _allow(clients: Path, file: Path, as_json: bool) -> int:
    from pipeline.bus import auth

    key = auth.load_public_key(file)
    name = file.name.removesuffix(auth.PUBLIC_SUFFIX).removesuffix(auth.SECRET_SUFFIX)
    auth.check_name(name)
    path = clients / (name + auth.PUBLIC_SUFFIX)
    try:
        clients.mkdir(mode=0o755, parents=True, exist_ok=True)
        auth.write_public_key(path, key)
    except OSError as error:
        raise ConfigError(
            f"cannot write {path}: {error.strerror}; run as a user who can write to {clients}",
            key="dir", value=clients,
        ) from None  # fmt: skip
    _print({"allowed": str(path), "key": key.decode()}, as_json)
    return 0


def _revoke(clients: Path, subject: str, as_json: bool) -> int:
    listed = _listed(clients)
    named = {key for path, key in listed if subject in {path.stem, path.name, key}}
    # The same key can be in the list under several names.
    files = [
        path for path, key in listed if subject in {path.stem, path.name} or (key is not None and key in named)
    ]  # fmt: skip
    for path in files:
        try:
            path.unlink()
        except OSError as error:
            raise ConfigError(
                f"cannot remove {path}: {error.strerror}; run as a user who can write to {clients}",
                key="dir", value=clients,
            ) from None  # fmt: skip
    if not files:
        click.echo(f"procline: {clients} has no key {subject!r}", err=True)
        return 1
    _print({"revoked": [str(path) for path in files]}, as_json)
    return 0


def _print(facts: dict[str, object], as_json: bool) -> None:
    if as_json:
        from pipeline.export.json import dumps

        click.echo(dumps(facts))
        return
    from pipeline.screen.lines import Line
    from pipeline.screen.terminal import Screen

    for name, value in facts.items():
        for each in value if isinstance(value, list) else [value]:
            click.echo(Screen().text(Line(f"{name:<8} {each}")))

"""Keys for CURVE, which encrypts and authenticates TCP connections: files on disk, and the client's side.

On one host the file mode of an ipc socket is enough (`sockets`). Over TCP the server's key authenticates the server and
encrypts the connection; `curve_server` admits only clients with a public key in a directory.
"""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

import zmq
import zmq.auth

from pipeline.errors import ConfigError

PUBLIC_SUFFIX = ".key"
_Z85 = re.compile(rb"[0-9A-Za-z.\-:+=^!/*?&<>()\[\]{}@%$#]{40}")
SECRET_SUFFIX = ".key_secret"

# The format of zmq.auth, which cannot create a file with a mode.
_PUBLIC_TEXT = """\
# Public key of ZeroMQ CURVE, made by procline keys. It may be given to anyone.

metadata
curve
    public-key = "{public}"
"""
_SECRET_TEXT = """\
# Key pair of ZeroMQ CURVE, made by procline keys. KEEP IT SECRET: do not copy it to another user or host.

metadata
curve
    public-key = "{public}"
    secret-key = "{secret}"
"""


def generate_keys(directory: Path, name: str) -> tuple[Path, Path]:
    """Create a key pair.

    Args:
        directory: where the keys are written; created if it does not exist.
        name: base name of the two files.

    Returns:
        The paths of the public key (`name`.key, readable by all) and of the secret key (`name`.key_secret, readable by
        its owner only).

    Raises:
        ConfigError: the pair exists, `name` is not a file name, or the directory cannot be written.
    """
    check_name(name)
    public, secret = directory / (name + PUBLIC_SUFFIX), directory / (name + SECRET_SUFFIX)
    for path in (public, secret):
        if os.path.lexists(path):
            raise _exists(path)
    public_key, secret_key = zmq.curve_keypair()
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        # The secret is written first: without it the public key is of no use.
        _write(secret, _SECRET_TEXT.format(public=public_key.decode(), secret=secret_key.decode()), 0o600)
        write_public_key(public, public_key)
    except OSError as error:
        raise ConfigError(
            f"cannot write keys to {directory}: {error.strerror}; choose a directory that this user can write to",
            key="directory",
        ) from None
    return public, secret


def write_public_key(path: Path, key: bytes) -> None:
    """Create a file with a public key, readable by all.

    Raises:
        ConfigError: the file exists.
        OSError: it cannot be created.
    """
    _write(path, _PUBLIC_TEXT.format(public=key.decode("ascii")), 0o644)


def check_name(name: str) -> None:
    """Check that a key pair can have this name.

    Raises:
        ConfigError: it cannot.
    """
    if not name or "/" in name or "\0" in name or name.startswith("."):
        raise ConfigError(
            f"{name!r} cannot name a key pair: use a file name without '/' that does not begin with '.'",
            key="name",
            value=name,
        )


def _write(path: Path, text: str, mode: int) -> None:
    """Create a file that never has a wider mode than `mode`, whatever the umask is; never follow a link."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        raise _exists(path) from None
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(text)
        file.flush()
        os.fchmod(descriptor, mode)


def _exists(path: Path) -> ConfigError:
    return ConfigError(
        f"{path} already exists: remove it, or choose another name for the new key pair",
        key="name",
        value=path.name,
    )


def load_public_key(path: Path) -> bytes:
    """Return the public key in a file, as 40 characters of Z85.

    Raises:
        ConfigError: the file cannot be read or contains no public key.
    """
    public, _ = _load(path)
    return public


def load_clients(directory: Path) -> frozenset[bytes]:
    """Return the public keys in a directory.

    Raises:
        ConfigError: the directory or a key in it cannot be read.
    """
    if not directory.is_dir():
        raise ConfigError(
            f"{directory} is not a directory: create it and put the clients' public keys into it",
            key="clients",
            value=directory,
        )
    return frozenset(load_public_key(path) for path in directory.iterdir() if path.name.endswith(PUBLIC_SUFFIX))


def load_key_pair(path: Path) -> tuple[bytes, bytes]:
    """Return the public and the secret key in a secret key file, each as 40 characters of Z85.

    Raises:
        ConfigError: the file cannot be read, contains no secret key, or users other than its owner can access it.
    """
    public, secret = _load(path)
    if secret is None:
        raise ConfigError(
            f"{path} contains no secret key: use the file that ends in {SECRET_SUFFIX}", key="key", value=path
        )
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        raise ConfigError(
            f"{path} has mode {mode:04o}, so other users can access the key: run chmod 600 on it", key="key", value=path
        )
    return public, secret


def _load(path: Path) -> tuple[bytes, bytes | None]:
    try:
        public, secret = zmq.auth.load_certificate(path)
    except OSError as error:
        # load_certificate raises a bare OSError("Invalid certificate file") if the file does not exist.
        raise ConfigError(f"cannot read the key {path}: {error.strerror or 'no such file'}", key="key") from None
    except (ValueError, IndexError):  # a line "public-key" without "=" is an IndexError
        raise ConfigError(
            f"{path} contains no CURVE key: create one with `procline keys new`", key="key", value=path
        ) from None
    if not _Z85.fullmatch(public) or (secret is not None and not _Z85.fullmatch(secret)):
        raise ConfigError(f"{path} contains no CURVE key, which has 40 characters of Z85", key="key", value=path)
    return public, secret


def secure_client(socket: zmq.Socket[bytes], *, key: Path, server: Path) -> None:
    """Configure a client's socket for CURVE. Call this before the socket connects.

    Args:
        socket: the client's socket.
        key: the client's secret key file.
        server: the server's public key file.

    Raises:
        ConfigError: one of the keys cannot be used.
    """
    public, secret = load_key_pair(key)
    socket.curve_serverkey = load_public_key(server)
    socket.curve_publickey = public
    socket.curve_secretkey = secret

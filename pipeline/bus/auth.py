"""CURVE for sockets that leave the host: keys on disk, a server that knows its clients, a client that knows its server.

On one host the mode of an ipc socket is enough (`sockets`). Over TCP the server's key proves the server and encrypts,
and an authenticator (ZeroMQ RFC 27, "ZAP") lets in only clients whose public key lies in a directory. Two traps are
closed here: without an authenticator a CURVE server accepts every key, so `CurveServer` brings one and its sockets
refuse everybody where it is gone (ZMQ_ZAP_ENFORCE_DOMAIN); and an authenticator looks keys up by domain, so socket and
authenticator get the same one, never a wildcard.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from types import TracebackType
from typing import Self

import zmq
import zmq.auth
from zmq.auth.thread import ThreadAuthenticator

from pipeline.errors import ConfigError

#: ZAP domain of the public stream.
DOMAIN = "procline"

PUBLIC_SUFFIX = ".key"
SECRET_SUFFIX = ".key_secret"


def generate_keys(directory: Path, name: str) -> tuple[Path, Path]:
    """Make a key pair: `directory`/`name`.key, readable by all, and `directory`/`name`.key_secret, by the owner only.

    Changes the umask for a moment, so call it before there are threads that create files.

    Raises:
        ConfigError: the pair exists, the name is no file name, or the directory cannot be written.
    """
    if not name or "/" in name or name.startswith("."):
        raise ConfigError(f"{name!r} cannot name a key pair", key="name", value=name)
    public, secret = directory / (name + PUBLIC_SUFFIX), directory / (name + SECRET_SUFFIX)
    for path in (public, secret):
        if path.exists():
            raise ConfigError(
                f"{path} exists: remove it, or give the new key pair another name", key="name", value=name
            )
    # create_certificates opens both files with the process's umask; under the usual 022 the secret is public.
    before = os.umask(0o077)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        os.umask(0o177)
        zmq.auth.create_certificates(directory, name)
    except OSError as error:
        raise ConfigError(f"cannot write keys to {directory}: {error.strerror}", key="directory") from None
    finally:
        os.umask(before)
    public.chmod(0o644)
    return public, secret


def load_public_key(path: Path) -> bytes:
    """Return the public key in a file, as its 40 characters of Z85.

    Raises:
        ConfigError: the file cannot be read or holds no public key.
    """
    public, _ = _load(path)
    return public


def load_clients(directory: Path) -> frozenset[bytes]:
    """Return the public keys of a directory.

    Raises:
        ConfigError: the directory or a key in it cannot be read.
    """
    if not directory.is_dir():
        raise ConfigError(f"{directory} is no directory of clients' keys", key="clients", value=directory)
    return frozenset(load_public_key(path) for path in directory.iterdir() if path.suffix == PUBLIC_SUFFIX)


def load_key_pair(path: Path) -> tuple[bytes, bytes]:
    """Return the public and secret key in a secret file, each as its 40 characters of Z85.

    Raises:
        ConfigError: the file cannot be read, holds no secret key, or others than its owner can read it.
    """
    public, secret = _load(path)
    if secret is None:
        raise ConfigError(
            f"{path} holds no secret key: use the file that ends in {SECRET_SUFFIX}", key="key", value=path
        )
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        raise ConfigError(f"{path} has mode {mode:04o}, so others can use the key: chmod 600 it", key="key", value=path)
    return public, secret


def _load(path: Path) -> tuple[bytes, bytes | None]:
    try:
        public, secret = zmq.auth.load_certificate(path)
    except OSError as error:
        # load_certificate raises a bare OSError("Invalid certificate file") when the file is not there.
        raise ConfigError(f"cannot read the key {path}: {error.strerror or 'no such file'}", key="key") from None
    except ValueError:
        raise ConfigError(f"{path} holds no key", key="key", value=path) from None
    if len(public) != 40 or (secret is not None and len(secret) != 40):
        raise ConfigError(f"{path} holds a key of the wrong length", key="key", value=path)
    return public, secret


class _KnownKeys:
    """What the authenticator's thread asks; `keys` is replaced whole, so it never sees half of a reload."""

    keys: frozenset[bytes] = frozenset()

    def callback(self, domain: str, key: bytes) -> bool:
        return domain == DOMAIN and key in self.keys


class CurveServer:
    """Lets clients with known keys, and nobody else, use the sockets that `secure` was called for.

    Runs one thread (the authenticator) over the given context. Make it before the sockets are bound, and close it
    after them.
    """

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], *, key: Path, clients: Path) -> None:
        """Load the server's secret key file `key` and the public keys (``*.key``) in the directory `clients`.

        Raises:
            ConfigError: a key cannot be used, or `clients` is no directory.
        """
        self._public, self._secret = load_key_pair(key)
        self._clients = clients
        self._known = _KnownKeys()
        self._authenticator = ThreadAuthenticator(context)
        self.reload()
        # Not configure_curve: it reads the directory itself, by a pattern in which "*" and "[" of the path have a
        # meaning, takes the path "*" for "allow every key", and only logs a key that it cannot read.
        self._authenticator.configure_curve_callback(DOMAIN, self._known)
        self._authenticator.start()

    @property
    def public_key(self) -> bytes:
        """What clients must be given, as 40 characters of Z85."""
        return self._public

    def secure(self, socket: zmq.Socket[bytes]) -> None:
        """Make `socket`, not yet bound, demand CURVE and a known key."""
        socket.curve_server = True
        socket.curve_publickey = self._public
        socket.curve_secretkey = self._secret
        socket.zap_domain = DOMAIN.encode()
        socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)

    def reload(self) -> int:
        """Read the clients' keys again and return how many there are. Connections that exist stay.

        Raises:
            ConfigError: the directory or a key in it cannot be read; the keys known before stay in force.
        """
        self._known.keys = load_clients(self._clients)
        return len(self._known.keys)

    def close(self) -> None:
        """End the authenticator's thread. Sockets that are still open let nobody in after this."""
        if self._authenticator.is_alive():
            self._authenticator.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def secure_client(socket: zmq.Socket[bytes], *, key: Path, server: Path) -> None:
    """Make `socket`, not yet connected, speak CURVE with the client's secret key file `key` to the holder of `server`.

    Raises:
        ConfigError: one of the keys cannot be used.
    """
    public, secret = load_key_pair(key)
    socket.curve_serverkey = load_public_key(server)
    socket.curve_publickey = public
    socket.curve_secretkey = secret

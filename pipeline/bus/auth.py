"""CURVE encryption and authentication for TCP sockets: keys on disk, the server's side and the client's side.

On one host the file mode of an ipc socket is enough (`sockets`). Over TCP the server's key authenticates the server and
encrypts the connection, and an authenticator (ZeroMQ RFC 27, "ZAP") admits only clients with a public key in a
directory. This module avoids two mistakes that are easy to make with ZeroMQ:

- Without an authenticator a CURVE server accepts every key. `CurveServer` therefore starts one, and its sockets reject
  all clients if the authenticator is gone (ZMQ_ZAP_ENFORCE_DOMAIN).
- An authenticator looks keys up by domain. The socket and the authenticator therefore use the same domain, never a
  wildcard.
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
    """Create a key pair.

    The function changes the umask for a moment. Call it before other threads create files.

    Args:
        directory: where the keys are written; created if it does not exist.
        name: base name of the two files.

    Returns:
        The paths of the public key (`name`.key, readable by all) and of the secret key (`name`.key_secret, readable by
        its owner only).

    Raises:
        ConfigError: the pair exists, `name` is not a file name, or the directory cannot be written.
    """
    if not name or "/" in name or name.startswith("."):
        raise ConfigError(
            f"{name!r} cannot name a key pair: use a file name without '/' that does not begin with '.'",
            key="name",
            value=name,
        )
    public, secret = directory / (name + PUBLIC_SUFFIX), directory / (name + SECRET_SUFFIX)
    for path in (public, secret):
        if path.exists():
            raise ConfigError(
                f"{path} already exists: remove it, or choose another name for the new key pair", key="name", value=name
            )
    # create_certificates creates both files with the process's umask. With the usual 022 the secret would be public.
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
    return frozenset(load_public_key(path) for path in directory.iterdir() if path.suffix == PUBLIC_SUFFIX)


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
    except ValueError:
        raise ConfigError(
            f"{path} contains no CURVE key: create one with pipeline.bus.auth.generate_keys", key="key", value=path
        ) from None
    if len(public) != 40 or (secret is not None and len(secret) != 40):
        raise ConfigError(
            f"{path} contains a key of the wrong length: a CURVE key has 40 characters", key="key", value=path
        )
    return public, secret


class _KnownKeys:
    """The admitted keys, read by the authenticator's thread. A reload replaces `keys` in one assignment."""

    keys: frozenset[bytes] = frozenset()

    def callback(self, domain: str, key: bytes) -> bool:
        return domain == DOMAIN and key in self.keys


class CurveServer:
    """Restricts the sockets passed to `secure` to clients with known keys.

    It runs one thread, the authenticator, on the given context. Create it before the sockets are bound, and close it
    after they are closed.
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
        # configure_curve is not safe here. It reads the directory with a glob pattern, so "*" and "[" in the path are
        # special; the path "*" means "accept every key"; and a key that it cannot read is only logged.
        self._authenticator.configure_curve_callback(DOMAIN, self._known)
        self._authenticator.start()

    @property
    def public_key(self) -> bytes:
        """The server's public key, which every client needs, as 40 characters of Z85."""
        return self._public

    def secure(self, socket: zmq.Socket[bytes]) -> None:
        """Configure `socket` to require CURVE and a known client key. Call this before the socket is bound."""
        socket.curve_server = True
        socket.curve_publickey = self._public
        socket.curve_secretkey = self._secret
        socket.zap_domain = DOMAIN.encode()
        socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)

    def reload(self) -> int:
        """Read the clients' keys again.

        Existing connections stay open, even if the key of the client was removed.

        Returns:
            The number of keys.

        Raises:
            ConfigError: the directory or a key in it cannot be read; the previous keys remain in use.
        """
        self._known.keys = load_clients(self._clients)
        return len(self._known.keys)

    def close(self) -> None:
        """Stop the authenticator's thread. Sockets that are still open admit no new clients after this."""
        if self._authenticator.is_alive():
            self._authenticator.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


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

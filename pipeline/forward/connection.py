"""One connection to a NATS server: TLS, credentials, and the few requests that the forwarder makes.

nats-py would connect again by itself, and then send what it had buffered. Here a lost connection ends instead, and
`sending` makes another one and asks the server what it holds.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import nats.errors
from nats.aio.client import Client

from pipeline.errors import ConfigError, ProclineError
from pipeline.forward.batches import KINDS, Batch, token
from pipeline.forward.stored import Stored, Subject

SCHEMES = ("nats", "tls")
_SETTING = "forward.credentials"
#: A server that does not answer within these times counts as gone.
_CONNECT_LIMIT_S = 10.0
_ANSWER_LIMIT_S = 5.0
#: For closing a connection that was never made: the client may wait for an end of TLS that does not come.
_ABANDON_LIMIT_S = 0.2
_PING_INTERVAL_S = 10
_PINGS_MAX = 2
#: Headers of a message are at most this long.
HEADERS_BYTES = 2048

_NOT_FOUND = "404"
_WRONG_SEQUENCE = 10071
_NO_STREAM = 10059


class DestinationError(ProclineError):
    """The destination cannot be used now; the message says why. Trying again can help."""


class MissingStreamError(DestinationError):
    """The server has no such stream."""


class RefusedError(DestinationError):
    """The server rejected a message, for example because its disk is full."""


class ConflictError(DestinationError):
    """The last message of a subject is another one than expected."""


@dataclass(frozen=True)
class Server:
    """How to reach a server, and what to store where.

    Attributes:
        addresses: ``nats://`` or ``tls://`` addresses of one server or cluster.
        stream: name of the stream in JetStream.
        host_name: name of this host.
        credentials: file with a JWT and its key, or with a key alone; None: no credentials.
        tls_ca: file with the certificates of authorities; None: those of the system.
        tls_cert: file with the client's certificate; None: none.
        tls_key: file with its key; None: it is in `tls_cert`.
    """

    addresses: Sequence[str]
    stream: str
    host_name: str
    credentials: Path | None = None
    tls_ca: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None

    @property
    def uses_tls(self) -> bool:
        """Whether a connection without TLS is rejected."""
        has_files = self.tls_ca is not None or self.tls_cert is not None
        return has_files or any(address.startswith("tls://") for address in self.addresses)

    @property
    def host(self) -> str:
        """Name of this host, as part of subjects."""
        return token(self.host_name)

    def subject(self, kind: str) -> str:
        """Return the subject of the messages of a kind."""
        return f"procline.{self.host}.{kind}"

    def check(self) -> None:
        """Read all files once.

        Raises:
            ConfigError: an address is not valid, or a file cannot be used. The message says which one.
        """
        for address in self.addresses:
            _check_address(address)
        self.tls_context()
        if self.credentials is not None:
            credentials_options(self.credentials, _SETTING)

    def tls_context(self) -> ssl.SSLContext | None:
        """Return what TLS needs; None: without TLS.

        Raises:
            ConfigError: a file cannot be used.
        """
        if not self.uses_tls:
            return None
        try:
            context = ssl.create_default_context(cafile=None if self.tls_ca is None else str(self.tls_ca))
        except (OSError, ssl.SSLError) as error:
            raise _unusable("tls_ca", self.tls_ca, error) from None
        if self.tls_cert is not None:
            try:
                context.load_cert_chain(self.tls_cert, self.tls_key, _no_password)
            except (OSError, ssl.SSLError) as error:
                raise _unusable("tls_cert", self.tls_cert, error) from None
        return context


def _no_password() -> str:
    raise ssl.SSLError("the key has a password")


def _unusable(key: str, path: Path | None, error: Exception) -> ConfigError:
    reason = error.strerror if isinstance(error, OSError) and not isinstance(error, ssl.SSLError) else None
    return ConfigError(f"forward.{key}: cannot use {path}: {reason or error}", key=f"forward.{key}", value=str(path))


def _check_address(address: str) -> None:
    try:
        parts = urlsplit(address)
        is_good = parts.scheme in SCHEMES and bool(parts.hostname) and (parts.port is None or parts.port > 0)
        is_good &= parts.path in ("", "/") and not parts.query and not parts.fragment
    except ValueError:
        is_good = False
    if not is_good:
        raise ConfigError(
            f"forward.to: {shown(address)!r} is not an address of a NATS server: use nats://HOST:PORT or tls://HOST:PORT",
            key="forward.to", value=shown(address),
        )  # fmt: skip


def shown(address: str) -> str:
    """Return an address without a password."""
    before, at, host = address.rpartition("@")
    return f"{before.partition('://')[0]}://***@{host}" if at else address


def credentials_options(path: Path, setting: str) -> dict[str, Any]:
    """Return the arguments for nats-py that a credentials file needs: a JWT with its key, or a key alone.

    Raises:
        ConfigError: it is neither, or it cannot be read; the message names the `setting`.
    """
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise ConfigError(f"{setting}: cannot read {path}: {reason}", key=setting, value=str(path)) from None
    if "BEGIN NATS USER JWT" in text and "BEGIN USER NKEY SEED" in text:
        return {"user_credentials": str(path)}
    if text.strip().startswith("SU") and len(text.split()) == 1:
        return {"nkeys_seed": str(path)}
    raise ConfigError(
        f"{setting}: {path} has neither a JWT with its key (.creds) nor a key of a user (SU...)",
        key=setting, value=str(path),
    )  # fmt: skip


class _Client(Client):
    """A client that sends nothing to a server without TLS if TLS is wanted."""

    needs_tls = False

    async def _process_info(self, info: dict[str, Any], initial_connection: bool = False) -> None:
        # nats-py would continue without TLS, and send the credentials.
        if initial_connection and self.needs_tls and not info.get("tls_required"):
            raise nats.errors.SecureConnWantedError
        await super()._process_info(info, initial_connection=initial_connection)


class Connection:
    """An open connection; an asynchronous context manager.

    Attributes:
        closed: set when it is lost.
        address: of the server.
    """

    def __init__(self, server: Server, address: str, warn: Callable[[str], object]) -> None:
        self._server = server
        self._client = _Client()
        self._client.needs_tls = server.uses_tls
        self._warn = warn
        self._error = ""
        self.address = shown(address)
        self._address = address
        self.closed = asyncio.Event()

    async def __aenter__(self) -> Self:
        server = self._server
        try:
            options: dict[str, Any] = (
                {} if server.credentials is None else credentials_options(server.credentials, _SETTING)
            )
            context = server.tls_context()
        except ConfigError as error:  # they were good at the start: somebody replaces them at the moment
            raise DestinationError(str(error)) from None
        if context is not None:
            options["tls"] = context
        connecting = self._client.connect(
            self._address, name=f"procline forward {server.host}", allow_reconnect=False, max_reconnect_attempts=1,
            reconnect_time_wait=0, connect_timeout=int(_CONNECT_LIMIT_S), ping_interval=_PING_INTERVAL_S,
            max_outstanding_pings=_PINGS_MAX, error_cb=self._note, closed_cb=self._end,
            # A subject of its own, so that the permission to read answers can be limited to this host's.
            inbox_prefix=f"_INBOX.procline.{server.host}", **options,
        )  # fmt: skip
        try:
            await asyncio.wait_for(connecting, _CONNECT_LIMIT_S)
        except (OSError, nats.errors.Error, TimeoutError, ValueError) as error:
            await self._close(_ABANDON_LIMIT_S)
            reason = self._error or _text(error)
            raise DestinationError(
                f"cannot connect to {self.address}: {reason}; check the server, its address and the credentials"
            ) from None
        except BaseException:
            await self._close(_ABANDON_LIMIT_S)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await self._close()

    async def _close(self, limit_s: float = _ANSWER_LIMIT_S) -> None:
        with contextlib.suppress(Exception):
            await asyncio.wait_for(self._client.close(), limit_s)

    async def _note(self, error: Exception) -> None:
        self._error = _text(error)
        if self._client.is_connected:
            self._warn(self._error)

    async def _end(self) -> None:
        self.closed.set()

    @property
    def message_max_bytes(self) -> int:
        """How long the data of a message may be."""
        return int(self._client.max_payload) - HEADERS_BYTES

    async def _request(self, subject: str, data: bytes, headers: Mapping[str, str] | None = None) -> Any:
        if self.closed.is_set() or not self._client.is_connected:
            raise DestinationError(f"the connection to {self.address} is lost")
        answer: Awaitable[Any] = self._client.request(
            subject, data, _ANSWER_LIMIT_S, headers=None if headers is None else dict(headers)
        )
        try:
            return await answer
        except nats.errors.NoRespondersError:
            raise
        except (nats.errors.Error, OSError) as error:
            raise DestinationError(
                f"{self.address} does not answer: {self._error or _text(error)}; "
                "check the server's log and the permissions of this host"
            ) from None

    async def stored(self) -> Stored:
        """Ask for the last message of each subject.

        Raises:
            DestinationError: the server does not answer, or has no such stream.
        """
        found = await asyncio.gather(*map(self._last, KINDS))
        return Stored(dict(zip(KINDS, found, strict=True)))

    async def _last(self, kind: str) -> Subject:
        stream, subject = self._server.stream, self._server.subject(kind)
        try:
            # Needs a permission for this subject only, other than the general request below.
            answer = await self._request(f"$JS.API.DIRECT.GET.{stream}.{subject}", b"")
            headers = answer.headers or {}
            if headers.get("Status") == _NOT_FOUND:
                return Subject()
            return Subject.of(int(headers["Nats-Sequence"]), headers)
        except nats.errors.NoRespondersError:
            pass
        except (KeyError, ValueError):
            raise DestinationError(f"{self.address} sent an invalid answer") from None
        fields = await self._api(f"STREAM.MSG.GET.{stream}", {"last_by_subj": subject})
        if fields is None:
            return Subject()
        raise MissingStreamError(
            f"the stream {stream} does not allow direct access: run `nats stream edit {stream} --allow-direct`"
        )

    async def _api(self, request: str, fields: Mapping[str, object]) -> dict[str, Any] | None:
        """Make a request of JetStream's API; None: what it asked for does not exist."""
        try:
            answer = await self._request(f"$JS.API.{request}", json.dumps(fields).encode())
        except nats.errors.NoRespondersError:
            raise DestinationError(
                f"JetStream is not enabled for this account at {self.address}: enable it, or use another account"
            ) from None
        found: dict[str, Any] = _json(answer.data)
        error = found.get("error")
        if error is None:
            return found
        if error.get("err_code") == _NO_STREAM:
            raise MissingStreamError(
                f"{self.address} has no stream {self._server.stream}: create it once with "
                "`procline forward --to ADDRESS --create-stream`"
            )
        if error.get("code") == int(_NOT_FOUND):
            return None
        raise RefusedError(f"{self.address}: {error.get('description', error)}")

    async def create_stream(self, *, max_bytes: int, max_age_s: int, replicas: int) -> bool:
        """Create the stream, unless it exists; return whether it was created.

        Args:
            max_bytes: the oldest messages are removed beyond this size; 0: no limit.
            max_age_s: messages are removed at this age; 0: no limit.
            replicas: servers of a cluster that keep a copy.

        Raises:
            DestinationError: the server rejected it.
        """
        stream = self._server.stream
        with contextlib.suppress(MissingStreamError):
            if await self._api(f"STREAM.INFO.{stream}", {}) is not None:
                return False
        await self._api(
            f"STREAM.CREATE.{stream}",
            {
                "name": stream, "subjects": ["procline.>"], "retention": "limits", "storage": "file",
                "discard": "old", "max_bytes": max_bytes or -1, "max_age": max_age_s * 10**9,
                "num_replicas": replicas, "allow_direct": True, "duplicate_window": 120 * 10**9,
                "max_msgs": -1, "max_consumers": -1, "max_msg_size": -1, "max_msgs_per_subject": -1,
            },
        )  # fmt: skip
        return True

    async def publish(self, batch: Batch, headers: Mapping[str, str]) -> tuple[int, bool]:
        """Store a batch as a message.

        Returns:
            The number of the message in the stream, and whether the server had one with this id.

        Raises:
            ConflictError: the last message of the subject is another one.
            RefusedError: the server rejected the message for another reason.
            DestinationError: no answer; the message may be stored or not.
        """
        expected = {**headers, "Nats-Expected-Stream": self._server.stream}
        try:
            answer = await self._request(self._server.subject(batch.kind), batch.data, expected)
        except nats.errors.NoRespondersError:
            raise RefusedError(
                f"no stream of {self.address} accepts the subject {self._server.subject(batch.kind)}: "
                f"add it to the subjects of {self._server.stream}"
            ) from None
        fields = _json(answer.data)
        error = fields.get("error")
        if error is None:
            try:
                return int(fields["seq"]), bool(fields.get("duplicate"))
            except (KeyError, ValueError, TypeError):
                raise RefusedError(f"{self.address} sent an invalid confirmation") from None
        if error.get("err_code") == _WRONG_SEQUENCE:
            raise ConflictError("another message came in between")
        raise RefusedError(f"{self.address}: {error.get('description', error)}")


def _json(data: bytes) -> dict[str, Any]:
    try:
        fields = json.loads(data)
    except ValueError:
        fields = None
    if type(fields) is not dict or type(fields.get("error", {})) is not dict:
        raise DestinationError("the server sent an answer that is not JSON")
    return fields


def _text(error: BaseException) -> str:
    """Return the text of an error, in one line."""
    if isinstance(error, nats.errors.SecureConnWantedError):
        return "the server offers no TLS"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not valid: {error.verify_message}"
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, ConnectionResetError):
        # A server that rejects the credentials says so and closes; the reset may overtake its message.
        return "the server closed the connection (it may have rejected the credentials: see its log)"
    if isinstance(error, OSError) and error.errno and not isinstance(error, ssl.SSLError):
        return os.strerror(error.errno)
    text = str(error).removeprefix("nats: ").strip() or type(error).__name__
    return text.splitlines()[0][:200]

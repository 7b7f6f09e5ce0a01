"""A real nats-server with JetStream, in a temporary directory, that a test can kill and start again.

    with NatsServer(tmp_path) as server:
        nc = await nats.connect(server.url)
        server.kill()
        server.start()      # same port, same store

Tests in several directories use it: import `NatsServer`, or the fixture `nats_server`.
"""

from __future__ import annotations

import asyncio
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import NoReturn, Self

import nats
import nats.errors
import pytest

from tests.ports import free_port

#: A busy machine can take long to start a process.
_START_LIMIT_S = 60.0


class NatsServer:
    """One server. Entering starts it, leaving stops it.

    Attributes:
        port: where clients connect; it stays the same at a restart.
        config: additional lines of the configuration file. Change them before `start`.
    """

    def __init__(self, directory: Path, *, name: str = "nats", config: str = "", jetstream: bool = True) -> None:
        """Prepare a server that keeps everything below `directory`/`name`.

        Args:
            directory: an existing directory.
            name: name of the server and of its directory.
            config: lines for the configuration file, such as ``tls { … }``.
            jetstream: with JetStream, in files; otherwise `config` has a block for it, or there is none.
        """
        self.name = name
        self.directory = directory / name
        self.directory.mkdir(exist_ok=True)
        self.config = config
        self.port = free_port()
        self._jetstream = jetstream
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Address for clients."""
        return f"nats://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """Process of the running server."""
        assert self._process is not None
        return self._process.pid

    @property
    def log(self) -> str:
        """The log of the server so far."""
        return (self.directory / "log").read_text()

    def start(self) -> None:
        """Start the server, and wait until it accepts clients."""
        assert self._process is None
        store = f'jetstream {{ store_dir: "{self.directory / "store"}" }}\n' if self._jetstream else ""
        (self.directory / "nats.conf").write_text(
            f'listen: "127.0.0.1:{self.port}"\nserver_name: {self.name}\n{store}{self.config}\n'
        )
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                ["nats-server", "-c", str(self.directory / "nats.conf")],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + _START_LIMIT_S
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                break
            with socket.socket() as client:
                client.settimeout(1.0)
                # The server greets clients when it has opened its streams.
                if client.connect_ex(("127.0.0.1", self.port)) == 0:
                    try:
                        if client.recv(4) == b"INFO":
                            return
                    except OSError:
                        pass
            time.sleep(0.02)
        self.kill()
        raise AssertionError(f"nats-server did not start:\n{self.log[-4000:]}")

    def _end(self, number: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(number)
            process.wait(60)

    def kill(self) -> None:
        """End the server with SIGKILL; nothing, if it does not run."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """End the server in order; nothing, if it does not run."""
        self._end(signal.SIGTERM)

    def pause(self) -> None:
        """Stop the process of the server, so that it accepts connections and answers nothing."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Continue the process of the server."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.kill()


def hub_and_leaf(directory: Path) -> tuple[NatsServer, NatsServer]:
    """Return a hub and a leaf node of it, which do not run yet. The leaf has the JetStream domain ``edge``."""
    port = free_port()

    def server(name: str, leafnodes: str) -> NatsServer:
        store = f'jetstream {{ store_dir: "{directory / name}-store", domain: {name} }}'
        return NatsServer(directory, name=name, jetstream=False, config=f"{store}\nleafnodes {{ {leafnodes} }}")

    return (
        server("hub", f'listen: "127.0.0.1:{port}"'),
        server("edge", f'reconnect: "1s", remotes: [ {{ url: "nats://127.0.0.1:{port}" }} ]'),
    )


async def source_from_leaf(hub: NatsServer, stream: str = "PROCLINE") -> None:
    """Create a stream at the hub that fetches what the leaf's stream of the same name stores."""
    client = await nats.connect(hub.url)
    source = nats.js.api.StreamSource(name=stream, external=nats.js.api.ExternalStream("$JS.edge.API"))
    await client.jetstream().add_stream(name=stream, sources=[source])
    await client.close()


async def source_again(hub: NatsServer, stream: str = "PROCLINE") -> None:
    """Let a hub that has started again fetch from the leaf as soon as the leaf is connected.

    The hub asks once before the leaf can be connected, and then again after 40 s, which no setting of nats-server
    shortens. It also asks when its stream gets a source.
    """
    client = await nats.connect(hub.url)
    deadline = time.monotonic() + _START_LIMIT_S
    while True:
        try:
            await client.request("$JS.edge.API.INFO", timeout=1)
            break
        except (nats.errors.NoRespondersError, nats.errors.TimeoutError):
            assert time.monotonic() < deadline, f"the leaf does not connect:\n{hub.log[-4000:]}"
            await asyncio.sleep(0.1)
    jetstream = client.jetstream()
    config = (await jetstream.stream_info(stream)).config
    for sources in ([], config.sources):
        config.sources = sources
        await jetstream.update_stream(config)
    await client.close()


def require_nats_server(missing: Callable[[str], NoReturn]) -> None:
    """Skip the test, or fail it with PROCLINE_REQUIRE_LIVE=1, if nats-server is not installed."""
    if shutil.which("nats-server") is None:
        missing("nats-server is not installed")


@pytest.fixture
def nats_server(tmp_path: Path, missing: Callable[[str], NoReturn]) -> Iterator[NatsServer]:
    """A running server with JetStream."""
    require_nats_server(missing)
    with NatsServer(tmp_path) as server:
        yield server

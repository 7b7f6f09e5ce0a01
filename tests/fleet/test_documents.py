"""The commands of docs/fleet.md answer as shown, on the store of tests/fleet/filled_store.py and on a real server."""

from __future__ import annotations

import os
import re
import signal
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import pytest

from tests.docs.blocks import Block, run_by
from tests.fleet.filled_store import Fleet
from tests.fleet.jetstream import publish
from tests.fleet.traffic import SimulatedHost
from tests.forward.credentials import Operator, certificates
from tests.forward.world import wait_for
from tests.nats_server import NatsServer, require_nats_server
from tests.private_root import PrivateRoot, private_root

#: Where the documented commands keep a store.
STORE = "/var/lib/procline-fleet/store"
#: Times, and what depends on them.
_TIME = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(\.\d{3}|Z)|\d+ \w+ \d+ \w+ ago")
ENVIRONMENT = dict(os.environ, PATH=f"{Path(sys.executable).parent}:{os.environ['PATH']}", COLUMNS="200")


@pytest.fixture
def root() -> Iterator[PrivateRoot]:
    if os.geteuid() != 0:
        pytest.skip("only root can make a private root")
    with private_root() as made:
        yield made


def blocks() -> dict[str, Block]:
    """The blocks of the page, by a word of each."""
    found = run_by("tests/fleet/test_documents.py")
    return {next(word for word in ("ingest", "SELECT", "where", "hosts") if word in each.text): each for each in found}


def shape(text: str) -> list[list[str]]:
    """Return the cells of an answer, without times."""
    return [_TIME.sub("TIME", line).split() for line in text.splitlines()]


def test_all_blocks_are_known() -> None:
    assert list(blocks()) == ["ingest", "where", "SELECT", "hosts"]
    assert len(run_by("tests/fleet/test_documents.py")) == 4


@pytest.mark.parametrize("name", ["where", "SELECT", "hosts"])
@pytest.mark.expensive
def test_an_answer_is_as_shown(fleet: Fleet, root: PrivateRoot, name: str) -> None:
    block = blocks()[name]
    root.run("mkdir", "-p", str(Path(STORE).parent))
    root.run("ln", "-s", fleet.root, STORE)
    done = root.run("sh", "-euc", block.script, env=ENVIRONMENT)
    if block.language == "console":
        assert shape(done.stdout) == shape(block.shown)
    else:
        assert "FAILURES" in done.stdout and "COLUMN_NAME" in done.stdout.upper()


@pytest.mark.expensive
@pytest.mark.slow
def test_the_documented_ingest_stores_events(
    root: PrivateRoot, tmp_path: Path, missing: Callable[[str], NoReturn]
) -> None:
    """The server is called `hub`, wants TLS, and knows the user of the credentials. Only its port is another one."""
    require_nats_server(missing)
    certificates(tmp_path)
    operator = Operator()
    for name in ("ingest", "admin"):
        operator.credentials(tmp_path / f"{name}.creds")
    root.run("sh", "-c", "echo 127.0.0.1 hub >> /etc/hosts")
    tls = f'tls {{ cert_file: "{tmp_path}/server.pem", key_file: "{tmp_path}/server.key" }}\n'
    server = NatsServer(tmp_path, config=operator.config + tls)
    install, ingest = blocks()["ingest"].script.splitlines()
    environment = ENVIRONMENT | {"PIP_NO_INDEX": "1", "PIP_NO_DEPS": "1"}
    assert "extra" not in root.run("sh", "-euc", install, env=environment).stderr
    with server, SimulatedHost("web-1", 1, 10**18) as host:
        for _ in range(20):
            host.end(host.run(1, b"/bin/true"))
        trusted = ssl.create_default_context(cafile=str(tmp_path / "ca.pem"))
        publish(server.url, host.sent(), tls=trusted, user_credentials=str(tmp_path / "admin.creds"))
        ingest = ingest.replace(":4222 ", f":{server.port} ")
        with (tmp_path / "log").open("wb") as log:
            process = subprocess.Popen(
                [*root.command, "sh", "-euc", f"exec {ingest}"], env=ENVIRONMENT, cwd=tmp_path, stdout=log, stderr=log
            )
        try:
            counted = f"procline fleet query 'SELECT count(*) AS events FROM events' --format csv --store {STORE}"

            def is_stored() -> bool:
                done = subprocess.run(
                    [*root.command, "sh", "-c", counted], env=ENVIRONMENT, capture_output=True, text=True, check=False
                )
                return done.returncode == 0 and int(done.stdout.split()[1]) >= 60

            # Each question is a start of DuckDB. A batch is stored after five seconds.
            wait_for(is_stored, f"all events in the store: {(tmp_path / 'log').read_text()}", pause_s=1)
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 0
        finally:
            process.kill()
            process.wait()

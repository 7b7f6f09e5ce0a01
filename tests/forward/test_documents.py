"""The commands of docs/forward.md with servers: the first ones, and a hub that fetches from a leaf."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest

from tests.docs.blocks import run_by
from tests.forward.world import NAME, Command, messages, published, wait_for
from tests.nats_server import NatsServer, nats_server, require_nats_server
from tests.ports import free_port
from tests.private_root import private_root

__all__ = ["nats_server"]
HUB = "nats://127.0.0.1:4222"


def block(language: str) -> str:
    """The text of the block in this language."""
    (found,) = (each for each in run_by("tests/forward/test_documents.py") if each.language == language)
    return found.text


def test_all_blocks_are_known() -> None:
    assert len(run_by("tests/forward/test_documents.py")) == 2


@pytest.mark.expensive
@pytest.mark.slow
def test_the_first_commands_say_what_is_shown(nats_server: NatsServer) -> None:
    """The last one forwards until it is stopped. The server has another port, and the host another name."""
    if os.geteuid() != 0:
        pytest.skip("only root can make a private root")
    shown = block("console").replace(HUB, nats_server.url)
    with (
        tempfile.TemporaryDirectory(prefix="procline-test-", dir="/dev/shm") as directory,
        published(Path(directory)) as host,
        private_root() as root,
    ):
        environment = dict(
            os.environ, PATH=f"{Path(sys.executable).parent}:{os.environ['PATH']}", PROCLINE_RUNTIME_DIR=directory,
            PROCLINE_INSTANCE=NAME,
        )  # fmt: skip
        *quick, last = re.findall(r"^\$ (.*)\n((?:[^$].*\n)*)", shown, re.MULTILINE)
        assert len(quick) == 2
        for command, output in quick:
            printed = root.run("sh", "-euc", command, env=environment).stdout
            assert re.sub("host [^:]+:", "host HOST:", printed) == re.sub("host [^:]+:", "host HOST:", output)
        process = subprocess.Popen(
            [*root.command, "sh", "-euc", f"exec {last[0]}"], env=environment, stderr=subprocess.DEVNULL
        )
        try:
            host.begin()
            wait_for(lambda: sum(len(each.events) for each in messages(nats_server)) >= 100, "events in the stream")
            host.settle()
            assert ".spool" in root.run("ls", "/var/lib/procline-forward/spool").stdout
            process.terminate()
            assert process.wait(60) == 0
        finally:
            process.kill()
            process.wait()


@pytest.mark.expensive
@pytest.mark.slow
def test_the_hub_fetches_from_the_leaf(tmp_path: Path, missing: Callable[[str], NoReturn]) -> None:
    """The program of the page, on a hub with another port; the leaf has the documented domain."""
    require_nats_server(missing)
    port = free_port()
    store = 'jetstream {{ store_dir: "{}", domain: {} }}\n'
    hub = NatsServer(
        tmp_path, name="hub", jetstream=False,
        config=store.format(tmp_path / "hub-store", "hub") + f'leafnodes {{ listen: "127.0.0.1:{port}" }}',
    )  # fmt: skip
    leaf = NatsServer(
        tmp_path, name="leaf", jetstream=False,
        config=store.format(tmp_path / "leaf-store", "rack7")
        + f'leafnodes {{ reconnect: "1s", remotes: [ {{ url: "nats://127.0.0.1:{port}" }} ] }}',
    )  # fmt: skip
    with (
        hub, leaf, tempfile.TemporaryDirectory(prefix="procline-test-", dir="/dev/shm") as directory,
        published(Path(directory)) as host,
    ):  # fmt: skip
        forward = Command(host.runtime, "--to", leaf.url, log=tmp_path / "log")
        assert forward.run("--create-stream").returncode == 0
        text = block("python")
        assert HUB in text
        subprocess.run([sys.executable, "-c", text.replace(HUB, hub.url)], check=True, timeout=60)
        with forward:
            host.begin()
            wait_for(lambda: sum(len(each.events) for each in messages(hub)) >= 100, "events at the hub")
            host.settle()

"""Publish messages to a real server, as `procline forward` does, and run the ingester on it."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nats

from tests.fleet.traffic import Sent

INGEST = [sys.executable, "-m", "pipeline.cli.main", "fleet", "ingest"]
STREAM, SUBJECTS = "PROCLINE", ["procline.*.*"]


def publish(url: str, messages: Sequence[Sent], **options: Any) -> None:
    """Create the stream if it is missing, and publish messages in order; options are those of `nats.connect`."""

    async def run() -> None:
        client = await nats.connect(url, **options)
        stream = client.jetstream()
        await stream.add_stream(name=STREAM, subjects=SUBJECTS)
        for message in messages:
            await stream.publish(message.subject, message.data, headers=message.headers)
        await client.close()

    asyncio.run(run())


def deliver_again_after(seconds: float, url: str, **options: Any) -> None:
    """Let the server deliver a message again that was not acknowledged for this time, instead of after a minute."""

    async def run() -> None:
        client = await nats.connect(url, **options)
        stream = client.jetstream()
        for info in await stream.consumers_info(STREAM):
            info.config.ack_wait = seconds
            await stream.add_consumer(STREAM, info.config)
        await client.close()

    asyncio.run(run())


@contextmanager
def ingesting(url: str, store: Path, *options: str) -> Iterator[subprocess.Popen[str]]:
    """Run `procline fleet ingest` beside the body; it is killed if it runs at the end."""
    process = ingester(url, store, *options)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def ingester(url: str, store: Path, *options: str) -> subprocess.Popen[str]:
    """Start `procline fleet ingest`."""
    command = [*INGEST, "--from", url, "--store", str(store)]
    return subprocess.Popen([*command, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def ingest(url: str, store: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Run `procline fleet ingest --once` to its end."""
    with ingesting(url, store, "--once", *options) as process:
        out, err = process.communicate(timeout=240)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)

"""A resolver in a process of its own, without a supervisor: it is started, killed, continued and ended."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pipeline.client.subscriber import Subscriber
from pipeline.config.schema import Args, Contexts, Stream, Supervision
from pipeline.host import boot
from pipeline.shm.check.validate import validate_tables
from pipeline.shm.reader.table import ProcessTable
from tests.resolver.process_host import NAME, Shard, description, instance_directory
from tests.resolver.story import Event, Story

pytestmark = [pytest.mark.expensive, pytest.mark.slow]
SETTINGS: dict[str, Any] = {
    "args": Args(show="raw"), "contexts": Contexts(user_names="off", container_details="off"),
    "stream": Stream(journal_bytes=1 << 20), "supervision": Supervision(keep_tables=True),
}  # fmt: skip


@contextmanager
def worker(directory: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a resolver that has reported that it is ready; it is killed if the body has not ended it."""
    ready = os.eventfd(0)
    spec = description(directory, **SETTINGS, ready_fd=ready, supervisor_tgid=os.getpid()).to_memfd()
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", "pipeline.resolver.daemon.main", "--description-fd", str(spec)],
            pass_fds=(spec, ready),
            env=dict(os.environ, OPENBLAS_NUM_THREADS="1"),  # capabilities can only be dropped by a single thread
        )  # fmt: skip
        try:
            assert select.select([ready], [], [], 60)[0], "not ready"
            yield process
        finally:
            process.kill()
            process.wait()
    finally:
        os.close(spec)
        os.close(ready)


@pytest.fixture
def directory() -> Iterator[Path]:
    with instance_directory() as path:
        yield path


@pytest.fixture
def shard(directory: Path) -> Iterator[Shard]:
    shard = Shard(directory)
    yield shard
    shard.close()


def lives(story: Story, pids: range) -> list[Event]:
    """Processes that fork, execute and end, except for the last."""
    made: list[Event] = []
    story.now = boot.now_boot_ns()
    for pid in pids:
        made += [story.fork(1, pid), story.exec(pid, b"/bin/p%d" % pid)]
        made += [story.exit(pid)] if pid != pids[-1] else []
    return made


def test_a_killed_resolver_is_continued(directory: Path, shard: Shard) -> None:
    story = Story()
    story.begin(1)
    gaps: list[Any] = []
    with worker(directory) as first, Subscriber(NAME, path=directory, timeout=60, on_gap=gaps.append) as subscriber:

        def passes(made: list[Event]) -> None:
            shard.send(*made)
            seen = [(event["event"], event["pid"]) for _, event in zip(made, subscriber, strict=False)]
            kinds = {1: "fork", 2: "exec", 3: "exit"}
            assert seen == [(kinds[each.kind], int(each.header["tgid"][0])) for each in made]

        passes(lives(story, range(10, 20)))
        with ProcessTable(directory) as table:
            deadline = time.monotonic() + 60
            while sum(table.stats()["events"].values()) < 29:  # they are committed
                assert time.monotonic() < deadline
            assert table.resolve(19, wait_ms=1000).path == "/bin/p19"
        first.send_signal(signal.SIGKILL)
        first.wait()
        with worker(directory) as second:
            with ProcessTable(directory) as table:
                stats = table.stats()
                assert (stats["takeovers"], stats["entries"]["live"]) == (1, 1)
                assert table.resolve(19).path == "/bin/p19" and table.resolve(10).exit_status == 0
            passes(lives(story, range(20, 30)))
            second.send_signal(signal.SIGTERM)
            assert second.wait(60) == 0
        assert not gaps
        validate_tables(directory)

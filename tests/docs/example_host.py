"""The host that the examples in docstrings are run on: an instance with a few recorded processes.

An example is run with these names:

- ``table``: a `ProcessTable` of the instance, which is called "default", so that ``ProcessTable.attach()`` opens it too
- ``entry``: `date`, pid 8675, which has ended
- all public names of `pipeline`

The processes, in the order in which they started. Those that have ended are retained:

    1     systemd
    901   └─sshd -D
    8674    └─sh -c date            uid 1000
    8675      └─date +%s            exited 0 after 779 µs; before its exec, it ran the image of sh; in an ssh session
    2000  └─nginx                   master process
    2001    └─nginx                 worker, uid 33, in a container
    2002    └─nginx                 worker, killed by SIGKILL after 2 s
    3000  └─backup                  started by 3001, which has ended: its parent is systemd now. It executes itself
                                    again every 50 ms, so that a `Subscriber` has events; that makes no image
    3002    └─backup                forked every 50 ms while a `Subscriber` wants forks, exits or new parents
    3003      └─backup              gets pid 1 as its parent, because 3002 exits with 1; then it ends too

Every 50 ms, credentials and session of 3000 are reported as well, and the instance publishes statistics and the loss of
a record of a fork. A `ContextSender` can connect, but what it sends has no effect.
"""

from __future__ import annotations

import json
import os
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pipeline
from pipeline import paths
from pipeline.records import declared
from pipeline.shm.layout import layout
from pipeline.shm.names import containers, ssh, usernames
from pipeline.shm.writer._writer import TableWriter
from tests.resolver.story import Event, Story, instance
from tests.stream_host import MiniResolver, now_boot_ns

#: Boot-clock time of the first process, and what happens between two events of the story below.
_START_NS, _STEP_NS = 90 * 10**9, 10**6
#: The container of the workers.
_CONTAINER = b"c0ffee" * 10 + b"c0ff"
#: The topics for which `backup` forks, as bits.
_PROCESSES = sum(1 << layout.TOPICS.index(topic) for topic in ("proc.fork", "proc.exit", "proc.reparent"))


def _tell(story: Story) -> None:
    """Make the events of all processes."""
    story.fork(0, 1)
    story.exec(1, b"/usr/lib/systemd/systemd", args=[b"/sbin/init"])
    story.fork(1, 901)
    story.exec(901, b"/usr/sbin/sshd", args=[b"sshd", b"-D"])
    story.fork(1, 2000)
    story.exec(2000, b"/usr/sbin/nginx", args=[b"nginx"])
    story.fork(2000, 2001, uid=33)
    story.fork(2000, 2002, uid=33)
    story.now = story.processes[2002].start + 2 * 10**9 - story.step
    story.exit(2002, code=9)
    story.fork(1, 3001)
    story.exec(3001, b"/usr/bin/sh", args=[b"sh", b"-c", b"backup &"])
    story.fork(3001, 3000)
    story.exec(3000, b"/usr/local/bin/backup", args=[b"backup"])
    story.exit(3001)
    story.fork(901, 8674, uid=1000)
    story.exec(8674, b"/usr/bin/sh", args=[b"sh", b"-c", b"date +%s"])
    story.step = 1000
    story.fork(8674, 8675)
    story.exec(8675, b"/usr/bin/date", args=[b"date", b"+%s"])
    story.now = story.processes[8675].start + 779_000 - story.step
    story.exit(8675, cost={"cpu_user_ns": 412_000, "cpu_system_ns": 301_000, "max_rss_bytes": 3 << 20})


def _work(story: Story) -> list[Event]:
    """Make the events of `backup`; nothing in the tables changes by them."""
    return [
        story.exec(3000, b"/usr/local/bin/backup", args=[b"backup"]),
        story.change(3000, declared.KIND_CRED),
        story.change(3000, declared.KIND_SID),
    ]


def _fork(story: Story) -> list[Event]:
    """Make the events of two more processes, the first of which ends first."""
    return [
        story.fork(3000, 3002),
        story.fork(3002, 3003),
        story.exit(3002, code=1 << 8, cost={"cpu_user_ns": 2_000_000}),
        story.exit(3003),
    ]


def _stats(resolver: MiniResolver) -> dict[str, Any]:
    """Return what the daemon publishes as ``sys.stats``."""
    tables = resolver.tables
    return {
        "counters": {name: tables.counter(name) for name in layout.COUNTERS},
        "entries": {"live": tables.heads_live, "exited": tables.heads_exited, "images": tables.rows_used},
        "watermark_lag_ns": 0,
    }


def _add_facts(directory: Path, tables: TableWriter) -> None:
    """Add what the events of a story cannot have: a login of alice for `date`, and a container for a worker."""
    (directory / usernames.DIRECTORY).mkdir()
    names = {"user": {"0": "root", "1000": "alice"}, "group": {"0": "root", "1000": "staff"}}
    (directory / usernames.DIRECTORY / usernames.HOST_FILE).write_text(json.dumps({"mnt_ns": 0, "user_ns": 0} | names))
    session = {"username": "alice", "client_ip": "192.0.2.7", "client_port": 50_122, "auth_method": "publickey"}
    (directory / ssh.FILE).write_text(json.dumps({"3": session}))
    (directory / containers.DIRECTORY).mkdir()
    details = {"name": "web", "image": "nginx:1.27", "pod": None, "namespace": None, "labels": {"tier": "front"}}
    (directory / containers.DIRECTORY / containers.file_name(_CONTAINER.decode())).write_text(json.dumps(details))
    hot, cold = tables.hot_view(), tables.cold_view()
    for pid, strings in (
        (8675, {"cgroup": _cgroup(b"/user.slice/user-1000.slice/session-3.scope"), "name": b"date\0/home/alice"}),
        (2001, {"cgroup": _cgroup(b"/machine.slice/libpod-%b.scope" % _CONTAINER), "container": _CONTAINER}),
    ):
        row = tables.py_head(pid)
        tables.py_begin(row)
        for kind, text in strings.items():
            tables.py_set_ref(kind, row, tables.py_intern_names(text))
        if pid == 8675:
            cold["user_session"][row], cold["auid"][row], cold["audit_session"][row] = 3, 1000, 3
            known = layout.KNOWN_AUID | layout.KNOWN_NO_NEW_PRIVS | layout.KNOWN_SECCOMP | layout.KNOWN_CAPS
            hot["known"][row] |= known
        tables.py_end(row)


def _cgroup(path: bytes) -> bytes:
    """Return a CGROUP record: the cgroup and its container were created before the first process."""
    return struct.pack("<QQ", _START_NS - 10**9, _START_NS - 10**9) + path


@contextmanager
def example_host() -> Iterator[dict[str, Any]]:
    """Run the instance, and yield the names that an example is run with."""
    with instance() as root:
        directory = root / paths.DEFAULT_INSTANCE
        directory.mkdir()
        resolver = MiniResolver(directory)
        story = Story(now=_START_NS, step=_STEP_NS)
        _tell(story)
        resolver.apply(story.events)
        _add_facts(directory, resolver.tables)
        resolver.apply(_work(story))  # shows which process adopted pid 3000
        (directory / paths.FRAMES_DIR).mkdir()
        resolver.bus.pull(paths.frames_socket(directory))
        is_over = threading.Event()

        def work() -> None:
            lost = 0
            while not is_over.wait(0.05):
                resolver.apply(_work(story))
                if resolver.encoder.topics_mask & _PROCESSES:
                    resolver.apply(_fork(story))
                lost += 1
                resolver.publisher.loss({"fork": lost}, now_boot_ns())
                resolver.publisher.stats(_stats(resolver), now_boot_ns())
                resolver.do_work()

        thread = threading.Thread(target=work)
        thread.start()
        former = os.environ.get(paths.RUNTIME_DIR_VARIABLE)
        os.environ[paths.RUNTIME_DIR_VARIABLE] = str(root)
        try:
            with pipeline.ProcessTable.attach() as table:
                yield {name: getattr(pipeline, name) for name in pipeline.__all__} | {
                    "table": table, "entry": table.resolve(8675),
                }  # fmt: skip
        finally:
            if former is None:
                del os.environ[paths.RUNTIME_DIR_VARIABLE]
            else:
                os.environ[paths.RUNTIME_DIR_VARIABLE] = former
            is_over.set()
            thread.join()
            resolver.close()

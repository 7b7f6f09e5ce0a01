"""Three simulated hosts, and a store that has all of their events."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path
from typing import Any
from unittest import mock

from pipeline.fleet import store as store_module
from pipeline.fleet.named_queries import ask
from pipeline.fleet.open_store import OpenStore
from pipeline.fleet.store import Store
from tests.fleet.traffic import NS, SimulatedHost, split
from tests.sampling import times

NOW_NS = time.time_ns()

HOUR_NS = 3600 * NS

#: Hosts by age in hours: what happens on the oldest one is long ago.
AGES_H = {"web-1.example.org": 100, "web-2.example.org": 30, "db": 2}


class Fleet:
    """Three hosts with a store.

    On the first two, somebody logs in by ssh. On web-1 the shell downloads something, which starts a chain of more than
    eight images; on web-2 only a script of cron downloads. On db a new program appears and keeps running.
    """

    def __init__(self, root: Path, hosts: list[SimulatedHost]) -> None:
        self.root = root
        self.web_1, self.web_2, self.db = self.hosts = hosts
        self.deep: list[int] = []
        self._happen()
        merge_files = times(store_module.MERGE_FILES, 2)
        with Store(root) as store, mock.patch.object(store_module, "MERGE_FILES", merge_files):
            parts = [list(split(host.sent(), times(7, 20))) for host in hosts]
            # More files than are merged at once; the messages of all hosts arrive in turn.
            for at in range(max(map(len, parts))):
                for part in parts:
                    for message in part[at : at + 1]:
                        store.add(*message)
                store.commit(NOW_NS)
            assert store.totals.batches > merge_files and store.tidy(NOW_NS)
            assert store.totals.refused == 0
            store.add(
                *self.web_2.gap("proc.exec", sum(execs(self.web_2).values()) + 1, 70, NOW_NS - 9 * NS, NOW_NS - 8 * NS)
            )
            store.add(*self.web_2.gap("proc.exit", None, None, NOW_NS - 9 * NS, None))
            store.commit(NOW_NS)
        self.opened = OpenStore(root)

    def _happen(self) -> None:
        for host, shells in ((self.web_1, 3), (self.web_2, 2)):
            sshd = host.run(1, b"/usr/sbin/sshd")
            for number in range(shells):
                shell = host.run(sshd, b"/bin/bash")
                for count in range(number + 2):
                    host.end(host.run(shell, b"/usr/bin/ls", args=[b"ls", b"-l", b"%d" % count]), 256 * (count % 2))
                host.end(shell)
        shell = self.web_1.run(self.web_1.run(1, b"/usr/sbin/sshd"), b"/usr/bin/zsh")
        above = self.web_1.run(shell, b"/usr/bin/curl", args=[b"curl", b"http://x/\x1b[31m"])
        for number in range(8):
            self.deep.append(above := self.web_1.run(above, b"/tmp/step%d" % number))
        self.deep.append(self.web_1.run(above, b"/usr/bin/curl"))
        cron = self.web_2.run(1, b"/usr/sbin/cron")
        script = self.web_2.run(cron, b"/bin/dash")
        self.web_2.end(self.web_2.run(script, b"/usr/bin/curl"))
        self.db.run(1, b"/opt/new/agent")
        self.db.end(self.db.run(1, b"/opt/new/agent"))
        child = self.db.run(1, b"/opt/new/agent")
        self.db.do(self.db.story.exec(child, b"/usr/bin/sleep"))

    def ask(self, name: str, *values: str) -> list[dict[str, Any]]:
        rows = ask(self.opened, name, values)
        return [dict(zip(rows.columns, row, strict=True)) for row in rows]

    def sql(self, sql: str) -> list[tuple[Any, ...]]:
        return list(self.opened.query(sql))


def execs(host: SimulatedHost) -> Counter[str]:
    """How often each executable was executed on a host, by its recording."""
    processes = [*host.forked(), host.story.processes[1]]
    return Counter(path.decode() for process in processes for path in process.paths)

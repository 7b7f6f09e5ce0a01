"""Run a daemon with ``--scope namespace`` in the pid namespace of this process; test_scope.py starts this module there.

Each line on standard input is a command, a list in JSON: its name and its arguments. Its answer is a line in JSON on
standard output; a failure is the answer {"error": TEXT}.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tests.linux import SKIPPED_KINDS, lost_kinds
from tests.live.agreement import assert_agrees
from tests.live.harness import Daemon, Recorder, each_change
from tests.waiting import eventually

#: Arguments are stored raw, because they are compared with /proc.
CONFIG = '[args]\nshow = "raw"\n'


class Inside:
    """The commands."""

    def __init__(self, workload: str, options: list[str], stack: ExitStack) -> None:
        self.workload = workload
        self.daemon = stack.enter_context(Daemon(CONFIG + each_change(), "--scope", "namespace", *options))
        self.table = stack.enter_context(self.daemon.attach())
        self.recorder = stack.enter_context(Recorder(self.daemon, "proc").started())
        self.held: list[subprocess.Popen[str]] = []
        stack.callback(self.release)

    def where(self) -> dict[str, Any]:
        """Return facts about this namespace and the instance in it."""
        control = self.table.view
        return {
            "directory": str(self.daemon.directory), "level": self._level(), "pid_ns": control.pid_ns,
            "own_pid_ns": Path("/proc/self/ns/pid").stat().st_ino, "init": Path("/proc/1/comm").read_text().strip(),
            "daemon": sorted(process["pid"] for process in self.daemon.stat()["processes"]),
        }  # fmt: skip

    @staticmethod
    def _level() -> int:
        return len(Path("/proc/self/status").read_text().partition("NSpid:\t")[2].partition("\n")[0].split())

    def storm(self, forks: int, execs: int, seconds: float) -> dict[str, int]:
        """Run storms; every process of this namespace must be counted, and no other."""
        made: Counter[str] = Counter()
        before = self._settled()
        time.sleep(0.3)  # their messages arrive
        events_before = len(self.recorder.events)
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline or not made:
            out = subprocess.run(
                [self.workload, "storm", str(forks), str(execs)], stdout=subprocess.PIPE, text=True, check=True
            ).stdout
            lines = [line.split() for line in out.splitlines()]
            # The workload itself, and its children: an "exec" is a child that has executed a program.
            made["fork"] += 1 + len(lines)
            made["exec"] += 1 + sum(kind == "exec" for kind, _, _ in lines)
            made["exit"] += 1 + len(lines)
        counted = eventually(lambda: self._counted(before, made))
        self.recorder.wait_for(lambda events: len(events) - events_before >= sum(counted.values()))
        time.sleep(0.3)
        seen = Counter(event["event"] for event in self.recorder.events[events_before:])
        # If the kernel skipped an exit, a repair ends the process and publishes that, without a record to count.
        most = {**counted, "exit": made["exit"]}
        assert all(counted[kind] <= seen[kind] <= most[kind] for kind in made), (seen, counted, made)
        return dict(made)

    def _settled(self) -> dict[str, Counter[str]]:
        """Return the counts after everything that happened before this call."""
        called = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        eventually(lambda: self.table.watermark_boot_ns >= called)
        return self._counts()

    def _counts(self) -> dict[str, Counter[str]]:
        """Return the counts of events and of lost events, each by kind."""
        stats = self.table.stats()
        assert lost_kinds(stats["lost"]) <= SKIPPED_KINDS, stats["lost"]
        return {name: Counter(stats[name]) for name in ("events", "lost")}

    def _counted(self, before: dict[str, Counter[str]], made: Counter[str]) -> dict[str, int]:
        """Return the counts of events since `before`: what was made, except what the kernel skipped.

        An event that is skipped has no pid, so those of other namespaces are in its count, too.
        """
        after = self._settled()
        counted = {kind: after["events"][kind] - before["events"][kind] for kind in made}
        for kind, count in counted.items():
            lost = after["lost"][kind] - before["lost"][kind]
            assert 0 <= made[kind] - count <= lost, (counted, made, lost)
        return counted

    def hold(self, *command: str) -> list[list[str]]:
        """Start a command and keep it until `release`; return the line that it writes."""
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
        self.held.append(process)
        assert process.stdout is not None
        return [process.stdout.readline().split()]

    def release(self) -> int:
        """End the held commands; return how many there were."""
        count = len(self.held)
        for process in self.held:
            process.kill()
            process.wait()
        self.held = []
        return count

    def agree(self) -> int:
        """Compare the table with /proc of this namespace; return the number of compared processes."""
        return eventually(lambda: assert_agrees(self.table), limit_s=30, pause_s=0.2)

    def entry(self, comm: str) -> dict[str, Any]:
        """Return the live process with this name."""
        found = eventually(
            lambda: [e for e in self.table.walk() if e.comm == comm and e.exit_time_ns is None], limit_s=20
        )
        return found[0].to_dict()

    def mentions(self, text: str) -> list[str]:
        """Return each entry, live or exited, and each event that has this text in its name, path or arguments."""
        entries = [json.dumps(entry.to_dict()) for entry in self.table.walk()]
        events = [json.dumps(event) for event in self.recorder.events]
        assert len(entries) > 3 and len(events) > 3
        return [line for line in entries + events if text in line]

    def pids(self) -> list[int]:
        """Return every pid in the table and in the stream, in whichever field."""
        fields = ("pid", "ppid", "tid", "sid", "pgid", "creator_pid", "parent_pid")
        rows = [entry.to_dict() for entry in self.table.walk()] + self.recorder.events
        return sorted({row[name] for row in rows for name in fields if isinstance(row.get(name), int)})

    def last_pid(self) -> int:
        """Return the highest pid that this namespace has given out."""
        process = subprocess.Popen(["true"])
        process.wait()
        return process.pid

    def kill(self, role: str) -> int:
        """Kill a process of the daemon, and wait until it was replaced; return the number of take-overs."""
        (pid,) = self.daemon.pids(role)
        takeovers = self.daemon.stat()["takeovers"]
        os.kill(pid, 9)

        def is_replaced() -> bool:
            now = self.daemon.stat()
            others = {process["pid"] for process in now["processes"] if process["role"].startswith(role)} - {pid}
            return now["state"] == "ready" and bool(others) and now["takeovers"] > takeovers

        eventually(is_replaced, limit_s=30, pause_s=0.2)
        return int(self.daemon.stat()["takeovers"] - takeovers)


def main(workload: str, *options: str) -> None:
    """Start the daemon and carry out commands until standard input ends."""
    with ExitStack() as stack:
        inside = Inside(workload, list(options), stack)
        print(json.dumps(inside.where()), flush=True)
        for line in sys.stdin:
            name, *arguments = json.loads(line)
            command: Callable[..., object] = getattr(inside, name)
            try:
                answer = command(*arguments)
            except Exception:
                answer = {"error": traceback.format_exc() + inside.daemon.log.read_text()[-2000:]}
            print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])

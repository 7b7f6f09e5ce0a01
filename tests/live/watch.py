"""A daemon with a reader and a subscriber, for tests of what becomes known about a process that changes."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from tests.live.harness import Daemon, Recorder
from tests.waiting import eventually


class Watch:
    """A daemon, a reader and a subscriber."""

    def __init__(self, daemon: Daemon, recorder: Recorder, table: Any) -> None:
        self.daemon, self.recorder, self.table = daemon, recorder, table

    def events(self, pid: int, *kinds: str) -> list[dict]:
        return [e for e in self.recorder.events if e["pid"] == pid and e["event"] in kinds]

    def events_of(self, kind: str, **expected: object) -> list[dict]:
        return [
            e for e in self.recorder.events if e["event"] == kind and all(e[k] == v for k, v in expected.items())
        ]  # fmt: skip

    def until(self, pid: int, *, pause_s: float = 0.02, **expected: object) -> Any:
        """Wait until the entry is as expected; return it."""

        def found() -> Any:
            entry = self.table.resolve(pid)
            assert entry is not None
            assert {name: getattr(entry, name) for name in expected} == expected
            return entry

        return eventually(found, pause_s=pause_s)

    def see(self, pid: int, act: Callable[[], object], **expected: object) -> float:
        """Make a change, and wait until the process's entry is as expected; returns how long that took, in seconds."""
        act()
        began = time.monotonic()
        self.until(pid, pause_s=0.001, **expected)
        return time.monotonic() - began

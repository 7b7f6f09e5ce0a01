"""A resolver with the loop that handles what agents report, and a stream that records what it publishes."""

from __future__ import annotations

from typing import Any

from pipeline.bus.context_events import ContextEvent
from pipeline.resolver.agents.context_loop import ContextLoop, Dispatched
from pipeline.resolver.entries.cache_entry import ProcessCacheEntry
from tests.resolver.resolver_world import World, high
from tests.resolver.story import BOOT_ID, Story


class Stream:
    """Records every published event, with the state of its process at that time."""

    def __init__(self) -> None:
        self.seen: list[Dispatched] = []
        self.aws: list[int] = []
        self.also: list[Any] = []

    def dispatch(self, event: Dispatched) -> None:
        self.seen.append(event)
        self.aws.append(len(event.entry.aws_security_credentials))
        for one in self.also:
            one(event)


class Scene:
    def __init__(self, w: World) -> None:
        self.w = w
        self.r = w.resolver
        self.r.set_state(1)
        self.mark = 1 << 62
        self.stream = Stream()
        self.loop = ContextLoop(self.r, w.tables, self.stream, lambda: self.mark, BOOT_ID)
        self.init = self.entry(w.fork(0, 1, 7))

    def story(self) -> Story:
        """Continue the story of the kernel's events."""
        story = Story(now=self.w.clock())
        story.begin(1, inode=7, start=self.init.start_boot_ns)
        return story

    @staticmethod
    def entry(event: Any) -> ProcessCacheEntry:
        assert event.entry is not None
        found: ProcessCacheEntry = event.entry
        return found

    def send(self, kind: str, pid: int, *, at: int = 0, is_run: bool = True, **fields: Any) -> Dispatched | None:
        names = ("tid", "ppid", "inode", "start_boot_ns", "target_start_boot_ns")
        common = {name: fields.pop(name) for name in names if name in fields}
        event = ContextEvent(kind, high(pid), time_boot_ns=at, body=fields, **common)
        now = self.w.clock()
        # Skip the codec: it rejects pids above those of real processes.
        self.loop.add([event], now)
        before = len(self.stream.seen)
        if is_run:
            self.loop.do_work(now + 1)
        return self.stream.seen[-1] if len(self.stream.seen) > before else None

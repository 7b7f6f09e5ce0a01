"""Answer the questions of readers that missed a process. A part of the resolver's duty cycle.

`EBPFResolver.find` answers: from the cache, then the kernel's maps, then ``/proc`` (specification 3.3.1). This module
decides when it is called, and how often. The wire and the socket are in `pipeline.bus.requests`.

A question about a process that is not in the tables waits until the watermark has passed the time of the question, and
so does one that asks for the state of now. By then, records that were under way have been applied, and only processes
that the capture missed are searched elsewhere. The shards are asked to read their rings at once, a bounded number of
times a second.

Root and the daemon's own user are answered first and have places of their own; other users share the rest in turn.
"""

from __future__ import annotations

import os
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import NamedTuple, Protocol

from pipeline.bus import requests
from pipeline.errors import FrameError
from pipeline.host.rate_limiter import TokenBucket
from pipeline.records.limits import MERGE_SLACK_NS
from pipeline.resolver.agents.context_loop import WAIT_MAX_NS
from pipeline.resolver.api.finder import CACHE, FindResult
from pipeline.resolver.entries.cache_entry import ProcessCacheEntry
from pipeline.resolver.entries.entry_rows import row_of
from pipeline.resolver.stream.journal_writer import JournalWriter
from pipeline.shm.layout import layout
from pipeline.shm.writer._writer import TableWriter

#: Questions and connections that are accepted a second, and at once.
RATE_PER_S = 5000
BURST = 64
#: In a flood, questions are accepted in portions of at least this many, which costs less than one by one.
PORTION = 8
#: The same limits for questions that the cache does not answer.
MISS_RATE_PER_S = 500
MISS_BURST = 16
#: How often the shards are asked to read at once. Each time costs a turn (0.3 ms); the other questions wait as long as
#: events gather.
HURRY_RATE_PER_S = 100
HURRY_BURST = 16
#: A record that arrives while the shards read can hide that a ring was read. Then they are asked again after this time.
HURRY_AGAIN_NS = 1_000_000
#: Parts of the journal, each of up to 32 KiB, that are served a second, and at once.
JOURNAL_RATE_PER_S = 1000
JOURNAL_BURST = 16
#: Questions that wait for the watermark or for their turn; more are rejected. Root and the daemon's user have
#: WAITING_PER_USER places of their own.
WAITING_MAX = 256
WAITING_PER_USER = 64
#: Longest sleep while a question waits. The arrival of a frame ends the sleep.
WAIT_MS = 1.0
#: When a question has been asked for this long, and everything has been received, the watermark has passed it.
SETTLED_NS = MERGE_SLACK_NS + 10_000


class Resolver(Protocol):
    """The methods of EBPFResolver that find processes."""

    def find_cached(self, pid: int) -> ProcessCacheEntry | None:
        """Return the cached entry of a live process."""
        ...

    def find(self, pid: int, use_procfs: bool = ...) -> FindResult:
        """Look the process up: cache, kernel maps, `/proc`."""
        ...


class Channel(Protocol):
    """Where questions come from; see pipeline.bus.requests.RequestSocket."""

    accepted: int
    dropped: int

    def user_of(self, client: int) -> int:
        """Return the user id of a client."""
        ...

    def may_read(self, client: int, status: os.stat_result) -> bool:
        """Whether the client's user could read a file of this status."""
        ...

    def receive(self, budget: int) -> list[tuple[int, bytes]]:
        """Return at most `budget` questions as (client, data)."""
        ...

    def answer(self, client: int, data: bytes) -> bool:
        """Send an answer; False: the client is gone."""
        ...


class _Question(NamedTuple):
    client: int
    pid: int
    asked_boot_ns: int


class _Waiting:
    """Questions that wait, by user. `take` serves users in turn, but root and the daemon's user first."""

    def __init__(self) -> None:
        self._by_user: OrderedDict[int, deque[_Question]] = OrderedDict()
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, user: int, question: _Question) -> bool:
        """Queue a question; False: there is no room."""
        own = self._by_user.get(user, ())
        others = self._count - len(self._by_user.get(requests.OWN, ()))
        if len(own) >= WAITING_PER_USER or (user != requests.OWN and others >= WAITING_MAX):
            return False
        if not own:
            self._by_user[user] = deque()
            if user == requests.OWN:
                self._by_user.move_to_end(user, last=False)
        self._by_user[user].append(question)
        self._count += 1
        return True

    def take(self, is_due: Callable[[_Question], bool]) -> _Question | None:
        """Return the next question that is due; None: none is."""
        user = next((user for user, questions in self._by_user.items() if is_due(questions[0])), None)
        if user is None:
            return None
        questions = self._by_user[user]
        question = questions.popleft()
        self._count -= 1
        if not questions:
            del self._by_user[user]
        elif user != requests.OWN:
            self._by_user.move_to_end(user)
        return question


class Answering:
    """Accepts and answers questions, a bounded number each turn.

    Args:
        channel: the socket.
        resolver: finds processes.
        tables: their counters are incremented, and in state READY *absent* is a valid answer.
        watermark: up to when events are applied, boot ns.
        use_procfs: the tables are about this host, so its maps and its ``/proc`` may be read.
        hurry: makes the shards read their rings at once.
        is_lagging: whether a ring held more at the last turn than had been received; if not, there is nothing to read.
        journal: of the stream; None: there is none.

    Attributes:
        is_flooded: there were more questions than the rate allows, and `may_accept` has not returned True since.
    """

    def __init__(
        self,
        channel: Channel,
        resolver: Resolver,
        tables: TableWriter,
        watermark: Callable[[], int],
        use_procfs: bool = True,
        hurry: Callable[[], object] = lambda: None,
        is_lagging: Callable[[], bool] = lambda: True,
        journal: JournalWriter | None = None,
    ) -> None:
        self.channel, self.resolver, self.tables, self.watermark = channel, resolver, tables, watermark
        self.use_procfs, self.hurry, self.is_lagging, self.journal = use_procfs, hurry, is_lagging, journal
        self.is_flooded = False
        self._waiting = _Waiting()
        self._all = TokenBucket(RATE_PER_S, BURST)
        self._misses = TokenBucket(MISS_RATE_PER_S, MISS_BURST)
        self._hurries = TokenBucket(HURRY_RATE_PER_S, HURRY_BURST)
        self._parts = TokenBucket(JOURNAL_RATE_PER_S, JOURNAL_BURST)
        self._hurried_ns = 0  # 0: not since the last question
        self._asked_ns = 0  # when the newest question arrived

    @property
    def waiting(self) -> int:
        """Questions that were accepted and are not answered yet."""
        return len(self._waiting)

    def wait_ms(self, now_boot_ns: int) -> float:
        """Return the longest sleep until an answer may be possible, while questions wait."""
        settles_ns = self._asked_ns + SETTLED_NS - now_boot_ns
        return settles_ns / 1e6 if settles_ns > 0 and not self.is_lagging() else WAIT_MS

    def may_accept(self, now_boot_ns: int) -> bool:
        """Whether a question that arrives now would be accepted; otherwise there is no need to wake up for it."""
        self.is_flooded = self._all.available(now_boot_ns) < PORTION
        return not self.is_flooded

    def do_work(self, now_boot_ns: int) -> int:
        """Answer what can be answered; return how many questions were accepted or answered."""
        done = self._answer_waiting(now_boot_ns)
        budget = min(BURST, self._all.available(now_boot_ns))
        if budget < PORTION:
            self.is_flooded = True
            self._hurry(now_boot_ns)
            return done
        accepted, dropped = self.channel.accepted, self.channel.dropped
        questions = self.channel.receive(budget)
        # A connection without a question costs about as much as a question, so it counts as one.
        self._all.spend(len(questions) + self.channel.accepted - accepted)
        if self.channel.dropped != dropped:
            self.tables.count("requests_dropped", self.channel.dropped - dropped)
        if questions:
            self.tables.count("requests", len(questions))
        waiting = len(self._waiting)
        for client, data in questions:
            self._receive(client, data, now_boot_ns)
        if len(self._waiting) > waiting:
            self._hurried_ns, self._asked_ns = 0, now_boot_ns
        self._hurry(now_boot_ns)
        return done + len(questions)

    def _hurry(self, now_boot_ns: int) -> None:
        """Make the shards read if a question waits for that, but not too often."""
        if (
            len(self._waiting)
            and self.watermark() <= self._asked_ns  # otherwise they only wait for their turn
            and now_boot_ns - self._hurried_ns >= HURRY_AGAIN_NS
            and self.is_lagging()
            and self._hurries.available(now_boot_ns) >= 1
        ):
            self._hurried_ns = now_boot_ns
            self._hurries.spend()
            self.hurry()

    def _receive(self, client: int, data: bytes, now_boot_ns: int) -> None:
        if requests.is_journal_request(data):
            self._answer_journal(client, data, now_boot_ns)
            return
        try:
            pid, is_fresh = requests.decode_request(data)
        except FrameError:
            self._refuse(client, 0, requests.MALFORMED)
            return
        if self.tables.state != layout.STATE_READY:
            self._refuse(client, pid, requests.FILLING)
            return
        found = None if is_fresh else self.resolver.find_cached(pid)
        if found is not None:
            self._answer(client, pid, FindResult(found, CACHE))
        elif not self._waiting.add(self.channel.user_of(client), _Question(client, pid, now_boot_ns)):
            self._refuse(client, pid, requests.BUSY)

    def _answer_journal(self, client: int, data: bytes, now_boot_ns: int) -> None:
        """Serve a part of the journal to a client that could read its file."""
        offset, part, reason = 0, b"", ""
        try:
            offset, count = requests.decode_journal_request(data)
        except FrameError:
            reason = requests.MALFORMED
        if not reason and self.journal is None:
            reason = requests.ABSENT
        elif not reason and self.journal is not None:
            if not self.channel.may_read(client, self.journal.status()):
                reason = requests.REFUSED
            elif self._parts.available(now_boot_ns) < 1:
                reason = requests.BUSY
            else:
                self._parts.spend()
                part = self.journal.read(count, offset)
        self.tables.count("journal_refused" if reason else "journal_reads")
        self.channel.answer(client, requests.encode_journal_answer(offset, part, reason))

    def _answer_waiting(self, now_boot_ns: int) -> int:
        watermark = self.watermark()

        def is_due(question: _Question) -> bool:
            return watermark > question.asked_boot_ns or now_boot_ns - question.asked_boot_ns > WAIT_MAX_NS

        done = 0
        while len(self._waiting) and self._misses.available(now_boot_ns) >= 1:
            question = self._waiting.take(is_due)
            if question is None:
                break
            self._misses.spend()
            self._answer(question.client, question.pid, self.resolver.find(question.pid, self.use_procfs))
            done += 1
        return done

    def _refuse(self, client: int, pid: int, reason: str) -> None:
        self.tables.count("requests_refused")
        self._answer(client, pid, FindResult(None, reason))

    def _answer(self, client: int, pid: int, found: FindResult) -> None:
        if found.entry is None:
            answer = requests.Answer(pid, reason=found.how)
        else:
            row = row_of(found.entry)
            hot = self.tables.hot_view()[row]
            answer = requests.Answer(pid, True, found.how, "", row, int(hot["generation"]), int(hot["start_boot_ns"]))
        self.channel.answer(client, requests.encode_answer(answer))

"""A question about a process missing from the tables: cache, kernel maps, /proc, in this order, counted and bounded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from pipeline.bpf.maps import IMAGE_ENTRY, PID_ENTRY
from pipeline.bus.requests import ABSENT, BUSY, FILLING, LIMITED, MALFORMED, OWN, Answer, decode_answer, encode_request
from pipeline.host.boot import TICK_NS
from pipeline.resolver.agents.context_loop import WAIT_MAX_NS
from pipeline.resolver.api.ebpf import EBPFResolver
from pipeline.resolver.api.finder import PROCFS_DEPTH, is_process
from pipeline.resolver.apply._applier import Applier
from pipeline.resolver.daemon import answering
from pipeline.resolver.daemon.answering import Answering
from pipeline.resolver.entries.entry_rows import row_of
from pipeline.resolver.entries.model import SNAPSHOTTED
from pipeline.shm.check.validate import validate_tables
from pipeline.shm.layout import layout
from tests.resolver.resolver_world import FakeMap, FakeProc
from tests.resolver.story import Reading, Story, instance, make_tables

CAPTURE = 50 * TICK_NS


class Hide:
    """A scrubber with one secret."""

    def scrub(self, args: Sequence[str], argv0: str = "") -> tuple[list[str], bool]:
        return [arg.replace("hunter2", "********") for arg in args], True


@dataclass
class Channel:
    """The socket's interface, without a socket."""

    questions: list[tuple[int, bytes]] = field(default_factory=list)
    answers: list[tuple[int, Answer]] = field(default_factory=list)
    budgets: list[int] = field(default_factory=list)
    users: dict[int, int] = field(default_factory=dict)
    accepted: int = 0
    dropped: int = 0

    def user_of(self, client: int) -> int:
        return self.users.get(client, 1000)

    def receive(self, budget: int) -> list[tuple[int, bytes]]:
        self.budgets.append(budget)
        taken, self.questions = self.questions[:budget], self.questions[budget:]
        return taken

    def answer(self, client: int, data: bytes) -> bool:
        self.answers.append((client, decode_answer(data)))
        return True

    def ask(self, *pids: int, fresh: bool = False) -> None:
        self.questions += [(pid, encode_request(pid, fresh=fresh)) for pid in pids]


class World:
    def __init__(self, directory: Any, **options: Any) -> None:
        self.tables = make_tables(directory)
        self.tables.set_state(layout.STATE_READY)
        self.applier = Applier(self.tables)
        self.proc = FakeProc()
        self.pids, self.images = FakeMap(), FakeMap()
        self.now = 1000 * TICK_NS
        self.mark = 0
        self.threads: set[int] = set()
        self.cgroups: dict[int, bytes] = {}
        self.resolver = EBPFResolver(
            {"pid_cache": self.pids, "proc_cache": self.images}, scrubber=Hide(), tables=self.tables,
            applier=self.applier, proc=self.proc, now_boot_ns=lambda: self.now, limiter_clock=lambda: self.now,
            learn_cgroup=self.cgroups.__setitem__, capture_boot_ns=CAPTURE,
            is_process=lambda pid: pid not in self.threads,
        )  # fmt: skip
        self.resolver.bind_maps()
        self.resolver.set_state(SNAPSHOTTED)
        self.channel = Channel()
        self.answering = Answering(
            self.channel, self.resolver, self.tables, lambda: self.mark, options.get("use_procfs", True),
            lambda: self.hurried.append(self.now), lambda: self.lags,
        )  # fmt: skip
        self.hurried: list[int] = []
        self.lags = True
        self.read = Reading(self.tables)

    def cached(self, pid: int = 10, **facts: Any) -> None:
        Story(now=CAPTURE).fork(1, pid, **facts).apply(self.applier)

    def in_maps(self, pid: int, ppid: int, start: int, path: bytes = b"/bin/mapped", **facts: Any) -> None:
        owner, image = np.zeros(1, PID_ENTRY), np.zeros(1, IMAGE_ENTRY)
        owner["cookie"], owner["start_boot_ns"], owner["ppid"] = pid * 10, start, ppid
        owner["uid"], owner["auid"], owner["cgroup_id"] = 33, 1000, 77
        owner["exit_boot_ns"] = facts.get("exit_boot_ns", 0)
        image["tgid"] = pid
        image["inode"], image["path_bytes"], image["path"] = 4711, len(path), np.void(path[:128].ljust(128, b"\0"))
        self.pids[pid], self.images[pid * 10] = owner[0], image[0]

    def find(self, pid: int) -> tuple[int, str]:
        """(row, the source that found it), or (0, the reason why it was not found)."""
        entry, how = self.resolver.find(pid, self.answering.use_procfs)
        return (0 if entry is None else row_of(entry)), how

    def counters(self) -> dict[str, int]:
        names = ("hits_cache", "hits_kernel_maps", "hits_procfs", "miss", "limiter_drop", "requests",
                 "requests_refused", "added_kernel_maps", "added_procfs")  # fmt: skip
        return {name: self.tables.counter(name) for name in names if self.tables.counter(name)}

    def turn(self, *pids: int, ns: int = 1_000_000) -> list[Answer]:
        """Send the questions, let time and watermark advance, and return the answers that arrived meanwhile."""
        before = len(self.channel.answers)
        self.channel.ask(*pids)
        self.answering.do_work(self.now)
        self.now += ns
        self.mark = self.now - 1000
        self.answering.do_work(self.now)
        return [answer for _, answer in self.channel.answers[before:]]


@pytest.fixture
def world() -> Iterator[World]:
    with instance() as directory:
        made = World(directory)
        yield made
        validate_tables(made.tables)
        made.tables.close()


# -- the order ---------------------------------------------------------------------------------------------------------


def test_the_cache_is_searched_first_and_nothing_is_read(world: World) -> None:
    world.cached(10)
    world.in_maps(10, 1, 77 * TICK_NS)
    assert world.find(10) == (world.tables.py_head(10), "cache")
    assert world.counters() == {"hits_cache": 1}
    assert world.proc.reads == []


def test_the_kernel_maps_come_next_and_their_process_is_inserted(world: World) -> None:
    start = 60 * TICK_NS + 1234
    world.in_maps(20, 1, start)
    world.proc.add(20, 1, start_boot_ns=start, comm=b"mapped")
    world.proc.add(1, 0, start_boot_ns=TICK_NS, comm=b"init")
    row, how = world.find(20)
    assert row and how == "kernel_maps"
    row = world.read.row(row)
    assert (row.tgid, row.ppid, row.start_boot_ns, row.path) == (20, 1, start, b"/bin/mapped")
    assert (row.uid, row.auid, row.cgroup_id, row.inode, row.comm) == (33, 1000, 77, 4711, b"mapped")
    assert row.source == layout.SOURCE_MAP
    assert row.flags & layout.ROW_GAP and not row.flags & (layout.ROW_BEFORE_CAPTURE | layout.ROW_START_TICKS)
    assert not row.known & layout.KNOWN_ARGS and row.args_ref == 0
    assert row.flags & layout.ROW_IS_EXEC and row.exec_boot_ns == 0 and not row.known & layout.KNOWN_EXEC_TIME
    # The image, below that of its fork, as both events would have made it.
    before = world.read.row(world.tables.py_follow(row.ancestor))
    assert (before.tgid, before.start_boot_ns, before.path) == (20, start, b"/bin/x")
    assert world.tables.py_follow(before.ancestor) == world.tables.py_head(1)
    assert not (row.flags | before.flags) & layout.ROW_PARENT_MISSING
    assert world.counters() == {"hits_kernel_maps": 1, "added_kernel_maps": 2, "added_procfs": 1}


@pytest.mark.parametrize(
    ("what", "facts"),
    [
        ("it has ended", {"exit_boot_ns": 70 * TICK_NS}),
        ("the pid has another owner", {"start": 59 * TICK_NS}),
        ("its path is longer than a map entry", {"path": b"/" + b"x" * 200}),
    ],
)
def test_a_map_entry_is_not_believed_when(world: World, what: str, facts: dict[str, Any]) -> None:
    real = 60 * TICK_NS
    world.in_maps(20, 0, facts.pop("start", real), **facts)
    world.proc.add(20, 0, start_boot_ns=real, exe=b"/bin/real")
    row, how = world.find(20)
    assert row and how == "procfs", what
    assert world.read.row(row).path == b"/bin/real"


def test_a_kernel_that_does_not_let_us_ask_its_maps_leaves_proc(world: World) -> None:
    def refuse(key: int) -> None:
        raise PermissionError(key)

    world.pids.get = refuse  # type: ignore[method-assign]
    world.proc.add(20, 0, start_boot_ns=60 * TICK_NS)
    row, how = world.find(20)
    assert row and how == "procfs"


def test_proc_comes_last_and_is_entered_with_its_missing_ancestors_oldest_first(world: World) -> None:
    for pid in range(11, 16):
        ppid = 0 if pid == 11 else pid - 1
        world.proc.add(pid, ppid, start_boot_ns=(pid - 10) * 20 * TICK_NS, comm=b"p%d" % pid, exe_inode=pid)
    row, how = world.find(15)
    assert row and how == "procfs"
    rows = [world.read.head(pid) for pid in range(11, 16)]
    assert all(row is not None and row.source == layout.SOURCE_PROCFS for row in rows)
    for child, parent in zip(rows[1:], rows, strict=False):
        assert world.tables.py_follow(child.ancestor) == parent.row
        assert world.tables.py_follow(child.parent) == parent.row
        assert not child.flags & layout.ROW_PARENT_MISSING
    assert [bool(row.flags & layout.ROW_BEFORE_CAPTURE) for row in rows] == [True, True, False, False, False]
    assert all(row.flags & layout.ROW_START_TICKS for row in rows)
    assert world.counters() == {"hits_procfs": 1, "added_procfs": 5}


def test_no_more_than_16_levels_are_fetched(world: World) -> None:
    for pid in range(1, 31):
        world.proc.add(pid, pid - 1, start_boot_ns=(60 + pid) * TICK_NS)
    assert world.find(30)[0]
    assert [pid for pid in range(1, 31) if world.tables.py_head(pid)] == list(range(31 - PROCFS_DEPTH, 31))


def test_a_number_that_has_a_younger_owner_is_no_ancestor(world: World) -> None:
    world.proc.add(21, 20, start_boot_ns=60 * TICK_NS)
    world.proc.add(20, 0, start_boot_ns=90 * TICK_NS)
    assert world.find(21)[0]
    child = world.read.head(21)
    assert child.ancestor == 0 and child.flags & layout.ROW_PARENT_MISSING


@pytest.mark.parametrize(
    "facts",
    [{"task_flags": 0x00200000}, {"state": "Z"}],
    ids=["kernel thread", "zombie"],
)
def test_only_live_processes_are_inserted(world: World, facts: dict[str, Any]) -> None:
    world.proc.add(20, 0, **facts)
    assert world.find(20) == (0, ABSENT)
    assert world.tables.py_head(20) == 0
    assert world.counters() == {"miss": 1}


def test_a_thread_is_not_entered_as_a_process(world: World) -> None:
    world.proc.add(20, 0)
    world.threads.add(20)
    assert world.find(20) == (0, ABSENT)
    assert world.tables.py_head(20) == 0


def test_an_exited_process_does_not_live_again(world: World) -> None:
    story = Story(now=CAPTURE)
    for event in (story.fork(1, 10), story.exit(10)):
        event.apply(world.applier)
    row = world.tables.py_head(10)
    start = int(world.tables.hot_view()[row]["start_boot_ns"])
    world.in_maps(10, 1, start)
    world.proc.add(10, 0, start_boot_ns=start)  # /proc read the process a moment before its end
    assert world.find(10) == (0, ABSENT)
    assert world.tables.py_head(10) == row
    assert int(world.tables.hot_view()[row]["exit_boot_ns"]) != 0


def test_a_successor_of_an_exited_process_is_found(world: World) -> None:
    story = Story(now=CAPTURE)
    for event in (story.fork(1, 10), story.exit(10)):
        event.apply(world.applier)
    world.proc.add(10, 0, start_boot_ns=500 * TICK_NS)
    row, how = world.find(10)
    assert row and how == "procfs"
    assert world.read.row(row).start_boot_ns == 500 * TICK_NS


def test_proc_is_asked_about_a_pid_once_in_30_seconds(world: World) -> None:
    assert world.find(20) == (0, ABSENT)
    assert world.find(20) == (0, LIMITED)
    assert world.counters() == {"miss": 2, "limiter_drop": 1}
    assert world.proc.reads == [20]
    world.now += 30_000_000_000
    assert world.find(20) == (0, ABSENT)
    assert world.proc.reads == [20, 20]


def test_stored_arguments_are_concealed_and_cgroups_are_learned(world: World) -> None:
    world.proc.add(20, 0, argv=b"login\0hunter2\0", args_full_bytes=14, cgroup_id=5, cgroup_path=b"/a.slice")
    row = world.read.row(world.find(20)[0])
    assert bytes(world.tables.args.py_bytes(row.args_ref))[4:] == b"login\0********\0"
    assert world.cgroups == {5: b"/a.slice"}


def test_tables_about_another_host_are_all_there_is() -> None:
    with instance() as directory:
        world = World(directory, use_procfs=False)
        world.in_maps(20, 1, 60 * TICK_NS)
        assert world.find(20) == (0, ABSENT)
        assert world.counters() == {"miss": 1}
        world.tables.close()


@pytest.mark.parametrize("pid", [1 << 16, (1 << 22) - 1, 1 << 22])
def test_a_pid_beyond_the_index_is_absent(world: World, pid: int) -> None:
    world.proc.add(pid, 0)
    assert world.find(pid) == (0, ABSENT)


# -- the duty --------------------------------------------------------------------------------------------------------


def test_a_hit_is_answered_at_once(world: World) -> None:
    world.cached(10)
    world.channel.ask(10)
    assert world.answering.do_work(world.now) == 1
    row = world.read.head(10)
    expected = Answer(10, True, "cache", "", row.row, row.generation, row.start_boot_ns)
    assert world.channel.answers == [(10, expected)]


def test_a_miss_waits_for_queued_events(world: World) -> None:
    world.channel.ask(10)
    assert world.answering.do_work(world.now) == 1
    assert world.channel.answers == [] and world.answering.waiting == 1
    world.cached(10)
    world.mark = world.now + 1
    world.answering.do_work(world.now + 2)
    [(_, answer)] = world.channel.answers
    assert (answer.found, answer.how) == (True, "cache")
    assert world.proc.reads == [] and world.counters() == {"requests": 1, "hits_cache": 1}


def test_the_wait_for_a_watermark_that_does_not_move_is_bounded(world: World) -> None:
    world.channel.ask(10)
    world.answering.do_work(world.now)
    world.answering.do_work(world.now + WAIT_MAX_NS)
    assert world.channel.answers == []
    world.answering.do_work(world.now + WAIT_MAX_NS + 1)
    assert world.channel.answers == [(10, Answer(10, reason=ABSENT))]


def test_while_the_tables_are_filled_absent_is_no_answer(world: World) -> None:
    world.tables.set_state(layout.STATE_FILLING)
    assert world.turn(10) == [Answer(10, reason=FILLING)]
    assert world.counters() == {"requests": 1, "requests_refused": 1}


def test_garbage_is_refused_and_counted(world: World) -> None:
    world.channel.questions = [(3, b"\xc1garbage"), (4, b""), (5, bytes(1000))]
    world.answering.do_work(world.now)
    assert [answer for _, answer in world.channel.answers] == [Answer(0, reason=MALFORMED)] * 3
    assert world.counters() == {"requests": 3, "requests_refused": 3}


def test_a_flood_of_hits_is_answered_at_the_set_rate_and_not_faster(world: World) -> None:
    world.cached(10)
    world.channel.ask(*[10] * 20_000)
    turns = 2000
    for _ in range(turns):
        world.now += 500_000
        world.answering.do_work(world.now)
    seconds = turns * 500_000 / 1e9
    answered = len(world.channel.answers)
    assert answered <= answering.RATE_PER_S * seconds + answering.BURST
    assert answered >= answering.RATE_PER_S * seconds * 0.9
    assert max(world.channel.budgets) <= answering.BURST
    assert not world.answering.may_accept(world.now)


def test_a_flood_of_misses_is_refused_beyond_the_queue(world: World) -> None:
    world.channel.ask(*range(1000, 6000))
    turns = 2000
    for _ in range(turns):
        world.now += 500_000
        world.mark = world.now - 1000
        world.answering.do_work(world.now)
        assert world.answering.waiting <= answering.WAITING_MAX
    seconds = turns * 500_000 / 1e9
    assert len(world.proc.reads) <= answering.MISS_RATE_PER_S * seconds + answering.MISS_BURST
    reasons = [answer.reason for _, answer in world.channel.answers]
    assert reasons.count(BUSY) > 0
    counters = world.counters()
    assert counters["requests_refused"] == reasons.count(BUSY)
    assert counters["requests"] == len(reasons) + world.answering.waiting
    assert counters["miss"] == reasons.count(ABSENT)


def test_a_flood_of_one_user_does_not_keep_others_from_an_answer(world: World) -> None:
    """A question about a process that is not in the tables waits; all users share the places to wait."""
    flood = 100_000
    world.channel.users = dict.fromkeys(range(1, 3000), 65534) | {7: OWN, 8: 1000}
    answered: dict[int, list[str]] = {7: [], 8: []}
    for turn in range(200):
        world.channel.questions = [(7, encode_request(11)), (8, encode_request(12))] if turn % 20 == 0 else []
        world.channel.questions += [(100 + n, encode_request(flood + n)) for n in range(60)]
        world.now += 2_000_000
        world.mark = world.now - 1000
        world.answering.do_work(world.now)
    for client, answer in world.channel.answers:
        if client in answered:
            answered[client].append(answer.reason)
    assert len(answered[7]) == 10 and BUSY not in answered[7]
    assert len(answered[8]) >= 9 and BUSY not in answered[8]
    assert world.answering.waiting <= answering.WAITING_MAX + answering.WAITING_PER_USER


def test_connections_without_a_question_count(world: World) -> None:
    world.channel.ask(10)
    world.channel.receive, real = (
        (lambda budget: setattr(world.channel, "accepted", 1000) or real(budget)),
        (world.channel.receive),
    )
    world.answering.do_work(world.now)
    assert not world.answering.may_accept(world.now + 100_000_000)
    assert world.answering.may_accept(world.now + 250_000_000)


def test_a_thread_id_is_distinguished_from_a_pid() -> None:
    import os
    import threading

    ready, done = threading.Event(), threading.Event()
    thread = threading.Thread(target=lambda: (ready.set(), done.wait()))
    thread.start()
    ready.wait()
    assert is_process(os.getpid())
    assert not is_process(thread.native_id)
    done.set()
    thread.join()


def test_a_fresh_answer_waits_for_the_state_of_now(world: World) -> None:
    world.cached(10)
    world.channel.ask(10, fresh=True)
    world.answering.do_work(world.now)
    assert world.channel.answers == [] and world.hurried == [world.now], "the shards read their rings at once"
    world.now += 1_000_000
    world.mark = world.now
    world.answering.do_work(world.now)
    assert [(answer.pid, answer.how) for _, answer in world.channel.answers] == [(10, "cache")]
    assert world.turn(10)[0].found and len(world.hurried) == 1, "a process that is in the tables needs no hurry"


def test_shards_are_not_hurried_while_everything_has_been_received(world: World) -> None:
    world.cached(10)
    world.lags = False
    world.channel.ask(10, fresh=True)
    world.answering.do_work(world.now)
    assert world.hurried == [] and 0 < world.answering.wait_ms(world.now) < 0.2
    # A record has arrived between the resolver's look at the rings and the question.
    world.lags = True
    world.now += 50_000
    world.answering.do_work(world.now)
    assert world.hurried == [world.now] and world.answering.wait_ms(world.now) == 1.0


def test_shards_are_hurried_again_if_the_first_time_was_not_enough(world: World) -> None:
    world.cached(10)
    world.channel.ask(10, fresh=True)
    for _ in range(21):
        world.answering.do_work(world.now)
        world.now += 100_000
    assert [at - world.hurried[0] for at in world.hurried] == [0, 1_000_000, 2_000_000]
    world.mark = world.now
    world.answering.do_work(world.now)
    assert len(world.channel.answers) == 1
    world.now += 5_000_000
    world.answering.do_work(world.now)
    assert len(world.hurried) == 3, "no question waits any more"


def test_a_question_that_waits_for_its_turn_does_not_keep_the_resolver_busy(world: World) -> None:
    world.cached(10)
    world.lags = False
    world.channel.ask(10, fresh=True)
    world.answering.do_work(world.now)
    assert world.answering.wait_ms(world.now + 200_000) == 1.0


def test_shards_are_hurried_a_bounded_number_of_times(world: World) -> None:
    for pid in range(1000, 1200):
        world.turn(pid)
    assert 16 <= len(world.hurried) <= 16 + 200 * 1_000_000 / 1e9 * 100 + 1
    world.now += 1_000_000_000
    world.turn(1300)
    assert world.hurried[-1] == world.now - 1_000_000

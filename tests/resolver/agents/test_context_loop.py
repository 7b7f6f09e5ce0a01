"""The event loop for context events: their order, the effect of each kind, dropped events, and expiry."""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path
from typing import Any

import msgpack
import pytest

from pipeline.bus.context_events import ContextEvent, encode_context, parse_time_ns
from pipeline.bus.stream.messages import TOPICS, Decoder, unpack_events
from pipeline.errors import FrameError
from pipeline.resolver.agents import context_loop
from pipeline.resolver.agents.context_loop import ContextLoop
from pipeline.resolver.agents.context_stream import ContextStream
from pipeline.resolver.api.ebpf import LIMITER_PERIOD_NS
from pipeline.resolver.entries.model import CGroupContext, ContainerContext, PathKey
from pipeline.resolver.stream._encoder import FIELDS, Encoder
from tests.resolver.agents.scene import Scene
from tests.resolver.resolver_world import FakeMap, high, image_of, owner_of, world
from tests.resolver.story import BOOT_ID

CONTEXT = TOPICS.index("proc.context")


def test_the_steps_come_in_their_order(s: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    s.w.fork(1, 3, 10)
    steps: list[str] = []

    def note(name: str) -> None:
        real = getattr(s.r, name)
        monkeypatch.setattr(s.r, name, lambda *a, **k: (steps.append(name), real(*a, **k))[1])

    for name in ("find_at", "try_reparent_from_kernel_ppid", "try_reparent_from_procfs_locked",
                 "update_capabilities_usage", "update_aws_security_credentials"):  # fmt: skip
        note(name)
    s.stream.also.append(lambda event: steps.append("dispatch"))
    s.send("capabilities", 3, attempted=1, used=1)
    common = ["find_at", "try_reparent_from_kernel_ppid", "try_reparent_from_procfs_locked"]
    assert steps == [*common, "update_capabilities_usage", "dispatch"]
    steps.clear()
    s.send("imds", 3, access_key_id="A", expiration="2100-01-01T00:00:00Z")
    assert steps == [*common, "dispatch", "update_aws_security_credentials"]


def test_events_wait_for_earlier_events_of_the_kernel(s: Scene) -> None:
    s.mark = 0
    fork = s.story().fork(1, high(3))
    assert s.send("capabilities", 3, attempted=1, used=1) is None and s.loop.waiting == 1
    fork.apply(s.w.applier)
    s.mark = s.w.clock()
    assert s.loop.do_work(s.mark) == 1 and s.loop.waiting == 0
    assert s.stream.seen[0].error is None and s.stream.seen[0].entry is s.r.get(high(3))


def test_the_wait_for_a_watermark_that_does_not_move_is_bounded(s: Scene) -> None:
    s.mark = 0
    now = s.w.clock.now
    s.send("capabilities", 3, is_run=False, attempted=1, used=1)
    assert s.loop.do_work(now + 20_000_000 + context_loop.WAIT_MAX_NS) == 0
    assert s.loop.do_work(now + 20_000_001 + context_loop.WAIT_MAX_NS) == 1


def test_more_than_can_wait_are_dropped_and_counted(s: Scene) -> None:
    event = ContextEvent("capabilities", 5, body={"attempted": 0, "used": 0})
    message = encode_context([event] * 256, boot_id=BOOT_ID, source="test")
    for _ in range(17):
        s.loop.receive(message, s.w.clock())
    assert s.loop.waiting == context_loop.WAITING_MAX and s.w.tables.counter("context_dropped") == 256
    assert s.loop.do_work(s.w.clock()) == context_loop.EVENTS_PER_TURN


def test_events_that_wait_when_the_resolver_is_killed_are_counted(s: Scene) -> None:
    s.w.fork(1, 3, 10)
    for _ in range(3):
        s.send("capabilities", 3, is_run=False, attempted=1, used=1)
    s.mark = s.w.clock()
    s.send("capabilities", 3, is_run=False, at=s.mark, attempted=1, used=1)
    assert s.w.tables.contexts_waiting == 4
    s.stream.also.append(lambda event: waiting.append(s.w.tables.contexts_waiting))
    waiting: list[int] = []
    assert s.loop.do_work(s.w.clock.now) == 3
    assert waiting == [4, 3, 2], "an event that is being dispatched still waits"
    ContextLoop(s.r, s.w.tables, s.stream, lambda: s.mark, BOOT_ID)
    assert s.w.tables.counter("context_dropped") == 1 and s.w.tables.contexts_waiting == 0


def test_another_boot_is_refused(s: Scene) -> None:
    event = ContextEvent("capabilities", 5, body={"attempted": 0, "used": 0})
    with pytest.raises(FrameError, match="another boot"):
        s.loop.receive(encode_context([event], boot_id=bytes(16), source="test"), 1)


def test_capabilities_add_up(s: Scene) -> None:
    entry = s.entry(s.w.fork(1, 3, 10))
    s.send("capabilities", 3, attempted=6, used=2)
    s.send("capabilities", 3, attempted=8, used=2)
    assert (entry.caps_attempted, entry.caps_used) == (14, 2)
    assert s.w.tables.counter("context_events") == 2


def test_a_user_session(s: Scene) -> None:
    entry = s.entry(s.w.fork(1, 3, 10))
    s.send(
        "user_session", 3, id=5, type=1, ssh_session_id=9, ssh_username="ada", k8s_username="kim",
        k8s_groups=["dev", "ops"], k8s_extra={"reason": ["a", "b"]},
    )  # fmt: skip
    session = entry.user_session
    assert (session.id, session.session_type, entry.user_session_id) == (5, 1, 5)
    assert (session.ssh.ssh_session_id, session.ssh.ssh_username, session.k8s.k8s_username) == (9, "ada", "kim")
    assert (session.k8s.k8s_groups, session.k8s.k8s_extra) == (("dev", "ops"), {"reason": ("a", "b")})
    child = s.entry(s.w.fork(3, 4, 10))
    assert child.user_session.ssh == session.ssh and child.user_session.id == 0


def test_credentials_expire_by_themselves_and_of_their_own_process_only(s: Scene) -> None:
    entry = s.entry(s.w.fork(1, 3, 10))
    offset = s.w.offset
    soon = (s.w.clock.now + offset) // 1_000_000_000 + 5
    from datetime import UTC, datetime

    for key, at in (("A", soon), ("B", soon + 100)):
        s.send("imds", 3, access_key_id=key, expiration=datetime.fromtimestamp(at, UTC).isoformat())
    assert s.stream.aws == [0, 1] and len(entry.aws_security_credentials) == 2
    s.loop.do_work(soon * 1_000_000_000 - offset)
    assert len(entry.aws_security_credentials) == 2
    s.loop.do_work(soon * 1_000_000_000 - offset + 1)
    assert [one.access_key_id for one in entry.aws_security_credentials] == ["B"]
    s.send("imds", 3, access_key_id="", expiration="2100-01-01T00:00:00Z")
    assert len(entry.aws_security_credentials) == 1
    s.w.delete(3)
    again = s.entry(s.w.fork(1, 3, 10))
    s.loop.do_work((soon + 200) * 1_000_000_000 - offset)
    assert again.aws_security_credentials == ()


def _written_bytes(path: Path) -> int:
    """Bytes in pages of a file on tmpfs that were written, or read through a mapping."""
    written = 0
    with path.open("rb") as file:
        size = at = file.seek(0, os.SEEK_END)
        with contextlib.suppress(OSError):  # no more data
            at = 0
            while at < size:
                begin = os.lseek(file.fileno(), at, os.SEEK_DATA)
                at = os.lseek(file.fileno(), begin, os.SEEK_HOLE)
                written += at - begin
    return written


def test_a_start_finds_credentials_without_reading_the_whole_index(s: Scene) -> None:
    """With the largest kernel.pid_max the index has 16 MB, and the kernel clears each page that is read first."""
    s.entry(s.w.fork(1, 3, 10))
    s.send("imds", 3, access_key_id="A", expiration="2100-01-01T00:00:00Z")
    index = s.w.directory / "index"
    before = _written_bytes(index)
    assert 0 < before < index.stat().st_size // 4
    successor = ContextLoop(s.r, s.w.tables, s.stream, lambda: s.mark, BOOT_ID)
    successor.begin()
    assert _written_bytes(index) == before and len(successor._expiries) == 1


@pytest.mark.parametrize(
    ("text", "is_kept"),
    [("9999-12-31T23:59:59Z", True), ("0001-01-01T00:00:00+23:59", False), ("1969-12-31T00:00:00Z", False)],
)
def test_credentials_that_expire_in_no_time_of_ours(s: Scene, text: str, is_kept: bool) -> None:
    """Times that writers use for "never", and times from an unset clock: above 64 bits of ns, and below 0."""
    entry = s.entry(s.w.fork(1, 3, 10))
    assert s.send("imds", 3, access_key_id="A", expiration=text) is not None
    s.loop.do_work(s.w.clock() + 1)
    known = entry.aws_security_credentials
    assert [one.expiration_raw for one in known] == ([text] if is_kept else [])
    assert s.send("capabilities", 3, attempted=1, used=1) is not None, "and the next event is published"


def test_a_successor_expires_credentials_of_its_predecessor(s: Scene) -> None:
    entry = s.entry(s.w.fork(1, 3, 10))
    s.entry(s.w.fork(1, 4, 10)).span_id = 5
    s.send("imds", 3, access_key_id="A", expiration="2100-01-01T00:00:00Z")
    late = parse_time_ns("2100-01-01T00:00:00Z") - s.w.offset + 2
    successor = ContextLoop(s.r, s.w.tables, s.stream, lambda: s.mark, BOOT_ID)
    assert successor.do_work(late) == 0 and len(entry.aws_security_credentials) == 1
    successor.begin()
    assert successor.do_work(late) == 1 and entry.aws_security_credentials == ()


def test_tracer_metadata_is_read_from_the_process(s: Scene) -> None:
    entry = s.entry(s.w.fork(1, os.getpid(), 10))
    fd = os.memfd_create("datadog-tracer-info-x", os.MFD_ALLOW_SEALING)
    try:
        os.write(fd, msgpack.packb({"schema_version": 1, "service_name": "shop"}))
        seen = s.send("tracer_memfd_seal", os.getpid(), fd=fd)
        assert seen is not None and isinstance(seen.error, FrameError) and entry.tracer_metadata is None
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
        seen = s.send("tracer_memfd_seal", os.getpid(), fd=fd)
        assert seen is not None and seen.error is None
        assert entry.tracer_metadata is not None and entry.tracer_metadata.service_name == "shop"
    finally:
        os.close(fd)


class Groups:
    """A cgroup resolver that knows one cgroup."""

    def add_pid(self, pid: int, cgroup: CGroupContext) -> Any:
        if cgroup.path_key != PathKey(77):
            return None
        return CGroupContext("/a/b", PathKey(77)), ContainerContext("c0ffee")

    def del_pid(self, pid: int) -> None: ...


def test_a_traced_cgroup_ends_at_step_one() -> None:
    learned: dict[int, bytes] = {}
    with world(cgroup_resolver=Groups(), learn_cgroup=learned.__setitem__) as w:
        trace_cgroups(Scene(w), learned)


def trace_cgroups(s: Scene, learned: dict[int, bytes]) -> None:
    entry = s.entry(s.w.fork(1, 3, 10))
    assert s.send("cgroup_tracing", 3, cgroup_id=77, path="/a/b") is None
    assert (entry.cgroup.cgroup_id, entry.cgroup.path_key.inode, entry.container.container_id) == ("/a/b", 77, "c0ffee")
    assert learned == {77: b"/a/b"}
    s.send("cgroup_tracing", 3, cgroup_id=78)
    assert entry.cgroup.path_key.inode == 78
    assert s.send("cgroup_tracing", 9, cgroup_id=78) is None


# -- which process an event belongs to ---------------------------------------------------------------------------------


def test_an_event_belongs_to_the_owner_of_the_pid_at_its_time(s: Scene) -> None:
    story = s.story()
    story.fork(1, high(3)).apply(s.w.applier)
    old = s.r.get(high(3))
    at = s.w.clock()
    story.now = s.w.clock()
    story.exit(high(3)).apply(s.w.applier)
    seen = s.send("capabilities", 3, at=at, attempted=1, used=1)
    assert seen is not None and seen.entry is old and seen.error is None
    later = s.send("capabilities", 3, at=s.w.clock(), attempted=1, used=1)
    assert later is not None and later.entry.is_free and str(later.error)


def test_a_process_that_is_not_known_is_a_placeholder_with_an_error(s: Scene) -> None:
    seen = s.send("capabilities", 9, attempted=1, used=1)
    assert seen is not None and seen.entry.is_free and seen.entry.pid == high(9)
    assert type(seen.error).__name__ == "NoProcessContextError"
    # A response of the metadata service needs no process.
    seen = s.send("imds", 9, access_key_id="A", expiration="2100-01-01T00:00:00Z")
    assert seen is not None and seen.error is None


def test_another_owner_of_the_pid_is_not_meant(s: Scene) -> None:
    entry = s.entry(s.w.fork(1, 3, 10))
    seen = s.send("capabilities", 3, start_boot_ns=entry.start_boot_ns - 10**9, attempted=1, used=1)
    assert seen is not None and seen.entry.is_free and entry.caps_used == 0
    s.send("capabilities", 3, start_boot_ns=entry.start_boot_ns, attempted=1, used=1)
    assert entry.caps_used == 1


@pytest.mark.parametrize("names_start", [False, True])
def test_an_event_of_an_earlier_owner_of_the_pid_changes_nothing_of_the_next(s: Scene, names_start: bool) -> None:
    event = s.w.fork(1, 3, 10)
    old, at = s.entry(event), s.w.clock()
    s.w.exit(event)
    young = s.entry(s.w.fork(1, 3, 10))
    start = old.start_boot_ns if names_start else 0
    for kind, body in (
        ("capabilities", {"attempted": 6, "used": 2}), ("user_session", {"id": 5, "k8s_username": "kim"}),
        ("imds", {"access_key_id": "A", "expiration": "2100-01-01T00:00:00Z"}), ("cgroup_tracing", {"cgroup_id": 77}),
    ):  # fmt: skip
        seen = s.send(kind, 3, at=at, start_boot_ns=start, **body)
        assert seen is None or (seen.entry is old and seen.error is None)
    assert (old.caps_attempted, old.user_session.id, old.cgroup.path_key.inode) == (6, 5, 77)
    assert (young.caps_attempted, young.user_session.id, young.cgroup.path_key.inode) == (0, 0, 4242)
    assert [len(one.aws_security_credentials) for one in (old, young)] == [1, 0]
    s.loop.do_work(parse_time_ns("2100-01-01T00:00:00Z") - s.w.offset + 2)
    assert old.aws_security_credentials == ()


def test_an_event_older_than_the_owner_of_its_pid_has_no_process(s: Scene) -> None:
    at = s.w.clock()
    young = s.entry(s.w.fork(1, 3, 10))
    s.w.proc.add(high(3), 1, exe_inode=10, start_boot_ns=young.start_boot_ns)
    seen = s.send("capabilities", 3, at=at, attempted=1, used=1)
    assert seen is not None and seen.entry.is_free and type(seen.error).__name__ == "NoProcessContextError"
    assert young.caps_used == 0


def test_a_memfd_of_an_earlier_owner_of_the_pid_is_not_read_from_the_next(s: Scene) -> None:
    event = s.w.fork(1, os.getpid(), 10)
    old, at = s.entry(event), s.w.clock()
    s.w.exit(event)
    young = s.entry(s.w.fork(1, os.getpid(), 10))
    fd = os.memfd_create("datadog-tracer-info-x", os.MFD_ALLOW_SEALING)
    try:
        os.write(fd, msgpack.packb({"schema_version": 1, "service_name": "shop"}))
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
        s.send("tracer_memfd_seal", os.getpid(), at=at, fd=fd)
    finally:
        os.close(fd)
    assert old.tracer_metadata is None and young.tracer_metadata is None


def test_a_process_from_procfs_is_published_before_the_event(s: Scene) -> None:
    s.w.proc.add(high(8), 1, exe_inode=9, start_boot_ns=s.w.clock())
    s.w.proc.add(high(9), high(8), exe_inode=9, start_boot_ns=s.w.clock())
    seen = s.send("capabilities", 9, attempted=1, used=1)
    assert seen is not None and [one.pid for one in seen.related] == [high(8), high(9)]
    assert seen.entry.caps_used == 1


def test_kernel_threads_are_dropped(s: Scene) -> None:
    entry = s.entry(s.w.fork(1, 3, 10))
    entry.is_kworker = True
    assert s.send("capabilities", 3, attempted=1, used=1) is None and entry.caps_used == 0


def test_a_broken_lineage_is_published_and_counted(s: Scene) -> None:
    s.w.fork(55, 3, 10)
    seen = s.send("capabilities", 3, attempted=1, used=1)
    assert seen is not None and type(seen.error).__name__ == "ProcessBrokenLineageError"
    assert s.w.count("broken_lineage") == 1 and seen.entry.caps_used == 1


def test_the_live_parent_moves_the_process(s: Scene) -> None:
    s.w.fork(1, 3, 10)
    child = s.entry(s.w.fork(3, 4, 10))
    s.send("capabilities", 4, ppid=1, attempted=1, used=1)
    assert child.ancestor is s.init and s.w.count("reparent_success", "kernel_ppid") == 1


@pytest.mark.parametrize("kind", ["ptrace", "signal", "setrlimit"])
def test_targets(s: Scene, kind: str) -> None:
    s.w.fork(1, 3, 10)
    target = s.entry(s.w.fork(1, 4, 10))
    seen = s.send(kind, 3, target=high(4))
    assert seen is not None and seen.target is target
    seen = s.send(kind, 3, target=high(9000))
    assert seen is not None and seen.target is not None and seen.target.is_free and seen.target.pid == high(9000)
    seen = s.send(kind, 3, target=0)
    assert seen is not None
    assert (seen.target is None) is (kind != "ptrace")


@pytest.mark.parametrize("kind", ["ptrace", "signal", "setrlimit"])
def test_the_lineage_of_a_target_is_repaired(s: Scene, kind: str) -> None:
    s.w.fork(1, 3, 10)
    target = s.entry(s.w.fork(77, 4, 10))
    assert target.ancestor is None
    s.w.proc.add(high(77), 1, exe_inode=9, start_boot_ns=target.start_boot_ns - 1)
    s.w.clock.now += LIMITER_PERIOD_NS + 1  # the fork has asked about this parent already
    s.send("capabilities", 3, attempted=1, used=1)
    assert target.ancestor is None, "an event without a target repairs its own process only"
    s.send(kind, 3, target=high(4))
    assert target.ancestor is not None and target.ancestor.pid == high(77)


@pytest.mark.parametrize("kind", ["ptrace", "signal", "setrlimit"])
def test_a_target_is_the_owner_of_its_pid_at_that_time(s: Scene, kind: str) -> None:
    """It may have ended since, and its pid may have another owner."""
    s.w.fork(1, 3, 10)
    event = s.w.fork(1, 4, 10)
    first, at = s.entry(event), s.w.clock()
    s.w.exit(event)
    seen = s.send(kind, 3, at=at, target=high(4))
    assert seen is not None and seen.target is first
    second = s.entry(s.w.fork(1, 4, 10))
    seen = s.send(kind, 3, at=at, target=high(4))
    assert seen is not None and seen.target is first
    seen = s.send(kind, 3, target=high(4))
    assert seen is not None and seen.target is second


@pytest.mark.parametrize("kind", ["ptrace", "signal", "setrlimit"])
def test_an_owner_that_the_kernels_maps_show_is_no_target_of_an_earlier_event(s: Scene, kind: str) -> None:
    s.w.fork(1, 3, 10)
    at = s.w.clock()
    s.w.bind(FakeMap({high(4): owner_of(s.w, high(4), cookie=7, ppid=1)}), FakeMap({7: image_of(10)}))
    seen = s.send(kind, 3, at=at, target=high(4))
    assert seen is not None and seen.target is not None and seen.target.is_free and seen.target.pid == high(4)
    seen = s.send(kind, 3, target=high(4))
    assert seen is not None and seen.target is s.r.get(high(4)) and not seen.target.is_free


@pytest.mark.parametrize("kind", ["ptrace", "setrlimit"])
def test_a_target_with_a_start_is_no_other_owner_of_its_pid(s: Scene, kind: str) -> None:
    """Two processes can have a pid one after the other within the time that events need to be ordered."""
    s.w.fork(1, 3, 10)
    event = s.w.fork(1, 4, 10)
    first = s.entry(event)
    s.w.exit(event)
    second = s.entry(s.w.fork(1, 4, 10))
    for start, target in ((first.start_boot_ns, first), (second.start_boot_ns, second)):
        seen = s.send(kind, 3, target=high(4), target_start_boot_ns=start)
        assert seen is not None and seen.target is target
    seen = s.send(kind, 3, target=high(4), target_start_boot_ns=first.start_boot_ns - 10**9)
    assert seen is not None and seen.target is not None and seen.target.is_free, "the tables do not have it"


# -- the stream --------------------------------------------------------------------------------------------------------


@pytest.fixture
def published(s: Scene) -> Encoder:
    encoder = Encoder(BOOT_ID)
    encoder.topics_mask = 0xFF
    stream = ContextStream(encoder, s.w.applier.followups, s.w.tables, BOOT_ID, s.w.offset)
    s.stream.also.append(stream.dispatch)
    return encoder


def taken(encoder: Encoder) -> list[tuple[str, dict[str, Any]]]:
    decoder = Decoder()
    return [
        (TOPICS[message.topic], event)
        for message in encoder.take()
        for event in unpack_events(decoder, bytes(message.body), message.count)
    ]


def test_the_stream_has_the_process_and_the_fields_of_the_event(s: Scene, published: Encoder) -> None:
    event = s.w.fork(1, 3, 10)
    s.w.fork(1, 4, 10)
    at = s.w.clock()
    s.send("signal", 3, at=at, target=high(4), signal=9)
    [(topic, told)] = taken(published)
    assert topic == "proc.context" and set(told) == {*FIELDS, "context"}
    assert (told["event"], told["pid"], told["seq"], told["time_ns"]) == ("signal", high(3), 1, at + s.w.offset)
    assert told["lineage"][0]["pid"] == 1 and told["start_time_ns"] == s.entry(event).start_boot_ns + s.w.offset
    assert told["context"]["signal"] == 9 and told["context"]["error"] is None
    assert told["context"]["target"]["pid"] == high(4)


def test_the_stream_has_every_field_of_an_unknown_process(s: Scene, published: Encoder) -> None:
    s.send("capabilities", 9, attempted=1, used=1)
    [(_, told)] = taken(published)
    assert set(told) == {*FIELDS, "context"} and told["pid"] == high(9) and told["comm"] is None
    assert told["context"] == {"attempted": 1, "used": 1, "error": "no_process_context"}


def test_related_processes_come_first_and_events_are_numbered_without_subscribers(s: Scene, published: Encoder) -> None:
    s.w.proc.add(high(9), 1, exe_inode=9, start_boot_ns=s.w.clock())
    s.send("capabilities", 9, attempted=1, used=1)
    assert [(topic, told["pid"]) for topic, told in taken(published)] == [
        ("proc.exec", high(9)), ("proc.context", high(9)),
    ]  # fmt: skip
    published.topics_mask = 0
    s.send("capabilities", 9, attempted=1, used=1)
    assert taken(published) == [] and int(published.sequences()[CONTEXT]) == 2

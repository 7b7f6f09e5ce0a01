"""A resolver process that is assembled from a description, without a kernel's rings: a shard's frames are made here."""

from __future__ import annotations

import gc
import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq

from pipeline import paths
from pipeline.bus.stream.journal import NAME as JOURNAL
from pipeline.client.subscriber import Subscriber
from pipeline.config.schema import Access, Args, Capture, Config, Contexts, Envs, Stream, Supervision, Tables
from pipeline.host import boot
from pipeline.records.capture_fds import NO_FD
from pipeline.resolver.daemon import build
from pipeline.resolver.daemon.process import StartEndedError
from pipeline.shm.check.validate import validate_tables
from pipeline.shm.layout import layout
from pipeline.shm.reader.table import ProcessTable
from tests.resolver.process_host import NAME, SMALL, built, instance_directory, started
from tests.resolver.story import Story
from tests.waiting import until


@pytest.fixture
def directory() -> Iterator[Path]:
    with instance_directory() as path:
        yield path


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


# -- what the settings decide ------------------------------------------------------------------------------------------


def test_the_tables_have_the_sizes_and_modes_of_the_settings(directory: Path) -> None:
    tables = Tables(
        max_entries=2048, chunk_rows=128, names_bytes=1 << 21, args_bytes=1 << 22, envs_bytes=1 << 23,
        pid_capacity=4096, key_capacity=256, retention_s=7.5, chain_max=32,
    )  # fmt: skip
    access = Access(tables_mode="0640", args_mode="0600", envs_mode="0440")
    with built(directory, tables=tables, access=access, boot_unix_ns=123, recorded_from_boot_ns=45) as resolver:
        control = resolver.tables.control_view()[0]
        wanted = {
            "row_capacity": 2048, "pid_capacity": 4096, "key_capacity": build.KEYS_UNUSED, "ring_count": 1,
            "names_capacity_bytes": 1 << 21, "args_capacity_bytes": 1 << 22, "envs_capacity_bytes": 1 << 23,
            "boot_unix_ns": 123, "horizon_boot_ns": 45,
        }  # fmt: skip
        assert {name: int(control[name]) for name in wanted} == wanted
        assert (resolver.tables.retention_ns, resolver.tables.chain_max) == (7_500_000_000, 32)
        modes = {name: mode(directory / name) for name in paths.SEGMENTS}
    assert modes == dict.fromkeys(paths.SEGMENTS, 0o640) | {"args": 0o600, "envs": 0o440}


def test_only_tracers_have_keys(directory: Path) -> None:
    with built(directory, "tracer", tables=Tables(**SMALL, key_capacity=256)) as resolver:
        assert int(resolver.tables.control_view()[0]["key_capacity"]) == 256


@pytest.mark.parametrize(
    ("envs", "form", "shown"),
    [
        (Envs(), "none", ""), (Envs(show="names"), "none", ""), (Envs(show="all"), "stored", None),
        (Envs(show="listed", show_values=("A", "B")), "stored", "AB"),
    ],
    ids=["listed, but none", "names", "all", "two"],
)  # fmt: skip
@pytest.mark.parametrize("envs_bytes", [0, 1024])
def test_which_environments_are_kept(envs: Envs, form: str, shown: str | None, envs_bytes: int) -> None:
    config = Config(envs=envs, capture=Capture(envs_bytes=envs_bytes))
    assert build.envs_form(config) == form
    opts = build._opts(config)
    assert opts.has_all_envs_values is (shown is None)
    assert set(opts.envs_with_value) == set(shown or ())
    assert opts.envs_resolution_enabled is (envs_bytes > 0)
    assert not opts.tty_fallback_enabled


ALL = Contexts(script_files=True, file_packages=True, file_hashes=True, tty_fallback=True)
NOTHING = Contexts(user_names="off", container_details="off")
#: Parts that depend on the source or on the settings.
OPTIONAL = (
    "repairer", "contexts", "names", "containers", "packages", "hashes", "sessions", "tty_fallback", "scripts",
    "name_cgroups",
)  # fmt: skip


@pytest.mark.parametrize(
    ("source", "contexts", "parts"),
    [
        ("replay:x", ALL, ""),
        ("tracer", ALL, "names containers sessions"),
        ("tracer", NOTHING, "sessions"),
        ("proc-connector", ALL, " ".join(OPTIONAL)),
        ("proc-connector", NOTHING, "repairer contexts sessions name_cgroups"),
    ],
)
def test_the_parts_of_a_source(directory: Path, source: str, contexts: Contexts, parts: str) -> None:
    for name in ("users", "containers", "packages", "hashes"):  # of a former start with other settings
        (directory / name).mkdir()
    with built(directory, source, contexts=contexts) as resolver:
        loop = resolver.process.loop
        found = loop.parts
        assert {name for name in OPTIONAL if getattr(found, name) is not None} == set(parts.split())
        always = (found.rejected_clients, found.newcomers, found.answering, found.session_terminals, found.complete)
        assert None not in always
        assert found.calls is None
        files = {"names": "users", "containers": "containers", "packages": "packages", "hashes": "hashes"}
        for part, name in files.items():
            assert (directory / name).exists() is (part in parts), name
        assert loop.settings.evicts_by_age is (source != "replay:x")
        assert loop.settings.freshness_ns == 0


@pytest.mark.parametrize("source", ["replay:x", "tracer", "proc-connector"])
def test_nothing_is_left_open(directory: Path, source: str) -> None:
    """All descriptors, threads and mappings are released."""

    def held() -> tuple[int, int, int]:
        gc.collect()
        maps = sum(str(directory) in line for line in Path("/proc/self/maps").read_text().splitlines())
        return len(list(Path("/proc/self/fd").iterdir())), len(list(Path("/proc/self/task").iterdir())), maps

    options: dict[str, Any] = {"contexts": ALL, "stream": Stream(journal_bytes=1 << 20)}
    options["tables"] = Tables(**SMALL | {"pid_capacity": 0})  # those of this host
    with started(directory, source, **options):
        pass  # what is opened once for the life of the interpreter
    before = held()
    with started(directory, source, **options):
        assert held()[2] > before[2]
    # A thread of ZeroMQ ends a little later; so does what other tests have left.
    until(lambda: all(now <= former for now, former in zip(held(), before, strict=True)), lambda: (before, held()), 30)


@pytest.mark.parametrize("tables_mode", ["0640", "0600"])
def test_files_for_readers_have_the_modes_of_the_tables(directory: Path, tables_mode: str) -> None:
    access = Access(tables_mode=tables_mode, args_mode="0600")
    tables = Tables(**SMALL | {"pid_capacity": 0})
    with started(directory, "proc-connector", access=access, tables=tables) as resolver:
        resolver.until(lambda: (directory / "sessions").exists() and any((directory / "users").iterdir()))
        assert mode(directory / "sessions") == int(tables_mode, 8)
        assert {mode(path) for path in (directory / "users").iterdir()} == {int(tables_mode, 8)}


# -- the journal -------------------------------------------------------------------------------------------------------


def test_a_journal_that_is_switched_off_is_removed(directory: Path) -> None:
    journal = directory / paths.STREAM_DIR / JOURNAL
    with built(directory, stream=Stream(journal_bytes=0)) as resolver:
        assert resolver.process.loop.publisher.journal is None
    with built(directory, stream=Stream(journal_bytes=1 << 20), access=Access(stream_mode="0660")):
        assert mode(journal) == 0o640 and journal.stat().st_size >= 1 << 20
    with built(directory, stream=Stream(journal_bytes=0)):
        assert not journal.exists()


# -- the start ---------------------------------------------------------------------------------------------------------


def test_the_shards_read_often_until_the_start_is_complete(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with built(directory) as resolver:
        control = resolver.tables.control_view()[0]
        seen: list[int] = []
        monkeypatch.setattr(resolver.process, "_snapshot", lambda: seen.append(int(control["audience"])))
        resolver.process.start()
        assert seen == [layout.AUDIENCE_SUBSCRIBERS] and resolver.tables.state == layout.STATE_READY


def test_a_start_without_shards_ends_when_it_is_asked_to(directory: Path) -> None:
    """The shards of a killed supervisor have ended, so what the start waits for never comes."""
    asked: list[int] = []
    with built(directory, is_silent=True) as resolver:
        with pytest.raises(StartEndedError):
            resolver.process.start(lambda: asked.append(0) is None and len(asked) > 3)
        assert len(asked) == 4 and resolver.tables.state != layout.STATE_READY


def test_a_row_that_a_predecessor_was_writing_is_mended(directory: Path) -> None:
    options: dict[str, Any] = {"supervision": Supervision(keep_tables=True)}
    story = Story(now=boot.now_boot_ns())
    story.begin(1)
    with started(directory, **options) as resolver:
        resolver.shard.send(story.fork(1, 10))
        resolver.until(lambda: resolver.tables.heads_live)
        row = resolver.tables.py_head(10)
        resolver.tables.py_begin(row)
    with started(directory, **options) as resolver:
        hot = resolver.tables.hot_view()[row]
        assert resolver.tables.is_takeover and resolver.tables.torn_rows == [row]
        assert int(hot["row_seq"]) % 2 == 0 and int(hot["flags"]) & layout.ROW_GAP
        validate_tables(resolver.tables)


# -- from frames to readers and subscribers ----------------------------------------------------------------------------


def test_records_reach_readers_and_subscribers(directory: Path) -> None:
    story = Story(now=boot.now_boot_ns())
    story.begin(1)
    events = [story.fork(1, 10), story.exec(10, b"/bin/a", args=[b"a", b"-x"]), story.fork(10, 11), story.exit(11, 3)]
    with started(directory, args=Args(show="raw")) as resolver:
        assert resolver.tables.state == layout.STATE_READY
        with resolver.running(), Subscriber(NAME, path=directory, timeout=60) as subscriber:
            resolver.shard.send(*events)
            seen = [event for _, event in zip(events, subscriber, strict=False)]
            assert [one["event"] for one in seen] == ["fork", "exec", "fork", "exit"]
            assert [one["pid"] for one in seen] == [10, 10, 11, 11]
            assert seen[1]["argv"] == ["a", "-x"] and seen[3]["exit_code"] == 3
            with ProcessTable(directory) as table:
                deadline = time.monotonic() + 60
                while (entry := table.resolve(10)) is None or entry.path != "/bin/a":
                    assert time.monotonic() < deadline
        validate_tables(resolver.tables)


def test_what_is_held_back_at_the_end_is_still_applied(directory: Path) -> None:
    with started(directory) as resolver:
        process = resolver.process
        story = Story(now=boot.now_boot_ns() + 150_000_000)
        resolver.shard.send(story.fork(1, 10))
        resolver.until(lambda: process.loop.merger.pending)
        assert resolver.tables.heads_live == 0
        process.drain(60)
        assert resolver.tables.heads_live == 1 and not process.loop.merger.pending
        # Nothing arrives, and nothing is waited for, unless senders may still be sending.
        resolver.shard.stop()
        for seconds, settle_s in ((60.0, 0.0), (60.0, 0.2), (0.1, 60.0)):
            began = time.monotonic()
            process.drain(seconds, settle_s)
            assert min(seconds, settle_s) <= time.monotonic() - began < 30


def test_shards_are_woken_by_a_descriptor_if_there_is_one() -> None:
    build._hurry(NO_FD)()
    fd = os.eventfd(0)
    try:
        build._hurry(fd)()
        assert os.eventfd_read(fd) == 1
    finally:
        os.close(fd)


def test_a_sleep_ends_with_a_subscription(directory: Path) -> None:
    with built(directory, is_silent=True) as resolver, zmq.Context() as context, context.socket(zmq.SUB) as socket:
        loop = resolver.process.loop
        assert not loop.encoder.subscribed_mask
        socket.subscribe(b"proc.exec")
        socket.connect(f"ipc://{paths.stream_inner_socket(directory)}")
        deadline = time.monotonic() + 60
        while not loop.encoder.subscribed_mask:
            assert time.monotonic() < deadline
            resolver.process.wait(100)

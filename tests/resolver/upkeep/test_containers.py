"""Facts about containers from the runtimes' files: in events, for readers, when read, and which are rejected."""

from __future__ import annotations

import errno
import json
import os
import struct
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import msgpack
import pytest

from pipeline import files
from pipeline.resolver.stream._encoder import Encoder
from pipeline.resolver.upkeep import containers, details
from pipeline.resolver.upkeep.aside import SWEEP_NS
from pipeline.resolver.upkeep.containers import DETAILS_BYTES_MAX, LiveContainers, packed
from pipeline.shm.layout import layout
from pipeline.shm.names import containers as shown
from pipeline.shm.names.details import forget
from pipeline.shm.reader._reader import TableReader
from pipeline.shm.writer._writer import TableWriter
from pipeline.software.container_files import Names, NotAllowedError, names_of
from tests.resolver.stream_rows import BOOT, CONTEXT, FORK, Row, tables_in, take
from tests.resolver.upkeep.test_aside import threads
from tests.waiting import until

ID, OTHER = "c0ffee" * 10 + "c0ff", "0badcafe" * 8
ROOTS = f"/system.slice/docker-{ID}.scope"


def write_docker(root: Path, container_id: str, name: str, **labels: str) -> None:
    """Write the file of a container as Docker does."""
    file = root / f"var/lib/docker/containers/{container_id}/config.v2.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"Name": f"/{name}", "Config": {"Image": "nginx:1", "Labels": labels}}))


class Instance:
    """Tables, an encoder and `LiveContainers`, stepped by the test."""

    def __init__(self, writer: TableWriter, directory: Path, root: Path, **options: Any) -> None:
        self.writer = writer
        self.directory = directory
        self.encoder = Encoder(BOOT)
        self.encoder.topics_mask = 0xFF
        self.now, self.step = 10**12, 1_000_000
        self.warned: list[str] = []
        options = {"read": partial(names_of, root=str(root)), "warn": lambda text, **_: self.warned.append(text)} | (
            options
        )
        self.live = LiveContainers(writer, self.encoder, self.directory, now=lambda: self.now, **options)
        self.live.begin()

    def row(self, tgid: int, container_id: str = ID, cgroup: str | None = ROOTS) -> Row:
        strings = {"container": container_id.encode()}
        if cgroup is not None:
            strings["cgroup"] = struct.pack("<QQ", 0, 0) + cgroup.encode()
        return Row(self.writer, tgid=tgid, start_boot_ns=tgid, flags=layout.ROW_HEAD, **strings)

    def end(self, row: Row) -> None:
        """Let the process of a row end."""
        self.writer.py_begin(row.number)
        self.writer.hot_view()["exit_boot_ns"][row.number] = 9
        self.writer.py_end(row.number)
        self.writer.py_retire(row.number)

    def details(self, row: Row) -> Any:
        """Return the details in an event of the row."""
        self.encoder.add(self.writer, CONTEXT, 6, row.number, 5)
        (event,) = take(self.encoder)
        return event["container_details"]

    def read(self, row: Row) -> Any:
        """Return the details that a reader finds that has read nothing before."""
        forget()
        entry = TableReader(self.directory).resolve(row["tgid"])
        assert entry is not None
        return entry.container_details

    def work(self) -> None:
        self.now += self.step
        self.live.do_work(self.now)

    def until(self, condition: Callable[[], Any]) -> None:
        until(condition, pause_s=0.001, meanwhile=self.work)


@contextmanager
def instance(root: Path, **options: Any) -> Iterator[Instance]:
    directory = Path(tempfile.mkdtemp(prefix="procline-test-", dir="/dev/shm"))
    with tables_in(directory) as writer:
        made = Instance(writer, directory, root, **options)
        try:
            yield made
        finally:
            made.live.close()


def test_answers_wait_until_they_are_handled(tmp_path: Path) -> None:
    write_docker(tmp_path, ID, "web", tier="front")
    before = threads()
    with instance(tmp_path) as made:
        row = made.row(7)
        assert made.details(row) is None and not made.live.has_answers
        made.live.do_work(made.now)
        until(lambda: made.live.has_answers)
        made.live.do_work(made.now)
        assert not made.live.has_answers and made.details(row)
        made.live.close(60)
        assert threads() == before


def test_events_and_entries_have_the_details_of_their_container(tmp_path: Path) -> None:
    write_docker(tmp_path, ID, "web", tier="front")
    with instance(tmp_path) as made:
        row = made.row(7)
        assert made.details(row) is None and made.read(row) is None, "nothing waits for a file"
        made.until(lambda: made.details(row) is not None)
        expected = {"name": "web", "image": "nginx:1", "pod": None, "namespace": None, "labels": {"tier": "front"}}
        assert made.details(row) == made.read(row) == expected
        assert list(expected) == list(shown.KEYS)
        nested = made.row(8, cgroup=f"{ROOTS}/init.scope")
        assert made.details(nested) == expected
        assert made.details(Row(made.writer, tgid=9, start_boot_ns=9)) is None


@pytest.mark.parametrize("has_event", [True, False])
def test_they_are_read_without_a_subscriber_and_without_an_event(tmp_path: Path, has_event: bool) -> None:
    write_docker(tmp_path, ID, "web")
    with instance(tmp_path) as made:
        made.encoder.topics_mask = 0
        row = made.row(7)
        if has_event:
            made.live._sweeps.due_ns = 1 << 62
            made.encoder.add(made.writer, FORK, 1, row.number, 5)
            assert not made.live._cache.is_wanting, "the exec, or the move to the cgroup, follows"
            made.encoder.add(made.writer, CONTEXT, 6, row.number, 5)
        made.until(lambda: made.read(row) is not None)


@pytest.mark.parametrize(
    ("cgroup", "is_roots"),
    [
        (ROOTS, True),
        (f"/docker/{ID}", True),
        (f"/docker/{ID}/a/b.service", True),
        (f"/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-podx.slice/cri-containerd-{ID}.scope", True),
        (f"/kubepods/burstable/pod7/{ID}", True),
        (f"/kubepods-burstable-podx.slice:cri-containerd:{ID}", True),
        (f"/machine.slice/machine-libpod_pod_{OTHER}.slice/libpod-{ID}.scope", True),
        (f"/user.slice/user-7.slice/user@7.service/user.slice/docker-{ID}.scope", False),
        (f"/system.slice/app.service/docker/{ID}", False),
        (f"/user.slice/user-7.slice/session-3.scope/docker/{ID}", False),
        (f"/docker/{OTHER}/docker/{ID}", False),
        (f"/system.slice/docker-{OTHER}.scope/docker/{ID}", False),
        (f"/lxc.payload.{ID}", False),
        (f"/lxc.payload.box/docker/{ID}", False),
        (f"/lxc/box/docker/{ID}", False),
        (f"/lxc/{ID}", False),
        (f"/machine.slice/machine-{ID}.scope/payload", False),
        (f"/machine.slice/systemd-nspawn@box.service/payload/docker/{ID}", False),
        (f"/machine.slice/systemd-nspawn@{ID}.service", False),
        (f"/docker/x{ID}", False),
        (f"/docker/{ID}0", False),
        ("/", False),
        ("", False),
        (None, False),
    ],
)
def test_only_a_cgroup_that_root_named_shows_a_container(tmp_path: Path, cgroup: str | None, is_roots: bool) -> None:
    """A user, a service, and a container can name the cgroups below their own like those of root's containers."""
    write_docker(tmp_path, ID, "web")
    with instance(tmp_path) as made:
        known, row = made.row(7), made.row(8, cgroup=cgroup)
        assert (made.details(row) is None) and made.live._cache.is_wanting == is_roots
        made.until(lambda: made.details(known))
        assert bool(made.details(row)) == bool(made.read(row)) == is_roots


@pytest.mark.parametrize("container_id", ["g" * 64, "c0ffee", "c0ffee" * 11])
def test_ids_of_another_form_are_not_searched(tmp_path: Path, container_id: str) -> None:
    with instance(tmp_path) as made:
        row = made.row(7, container_id, f"/docker/{container_id}")
        assert made.details(row) is None and made.read(row) is None
        assert not made.live._cache.is_wanting and made.live._cache.living(made.writer) == []


def test_labels_can_be_left_out(tmp_path: Path) -> None:
    write_docker(tmp_path, ID, "web", password="x")
    with instance(tmp_path, with_labels=False) as made:
        row = made.row(7)
        made.until(lambda: made.details(row))
        assert made.details(row)["labels"] == made.read(row)["labels"] == {}
        assert made.details(row)["name"] == "web"


def test_a_container_that_is_found_late_or_renamed_is_read_again(tmp_path: Path) -> None:
    with instance(tmp_path) as made:
        row = made.row(7)
        made.details(row)
        made.step = SWEEP_NS
        made.until(lambda: ID in made.live._known and made.live._known[ID].failures >= 2)
        write_docker(tmp_path, ID, "web")
        made.until(lambda: made.details(row))
        write_docker(tmp_path, ID, "shop")
        made.now += details.REREAD_NS
        made.until(lambda: made.details(row)["name"] == "shop")
        assert made.read(row)["name"] == "shop"


def test_details_of_a_container_that_is_gone_stay_until_it_is_forgotten(tmp_path: Path) -> None:
    write_docker(tmp_path, ID, "web")
    with instance(tmp_path) as made:
        row = made.row(7)
        made.until(lambda: made.details(row))
        (tmp_path / f"var/lib/docker/containers/{ID}/config.v2.json").unlink()
        made.now += details.REREAD_NS
        made.until(lambda: made.live._known[ID].failures)
        assert made.details(row)["name"] == made.read(row)["name"] == "web"
        made.end(row)
        made.now += details.FORGET_NS
        made.until(lambda: not made.live._known)
        assert list((made.directory / shown.DIRECTORY).iterdir()) == []


def test_the_number_of_containers_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(containers, "CONTAINERS_MAX", 2)
    ids = [f"{number:064x}" for number in range(3)]
    for each in ids:
        write_docker(tmp_path, each, each[-1])
    with instance(tmp_path) as made:
        made.step = SWEEP_NS
        rows = [made.row(10 + number, each, f"/docker/{each}") for number, each in enumerate(ids)]
        for row in rows[:2]:
            made.until(lambda row=row: made.details(row))
        for _ in range(5):
            made.now += made.step
            made.live.do_work(made.now)
        assert made.details(rows[2]) is None and made.writer.counter("names_refused") >= 5
        assert made.details(rows[0]) and made.details(rows[1]) and made.writer.counter("names_evicted") == 0
        made.end(rows[0])
        made.until(lambda: made.details(rows[2]))
        assert made.read(rows[0]) is None and made.read(rows[2])["name"] == "2"
        assert made.writer.counter("names_evicted") == 1
        assert len(list((made.directory / shown.DIRECTORY).iterdir())) == 2


def test_a_new_container_gets_details_when_as_many_as_possible_are_known(tmp_path: Path) -> None:
    names = Names("f", "known")
    with instance(tmp_path, read=lambda container_id: names) as made:
        made.step = SWEEP_NS
        rows = []
        for number in range(containers.CONTAINERS_MAX):
            rows.append(made.row(7 + number, f"{number:064x}", f"/docker/{number:064x}"))
        made.until(lambda: len(made.live._known) == containers.CONTAINERS_MAX)
        new = made.row(5, OTHER, f"/docker/{OTHER}")
        assert made.details(new) is None
        made.end(rows[3])
        made.until(lambda: OTHER in made.live._known)
        assert f"{3:064x}" not in made.live._known and len(made.live._known) == containers.CONTAINERS_MAX
        assert made.writer.counter("names_evicted") == 1


def test_containers_that_end_at_once_leave_room_for_others(tmp_path: Path) -> None:
    """More than fit in the cache, none of which is known when it ends."""
    with instance(tmp_path, read=lambda container_id: Names("f", "new")) as made:
        for number in range(2 * containers.CONTAINERS_MAX):
            row = made.row(7 + number, f"{number:064x}", f"/docker/{number:064x}")
            made.details(row)
            made.end(row)
        made.step = SWEEP_NS
        new = made.row(5, OTHER, f"/docker/{OTHER}")
        made.until(lambda: made.details(new))
        assert made.writer.counter("names_refused")


def test_a_flood_of_containers_is_counted(tmp_path: Path) -> None:
    with instance(tmp_path, read=lambda container_id: None) as made:
        for number in range(containers.CONTAINERS_MAX + 5):
            row = made.row(7 + number, f"{number:064x}", f"/docker/{number:064x}")
            assert made.details(row) is None
        made.live.do_work(made.now)
        assert made.writer.counter("names_refused") >= 5
        assert len(made.live._known) <= containers.CONTAINERS_MAX


def test_a_rejected_reader_is_logged_once(tmp_path: Path) -> None:
    def denied(container_id: str) -> Names | None:
        raise NotAllowedError

    with instance(tmp_path, read=denied) as made:
        rows = [made.row(7), made.row(8, OTHER, f"/docker/{OTHER}")]
        made.until(lambda: all(known.failures for known in made.live._known.values()) and len(made.live._known) == 2)
        assert [made.details(row) for row in rows] == [None, None]
        assert len(made.warned) == 1 and "only root" in made.warned[0]


def test_a_file_system_that_hangs_blocks_nothing(tmp_path: Path) -> None:
    with instance(tmp_path, read=lambda container_id: time.sleep(3600)) as made:
        row = made.row(7)
        begin = time.monotonic()
        for _ in range(100):
            made.now += SWEEP_NS
            made.live.do_work(made.now)
        assert made.details(row) is None
        made.live.close(0.05)
        assert time.monotonic() - begin < 20


def test_a_successor_continues_with_the_files_of_its_predecessor(tmp_path: Path) -> None:
    write_docker(tmp_path, ID, "web")
    with instance(tmp_path) as first:
        row = first.row(7)
        first.until(lambda: first.details(row))
        first.live.close()
        good = (first.directory / shown.DIRECTORY / f"{ID}.json").read_text()
        for name, text in ((f"{OTHER}.json", "[]"), ("other.json", good), (f".{ID}.json.new", "{")):
            (first.directory / shown.DIRECTORY / name).write_text(text)

        second = LiveContainers(TakenOver(), second_encoder := Encoder(BOOT), first.directory)  # type: ignore[arg-type]
        second.begin()
        assert not list((first.directory / shown.DIRECTORY).glob(".*"))
        second_encoder.topics_mask = 0xFF
        second_encoder.add(first.writer, CONTEXT, 6, row.number, 5)
        (event,) = take(second_encoder)
        assert event["container_details"]["name"] == "web"
        third = Instance(first.writer, first.directory, tmp_path)  # no take-over
        assert first.read(row) is None
        third.live.close()


class TakenOver:
    """Tables that a predecessor filled."""

    is_takeover = True


@contextmanager
def left_behind(root: Path) -> Iterator[tuple[Instance, Path]]:
    """The instance directory of a predecessor that has ended, and the file of its container, whose labels it shows."""
    write_docker(root, ID, "web", password="x")
    with instance(root) as first:
        row = first.row(7)
        first.until(lambda: first.details(row))
        first.live.close()
        yield first, first.directory / shown.DIRECTORY / f"{ID}.json"


def successor(first: Instance, **options: Any) -> LiveContainers:
    made = LiveContainers(TakenOver(), Encoder(BOOT), first.directory, **options)  # type: ignore[arg-type]
    made.begin()
    return made


def test_labels_of_a_predecessor_are_removed_where_they_are_not_wanted(tmp_path: Path) -> None:
    with left_behind(tmp_path) as (first, file):
        assert json.loads(file.read_text())["labels"]
        second = successor(first, with_labels=False)
        assert not file.exists() and not second._known


def test_files_of_a_predecessor_get_the_present_access(tmp_path: Path) -> None:
    with left_behind(tmp_path) as (first, file):
        assert file.stat().st_mode & 0o777 == 0o644
        second = successor(first, mode=0o600)
        assert file.stat().st_mode & 0o777 == 0o600 and list(second._known) == [ID]


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_files_of_a_predecessor_with_another_group_are_removed(tmp_path: Path) -> None:
    with left_behind(tmp_path) as (first, file):
        os.chown(first.directory, -1, 12345)
        first.directory.chmod(0o2755)
        second = successor(first)
        assert not file.exists() and not second._known
        assert (file.parent.stat().st_gid, file.parent.stat().st_mode & 0o7777) == (12345, 0o2755)
        file.touch()
        successor(first)
        assert file.exists()


def test_a_file_that_could_not_be_written_is_written_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, content: bytes, mode: int) -> None:
        raise OSError(errno.ENOSPC, "full")

    write_docker(tmp_path, ID, "web")
    with instance(tmp_path) as made:
        row = made.row(7)
        with monkeypatch.context() as patched:
            patched.setattr(files, "replace", full)
            made.until(lambda: made.details(row))
            assert made.read(row) is None
        made.now += details.REREAD_NS
        made.step = SWEEP_NS
        made.until(lambda: made.read(row))
        assert made.read(row)["name"] == "web"


def test_files_have_the_mode_that_was_asked_for(tmp_path: Path) -> None:
    write_docker(tmp_path, ID, "web")
    with instance(tmp_path, mode=0o640) as made:
        row = made.row(7)
        made.until(lambda: made.details(row))
        directory = made.directory / shown.DIRECTORY
        assert directory.stat().st_mode & 0o777 == 0o755
        assert (directory / f"{ID}.json").stat().st_mode & 0o777 == 0o640


def test_details_have_a_bounded_size_and_valid_text() -> None:
    labels = {f"k{number:03}": "v" * 200 for number in range(64)}
    details, text = packed(Names("f", "n\ud800", "i" * 256, labels=labels))
    assert DETAILS_BYTES_MAX - 210 < len(text) <= DETAILS_BYTES_MAX
    assert msgpack.unpackb(text) == details and list(details["labels"]) == sorted(labels)[: len(details["labels"])]
    assert details["name"] == "n?"


def test_events_have_room_for_the_largest_details(tmp_path: Path) -> None:
    names = Names("f", labels={f"k{number:02}": "v" * 250 for number in range(15)})
    with instance(tmp_path, read=lambda container_id: names) as made:
        row = made.row(7)
        made.until(lambda: made.details(row))
        for _ in range(200):
            made.encoder.add(made.writer, CONTEXT, 6, row.number, 5)
        events = take(made.encoder)
        assert len(events) == 200 and {len(event["container_details"]["labels"]) for event in events} == {15}

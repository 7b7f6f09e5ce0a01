"""Names for a running instance: the encoder's cache, which names are requested, what readers find, what is rejected."""

from __future__ import annotations

import json
import os
import pwd
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.procfs.users import RootNames
from pipeline.resolver.stream._encoder import Encoder
from pipeline.resolver.stream._name_cache import GROUP, HOST_NAMES, USER, VIEWS_MAX, NameCache, Names
from pipeline.resolver.upkeep import aside, name_views, names
from pipeline.resolver.upkeep.name_reader import ViewNames, packed
from pipeline.resolver.upkeep.names import LiveNames
from pipeline.shm.layout import layout
from pipeline.shm.names.usernames import UserNames
from pipeline.shm.writer._writer import TableWriter
from tests.proc import namespace
from tests.procfs.roots import UNSHARED, needs_root, process_in
from tests.procfs.strangers import stranger
from tests.resolver.stream_rows import BOOT, CRED, FORK, Row, tables, take
from tests.resolver.upkeep.test_aside import threads
from tests.sampling import times
from tests.waiting import until

KNOWN = layout.KNOWN_CREDS | layout.KNOWN_NS


def view_names(users: dict[int, str], owner: int = 0) -> ViewNames:
    """The names that were read from a container."""
    return packed(RootNames(users, {}, [(0, 0, 1 << 32)], [], (0, 0), owner))


class Instance:
    """Tables, an encoder and `LiveNames`, stepped by the test."""

    def __init__(self, writer: TableWriter, directory: Path, **options: Any) -> None:
        self.writer = writer
        self.directory = directory
        self.asked: list[tuple[str, int]] = []
        self.encoder = Encoder(BOOT)
        self.encoder.topics_mask = 0xFF
        self.here = {"mnt_ns": namespace("self", "mnt"), "user_ns": namespace("self", "user")}
        self.row(1)
        self.now = 10**12
        self.live = LiveNames(writer, self.encoder, directory, name_of=self._name_of, now=lambda: self.now, **options)
        self.service = {"user": {4_000_000: "ldap"}, "group": {4_000_000: "ldaps"}}
        self.live.begin()

    def _name_of(self, kind: str, number: int) -> str:
        self.asked.append((kind, number))
        return self.service[kind][number]

    def row(self, tgid: int, **facts: Any) -> Row:
        facts = {"known": KNOWN, "flags": layout.ROW_HEAD} | self.here | facts
        return Row(self.writer, tgid=tgid, start_boot_ns=tgid, **facts)

    def event(self, row: Row, topic: int = CRED) -> dict[str, Any]:
        self.encoder.add(self.writer, topic, 1 if topic == FORK else 4, row.number, 5)
        (event,) = take(self.encoder)
        return event

    def user(self, row: Row) -> str | None:
        """The name that a newly started reader sees."""
        container = row.strings.get("container")
        place = (None if container is None else container.decode(), row["mnt_ns"], row["user_ns"])
        return UserNames(str(self.directory)).name("user", row["uid"], *place)

    def work(self) -> None:
        self.now += 1_000_000
        self.live.do_work(self.now)

    def until(self, condition: Callable[[], Any]) -> None:
        until(condition, pause_s=0.001, meanwhile=self.work)


@contextmanager
def instance(tmp_path: Path, **options: Any) -> Iterator[Instance]:
    with tables() as writer:
        made = Instance(writer, tmp_path, **options)
        try:
            yield made
        finally:
            made.live.close()


def test_answers_wait_until_they_are_handled(tmp_path: Path) -> None:
    before = threads()
    with instance(tmp_path) as made:
        row = made.row(7, uid=4_000_000)
        made.live.do_work(made.now)
        assert made.event(row)["user"] is None  # the event does not wait for the name service
        until(lambda: made.live.has_answers)
        made.live.do_work(made.now)
        assert not made.live.has_answers and made.event(row)["user"] == "ldap"
        made.live.close(60)
        assert threads() == before


def test_the_hosts_names_are_there_at_once(tmp_path: Path) -> None:
    with instance(tmp_path) as made:
        row = made.row(7)
        event = made.event(row)
        assert (event["user"], event["group"], event["fsuser"]) == ("root", "root", "root")
        assert made.user(row) == "root"
        assert made.asked == []


def test_where_the_user_namespace_is_not_known_the_hosts_names_count(tmp_path: Path) -> None:
    """In the host's mount namespace, where `shared_namespaces` has compared the ids; not for what a tracer reports."""
    with instance(tmp_path) as made:
        assert made.event(made.row(7, user_ns=0))["user"] == "root"
        assert made.event(made.row(8, user_ns=0, mnt_ns=made.here["mnt_ns"] + 1))["user"] is None
        foreign = made.row(9, user_ns=0, flags=layout.ROW_HEAD | layout.ROW_FOREIGN)
        assert made.event(foreign)["user"] is None


def test_the_name_service_is_asked_once_for_names_in_no_file(tmp_path: Path) -> None:
    with instance(tmp_path) as made:
        row = made.row(7, uid=4_000_000, euid=4_000_001, gid=4_000_000)
        assert made.event(row)["user"] is None
        made.until(lambda: made.event(row)["user"] == "ldap")
        event = made.event(row)
        assert (event["user"], event["euser"], event["group"]) == ("ldap", None, "ldaps")
        assert made.user(row) == "ldap"
        asked = sorted(made.asked)
        assert asked == [("group", 4_000_000), ("user", 4_000_000), ("user", 4_000_001)]
        for _ in range(20):
            made.event(row)
            made.live.do_work(made.now)
        time.sleep(0.02)
        assert sorted(made.asked) == asked


def test_the_user_of_a_session_is_named_by_files_and_by_the_name_service(tmp_path: Path) -> None:
    with instance(tmp_path) as made:
        assert made.live.user(0) == "root" and made.asked == []
        assert made.live.user(4_000_000) is None, "it is not waited for"
        made.until(lambda: made.live.user(4_000_000) == "ldap")
        made.until(lambda: made.live.user(4_000_001) is None and ("user", 4_000_001) in made.asked)
        for _ in range(20):
            made.live.user(4_000_001)
            made.live.do_work(made.now)
        assert len(made.asked) == 2, "an id without a name is asked for once"


def test_names_are_asked_for_without_a_subscriber(tmp_path: Path) -> None:
    """Readers need them too: the sweep finds the ids of living processes."""
    with instance(tmp_path) as made:
        made.encoder.topics_mask = 0
        row = made.row(7, uid=4_000_000)
        made.now += aside.SWEEP_NS
        made.until(lambda: made.user(row) == "ldap")


def test_owners_of_executables_are_asked_for_without_a_subscriber(tmp_path: Path) -> None:
    with instance(tmp_path) as made:
        made.encoder.topics_mask = 0
        record = np.zeros(1, layout.FILE)
        record["file_inode"], record["file_uid"], record["file_gid"] = 5, 4_000_000, 4_000_000
        made.row(7, file=record.tobytes() + b"/opt/tool")
        record["file_inode"], record["file_uid"] = 0, 4_000_001
        made.row(8, file=record.tobytes() + b"/opt/hidden")
        made.now += aside.SWEEP_NS
        host = {"container": None, "mnt_ns": made.here["mnt_ns"], "user_ns": made.here["user_ns"]}
        made.until(lambda: UserNames(str(tmp_path)).name("user", 4_000_000, **host) == "ldap")
        made.until(lambda: UserNames(str(tmp_path)).name("group", 4_000_000, **host) == "ldaps")
        assert sorted(made.asked) == [("group", 4_000_000), ("user", 4_000_000)]


@needs_root
def test_the_host_is_pid_1_and_its_new_users_are_noticed(tmp_path: Path, root: Path) -> None:
    """This process may have another root than the host, for example in a container with the host's pids."""
    (tmp_path / "proc").mkdir()
    with process_in(root) as tgid:
        (tmp_path / "proc/1").symlink_to(f"/proc/{tgid}")
        with instance(tmp_path, proc=str(tmp_path / "proc")) as made:
            row = made.row(7, uid=1000, euid=4_000_000)
            event = made.event(row)
            assert (event["user"], event["group"], made.user(row)) == ("app", None, "app")
            new = made.row(8, uid=1001)
            assert made.event(new)["user"] is None
            with (root / "etc/passwd").open("a") as file:
                file.write("new:x:1001:1001::/:/bin/sh\n")
            made.now += names.CHECK_NS
            made.until(lambda: made.event(new)["user"] == "new")
            assert made.user(new) == "new"
            # This process uses another name service.
            made.until(lambda: not made.encoder.names.is_wanting)
            assert made.asked == []


@needs_root
def test_a_container_has_names_of_its_own(tmp_path: Path, root: Path) -> None:
    with instance(tmp_path) as made, process_in(root) as tgid:
        row = made.row(tgid % 4096, uid=1000, container=b"c0ffee")
        made.live._reader.view, real = (lambda _, own, *__: real(tgid, own)), made.live._reader.view
        assert made.event(row)["user"] is None
        made.until(lambda: made.event(row)["user"] is not None)
        event = made.event(row)
        assert (event["user"], event["group"], made.user(row)) == ("app", None, "app")  # its group file has no 0
        # Elsewhere the same id is another user, or none.
        assert made.event(made.row(8, uid=1000))["user"] != "app"
        assert made.event(made.row(9, uid=1000, container=b"other"))["user"] is None


def test_a_process_with_the_hosts_root_is_not_used_for_container_names(tmp_path: Path) -> None:
    """runc joins the cgroup before it changes the root. In between, uid 0 would get the host's name."""
    with instance(tmp_path) as made, subprocess.Popen(["sleep", "60"]) as child:
        answers: list[Any] = []
        real = made.live._reader.view

        def view(_: int, is_container: bool, *__: int) -> Any:
            answers.append(real(child.pid, is_container))
            return answers[-1]

        made.live._reader.view = view
        row = made.row(7, container=b"c0ffee")
        made.event(row)
        made.until(lambda: answers)
        for _ in range(200):  # each event asks again, but at most once every RETRY_NS
            made.now += 1_000_000
            made.live.do_work(made.now)
            assert made.event(row)["user"] is None
        assert all(answer is None for answer in answers) and len(answers) < 10
        assert made.user(row) is None
        child.kill()


@needs_root
def test_where_a_user_made_the_namespaces_the_hosts_names_count(tmp_path: Path) -> None:
    """A user may mount any file over ``/etc/passwd`` there. Its cgroup can also be named like a container's."""
    with instance(tmp_path) as made, stranger(UNSHARED, user=65534) as tgid:
        there = {"mnt_ns": namespace(tgid, "mnt"), "user_ns": namespace(tgid, "user"), "uid": 65534, "euid": 65534}
        real, made.live._reader.view = made.live._reader.view, lambda _, *place: real(tgid, *place)
        for pid, container in ((7, None), (8, b"c0ffee")):
            row = made.row(pid, **there, **({} if container is None else {"container": container}))
            assert made.event(row)["user"] is None
            made.until(lambda row=row: made.event(row)["user"] is not None)
            event = made.event(row)
            assert (event["user"], event["euser"], event["group"]) == ("nobody", "nobody", "root")
            assert made.user(row) == "nobody"
        # From now on the host's names apply.
        made.live._users[65534] = "renamed"
        made.live._show_host()
        assert (
            made.event(row)["user"]
            == "renamed"
            == UserNames(str(tmp_path)).name("user", 65534, "c0ffee", row["mnt_ns"], row["user_ns"])
        )


def test_the_name_service_is_asked_for_ids_in_users_own_namespaces_a_few_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(names, "STRANGERS_IDS", 3)
    with instance(tmp_path) as made:
        made.live._reader.view = lambda *_: packed(RootNames({}, {}, [], [], (0, 0), 7))
        facts = {"mnt_ns": 10_000, "user_ns": 20_000}
        row = made.row(7, uid=4_000_000, gid=4_000_000, **facts)
        made.event(row)
        made.until(lambda: any(known.names is HOST_NAMES for _, known in made.live._views))
        for _ in range(20):
            assert made.event(row)["user"] is None
            made.live.do_work(made.now)
        assert made.asked == [], "no event asks for them"
        made.now += aside.SWEEP_NS
        made.until(lambda: made.event(row)["user"] == "ldap")
        assert (made.event(row)["group"], made.user(row)) == ("ldaps", "ldap")
        del made.asked[:]
        known = len(made.encoder.names.host)
        for number in range(20):
            made.row(10 + number, uid=4_000_001 + number, **facts)
        for sweep in range(1, 4):
            made.now += aside.SWEEP_NS
            made.live.do_work(made.now)
            made.until(lambda sweep=sweep: len(made.asked) == 3 * sweep)
            time.sleep(0.01)
            assert len(set(made.asked)) == len(made.asked) == 3 * sweep
        made.until(lambda: not made.live.has_answers)
        assert len(made.encoder.names.host) == known, "what has no name takes no memory"


@needs_root
def test_a_container_that_changes_its_root_late_is_read_then(tmp_path: Path, root: Path) -> None:
    with instance(tmp_path) as made, process_in(root) as tgid:
        ready: list[bool] = []
        real = made.live._reader.view
        made.live._reader.view = lambda _, own, *__: real(tgid, own) if ready else None
        row = made.row(7, uid=1000, container=b"c0ffee")
        made.event(row)
        made.until(lambda: any(known.failures for _, known in made.live._views))
        ready.append(True)
        made.now += 2 * names.RETRY_NS
        made.until(lambda: made.event(row)["user"] == "app")


@needs_root
def test_readers_learn_of_a_container_without_a_subscriber(tmp_path: Path, root: Path) -> None:
    with instance(tmp_path) as made, process_in(root) as tgid:
        made.encoder.topics_mask = 0
        made.live._reader.view, real = (lambda _, own, *__: real(tgid, own)), made.live._reader.view
        row = made.row(7, uid=1000, container=b"c0ffee")
        made.encoder.add(made.writer, CRED, 4, row.number, 5)
        made.until(lambda: made.user(row) == "app")
        other = made.row(8, uid=1000, container=b"decaf")  # no event: only the sweep finds it
        made.now += aside.SWEEP_NS
        made.until(lambda: made.user(other) == "app")


def test_containers_may_be_left_alone(tmp_path: Path) -> None:
    with instance(tmp_path, with_containers=False) as made:
        row = made.row(7, container=b"c0ffee")
        made.event(row)
        made.now += 10 * aside.SWEEP_NS
        made.live.do_work(made.now)
        assert len(made.live._views) == 0 and made.event(row)["user"] is None
        assert made.event(made.row(8))["user"] == "root"


def test_containers_beyond_the_bound_leave(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names, "VIEWS_MAX", 3)
    with instance(tmp_path) as made:
        made.live._reader.view = lambda _, own, *__: view_names({0: "inside"})
        rows = [made.row(10 + n, container=b"c%d" % n) for n in range(5)]
        for row in rows:
            made.event(row)
            made.until(lambda row=row: made.event(row)["user"] == "inside")
        assert len(made.live._views) == 3
        assert [made.user(row) for row in rows] == [None, None, "inside", "inside", "inside"]
        assert len(list((tmp_path / "users").iterdir())) == 4


def test_one_users_containers_do_not_push_out_those_of_others(tmp_path: Path) -> None:
    """A user can create thousands of namespaces."""
    with instance(tmp_path) as made:
        made.live._reader.view = lambda tgid, own, *_: view_names({}, 7) if tgid >= 100 else view_names({0: "in"})
        calm = [made.row(10 + n, container=b"calm%d" % n) for n in range(20)]
        for row in calm:
            made.event(row)
        made.until(lambda: all(made.event(row)["user"] == "in" for row in calm))
        for n in range(400):
            made.event(made.row(100 + n, mnt_ns=10_000 + n, user_ns=20_000 + n, uid=7))
            made.live.do_work(made.now)
            made.now += 1_000_000
        made.now += aside.SWEEP_NS
        made.until(lambda: not made.live._pending)
        assert all(made.event(row)["user"] == made.user(row) == "in" for row in calm)
        views = made.live._views
        assert views._count[7] <= name_views.VIEWS_PER_USER
        assert views._bytes[7] > 100_000, "some of them are kept"
        on_disk = sum(file.stat().st_blocks * 512 for file in (tmp_path / "users").glob("*.json"))
        assert on_disk <= name_views.VIEWS_PER_USER * 4096 + 21 * 8192
        assert made.writer.counter("names_evicted") > 0 and made.writer.counter("names_refused") > 0


@pytest.mark.expensive
def test_all_containers_together_are_bounded(tmp_path: Path) -> None:
    with instance(tmp_path) as made:
        many = {number: f"{number:040}" for number in range(1000)}
        made.live._reader.view = lambda tgid, own, *_: view_names(many)
        for n in range(200):
            made.event(made.row(100 + n, container=b"c%d" % n))
            made.live.do_work(made.now)
            made.until(lambda: not made.live._pending)
        assert name_views.BYTES_MAX // 2 < made.live._views.nbytes <= name_views.BYTES_MAX
        assert made.user(Row(made.writer, tgid=299, container=b"c199", **made.here)) is not None
        assert made.writer.counter("names_evicted") > 0


def test_a_container_is_forgotten_when_its_last_process_has_ended_for_a_while(tmp_path: Path) -> None:
    with instance(tmp_path, forget_ns=60_000_000_000) as made:
        made.live._reader.view = lambda tgid, own, *_: view_names({0: "in"})
        row = made.row(10, container=b"c")
        made.event(row)
        made.until(lambda: made.event(row)["user"] == "in")
        made.now += 50_000_000_000
        made.live.do_work(made.now)  # it is alive, and the sweep sees it
        made.now += 50_000_000_000
        made.live.do_work(made.now)
        made.until(lambda: not made.live._pending)
        assert made.user(row) == "in"
        made.writer.hot_view()["known"][row.number] = 0  # the sweep no longer sees it as alive
        made.now += 59_000_000_000
        made.live.do_work(made.now)
        assert made.user(row) == "in"
        made.now += 4_000_000_000
        made.live.do_work(made.now)
        assert len(made.live._views) == 0 and made.user(row) is None


def test_files_have_the_mode_that_was_asked_for(tmp_path: Path) -> None:
    with instance(tmp_path, mode=0o640):
        (file,) = (tmp_path / "users").iterdir()
        assert file.stat().st_mode & 0o777 == 0o640
        assert json.loads(file.read_text())["user"]["0"] == pwd.getpwuid(0).pw_name


@needs_root
def test_files_have_the_group_of_the_instance(tmp_path: Path) -> None:
    os.chown(tmp_path, -1, 4_000_000)
    tmp_path.chmod(0o2755)
    with instance(tmp_path, mode=0o640):
        assert (tmp_path / "users").stat().st_mode & 0o7777 == 0o2755
        assert (tmp_path / "users/host.json").stat().st_gid == 4_000_000


def test_a_fresh_start_deletes_the_files_of_a_predecessor(tmp_path: Path) -> None:
    (tmp_path / "users").mkdir()
    (tmp_path / "users/stale.json").write_text("{}")
    with instance(tmp_path):
        assert [file.name for file in (tmp_path / "users").iterdir()] == ["host.json"]


def test_files_of_predecessors_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names, "VIEWS_MAX", 3)
    monkeypatch.setattr(aside.files, "remove_tree", lambda _: None)  # as in a take-over
    (tmp_path / "users").mkdir()
    for number in range(9):
        (tmp_path / f"users/{number}.json").write_text("{}")
        os.utime(tmp_path / f"users/{number}.json", ns=(number, number))
    with instance(tmp_path):
        monkeypatch.undo()
        assert sorted(file.name for file in (tmp_path / "users").iterdir()) == [
            "6.json", "7.json", "8.json", "host.json",
        ]  # fmt: skip


def test_a_hanging_look_up_blocks_nothing(tmp_path: Path) -> None:
    ends = threading.Event()
    with instance(tmp_path) as made:
        made.live._reader.view = lambda _, own, *__: ends.wait(3600)
        made.event(made.row(7, container=b"c0ffee"))
        begin = time.monotonic()
        for _ in range(2 * names.JOBS_MAX):
            made.now += names.CHECK_NS
            made.live.do_work(made.now)
        assert made.event(made.row(8))["user"] == "root"
        made.live.close(0.05)
        assert time.monotonic() - begin < 20
        ends.set()


def test_names_are_found_among_many() -> None:
    users = {number * 7919 % 2**32: f"user{number}" for number in range(5000)}
    made = NameCache(Names(users, {number: f"g{number}" for number in users}), 0, 0)
    assert len(made.host) == 10_000
    with tables() as writer:
        encoder = Encoder(BOOT)
        encoder.topics_mask, encoder.names = 0xFF, made
        for tgid, number in enumerate(list(users)[::500], 10):
            row = Row(writer, tgid=tgid, start_boot_ns=5, known=KNOWN, uid=number, gid=number, mnt_ns=1, user_ns=1)
            encoder.add(writer, FORK, 1, row.number, 5)
            (event,) = take(encoder)
            assert (event["user"], event["group"]) == (users[number], f"g{number}")


def test_a_cache_notes_each_miss_once() -> None:
    with tables() as writer:
        encoder = Encoder(BOOT)
        encoder.topics_mask = 0xFF
        cache = encoder.names = NameCache(Names(), 1, 1)
        facts = {"known": KNOWN, "start_boot_ns": 5, "mnt_ns": 1, "user_ns": 1}
        for tgid in (10, 11):
            row = Row(writer, tgid=tgid, uid=3, euid=3, fsuid=3, gid=4, egid=4, fsgid=4, **facts)
            encoder.add(writer, FORK, 1, row.number, 5)
            row = Row(writer, tgid=tgid + 10, container=b"c0ffee", **facts)
            encoder.add(writer, FORK, 1, row.number, 5)
        assert cache.is_wanting
        assert cache.take_wanted() == ([(b"c0ffee", 1, 1, 20)], [(USER, 3), (GROUP, 4)])
        assert not cache.is_wanting
        for number in range(2 * VIEWS_MAX):
            row = Row(writer, tgid=100 + number % 900, container=b"c%d" % number, **facts)
            encoder.add(writer, FORK, 1, row.number, 5)
        assert all(event["user"] is None for event in take(encoder)[4:])


def test_a_name_is_user_or_group() -> None:
    with pytest.raises(ValueError, match="USER or GROUP"):
        Names().add(3, 0, "x")


MEMORY_SCRIPT = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from tests.resolver.upkeep import test_names
from tests.procfs.roots import process_in

def rss():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

directory, count = Path(sys.argv[2]), int(sys.argv[3])
root = directory / "root"
(root / "etc").mkdir(parents=True)
lines = "".join(f"user{number:06}:x:{number}:1::/home/user{number:06}:/bin/sh\\n" for number in range(25_000))
(root / "etc/passwd").write_text(lines[: 1 << 20])
(root / "etc/group").write_text(lines[: 1 << 20])
(directory / "run").mkdir()
with test_names.instance(directory / "run") as made, process_in(root) as tgid:
    asked = []
    real = made.live._reader.view

    def view(_, is_container, *__):
        asked.append(1)
        return real(tgid, is_container)

    made.live._reader.view = view
    before = rss()
    for number in range(count):
        made.event(made.row(10 + number, mnt_ns=5000 + number, user_ns=6000 + number, uid=0))
        made.live.do_work(made.now)
        made.until(lambda: len(asked) > number and not any(known.is_asked for _, known in items(made)))
    grown = rss() - before
    disk = sum(file.stat().st_blocks * 512 for file in (directory / "run/users").iterdir())
    print(grown, disk)
"""


@pytest.mark.expensive
@pytest.mark.slow
@needs_root
def test_memory_for_containers_with_large_files_is_bounded(tmp_path: Path) -> None:
    """Each such container cost the resolver 9 MB that it never freed, for up to 1,024 containers."""
    script = MEMORY_SCRIPT.replace("items(made)", "made.live._views")
    done = subprocess.run(
        [sys.executable, "-c", script, str(Path(__file__).parent), str(tmp_path), str(times(200, 20))],
        capture_output=True, text=True, timeout=120, env=dict(os.environ, PYTHONPATH=str(Path(__file__).parents[3])),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    grown, disk = map(int, done.stdout.split())
    assert grown < name_views.BYTES_MAX + (8 << 20), f"{grown >> 20} MiB"
    assert disk < name_views.BYTES_MAX, f"{disk >> 20} MiB of files"

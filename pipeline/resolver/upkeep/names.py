"""Names of users and groups for a running instance: in the events of its stream, and in files for its readers.

Reading names needs a file system or a name service. So a separate thread reads them, once for the host and once for
each container, and no row, event or reader waits: an unknown name is null. A container's files are read as soon as one
of its processes is seen, because the container may be gone when the names are needed. `name_reader` reads the names,
`pipeline.procfs.users` reads a foreign root safely, `_name_cache` finds names for the stream, and
`pipeline.shm.names.usernames` finds them for readers.

A process has the host's names if it is in no container and has the mount and user namespaces of pid 1, or if a user
other than root made one of these two namespaces. Otherwise it has the names in its own root directory. A process on its
way into a container still has the host's root (runc joins the cgroup before it changes the root). Its names are not
used then; they are read again a little later.

`LiveNames` is no `details.LiveDetails`, which has one value for each key. A view has many names, and its bytes are
limited for each user. Ids that are in no file are looked up one by one, and the host's files are watched for changes.
`aside` has the parts that both need: a thread, files for readers, and times of sweeps.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.host import memory
from pipeline.host.alive import watched
from pipeline.host.boot import now_boot_ns
from pipeline.procfs.users import Kind, host_name
from pipeline.resolver.stream._name_cache import GROUP, USER, VIEWS_MAX, NameCache, Names
from pipeline.resolver.upkeep.aside import Aside, ReadersFiles, Sweeps
from pipeline.resolver.upkeep.details import FORGET_NS
from pipeline.resolver.upkeep.foreign import key_of
from pipeline.resolver.upkeep.name_reader import NameReader, ViewNames
from pipeline.resolver.upkeep.name_views import View, Views
from pipeline.resolver.upkeep.namespaces import host_namespaces
from pipeline.shm.names.usernames import DIRECTORY, HOST_FILE, file_name

if TYPE_CHECKING:
    from pipeline.resolver.stream._encoder import Encoder
    from pipeline.shm.writer._writer import TableWriter

#: How often the host's files are checked for changes.
CHECK_NS = 2_000_000_000
#: A container's files are read again after REREAD_NS. Namespaces younger than YOUNG_NS are read again at once, because
#: their first process may not have changed its root yet.
REREAD_NS = 30_000_000_000
YOUNG_NS = 10_000_000_000
#: A container that could not be read is read again after RETRY_NS, then after twice that time, and so on.
RETRY_NS = 100_000_000
RETRY_MAX_NS = 10_000_000_000
#: An id of the host without a name is looked up again after this.
MISS_NS = 60_000_000_000
IDS_MAX = 4096
#: Ids in the namespaces of one user that are looked up in one sweep.
STRANGERS_IDS = 16
JOBS_MAX = 4096

#: After its names were evicted, a container is read again when this time has passed.
EVICTED_NS = 60_000_000_000
#: Answers that are handled in one turn, so that events do not wait.
ANSWERS_PER_TURN = 16
#: Reading files in the namespaces of unprivileged users takes at most this share of a CPU.
STRANGERS_SHARE = 0.2
PAUSE_MAX_S = 0.2
#: Files of a predecessor that are kept until their containers are read again.
LEFT_BYTES = 4 << 20
#: Freed memory is returned to the kernel if there is this much of it, and no more often than this.
GIVE_BACK_BYTES = 1 << 20
GIVE_BACK_NS = 10_000_000_000


class LiveNames:
    """Keeps the encoder's cache and the readers' files up to date. A part of the resolver's duty cycle.

    Args:
        tables, encoder: of this instance.
        directory: the instance's runtime directory; a predecessor's files there are replaced one by one.
        mode: of the files. Their group is that of the directory, if it has the set-group-id bit.
        with_containers: read the roots of containers.
        proc: where procfs is mounted.
        name_of: asks the host's name service; raises KeyError for an id without a name.
        now: the boot clock, in ns.
        is_traced: tracers report the processes, which are found in ``/proc`` by their keys.
        forget_ns: a view without a live process for this long is forgotten.
    """

    def __init__(
        self,
        tables: TableWriter,
        encoder: Encoder,
        directory: Path,
        *,
        mode: int = 0o644,
        with_containers: bool = True,
        proc: str = "/proc",
        name_of: Callable[[Kind, int], str] = host_name,
        now: Callable[[], int] = now_boot_ns,
        is_traced: bool = False,
        forget_ns: int = FORGET_NS,
    ) -> None:
        self._tables = tables
        self._encoder = encoder
        self._files = ReadersFiles(directory / DIRECTORY, mode)
        self._with_containers = with_containers
        self._name_of = name_of
        self._now = now
        self._is_traced = is_traced
        self._views = Views(VIEWS_MAX)
        self._forget_ns = forget_ns
        self._is_changed = False  #: the encoder's cache differs from `_views`
        self._left: list[str] = []  # files of a predecessor
        self._forget_left_ns = 0
        self._users: dict[int, str] = {}
        self._groups: dict[int, str] = {}
        self._service: dict[tuple[int, int], str] = {}  # of ids that are in no file
        self._asked_ids: dict[tuple[int, int], int] = {}
        self._checked_ns = 0
        self._sweeps = Sweeps()
        self._reader = NameReader(proc, name_of)
        self._pending: Counter[int] = Counter()  # views that are being read, by user
        # In turn: the host and root's containers, then one of each other user, and so on.
        self._aside: Aside[tuple[Any, ...]] = Aside(
            "names", jobs_max=JOBS_MAX, cpu_share=STRANGERS_SHARE, pause_max_s=PAUSE_MAX_S
        )
        self._freed_bytes = self._gave_back_ns = 0

    # -- duty cycle ----------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Read the host's names and start the thread; call it when pid 1 is in the tables.

        Raises:
            OSError: the directory cannot be made.
        """
        self._files.begin(keeps=self._tables.is_takeover)
        self._keep_files_of_predecessor()
        mnt_ns, user_ns = host_namespaces(self._tables)
        self._encoder.names = NameCache(Names(), mnt_ns, user_ns)
        self._read_host_first()
        self._checked_ns = self._now()
        self._handle_answers()
        if not (self._files.path / HOST_FILE).exists():
            self._write_host()

    def _keep_files_of_predecessor(self) -> None:
        """Keep a bounded number of a predecessor's files until their views are read again; the newest ones first."""
        left = sorted(self._files.path.glob("*.json"), key=lambda file: file.stat().st_mtime_ns)
        room = LEFT_BYTES
        for file in reversed(left):
            if file.name == HOST_FILE:
                continue
            room -= file.stat().st_size
            if room < 0 or len(self._left) >= VIEWS_MAX:
                file.unlink(missing_ok=True)
            else:
                self._left.append(file.name)
        self._forget_left_ns = self._now() + self._forget_ns

    def _read_host_first(self) -> None:
        """Wait for the host's names, which the first events need; a file that hangs must not block the start."""
        self._ask(self._reader.host)
        for _ in watched(range(200), self._tables.py_show_life):
            if self._aside.wait(0.005):
                break

    @property
    def has_answers(self) -> bool:
        """Whether the thread has answers that `do_work` has not handled yet."""
        return self._aside.has_answers

    def do_work(self, now: int) -> None:
        """Request missing names and handle answers; this is cheap if there are none."""
        cache = self._encoder.names
        if cache is None:
            return
        self._handle_answers()
        if cache.is_wanting:
            views, ids = cache.take_wanted()
            for container, mnt_ns, user_ns, tgid in views:
                self._want((container, mnt_ns, user_ns), tgid, now)
            self._want_ids(ids, now)
        if now - self._checked_ns >= CHECK_NS:
            self._checked_ns = now
            self._ask(self._reader.host)
        if now >= self._sweeps.due_ns:
            self._sweeps.begin()
            self._sweep(now)
            self._forget(now)
            self._sweeps.end(now)
        if self._is_changed:
            self._show_views()

    def user(self, uid: int) -> str | None:
        """Return the host's name of a user; None: there is none, or it is being looked up."""
        name = self._users.get(uid) or self._service.get((USER, uid))
        if not name:
            self._want_ids([(USER, uid)], self._now())
        return name or None

    def close(self, timeout_s: float = 1.0) -> None:
        """End the thread, and abandon what it is reading."""
        self._aside.close(timeout_s)

    # -- requests ------------------------------------------------------------------------------------------------------

    def _sweep(self, now: int) -> None:
        """Request each view, and each of the host's ids, of live processes."""
        cache = self._encoder.names
        assert cache is not None
        views, ids, strangers = cache.living(self._tables)
        for container, mnt_ns, user_ns, tgid in watched(views, self._tables.py_show_life):
            self._want((container, mnt_ns, user_ns), tgid, now)
        self._want_ids(sorted(ids), now)
        for theirs in strangers.values():
            new = [one for one in theirs if now >= self._asked_ids.get(one, 0)]
            self._want_ids(new[:STRANGERS_IDS], now, is_strangers=True)

    def _want(self, view: View, tgid: int, now: int) -> None:
        """Read a view through one of its processes, unless it was read or requested a short time ago."""
        if not self._with_containers:
            return
        cache = self._encoder.names
        if self._is_traced and cache is not None and view[2] != cache.host_user_ns:
            return  # a tracer's ids are those of its own user namespace: here they belong to other users
        known = self._views.get(view)
        known = self._views.see(view, self._user_of(tgid) if known is None else known.user, now)
        self._make_room(now)
        if known.is_asked or now < known.due_ns:
            return
        user = known.user
        key = key_of(self._tables, tgid) if self._is_traced else None

        def read() -> tuple[Any, ...]:
            if key is not None:
                return "view", view, user, self._reader.foreign_view(key, view[1], bool(view[0]))
            return "view", view, user, self._reader.view(tgid, bool(view[0]), *view[1:])

        known.is_asked = self._ask(read, user)
        if known.is_asked:
            self._pending[user] += 1

    def _user_of(self, tgid: int) -> int:
        """Return the user to which a new view is charged until the owner of its user namespace is known."""
        row = self._tables.py_head(tgid)
        return int(self._tables.hot_view()["uid"][row]) if row else 0

    def _make_room(self, now: int) -> None:
        """Evict names of views until all limits hold."""
        while (surplus := self._views.surplus()) is not None:
            view, is_for_bytes = surplus
            self._drop(view, now + EVICTED_NS if is_for_bytes else 0)
            self._tables.count("names_evicted")

    def _drop(self, view: View, due_ns: int = 0) -> None:
        """Drop a view, or with `due_ns` only its names, until then."""
        known = self._views.get(view)
        assert known is not None
        self._freed_bytes += known.nbytes
        self._is_changed |= known.names is not None
        if due_ns:
            self._views.strip(view, due_ns)
        else:
            self._views.forget(view)
        self._files.remove(_file_of(view))

    def _forget(self, now: int) -> None:
        """Drop views without a live process for a long time, and return freed memory to the kernel."""
        gone = [view for view, known in self._views if now - known.seen_ns > self._forget_ns and not known.is_asked]
        for view in gone:
            self._drop(view)
        cache = self._encoder.names
        assert cache is not None
        if refused := cache.take_refused():
            self._tables.count("names_refused", refused)
        if self._left and now >= self._forget_left_ns:
            for name in self._left:
                self._files.remove(name)
            self._left = []
        if self._freed_bytes >= GIVE_BACK_BYTES and now - self._gave_back_ns >= GIVE_BACK_NS:
            self._freed_bytes, self._gave_back_ns = 0, now
            self._ask(memory.give_back)

    def _want_ids(self, ids: list[tuple[int, int]], now: int, is_strangers: bool = False) -> None:
        new = [one for one in ids if now >= self._asked_ids.get(one, 0)]
        if not new:
            return
        if len(self._asked_ids) > IDS_MAX:
            self._asked_ids.clear()

        def read() -> tuple[Any, ...]:
            found = self._reader.ids(new)
            # Remember an id without a name, so that it is not noted again; ids of foreign namespaces are never noted.
            return "ids", {one: name for one, name in found.items() if name or not is_strangers}

        if self._ask(read):
            self._asked_ids.update(dict.fromkeys(new, now + MISS_NS))

    def _ask(self, job: Callable[[], tuple[Any, ...] | None], user: int = 0) -> bool:
        return self._aside.ask(job, 1 + self._pending[user] if user else 0, rests=user != 0)

    # -- answers -------------------------------------------------------------------------------------------------------

    def _handle_answers(self) -> None:
        for what, *answer in self._aside.take(ANSWERS_PER_TURN):
            if what == "host":
                self._users, self._groups = answer
                self._show_host()
            elif what == "ids":
                self._learn_ids(answer[0])
            else:
                self._is_changed |= self._learn_view(*answer)

    def _show_views(self) -> None:
        cache = self._encoder.names
        assert cache is not None
        self._is_changed = False
        cache.set_views({view: (known.names, known.user) for view, known in self._views if known.names is not None})

    def _show_host(self) -> None:
        cache = self._encoder.names
        assert cache is not None
        users, groups = self._host_names()
        cache.set_host(Names(users, groups))
        self._asked_ids.clear()
        self._write_host()

    def _write_host(self) -> None:
        cache = self._encoder.names
        assert cache is not None
        users, groups = self._host_names()
        content = {"mnt_ns": cache.host_mnt_ns, "user_ns": cache.host_user_ns, "user": users, "group": groups}
        self._write(HOST_FILE, json.dumps(content).encode("ascii"))

    def _host_names(self) -> tuple[dict[int, str], dict[int, str]]:
        """Return users and groups; files take precedence, as in name services."""
        known = self._service.items()
        users = {number: name for (kind, number), name in known if kind == USER} | self._users
        return users, {number: name for (kind, number), name in known if kind == GROUP} | self._groups

    def _learn_ids(self, found: dict[tuple[int, int], str]) -> None:
        """Store names that only the name service has (such as LDAP); "" is stored in the cache only."""
        cache = self._encoder.names
        assert cache is not None
        before = dict(self._service)
        for (kind, number), name in found.items():
            cache.host.add(kind, number, name)
            if name:
                self._service[kind, number] = name
            else:
                self._service.pop((kind, number), None)
        if self._service != before:
            self._write_host()

    def _learn_view(self, view: View, asked_by: int, found: ViewNames | None) -> bool:
        """Store the names of a view; return whether the cache must change, as it also must after most failures."""
        self._pending[asked_by] -= 1
        if not self._pending[asked_by]:
            del self._pending[asked_by]
        known = self._views.get(view)
        if known is None:
            return False
        now = self._now()
        known.is_asked = False
        if found is None:
            known.due_ns = now + min(RETRY_NS << min(known.failures, 16), RETRY_MAX_NS)
            known.failures += 1
            # The names of a container stay valid; those of a namespace may not, because its number may be reused.
            return known.names is None or not view[0]
        known.failures = 0
        known.due_ns = now if now - known.first_ns < YOUNG_NS else now + REREAD_NS
        if known.names is not None and known.digest == found.digest:
            return False
        # The owner of the namespaces is known now, so the view is charged to that user.
        self._views.put(view, found.owner, found.names, found.digest, len(found.file))
        if found.is_cut:
            self._tables.count("names_refused")
        self._write(_file_of(view), found.file)
        self._make_room(now)
        return True

    def _write(self, name: str, content: bytes) -> None:
        if name in self._left:
            self._left.remove(name)
        self._files.write(name, content)


def _file_of(view: View) -> str:
    return file_name(view[0].decode("utf-8", "surrogateescape"), view[1], view[2])

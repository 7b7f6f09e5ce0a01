"""Names of users and groups for a running instance: in the events of its stream, and in files for its readers.

Names cost a file system or a name service, so they are read on a thread of their own, once for the host and once for
each container, and no row, event or reader waits: what is not known yet is null. A container's files are read as soon
as one of its processes is seen, as it may be gone when somebody asks. What is read is in `name_reader`, how a foreign
root is read safely in `users`, how the stream finds a name in `_names`, how readers do in `pipeline.shm.usernames`.

Whose names count for a process: the host's, if its mount and user namespace are those of pid 1 and it is in no
container; else those in its own root directory. A process that is on its way into a container still has the host's root
(runc joins the cgroup before it changes the root): then nothing is believed, and it is asked again a little later.
"""

from __future__ import annotations

import contextlib
import json
import queue
import shutil
import stat
import threading
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.boot import now_boot_ns
from pipeline.resolver._names import GROUP, USER, VIEWS_MAX, NameCache, Names
from pipeline.resolver.alive import watched
from pipeline.resolver.foreign import key_of
from pipeline.resolver.name_reader import NameReader
from pipeline.resolver.users import Kind, host_name
from pipeline.shm import layout
from pipeline.shm.usernames import DIRECTORY, HOST_FILE, file_name

if TYPE_CHECKING:
    from pipeline.resolver._encode import Encoder
    from pipeline.shm._writer import TableWriter

#: How often the host's files are looked at for changes, and how often the rows for containers that nobody noted.
CHECK_NS = 2_000_000_000
SWEEP_NS = 2_000_000_000
#: The time between two sweeps is at least so many times what one takes: some 10 ns a row.
SWEEP_SHARE = 500
#: A container's files may change; and namespaces whose first process may not have changed its root yet are young.
REREAD_NS = 30_000_000_000
YOUNG_NS = 10_000_000_000
#: A container that could not be read is asked again after this, then after twice as long, and so on.
RETRY_NS = 100_000_000
RETRY_MAX_NS = 10_000_000_000
#: An id of the host that has no name is asked for again.
MISS_NS = 60_000_000_000
IDS_MAX = 4096
JOBS_MAX = 4096

#: Container id, mount namespace, user namespace.
View = tuple[bytes, int, int]


@dataclass(slots=True)
class _Known:
    """What is known of one view; `names` is None while nothing is."""

    names: Names | None = None
    users: dict[int, str] = field(default_factory=dict)
    groups: dict[int, str] = field(default_factory=dict)
    first_ns: int = 0
    due_ns: int = 0
    failures: int = 0
    is_asked: bool = False


class LiveNames:
    """Keeps the encoder's cache and the readers' files up to date. A part of the resolver's duty cycle.

    Args:
        tables, encoder: of this instance.
        directory: the instance's runtime directory; what a predecessor left there is replaced as it becomes known.
        mode: of the files. Their group is the instance's directory's, where that has the set-group-id bit.
        with_containers: whether the roots of containers are read at all.
        proc: where procfs is mounted.
        look_up: asks the host's name service; raises KeyError for an id without a name.
        now: the boot clock, in ns.
        is_traced: processes are those of tracers, which are found in ``/proc`` by their keys.
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
        look_up: Callable[[Kind, int], str] = host_name,
        now: Callable[[], int] = now_boot_ns,
        is_traced: bool = False,
    ) -> None:
        self._tables = tables
        self._encoder = encoder
        self._directory = directory / DIRECTORY
        self._mode = mode
        self._with_containers = with_containers
        self._look_up = look_up
        self._now = now
        self._is_traced = is_traced
        self._views: OrderedDict[View, _Known] = OrderedDict()
        self._users: dict[int, str] = {}
        self._groups: dict[int, str] = {}
        self._service: dict[tuple[int, int], str] = {}  # of ids that are in no file
        self._asked_ids: dict[tuple[int, int], int] = {}
        self._checked_ns = self._sweep_due_ns = 0
        self._reader = NameReader(proc, look_up)
        self._jobs: queue.Queue[Callable[[], tuple[Any, ...] | None] | None] = queue.Queue(JOBS_MAX)
        self._answers: deque[tuple[Any, ...]] = deque()
        # A daemon: a look-up that hangs must not keep the process from ending.
        self._thread = threading.Thread(target=self._work, name="names", daemon=True)

    # -- duty cycle ----------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Learn the host's names and start; call when the tables know pid 1.

        Raises:
            OSError: the directory cannot be made.
        """
        if not self._tables.is_takeover:
            shutil.rmtree(self._directory, ignore_errors=True)
        self._directory.mkdir(exist_ok=True)
        self._directory.chmod(0o755 | self._directory.stat().st_mode & stat.S_ISGID)
        # A predecessor's views are shown until they are known again; how old they are only their files tell.
        left = sorted(self._directory.glob("*.json"), key=lambda file: file.stat().st_mtime_ns)
        for file in left[:-VIEWS_MAX]:
            file.unlink(missing_ok=True)
        mnt_ns, user_ns = self._host_namespaces()
        self._encoder.names = NameCache(Names(), mnt_ns, user_ns)
        self._thread.start()
        # Waited for, so that the first events have names; a host whose files hang must not keep us from starting.
        self._ask(self._reader.host)
        for _ in watched(range(200), self._tables.py_show_life):
            if self._answers or not self._thread.is_alive():
                break
            self._thread.join(0.005)
        self._checked_ns = self._now()
        self._take_answers()
        if not (self._directory / HOST_FILE).exists():
            self._write_host()

    @property
    def has_answers(self) -> bool:
        """Whether something came that `poll` has not taken yet."""
        return bool(self._answers)

    def poll(self, now: int) -> None:
        """Ask for what is missing and take what has come; costs next to nothing when there is neither."""
        cache = self._encoder.names
        if cache is None:
            return
        if self._answers:
            self._take_answers()
        if cache.is_wanting:
            views, ids = cache.take_wanted()
            for container, mnt_ns, user_ns, tgid in views:
                self._want((container, mnt_ns, user_ns), tgid, now)
            self._want_ids(ids, now)
        if now - self._checked_ns >= CHECK_NS:
            self._checked_ns = now
            self._ask(self._reader.host)
        if now >= self._sweep_due_ns:
            self._sweep(now)
            self._sweep_due_ns = now + max(SWEEP_NS, SWEEP_SHARE * (self._now() - now))

    def close(self, timeout_s: float = 1.0) -> None:
        """End the thread; what it is just reading is given up."""
        with contextlib.suppress(queue.Full):
            self._jobs.put_nowait(None)
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    # -- what is missing -----------------------------------------------------------------------------------------------

    def _host_namespaces(self) -> tuple[int, int]:
        """Mount and user namespace of pid 1, as the kernel told them; of this process where it did not."""
        cold = self._tables.cold_view()
        hot = self._tables.hot_view()
        row = self._tables.py_head(1)
        if row and int(hot["known"][row]) & layout.KNOWN_NS and cold["mnt_ns"][row]:
            return int(cold["mnt_ns"][row]), int(cold["user_ns"][row])
        return _namespace("mnt"), _namespace("user")

    def _sweep(self, now: int) -> None:
        """Ask for each view and each of the host's ids that a living process has."""
        cache = self._encoder.names
        assert cache is not None
        views, ids = cache.living(self._tables)
        for container, mnt_ns, user_ns, tgid in watched(views, self._tables.py_show_life):
            self._want((container, mnt_ns, user_ns), tgid, now)
        self._want_ids(sorted(ids), now)

    def _want(self, view: View, tgid: int, now: int) -> None:
        """Read a view through one of its processes, unless it was read or asked for a short time ago."""
        if not self._with_containers:
            return
        cache = self._encoder.names
        if self._is_traced and cache is not None and view[2] != cache.host_user_ns:
            return  # a tracer's ids are those of its own user namespace: here they are somebody else's
        known = self._views.get(view)
        if known is None:
            known = self._views[view] = _Known(first_ns=now)
        self._views.move_to_end(view)
        if known.is_asked or now < known.due_ns:
            return
        key = key_of(self._tables, tgid) if self._is_traced else None
        if key is not None:
            known.is_asked = self._ask(lambda: ("view", view, self._reader.foreign_view(key, view[1], bool(view[0]))))
        else:
            known.is_asked = self._ask(lambda: ("view", view, self._reader.view(tgid, bool(view[0]))))
        while len(self._views) > VIEWS_MAX:
            left, _ = self._views.popitem(last=False)
            (self._directory / _file_of(left)).unlink(missing_ok=True)

    def _want_ids(self, ids: list[tuple[int, int]], now: int) -> None:
        new = [one for one in ids if now >= self._asked_ids.get(one, 0)]
        if not new:
            return
        if len(self._asked_ids) > IDS_MAX:
            self._asked_ids.clear()
        if self._ask(lambda: ("ids", self._reader.ids(new))):
            self._asked_ids.update(dict.fromkeys(new, now + MISS_NS))

    def _ask(self, job: Callable[[], tuple[Any, ...] | None]) -> bool:
        try:
            self._jobs.put_nowait(job)
        except queue.Full:
            return False
        return True

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            answer = job()
            if answer is not None:
                self._answers.append(answer)

    # -- what has come -------------------------------------------------------------------------------------------------

    def _take_answers(self) -> None:
        is_changed = False
        while self._answers:
            what, *answer = self._answers.popleft()
            if what == "host":
                self._users, self._groups = answer
                self._show_host()
            elif what == "ids":
                self._learn_ids(answer[0])
            else:
                is_changed |= self._learn_view(*answer)
        if is_changed:
            cache = self._encoder.names
            assert cache is not None
            cache.set_views({view: known.names for view, known in self._views.items() if known.names is not None})

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
        self._write(
            HOST_FILE, {"mnt_ns": cache.host_mnt_ns, "user_ns": cache.host_user_ns, "user": users, "group": groups}
        )

    def _host_names(self) -> tuple[dict[int, str], dict[int, str]]:
        """Files first, as name services do."""
        told = self._service.items()
        users = {number: name for (kind, number), name in told if kind == USER} | self._users
        return users, {number: name for (kind, number), name in told if kind == GROUP} | self._groups

    def _learn_ids(self, found: dict[tuple[int, int], str]) -> None:
        """Names that only the name service knows (LDAP and the like); "" is remembered in the cache alone."""
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

    def _learn_view(self, view: View, names: tuple[dict[int, str], dict[int, str]] | None) -> bool:
        """Returns whether the cache must be told: also of a failure, so that the next event asks again."""
        known = self._views.get(view)
        if known is None:
            return False
        now = self._now()
        known.is_asked = False
        if names is None:
            known.due_ns = now + min(RETRY_NS << min(known.failures, 16), RETRY_MAX_NS)
            known.failures += 1
            # What is known of a container stays true; of a namespace whose number is used again it may not be.
            return known.names is None or not view[0]
        known.failures = 0
        known.due_ns = now if now - known.first_ns < YOUNG_NS else now + REREAD_NS
        if known.names is not None and (known.users, known.groups) == names:
            return False
        known.users, known.groups = names
        known.names = Names(*names)
        self._write(_file_of(view), {"user": known.users, "group": known.groups})
        return True

    def _write(self, name: str, content: dict[str, Any]) -> None:
        """Replace a file whole. A full file system costs readers names, and nothing else."""
        temporary = self._directory / f".{name}"
        with contextlib.suppress(OSError):
            temporary.write_text(json.dumps(content), encoding="ascii")
            temporary.chmod(self._mode)
            temporary.rename(self._directory / name)


def _file_of(view: View) -> str:
    return file_name(view[0].decode("utf-8", "surrogateescape"), view[1], view[2])


def _namespace(kind: str) -> int:
    try:
        return Path(f"/proc/self/ns/{kind}").stat().st_ino
    except OSError:
        return 0

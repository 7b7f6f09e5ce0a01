"""ssh sessions: where one begins, its number, and its details.

A session begins with the first image that is not sshd's in a process that the host's sshd has forked (`sshd` decides
which process that is). The applier calls `SshSessions` while it applies such an exec, and the row of that image gets
the session's number in `user_session` at once. The applier copies the number at each fork and exec, so descendants need
no look-up, and a login costs the same in small and in large tables. The details are read afterwards, a few logins a
turn, and kept by `kept_sessions`. Until then, or after an eviction there, readers see a session without details.
Subscribers get an event when the details are known.

Sources of the details:

* The client's address is in the environment that sshd passes to the first program. The BPF program for execs reads it
  (`keep_client`) before the first program can change it. Other sources have no such record. For them, and for sessions
  that began before the daemon, the environment is read from `/proc`, where the user may have changed it: then
  `client_source` is "environ".
* The user is the user of the session's first program, as the kernel reports it. LOGNAME is ignored.
* How the user was authenticated is not in any process. If sshd leaves it in a file, the file is read (`ssh_auth`). The
  file belongs to the user, who can change it.

With sources other than the exec program, a process gets its number before it is known whether it has a client. If it
has none (a helper of sshd), the number is removed from it and from its descendants.
"""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from pipeline.host.boot import TICK_NS
from pipeline.host.digest import blake2b
from pipeline.procfs.proc_reader import WANT_IDS, read_process, read_start
from pipeline.resolver.upkeep.foreign import ForeignPids, key_of
from pipeline.resolver.upkeep.kept_sessions import KeptSessions
from pipeline.resolver.upkeep.ssh_client import CLIENT_NAMES, client_in, confirmed, read_session, session_of
from pipeline.resolver.upkeep.sshd import HostSshd
from pipeline.shm.layout import layout

if TYPE_CHECKING:
    from pipeline.resolver.apply._followups import FollowUps
    from pipeline.shm.writer._writer import TableWriter

#: Logins that wait for their details, of all users and of one user; beyond that, the details stay unknown.
LOGINS_MAX = 1024
USER_LOGINS_MAX = 256
#: Logins that get a number between two calls of `do_work`, while a batch is applied. Further logins get no session.
LOGINS_PER_BATCH = 512
#: Number of logins that are read in one turn, and the time limit for that.
LOGINS_PER_TURN = 64
TURN_NS = 5_000_000
#: Descendants of a helper of sshd from which a number is removed.
HELPERS_MAX = 256
#: Records of execs below sshd that are kept; beyond that, the oldest are forgotten.
RECORDED_MAX = 4096
#: The record of an exec without a client.
NO_CLIENT = b"\0"
#: Length of the header of an environment in the tables.
ENVS_HEADER_BYTES = 4
_SSHD = np.frombuffer(b"sshd", "<u4")[0]
#: Fields of a session in an event, in their order.
_EVENT_FIELDS = ("username", "client_ip", "client_port", "auth_method", "public_key")


def _publish_nothing(row: int, body: dict[str, Any]) -> None:
    """No stream."""


def _no_name(uid: int) -> str | None:
    """No names of users."""


class _Login(NamedTuple):
    """A session with details that are not known yet."""

    number: int
    tgid: int
    start_boot_ns: int
    image: int  #: link of the image that sshd executed
    former: int  #: the number that the process had before
    uid: int
    recorded: bytes | None  #: variables in the record of the exec; None: there was no record
    is_new: bool  #: it began while the daemon ran, so subscribers get an event


class SshSessions:
    """Finds sessions among the execs below sshd, and numbers them. A part of the resolver's duty cycle.

    Args:
        tables: of this instance.
        followups: the applier's; they call this object for each exec below sshd.
        directory: the instance's runtime directory.
        mode: of the file.
        publish: called with (row, body of a `user_session` event) when the details of a session are known.
        pids: finds processes that tracers name; None: there is no tracer.
        user_name: the host's name of a user id; None: it has none, or it is not known.

    Attributes:
        is_waiting: `do_work` has something to do even without a new exec.
        sshd: decides which processes are the host's sshd.
        kept: details of sessions.
    """

    def __init__(
        self, tables: TableWriter, followups: FollowUps, directory: Path, *, mode: int = 0o644,
        publish: Callable[[int, dict[str, Any]], None] = _publish_nothing, pids: ForeignPids | None = None,
        user_name: Callable[[int], str | None] = _no_name,
    ) -> None:  # fmt: skip
        self._tables = tables
        self._followups = followups
        self._publish = publish
        self._pids = pids
        self._user_name = user_name
        self.sshd = HostSshd(tables)
        self.kept = KeptSessions(directory, mode, tables.count)
        self._logins: deque[_Login] = deque()
        self._by_user: dict[int, int] = {}
        self._waiting: set[int] = set()
        self._begun = 0
        self._records: OrderedDict[tuple[int, int], bytes] = OrderedDict()
        followups.watch_logins(self._begin)

    def keep_client(self, tgid: int, start_boot_ns: int, strings: bytes) -> None:
        """Keep the variables in the record of an exec below sshd; the exec is applied later.

        Args:
            tgid: of the process.
            start_boot_ns: its start.
            strings: SSH_CONNECTION and SSH_CLIENT of its environment, if they are there, each with a NUL at its end.
        """
        # The first record belongs to the program that sshd executed. That program may execute another one with a
        # changed environment.
        self._records.setdefault((tgid, start_boot_ns), strings)
        if len(self._records) > RECORDED_MAX:
            self._records.popitem(last=False)

    def begin(self) -> None:
        """Find the existing sessions, and continue those of a predecessor; call it when the tables are filled."""
        if self._tables.is_takeover:
            self.kept.restore()
        hot, index = self._tables.hot_view(), self._tables.index_view()
        rows = self._tables.live_heads()
        up = hot["ppid"][rows]
        parents = index[np.where(up < len(index), up, 0)]
        is_below = _word(hot["comm"][parents]) == _SSHD
        rows, parents = rows[is_below], parents[is_below]
        is_first = _word(hot["comm"][rows]) != _SSHD
        for row, parent in zip(rows[is_first].tolist(), parents[is_first].tolist(), strict=True):
            if parent:
                self._find(row, parent)
        self._read_details()
        self.kept.write(at_once=True)

    @property
    def is_waiting(self) -> bool:
        """Whether logins are to be read, or the file is to be written."""
        return bool(self._logins) or self.kept.is_unwritten

    def do_work(self) -> None:
        """Read the details of some logins that have been applied, and write the file if that is due."""
        self._followups.take_logins()
        self._begun = 0
        self.sshd.turn()
        self._read_details()
        self.kept.write()

    def _read_details(self) -> None:
        """Read the details of some logins."""
        if self._logins and (self._pids is None or self._pids.refresh()):
            until_ns = time.monotonic_ns() + TURN_NS
            for _ in range(min(len(self._logins), LOGINS_PER_TURN)):
                self._finish(self._logins.popleft())
                if time.monotonic_ns() >= until_ns:
                    break

    # -- where a session begins ----------------------------------------------------------------------------------------

    def _begin(self, row: int, parent: int) -> bool:
        """Number the session that begins with an exec below sshd; return whether one begins.

        Called while the exec is applied (`FollowUps.watch_logins`). It knows only that the parent is named sshd.
        """
        hot = self._tables.hot_view()[row]
        if int(hot["flags"]) & layout.ROW_IS_EXEC_EXEC:
            return False  # sshd has executed another sshd
        tgid, start = int(hot["tgid"]), int(hot["start_boot_ns"])
        recorded = self._records.pop((tgid, start), None)
        former, number, own = self._number(parent), self._number(row), self._number_of(tgid, start)
        # An sshd that was started within a session has the number of that session, and so do the programs it executes.
        if number not in {0, former, own} or own in self.kept or own in self._waiting:
            return False
        if not self.sshd.recognizes(parent):
            self._tables.count("sessions_refused", 1)
            return False
        if recorded == NO_CLIENT:
            return False  # a helper, whatever its environment contains later
        if self._begun == LOGINS_PER_BATCH:
            self._tables.count("sessions_unread", 1)
            return False
        self._begun += 1
        login = _Login(own, tgid, start, self._tables.py_link(row), former, int(hot["uid"]), recorded, True)
        if not self._queue(login):
            return False
        if number != own:
            self._put(row, own)
        return True

    def _find(self, row: int, parent: int) -> None:
        """Number the session of a process from before the start. Its user is sshd's: its own may have changed since."""
        hot = self._tables.hot_view()
        tgid, start = int(hot["tgid"][row]), int(hot["start_boot_ns"][row])
        former, number, own = self._number(parent), self._number(row), self._number_of(tgid, start)
        if number not in {0, former, own} or own in self.kept or not self.sshd.recognizes(parent):
            return
        login = _Login(own, tgid, start, self._tables.py_link(row), former, self._user_of(parent), None, False)
        if self._queue(login) and number != own:
            self._hand_on(tgid, {0, former}, own, len(hot))

    def _queue(self, login: _Login) -> bool:
        """Queue a login for its details; False: the queue is full and no record names a client, so it is no session."""
        count = self._by_user.get(login.uid, 0)
        if len(self._logins) < LOGINS_MAX and count < USER_LOGINS_MAX:
            self._by_user[login.uid] = count + 1
            self._waiting.add(login.number)
            self._logins.append(login)
            return True
        self._tables.count("sessions_unread", 1)
        client = client_in(login.recorded)
        if client is None:
            return False
        self._keep(login, client | {"client_source": "exec"})
        return True

    # -- details -------------------------------------------------------------------------------------------------------

    def _finish(self, login: _Login) -> None:
        """Keep the details of a session, or remove its number if there is no client."""
        self._dequeue(login)
        pid = self._pid_of(login.tgid)
        found = read_session(pid)
        if found is None or self._start(pid) != login.start_boot_ns // TICK_NS:
            found = self._stored(login)
        elif found:
            found["client_source"] = "environ"
        if login.recorded is not None:
            found = confirmed(client_in(login.recorded), found)
        elif found is None:
            self._tables.count("sessions_unread", 1)
        if not found:
            self._hand_on(login.tgid, {login.number}, login.former, HELPERS_MAX)
            return
        self._keep(login, found)
        row = self._tables.py_head(login.tgid)
        if login.is_new and row and self._number(row) == login.number:
            self._publish(row, self._body(login.number))

    def _dequeue(self, login: _Login) -> None:
        self._waiting.discard(login.number)
        count = self._by_user.pop(login.uid) - 1
        if count:
            self._by_user[login.uid] = count

    def _pid_of(self, tgid: int) -> int:
        """Return the pid in `/proc` of a process, which a tracer may have named by another number."""
        key = key_of(self._tables, tgid) if self._pids is not None else None
        return self._pids.find(key) if self._pids is not None and key is not None else tgid

    def _keep(self, login: _Login, session: dict[str, Any]) -> None:
        self.kept.keep(login.number, login.uid, {"username": self._user_name(login.uid)} | session)

    def _body(self, number: int) -> dict[str, Any]:
        """Return the body of the event, in the form that agents use (`pipeline.bus.context_events`)."""
        known = self.kept.get(number)
        fields = {f"ssh_{name}": known[name] for name in _EVENT_FIELDS if known.get(name) is not None}
        return {"ssh_session_id": number, **fields}

    def _stored(self, login: _Login) -> dict[str, Any] | None:
        """The same as `read_session`, from the environment of the executed image that the tables hold."""
        row = self._tables.py_follow(login.image)
        ref = int(self._tables.cold_view()["envs_ref"][row]) if row else 0
        text = self._tables.envs.py_bytes(ref)[ENVS_HEADER_BYTES:] if ref else b""
        if not text:
            return None
        environment = text.split(b"\0")
        session = session_of(environment)
        if session is None and not int(self._tables.hot_view()["flags"][row]) & layout.ROW_ENVS_TRUNCATED:
            # A name without a value belongs to a variable with a hidden value.
            return None if CLIENT_NAMES.intersection(environment) else {}
        return None if session is None else session | {"client_source": "exec"}

    def _user_of(self, row: int) -> int:
        """Return the user id of an sshd; the row has it only if changes of credentials are captured."""
        hot = self._tables.hot_view()[row]
        if not int(hot["flags"]) & layout.ROW_FOREIGN:
            info = read_process(int(hot["tgid"]), WANT_IDS)
            if info is not None and info.start_ticks == int(hot["start_boot_ns"]) // TICK_NS:
                return info.uids[0]
        return int(hot["uid"])

    # -- rows ----------------------------------------------------------------------------------------------------------

    def _number(self, row: int) -> int:
        return int(self._tables.cold_view()["user_session"][row])

    def _number_of(self, tgid: int, start_boot_ns: int) -> int:
        """Return the number of the session that begins with a process; each resolver of this boot computes the same."""
        digest = blake2b(b"%d %d" % (tgid, start_boot_ns), digest_size=8, key=self._boot_id()).digest()
        return int.from_bytes(digest, "little") | 1

    def _hand_on(self, tgid: int, olds: set[int], number: int, limit: int) -> None:
        """Replace the number of a process and of its live descendants, if it is one of `olds`."""
        todo = [tgid]
        while todo and limit > 0:
            one = todo.pop()
            limit -= 1
            row = self._tables.py_head(one)
            if row and self._number(row) in olds:
                self._put(row, number)
                todo += self._tables.py_children(one)

    def _put(self, row: int, number: int) -> None:
        self._tables.py_begin(row)
        self._tables.cold_view()["user_session"][row] = number
        self._tables.py_end(row)

    def _start(self, tgid: int) -> int | None:
        return read_start(tgid)

    def _boot_id(self) -> bytes:
        return self._tables.control_view()[0]["boot_id"].tobytes()


def _word(comm: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return the first four bytes of each name as a number."""
    words: np.ndarray[Any, Any] = np.ascontiguousarray(comm).view("<u4").reshape(len(comm), 4)[:, 0]
    return words

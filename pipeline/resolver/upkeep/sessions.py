"""ssh sessions: where one begins, which number it has, and what is known of it.

A session begins with the first image that is not sshd's in a process that the host's sshd has forked (`sshd` says which
process that is). The applier calls `SshSessions` while it applies such an exec, and the row of that image gets the
session's number in `user_session` at once: the applier hands it on at each fork and exec, so nothing is looked up for a
descendant, and a login costs the same in small and in large tables. What the number stands for is found out afterwards,
a few logins a turn, and kept by `kept_sessions`. Until then, or if it was displaced there, a reader sees a session of
which nothing else is known. Subscribers get an event when more is known.

Where each fact comes from:

* The client's address is what the exec program has read from the environment that sshd passed (`take`); the program
  that runs then cannot have changed it. Other sources have no such record. For them, and for sessions that began before
  the daemon, the environment is read from `/proc`, where the user may have changed it: `client_source` is "environ".
* The user is the one that the kernel says the session's first program runs as. What LOGNAME says does not matter.
* How the user was authenticated is in no process. Where sshd leaves it in a file, that is read (`ssh_auth`). The file
  belongs to the user, and the user can change it.

A process of another source than the exec program's gets its number before it is known whether it has a client. If it
has none (a helper of sshd), the number is taken back from it and from its descendants.
"""

from __future__ import annotations

import ipaddress
import os
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from pipeline.host.boot import TICK_NS
from pipeline.host.digest import blake2b
from pipeline.procfs.reader import WANT_IDS, read_process, read_start
from pipeline.procfs.rooted import read_all
from pipeline.procfs.ssh_auth import read_auth
from pipeline.resolver.upkeep.foreign import ForeignPids, key_of
from pipeline.resolver.upkeep.kept_sessions import KeptSessions
from pipeline.resolver.upkeep.sshd import HostSshd
from pipeline.shm.layout import tables as layout

if TYPE_CHECKING:
    from pipeline.resolver.apply._followups import FollowUps
    from pipeline.shm.writer._writer import TableWriter

ENVIRON_BYTES = 1 << 16
#: Logins that wait for their details, of all users and of one; of more, the details stay unknown.
LOGINS_MAX = 1024
USER_LOGINS_MAX = 256
#: Logins that are numbered between two calls of `poll`, while a batch is applied; of more, none begins a session.
LOGINS_PER_BATCH = 512
#: Logins that are completed with their details in one turn, and the time limit for that.
LOGINS_PER_TURN = 64
TURN_NS = 5_000_000
#: Descendants of a helper of sshd that a number is taken back from.
HELPERS_MAX = 256
#: Processes of which the record of their exec below sshd is kept; of more, the oldest are forgotten.
TOLD_MAX = 4096
#: The record of an exec that has no client.
NO_CLIENT = b"\0"
#: Of an environment in the tables, before its strings.
ENVS_HEAD_BYTES = 4
_CLIENT = frozenset({b"SSH_CONNECTION", b"SSH_CLIENT"})
_USER_AUTH = b"SSH_USER_AUTH="
_SSHD = np.frombuffer(b"sshd", "<u4")[0]
#: What an event says of a session, in the order of its fields.
_EVENT_FIELDS = ("username", "client_ip", "client_port", "auth_method", "public_key")


def _tell_nobody(row: int, body: dict[str, Any]) -> None:
    """No stream."""


def _no_name(uid: int) -> str | None:
    """No names of users."""


class _Login(NamedTuple):
    """A session of which the details are not known yet."""

    number: int
    tgid: int
    start_boot_ns: int
    image: int  #: link of the image that sshd executed
    former: int  #: the number that was there before
    uid: int
    told: bytes | None  #: what the record of the exec says of the client; None: there was no record
    is_new: bool  #: began while the daemon ran, so that subscribers are told


class SshSessions:
    """Finds sessions among what is executed, and numbers them. A part of the resolver's duty cycle.

    Args:
        tables: of this instance.
        followups: the applier's; they call this object for what was executed below sshd.
        directory: the instance's runtime directory.
        mode: of the file.
        proc: where procfs is mounted.
        tell: called with (row, body of a `user_session` event) when a session is known.
        pids: where processes that tracers name are looked for; None: there are none.
        user_name: the host's name of a user id; None: it has none, or it is not known.

    Attributes:
        is_waiting: `poll` has something to do, though nothing was executed since the last call.
        sshd: decides which processes are the host's sshd.
        kept: what is known of sessions.
    """

    def __init__(
        self, tables: TableWriter, followups: FollowUps, directory: Path, *, mode: int = 0o644, proc: str = "/proc",
        tell: Callable[[int, dict[str, Any]], None] = _tell_nobody, pids: ForeignPids | None = None,
        user_name: Callable[[int], str | None] = _no_name,
    ) -> None:  # fmt: skip
        self._tables = tables
        self._followups = followups
        self._proc = proc
        self._tell = tell
        self._pids = pids
        self._user_name = user_name
        self.sshd = HostSshd(tables, proc)
        self.kept = KeptSessions(directory, mode, tables.count)
        self._logins: deque[_Login] = deque()
        self._by_user: dict[int, int] = {}
        self._waiting: set[int] = set()
        self._begun = 0
        self._told: OrderedDict[tuple[int, int], bytes] = OrderedDict()
        followups.on_login = self._begin

    def take(self, tgid: int, start_boot_ns: int, strings: bytes) -> None:
        """Keep what the record of an exec below sshd says; the exec is applied later.

        Args:
            tgid, start_boot_ns: the process.
            strings: SSH_CONNECTION and SSH_CLIENT of its environment, if it has them, with a NUL behind each.
        """
        # The first one is of what sshd executed; that may execute something else, and have changed its environment.
        self._told.setdefault((tgid, start_boot_ns), strings)
        if len(self._told) > TOLD_MAX:
            self._told.popitem(last=False)

    def begin(self) -> None:
        """Find the sessions that there are; call when the tables are filled. A predecessor's are gone on with."""
        if self._tables.is_takeover:
            self.kept.restore()
        hot = self._tables.hot_view()[: self._tables.rows_frontier]
        index = self._tables.index_view()
        rows = np.flatnonzero((hot["flags"] & layout.ROW_HEAD != 0) & (hot["exit_boot_ns"] == 0))
        up = hot["ppid"][rows]
        parents = index[np.where(up < len(index), up, 0)]
        is_first = (_word(hot["comm"][parents]) == _SSHD) & (_word(hot["comm"][rows]) != _SSHD)
        for row, parent in zip(rows[is_first].tolist(), parents[is_first].tolist(), strict=True):
            if parent:
                self._find(row, parent)
        self._learn()
        self.kept.write(at_once=True)

    @property
    def is_waiting(self) -> bool:
        return bool(self._logins) or self.kept.is_unwritten

    def poll(self) -> None:
        """Find out more of some of the logins that have been applied, and write the file if that is due."""
        self._followups.take_logins()
        self._begun = 0
        self.sshd.turn()
        self._learn()
        self.kept.write()

    def _learn(self) -> None:
        """Find out the details of some of the logins that wait."""
        if self._logins and (self._pids is None or self._pids.refresh()):
            until_ns = time.monotonic_ns() + TURN_NS
            for _ in range(min(len(self._logins), LOGINS_PER_TURN)):
                self._finish(self._logins.popleft())
                if time.monotonic_ns() >= until_ns:
                    break

    # -- where a session begins ----------------------------------------------------------------------------------------

    def _begin(self, row: int, parent: int) -> bool:
        """An exec below sshd is applied: number the session that begins with it; returns whether one does.

        `FollowUps.on_login`. The name of the parent is sshd's; everything else is decided here.
        """
        hot = self._tables.hot_view()[row]
        if int(hot["flags"]) & layout.ROW_IS_EXEC_EXEC:
            return False  # sshd has executed another one
        tgid, start = int(hot["tgid"]), int(hot["start_boot_ns"])
        told = self._told.pop((tgid, start), None)
        former, number, own = self._number(parent), self._number(row), self._number_of(tgid, start)
        # An sshd that was started from within a session has that one's number, and leaves it to what it executes.
        if number not in {0, former, own} or own in self.kept or own in self._waiting:
            return False
        if not self.sshd.recognizes(parent):
            self._tables.count("sessions_refused", 1)
            return False
        if told == NO_CLIENT:
            return False  # a helper, whatever it says of itself later
        if self._begun == LOGINS_PER_BATCH:
            self._tables.count("sessions_unread", 1)
            return False
        self._begun += 1
        login = _Login(own, tgid, start, self._tables.py_link(row), former, int(hot["uid"]), told, True)
        if not self._queue(login):
            return False
        if number != own:
            self._put(row, own)
        return True

    def _find(self, row: int, parent: int) -> None:
        """The same of a process that was there before. Its user is sshd's: its own may have changed since."""
        hot = self._tables.hot_view()
        tgid, start = int(hot["tgid"][row]), int(hot["start_boot_ns"][row])
        former, number, own = self._number(parent), self._number(row), self._number_of(tgid, start)
        if number not in {0, former, own} or own in self.kept or not self.sshd.recognizes(parent):
            return
        login = _Login(own, tgid, start, self._tables.py_link(row), former, self._user_of(parent), None, False)
        if self._queue(login) and number != own:
            self._hand_on(tgid, {0, former}, own, len(hot))

    def _queue(self, login: _Login) -> bool:
        """Let a login wait for its details; False: it is none, because there is no room to find out whether it is."""
        count = self._by_user.get(login.uid, 0)
        if len(self._logins) < LOGINS_MAX and count < USER_LOGINS_MAX:
            self._by_user[login.uid] = count + 1
            self._waiting.add(login.number)
            self._logins.append(login)
            return True
        self._tables.count("sessions_unread", 1)
        client = _client_of(login.told)
        if client is None:
            return False
        self._keep(login, client | {"client_source": "exec"})
        return True

    # -- what is known of it -------------------------------------------------------------------------------------------

    def _finish(self, login: _Login) -> None:
        """Find out what is to be known of a session; or that it is none."""
        self._waiting.discard(login.number)
        count = self._by_user.pop(login.uid) - 1
        if count:
            self._by_user[login.uid] = count
        key = key_of(self._tables, login.tgid) if self._pids is not None else None
        pid = self._pids.find(key) if self._pids is not None and key is not None else login.tgid
        found = read_session(pid, self._proc)
        if found is None or self._start(pid) != login.start_boot_ns // TICK_NS:
            found = self._recorded(login)
        elif found:
            found["client_source"] = "environ"
        if login.told is not None:
            found = _as_told(_client_of(login.told), found)
        elif found is None:
            self._tables.count("sessions_unread", 1)
        if not found:
            self._hand_on(login.tgid, {login.number}, login.former, HELPERS_MAX)
            return
        self._keep(login, found)
        row = self._tables.py_head(login.tgid)
        if login.is_new and row and self._number(row) == login.number:
            self._tell(row, self._body(login.number))

    def _keep(self, login: _Login, session: dict[str, Any]) -> None:
        self.kept.keep(login.number, login.uid, {"username": self._user_name(login.uid)} | session)

    def _body(self, number: int) -> dict[str, Any]:
        """As an agent would tell it (`pipeline.bus.context_events`)."""
        known = self.kept.get(number)
        told = {f"ssh_{name}": known[name] for name in _EVENT_FIELDS if known.get(name) is not None}
        return {"ssh_session_id": number, **told}

    def _recorded(self, login: _Login) -> dict[str, Any] | None:
        """As `read_session`, by the environment that was recorded with the exec of the image that sshd executed."""
        row = self._tables.py_follow(login.image)
        ref = int(self._tables.cold_view()["envs_ref"][row]) if row else 0
        text = self._tables.envs.py_bytes(ref)[ENVS_HEAD_BYTES:] if ref else b""
        if not text:
            return None
        environment = text.split(b"\0")
        session = session_of(environment)
        if session is None and not int(self._tables.hot_view()["flags"][row]) & layout.ROW_ENVS_TRUNCATED:
            # A name alone is one whose value is not shown.
            return None if _CLIENT.intersection(environment) else {}
        return None if session is None else session | {"client_source": "exec"}

    def _user_of(self, row: int) -> int:
        """The user id of an sshd, which the row has only where changes of credentials are captured."""
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
        """The number of the session that begins with a process; the same in each resolver of this boot."""
        digest = blake2b(b"%d %d" % (tgid, start_boot_ns), digest_size=8, key=self._boot_id()).digest()
        return int.from_bytes(digest, "little") | 1

    def _hand_on(self, tgid: int, olds: set[int], number: int, limit: int) -> None:
        """Give a process, and its descendants that live, another number in the place of one of `olds`."""
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


def read_session(tgid: int | None, proc: str = "/proc") -> dict[str, Any] | None:
    """What sshd has put into a process' environment, and what it left beside.

    Returns:
        As `session_of`, and what `read_auth` finds. Empty: there is no session. None: the process cannot be read.
    """
    try:
        process = os.open(f"{proc}/{tgid}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        text = read_all(os.open("environ", os.O_RDONLY | os.O_CLOEXEC, dir_fd=process), ENVIRON_BYTES)
        if not text:
            return None  # it has ended, or is in the middle of an exec that will be told, too
        environment = text.split(b"\0")
        session = session_of(environment) or {}
        if session:
            names = [string for string in environment if string.startswith(_USER_AUTH)]
            session |= read_auth(process, names[-1][len(_USER_AUTH) :] if names else b"")._asdict()
        return session
    except OSError:
        return None
    finally:
        os.close(process)


def session_of(environment: Iterable[bytes]) -> dict[str, Any] | None:
    """The client that an environment names: client_ip and client_port; None: none, or not well-formed."""
    values = dict(string.split(b"=", 1) for string in environment if b"=" in string)
    fields = values.get(b"SSH_CONNECTION", values.get(b"SSH_CLIENT", b"")).split()
    if len(fields) < 3:
        return None
    try:
        address = ipaddress.ip_address(fields[0].decode("ascii").partition("%")[0])
        port = int(fields[1])
    except ValueError:
        return None
    if not 0 < port < 65536:
        return None
    return {"client_ip": str(address), "client_port": port}


def _client_of(told: bytes | None) -> dict[str, Any] | None:
    return None if told is None else session_of(told.split(b"\0"))


def _as_told(told: dict[str, Any] | None, found: dict[str, Any] | None) -> dict[str, Any]:
    """The client that the record of the exec names, with what was found besides if it is of the same client."""
    if told is None:
        return {}
    is_same = found and all(found.get(name) == told[name] for name in ("client_ip", "client_port"))
    return (found if found and is_same else told) | {"client_source": "exec"}


def _word(comm: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The first four bytes of each name, as a number."""
    words: np.ndarray[Any, Any] = np.ascontiguousarray(comm).view("<u4").reshape(len(comm), 4)[:, 0]
    return words

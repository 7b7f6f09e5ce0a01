"""ssh sessions of living processes: where one begins, who is behind it, and a file that tells readers.

A session begins with the first image that is not sshd's in a process that sshd has forked; sshd has put the client's
address into its environment. Everything below belongs to it: the row of that image gets the session's number in
`user_session`, and the applier hands it on at each fork and exec, so nothing is looked up for a descendant. What the
number stands for is kept once, in the file ``sessions`` of the instance's directory. `pipeline.shm.ssh` reads it.
Subscribers, who may have no such file, are told when a session begins.

Anybody may call a program sshd, so its file must be root's. How somebody was authenticated is in no process; where sshd
is told to leave it in a file, that is read (`ssh_auth`), else it stays unknown.

A command may have ended before its environment is read (``ssh HOST true``). So the exec program itself reads from what
sshd executes who the client is (`take`), which no program can have changed by then; and nothing else, so that the login
name is known only where the environment is read in time, or captured and shown. Other sources have no such record:
there nobody can tell, and the process is counted.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.boot import TICK_NS
from pipeline.digest import blake2b
from pipeline.resolver.foreign import ForeignPids, key_of
from pipeline.resolver.procfs import read_start
from pipeline.resolver.rooted import read_all
from pipeline.resolver.ssh_auth import read_auth
from pipeline.shm import layout
from pipeline.shm.ssh import FILE

if TYPE_CHECKING:
    from pipeline.resolver._encode import Encoder
    from pipeline.shm._writer import TableWriter

#: Sessions that are told of; of more, the oldest are forgotten.
SESSIONS_MAX = 4096
ENVIRON_BYTES = 1 << 16
#: Execs that wait to be looked at; of more, the last ones are not.
ROWS_MAX = 1024
#: Processes of which the record of their first exec below sshd is kept; of more, the oldest are forgotten.
TOLD_MAX = 4096
#: Of an environment in the tables, before its strings.
ENVS_HEAD_BYTES = 4
_CLIENT = frozenset({b"SSH_CONNECTION", b"SSH_CLIENT"})
_USER_AUTH = b"SSH_USER_AUTH="
_SSHD = np.frombuffer(b"sshd", "<u4")[0]
_NAMES = frozenset({b"sshd", b"sshd-session", b"sshd-auth"})


def _tell_nobody(row: int, body: dict[str, Any]) -> None:
    """No stream."""


class SshSessions:
    """Finds sessions among what is executed, and numbers them. A part of the resolver's duty cycle.

    Args:
        tables, encoder: of this instance; the encoder notes what was executed below sshd.
        directory: the instance's runtime directory.
        mode: of the file.
        proc: where procfs is mounted.
        tell: told (row, body of a `user_session` event) when a session begins.
        pids: where processes that tracers name are looked for; None: there are none.

    Attributes:
        is_waiting: there are execs that `poll` has not looked at yet.
    """

    def __init__(
        self, tables: TableWriter, encoder: Encoder, directory: Path, *, mode: int = 0o644, proc: str = "/proc",
        tell: Callable[[int, dict[str, Any]], None] = _tell_nobody, pids: ForeignPids | None = None,
    ) -> None:  # fmt: skip
        self._tables = tables
        self._encoder = encoder
        self._path = directory / FILE
        self._mode = mode
        self._proc = proc
        self._tell = tell
        self._pids = pids
        self._rows: list[int] = []
        self.is_waiting = False
        self._known: dict[str, dict[str, Any]] = {}
        self._told: dict[tuple[int, int], bytes] = {}

    def take(self, tgid: int, start_boot_ns: int, strings: bytes) -> None:
        """Keep what the record of an exec below sshd tells; the exec is applied later.

        Args:
            tgid, start_boot_ns: the process.
            strings: SSH_CONNECTION and SSH_CLIENT of its environment, if it has them, with a NUL behind each.
        """
        # The first one is of what sshd executed; that may execute something else, and have changed its environment.
        self._told.setdefault((tgid, start_boot_ns), strings)
        if len(self._told) > TOLD_MAX:
            del self._told[next(iter(self._told))]

    def begin(self) -> None:
        """Find the sessions that there are; call when the tables are filled. A predecessor's are gone on with."""
        with contextlib.suppress(OSError, ValueError):
            if self._tables.is_takeover:
                self._known = json.loads(self._path.read_text(encoding="ascii"))
        self._write()
        frontier = self._tables.rows_frontier
        hot = self._tables.hot_view()[:frontier]
        if self._pids is not None:
            self._pids.refresh()
        self._look(np.flatnonzero((hot["flags"] & layout.ROW_HEAD != 0) & (hot["exit_boot_ns"] == 0)))

    def poll(self) -> None:
        """Look at the execs below sshd that have been applied since the last call."""
        if not self._encoder.has_logins and not self.is_waiting:
            return
        self._rows += self._encoder.take_logins()
        if self._pids is not None and not self._pids.refresh():
            # A little later: tracers may tell of more logins than there is time to look for.
            self._tables.count("sessions_unread", max(0, len(self._rows) - ROWS_MAX))
            del self._rows[ROWS_MAX:]
            self.is_waiting = True
            return
        rows, self._rows, self.is_waiting = self._rows, [], False
        for row in self._look(np.array(rows, np.uint32)):
            self._tell(row, self._body(row))

    def _look(self, rows: np.ndarray[Any, Any]) -> list[int]:
        """Number each session that begins with one of these rows; returns the newest rows of those processes."""
        if not len(rows):
            return []
        hot = self._tables.hot_view()
        index = self._tables.index_view()
        up = hot["ppid"][rows]
        parents = index[np.where(up < len(index), up, 0)]
        is_first = (_word(hot["comm"][parents]) == _SSHD) & (_word(hot["comm"][rows]) != _SSHD)
        begun = []
        seen: set[int] = set()
        for row, parent in zip(rows[is_first].tolist(), parents[is_first].tolist(), strict=True):
            # It may have changed its image again within the batch: the number belongs to the newest.
            head = self._tables.py_head(int(hot["tgid"][row]))
            if head in seen:
                continue
            seen.add(head)
            # An sshd that was started from within a session has that one's number, and leaves it to whom it lets in.
            former = self._number(parent)
            if parent and head and self._number(head) in {0, former} and self._is_sshd(parent):
                self._begin(row, head, former)
                if self._number(head) not in {0, former}:
                    begun.append(head)
        return begun

    def _number(self, row: int) -> int:
        return int(self._tables.cold_view()["user_session"][row])

    def _body(self, row: int) -> dict[str, Any]:
        """As an agent would tell it (`pipeline.bus.context`)."""
        number = self._number(row)
        known = self._known.get(str(number), {})
        told = {f"ssh_{name}": value for name, value in known.items() if value is not None}
        return {"ssh_session_id": number, **told}

    def _is_sshd(self, row: int) -> bool:
        ref = int(self._tables.hot_view()["file_ref"][row])
        if not ref:
            return False
        record = self._tables.names.py_bytes(ref)
        file = np.frombuffer(record[: layout.FILE.itemsize], layout.FILE)[0]
        name = record[layout.FILE.itemsize :].rpartition(b"/")[2]
        return int(file["file_uid"]) == 0 and name in _NAMES

    def _begin(self, row: int, head: int, former: int) -> None:
        """Number the session of a process, of which `row` is the image that sshd executed and `head` the newest one."""
        hot = self._tables.hot_view()[head]
        tgid, start = int(hot["tgid"]), int(hot["start_boot_ns"])
        key = key_of(self._tables, tgid) if self._pids is not None else None
        pid = self._pids.find(key) if self._pids is not None and key is not None else tgid
        told = self._told.get((tgid, start))
        session = read_session(pid, self._proc)
        if session is None or self._start(pid) != start // TICK_NS:
            session = self._recorded(row, told or b"")
        if told is not None:
            session = _as_told(session_of(told.split(b"\0")), session)
        if session is None:
            self._tables.count("sessions_unread")
        if not session:
            return
        digest = blake2b(b"%d %d" % (tgid, start), digest_size=8, key=self._boot_id()).digest()
        number = int.from_bytes(digest, "little") | 1
        self._known[str(number)] = session
        while len(self._known) > SESSIONS_MAX:
            del self._known[next(iter(self._known))]
        self._write()  # before a row names it
        self._mark(tgid, number, former)

    def _recorded(self, row: int, told: bytes) -> dict[str, Any] | None:
        """As `read_session`, by the environment that was recorded with the exec of an image, and by what was told."""
        ref = int(self._tables.cold_view()["envs_ref"][row])
        text = self._tables.envs.py_bytes(ref)[ENVS_HEAD_BYTES:] if ref else b""
        if not text:
            return None
        environment = text.split(b"\0")
        session = session_of(environment + told.split(b"\0"))
        if session is None and not int(self._tables.hot_view()["flags"][row]) & layout.ROW_ENVS_TRUNCATED:
            # A name alone is one whose value is not shown.
            return None if _CLIENT.intersection(environment) else {}
        return session

    def _mark(self, tgid: int, number: int, former: int) -> None:
        """Put the number into the process' row and into those that it has forked since, in the place of `former`."""
        todo = [tgid]
        while todo:
            one = todo.pop()
            row = self._tables.py_head(one)
            if not row or self._number(row) not in {0, former}:
                continue
            self._put(row, number)
            todo += self._tables.py_children(one)
        self._mark_adopted(tgid, number, former)

    def _mark_adopted(self, tgid: int, number: int, former: int) -> None:
        """The same for those whose parent, or the process itself, has ended meanwhile: they are somebody else's now.

        Who forked whom stays. Of what began after the process, in the order in which it began, each is in the session
        if its creator is.
        """
        hot = self._tables.hot_view()[: self._tables.rows_frontier]
        start = int(hot["start_boot_ns"][self._tables.py_head(tgid)])
        later = np.flatnonzero((hot["flags"] & layout.ROW_HEAD != 0) & (hot["start_boot_ns"] > start))
        members = {(tgid, start)}
        for row in later[np.argsort(hot["start_boot_ns"][later], kind="stable")].tolist():
            creator = self._tables.py_follow(int(hot["creator"][row]))
            if not creator or (int(hot["tgid"][creator]), int(hot["start_boot_ns"][creator])) not in members:
                continue
            if self._number(row) in {0, former}:
                self._put(row, number)
            if self._number(row) == number:
                members.add((int(hot["tgid"][row]), int(hot["start_boot_ns"][row])))

    def _put(self, row: int, number: int) -> None:
        self._tables.py_begin(row)
        self._tables.cold_view()["user_session"][row] = number
        self._tables.py_end(row)

    def _start(self, tgid: int) -> int | None:
        return read_start(tgid)

    def _boot_id(self) -> bytes:
        return self._tables.control_view()[0]["boot_id"].tobytes()

    def _write(self) -> None:
        """Replace the file whole. A full file system costs readers this, and nothing else."""
        temporary = self._path.with_name(f".{FILE}.new")
        with contextlib.suppress(OSError):
            temporary.write_text(json.dumps(self._known), encoding="ascii")
            temporary.chmod(self._mode)
            temporary.rename(self._path)


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
    """The session that an environment tells of: username, client_ip and client_port; None: none, or not well-formed."""
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
    user = values.get(b"LOGNAME", values.get(b"USER", b""))[:256].decode("utf-8", "surrogateescape")
    return {"username": user or None, "client_ip": str(address), "client_port": port}


def _as_told(told: dict[str, Any] | None, found: dict[str, Any] | None) -> dict[str, Any]:
    """The session that the record of the exec tells of, with what was found besides if it is of the same client."""
    if told is None:
        return {}
    is_same = found and all(found.get(name) == told[name] for name in ("client_ip", "client_port"))
    return found if found and is_same else told


def _word(comm: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The first four bytes of each name, as a number."""
    words: np.ndarray[Any, Any] = np.ascontiguousarray(comm).view("<u4").reshape(len(comm), 4)[:, 0]
    return words

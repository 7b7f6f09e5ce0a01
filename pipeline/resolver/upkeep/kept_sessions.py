"""The known ssh sessions: a bounded number of them, and the file that shows them to readers.

The sessions of all users together have a limit. At the limit, the user with the largest share loses its oldest session,
so a flood of one user's sessions does not displace those of others. Adding a session costs the same for any number.

The file ``sessions`` is replaced as a whole (`pipeline.shm.names.ssh` reads it), at once or WRITE_NS after the last
replacement. So a row can have the number of a session that is not in the file yet: readers then see a session without
details.
"""

from __future__ import annotations

import contextlib
import json
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline import files
from pipeline.host.boot import now_boot_ns
from pipeline.shm.names.ssh import FILE

#: Limit of all sessions, in shares. A session takes one share for each SHARE_BYTES of its text in the file, rounded up.
SHARES_MAX = 4096
SHARE_BYTES = 512
#: Least time between two replacements of the file.
WRITE_NS = 250_000_000
#: Key of the user id in the file; readers drop it.
UID = "uid"


class KeptSessions:
    """Sessions by number, and their file. The resolver is the only writer.

    Args:
        directory: the instance's runtime directory.
        mode: of the file.
        count: called with (counter, number): ``sessions_evicted``.

    Attributes:
        writes: how often the file was replaced.
    """

    def __init__(self, directory: Path, mode: int, count: Callable[[str, int], None]) -> None:
        self._path = directory / FILE
        self._mode = mode
        self._count = count
        self._sessions: dict[int, dict[str, Any]] = {}
        self._texts: dict[int, bytes] = {}
        self._owner: dict[int, int] = {}
        self._by_user: dict[int, OrderedDict[int, int]] = {}  # shares by number, the oldest first
        self._shares: dict[int, int] = {}  # by user
        self._users: dict[int, OrderedDict[int, None]] = {}  # users by their shares
        self._most = 0
        self._used = 0
        self._is_changed = False
        self._written_ns: int | None = None
        self.writes = 0

    def __len__(self) -> int:
        return len(self._sessions)

    def __contains__(self, number: int) -> bool:
        return number in self._sessions

    def get(self, number: int) -> dict[str, Any]:
        """Return the details of a session; empty: none are known."""
        return self._sessions.get(number, {})

    def restore(self) -> None:
        """Continue with the sessions that a predecessor has written."""
        with contextlib.suppress(OSError, ValueError):
            for number, session in json.loads(self._path.read_text(encoding="ascii")).items():
                uid = session.pop(UID, 0)
                self.keep(int(number), uid, session)

    def keep(self, number: int, uid: int, session: dict[str, Any]) -> None:
        """Replace the details of a session. Readers see them after the next `write`."""
        self._forget(number)
        text = b'"%d": %b' % (number, json.dumps(session | {UID: uid}).encode("ascii"))
        shares = 1 + len(text) // SHARE_BYTES
        self._sessions[number] = session
        self._texts[number] = text
        self._owner[number] = uid
        self._by_user.setdefault(uid, OrderedDict())[number] = shares
        self._change(uid, shares)
        while self._used > SHARES_MAX and len(self._sessions) > 1:
            heaviest = next(iter(self._users[self._most]))
            self._forget(next(iter(self._by_user[heaviest])))
            self._count("sessions_evicted", 1)
        self._is_changed = True

    @property
    def is_unwritten(self) -> bool:
        """Whether the file is out of date."""
        return self._is_changed

    def write(self, *, at_once: bool = False) -> None:
        """Replace the file if it is out of date and WRITE_NS have passed.

        If the file system is full, only this file is missing for readers.
        """
        now = now_boot_ns()
        is_due = self._written_ns is None or now - self._written_ns >= WRITE_NS
        if not at_once and not (self._is_changed and is_due):
            return
        self._written_ns = now
        self._is_changed = False
        self.writes += 1
        with contextlib.suppress(OSError):
            files.replace(self._path, b"{%b}" % b", ".join(self._texts.values()), self._mode)

    def _forget(self, number: int) -> None:
        if self._sessions.pop(number, None) is None:
            return
        del self._texts[number]
        uid = self._owner.pop(number)
        self._change(uid, -self._by_user[uid].pop(number))
        if not self._by_user[uid]:
            del self._by_user[uid]

    def _change(self, uid: int, shares: int) -> None:
        """Add shares to a user, or subtract them; users stay sorted by their shares."""
        before = self._shares.pop(uid, 0)
        after = before + shares
        if before:
            del self._users[before][uid]
            if not self._users[before]:
                del self._users[before]
        if after:
            self._shares[uid] = after
            self._users.setdefault(after, OrderedDict())[uid] = None
        self._used += shares
        self._most = max(self._most, after)
        # At most as many steps as shares were subtracted, because the largest user has not lost more.
        while self._most and self._most not in self._users:
            self._most -= 1

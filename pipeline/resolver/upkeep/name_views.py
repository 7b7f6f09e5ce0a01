"""The names of containers that are kept. Number and size are bounded, for all views together and for each user.

A view is a container, or namespaces other than the host's. An unprivileged user can make thousands of them, so the
views of one user never displace those of all others. This module decides what is kept and what is evicted; names are
read by `name_reader`, and `names` decides when.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterator

from pipeline.resolver.stream._name_cache import VIEWS_MAX, VIEWS_PER_USER, Names

#: Limit for names in memory and for their files below ``users``, of all views together.
BYTES_MAX = 16 << 20
#: A file occupies whole pages.
_PAGE = 4096

#: Container id, mount namespace, user namespace.
View = tuple[bytes, int, int]


class Known:
    """The state of one view; `names` is None until they have been read.

    Attributes:
        user: the user to which the view is charged: the owner of its namespaces or, until that is known, the user of
            its process.
        nbytes: of names and file.
        digest: of the file.
        first_ns, seen_ns: when a process of the view was seen first and last.
        due_ns: when the view may be read again.
        failures: failed readings since the last successful one.
        is_asked: the view is being read.
    """

    __slots__ = ("digest", "due_ns", "failures", "first_ns", "is_asked", "names", "nbytes", "seen_ns", "user")

    def __init__(self, user: int = 0, first_ns: int = 0) -> None:
        self.user, self.first_ns = user, first_ns
        self.names: Names | None = None
        self.digest = b""
        self.nbytes = self.seen_ns = self.due_ns = self.failures = 0
        self.is_asked = False


class Views:
    """Views by their key, the least recently seen first."""

    def __init__(self, count_max: int = VIEWS_MAX) -> None:
        self._count_max = count_max
        self._known: OrderedDict[View, Known] = OrderedDict()
        self._bytes: Counter[int] = Counter()  # by user
        self._count: Counter[int] = Counter()

    def __len__(self) -> int:
        return len(self._known)

    def __iter__(self) -> Iterator[tuple[View, Known]]:
        return iter(self._known.items())

    @property
    def nbytes(self) -> int:
        """Size of all views."""
        return self._bytes.total()

    def get(self, view: View) -> Known | None:
        """Return the state of a view; None: it is not kept."""
        return self._known.get(view)

    def see(self, view: View, user: int, now: int) -> Known:
        """Return the view of a process that was seen; if the view is new, add it and charge it to `user`."""
        known = self._known.get(view)
        if known is None:
            known = self._known[view] = Known(user, first_ns=now)
            self._count[user] += 1
        known.seen_ns = now
        self._known.move_to_end(view)
        return known

    def put(self, view: View, user: int, names: Names, digest: bytes, file_bytes: int) -> None:
        """Store the names of a view that is kept."""
        known = self._known[view]
        self._charge(known, -1)
        known.user, known.names, known.digest = user, names, digest
        known.nbytes = names.nbytes + -(-file_bytes // _PAGE) * _PAGE
        self._charge(known, 1)

    def forget(self, view: View) -> None:
        """Drop a view."""
        self._charge(self._known.pop(view), -1)

    def strip(self, view: View, due_ns: int) -> None:
        """Drop the names of a view, but keep the view, which is not read again before `due_ns`."""
        known = self._known[view]
        self._bytes[known.user] -= known.nbytes
        known.names, known.nbytes, known.digest, known.due_ns = None, 0, b"", due_ns

    def surplus(self) -> tuple[View, bool] | None:
        """Return the view to evict next, and whether dropping its names is enough; None: all limits hold.

        It belongs to a user that exceeds the limit of one user, else to the user with the most.
        """
        for user, count in self._count.items():
            if user and count > VIEWS_PER_USER:
                return self._oldest(user, False)
        if self.nbytes > BYTES_MAX:
            return self._oldest(self._bytes.most_common(1)[0][0], True)
        if len(self._known) > self._count_max:
            return self._oldest(self._count.most_common(1)[0][0], False)
        return None

    def _oldest(self, user: int, is_for_bytes: bool) -> tuple[View, bool]:
        fits = (view for view, known in self if known.user == user and (known.nbytes or not is_for_bytes))
        return next(fits), is_for_bytes

    def _charge(self, known: Known, sign: int) -> None:
        self._count[known.user] += sign
        self._bytes[known.user] += sign * known.nbytes
        if not self._count[known.user]:
            del self._count[known.user], self._bytes[known.user]

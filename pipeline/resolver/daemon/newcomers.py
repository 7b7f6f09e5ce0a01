"""Notice programs that open the tables, so that the shards may rest while no program has them open.

While there are neither subscribers nor readers, events gather for longer than `capture.freshness_ms`. A program that
opens the tables then would see them too far behind until the next housekeeping finds its lock. So the resolver watches
the file that every reader opens first. At the first opening it makes the shards read at once. That takes a millisecond,
about as long as it takes a reader to map the tables.

Any user may open the file. So only one opening is noticed between two housekeepings.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from pipeline.shm.layout.layout import AUDIENCE_NOBODY

if TYPE_CHECKING:
    from pipeline.resolver.daemon._waiting import Openings
    from pipeline.shm.writer._writer import TableWriter


class Newcomers:
    """Shows the shards which programs wait for events.

    Args:
        tables: held by this process.
        openings: notices that the tables are opened; None: that is impossible, so there may always be a reader.
        hurry: makes the shards read their rings at once.

    Attributes:
        is_resting: no program waits for events, and an opening of the tables is noticed.
    """

    def __init__(self, tables: TableWriter, openings: Openings | None, hurry: Callable[[], object]) -> None:
        self._tables = tables
        self._openings = openings
        self._hurry = hurry
        self.is_resting = False

    def show_audience(self, has_subscribers: bool) -> None:
        """Show the shards which programs wait for events now. Call this regularly."""
        openings = self._openings
        is_watched = openings is not None and openings.is_armed
        self._show(has_subscribers, is_watched)
        if openings is not None and not is_watched and not has_subscribers and not self._tables.is_read:
            # A reader that opened the tables before this has its lock when this is called again.
            openings.arm()

    def welcome(self, has_subscribers: bool) -> None:
        """Read for the program that has just opened the tables, and as often as for a reader until it has its lock."""
        self._show(has_subscribers, False)

    def _show(self, has_subscribers: bool, is_watched: bool) -> None:
        was_resting = self.is_resting
        self.is_resting = self._tables.show_audience(has_subscribers, is_watched) == AUDIENCE_NOBODY
        if was_resting and not self.is_resting:
            self._hurry()

"""The rates on the screen: who is spawning all this?"""

from __future__ import annotations

from pipeline.screen.lines import Line
from pipeline.screen.styles import Style
from pipeline.top.groupings import GROUPINGS
from pipeline.top.model import Model
from pipeline.top.rates import Group
from pipeline.top.sparks import HISTORY, rate, sparkline
from pipeline.top.widgets import Scroller


class RateList(Scroller):
    """Forks, execs and exits a second of each group, the busiest first.

    Args:
        model: what is shown.
    """

    heading_height = 1

    def __init__(self, model: Model, **options: str) -> None:
        super().__init__(**options)
        self._model = model
        self.grouping = GROUPINGS[0]
        self._groups: list[Group] = []
        self._selected = ""

    def next_grouping(self) -> None:
        """Group by something else."""
        self.grouping = GROUPINGS[(GROUPINGS.index(self.grouping) + 1) % len(GROUPINGS)]
        self.cursor = self.top = 0
        self._selected = ""
        self.refill()

    def refill(self) -> None:
        """Sort the groups again. The selected one stays selected."""
        self._groups = self._model.group_by(self.grouping).busiest()
        names = [group.name for group in self._groups]
        if self._selected in names:
            self.cursor = names.index(self._selected)
        self.show_cursor()

    def move(self, lines: int) -> None:
        """Select another group."""
        super().move(lines)
        group = self.group
        self._selected = "" if group is None else group.name

    @property
    def group(self) -> Group | None:
        """The selected group."""
        return self._groups[self.cursor] if 0 <= self.cursor < len(self._groups) else None

    def count(self) -> int:
        """Return the number of groups."""
        return len(self._groups)

    def heading(self, width: int) -> Line:
        """Return the titles."""
        return Line((
            f" {'FORK/S':>6} {'EXEC/S':>6} {'EXIT/S':>6} {'TOTAL':>8}  {'HISTORY':{self._bars(width)}}  "
            f"{self.grouping.upper()}",
            Style.HEADING,
        ))  # fmt: skip

    def line(self, number: int, width: int) -> Line:
        """Return the line of a group."""
        group = self._groups[number]
        forks, execs, exits = group.rates()
        line = Line(" ")
        for value, style in ((forks, Style.BORN), (execs, Style.CHANGED), (exits, Style.EXITED)):
            line.add(f"{rate(value):>6} ", style if value > 0 else Style.FAINT)
        line.add(f"{sum(group.totals):>8,}  ")
        bars = self._bars(width)
        line.add(sparkline(group.history(), bars), Style.PROGRAM)
        line.add("  ")
        text, room = group.name, width - line.width
        if self.grouping == "executable" and len(text) > room:
            text = "…" + text[len(text) - room + 1 :]  # its end says which program it is
        directory, slash, name = text.rpartition("/") if self.grouping == "executable" else ("", "", text)
        return line.add(directory + slash, Style.PATH).add(name or text, Style.PROGRAM if slash else Style.PLAIN)

    def _bars(self, width: int) -> int:
        return max(8, min(HISTORY, (width - 32) // 3))

"""The list of processes on the screen."""

from __future__ import annotations

from textual.message import Message

from pipeline.screen import processes as shown
from pipeline.screen.lines import Line
from pipeline.screen.styles import Style
from pipeline.top.columns import BORN, CHANGED, COLUMNS, ENDED, Column, Subject, default_columns, fitting
from pipeline.top.model import Identity, Model
from pipeline.top.widgets import Scroller

_STATE_STYLES = {BORN: Style.BORN, CHANGED: Style.CHANGED, ENDED: Style.EXITED}
#: Deeper levels of the tree are not indented further.
_LEVELS_PART = 3


class ProcessList(Scroller):
    """The processes, as a tree or as a list. The selected process stays selected when lines move.

    Args:
        model: what is shown.
    """

    heading_height = 1

    class SortAsked(Message):
        """The heading of a column was clicked."""

        def __init__(self, column: Column) -> None:
            super().__init__()
            self.column = column

    def __init__(self, model: Model, **options: str) -> None:
        super().__init__(**options)
        self._model = model
        self.selected: Identity | None = None
        self.found_words: tuple[str, ...] = ()

    # -- lines ---------------------------------------------------------------------------------------------------------

    def count(self) -> int:
        """Return the number of processes that are shown."""
        return 0 if self._model.lines is None else len(self._model.lines)

    def columns(self, width: int) -> list[Column]:
        """Return the columns that are shown at a width."""
        return fitting(self._model.settings.columns or default_columns(width), width)

    def heading(self, width: int) -> Line:
        """Return the titles; the column that sorts has an arrow."""
        settings = self._model.settings
        line = Line("  ")
        for column in self.columns(width):
            title = column.title
            is_sorting = column.name == settings.sort
            if is_sorting:
                title = title[: column.width - 1] + ("▾" if settings.is_reversed != column.is_falling else "▴")
            if column.name != "command":
                title = (title.rjust(column.width) if column.is_right else title.ljust(column.width)) + " "
            line.add(title, Style.BORN if is_sorting else Style.HEADING)
        return line

    def heading_clicked(self, x: int) -> None:
        """Sort by the column whose title was clicked."""
        at = 2
        for column in self.columns(self.size.width - 1):
            at += column.width + 1
            if x < at or column.name == "command":
                self.post_message(self.SortAsked(column))
                return

    def line(self, number: int, width: int) -> Line:
        """Return the line of a process."""
        subject = self._model.subject(number)
        state = subject.state
        line = Line((state + " ", _STATE_STYLES.get(state, Style.PLAIN)))
        columns = self.columns(width)
        with_end = all(column.name != "end" for column in columns)
        for column in columns:
            if column.name == "command":
                line.join(self._command(number, subject, state, width - line.width))
                continue
            cell = column.cell(subject).cut(column.width)
            space = " " * (column.width - cell.width)
            if column.is_right:
                line.add(space).join(cell)
            else:
                line.join(cell).add(space)
            line.add(" ")
        lines = self._model.lines
        if lines is not None and lines.is_match is not None and not lines.is_match[number]:
            return line.restyled(Style.FAINT)
        if state == ENDED:
            line = line.restyled(Style.EXITED if self._is_fading(subject) else Style.FAINT)
            fields = subject.facts.fields
            if with_end and fields.get("exit_code"):
                note = f"  [{shown.ending(fields)}]"
                line = line.cut(max(width // 2, width - len(note))).add(note, shown.ending_style(fields))
        return line

    def _is_fading(self, subject: Subject) -> bool:
        keep_ns = self._model.settings.keep_s * 1e9
        return subject.processes.now_boot_ns - subject.ended_ns > keep_ns / 2

    def _command(self, number: int, subject: Subject, state: str, width: int) -> Line:
        line = self._guide(number, width)
        command = subject.facts.command
        if state == BORN:
            command = command.restyled(Style.BORN)
        elif state == CHANGED:
            command = command.restyled(Style.CHANGED)
        return line.join(command)

    def _guide(self, number: int, width: int) -> Line:
        lines = self._model.lines
        assert lines is not None
        position = int(lines.positions[number])
        line = Line()
        if self._model.settings.is_tree:
            levels = max(2, width // (2 * _LEVELS_PART))
            branches = lines.branches(number, levels + 1)  # a lineage can be longer than a screen has time for
            if len(branches) > levels:
                # Far down the upper levels are left out, so that there is room for the command.
                line.add("⋯ ", Style.FAINT)
                branches = branches[1 - levels :]
            text = "".join("│ " if continues else "  " for continues in branches[:-1])
            if branches:
                text += "├─" if branches[-1] else "└─"
            line.add(text, Style.FAINT)
            if position in lines.folded:
                line.add(f"[+{lines.hidden_below(position)}] ", Style.HEADING)
            hidden = lines.ended_hidden.get(position)
            if hidden:
                line.add(f"({hidden} more ended) ", Style.EXITED)
        return line

    # -- the selected process ------------------------------------------------------------------------------------------

    def follow(self) -> None:
        """Find the selected process among the lines again, and leave it where it is on the screen."""
        number = self._model.line_of(self.selected)
        if number >= 0:
            # At the top the list stays at the top, so that new processes appear there.
            if self.top:
                self.top += number - self.cursor
            self.cursor = number
            self._bound()
            if not self.top <= self.cursor < self.top + self.page:
                self.show_cursor()
                return
        else:
            self._bound()
            self.selected = self._model.identity(self.cursor)
        self.update()

    def select(self, number: int, *, in_middle: bool = False) -> None:
        """Select the process of a line.

        Args:
            number: of the line.
            in_middle: if the line is not visible, scroll it to the middle.
        """
        if in_middle and not self.top <= number < self.top + self.page:
            self.top = number - self.page // 2
        self.cursor = number
        self.selected = self._model.identity(number)
        self.show_cursor()
        self.post_message(self.Moved())

    def move(self, lines: int) -> None:
        """Select the process of another line."""
        self._bound()
        self.select(max(0, min(self.cursor + lines, self.count() - 1)))

    def fold(self, *, is_folded: bool) -> None:
        """Hide the descendants of the selected process, or show them; if there is nothing to hide, go to the parent."""
        if self._model.fold(self.cursor, is_folded=is_folded):
            self.follow()
        elif is_folded and self._model.lines is not None and self.count():
            lines = self._model.lines
            parent = int(lines.processes.parents[lines.positions[self.cursor]])
            number = lines.find(parent) if parent >= 0 else -1
            if number >= 0:
                self.select(number)


def column_lines(chosen: tuple[str, ...]) -> list[tuple[str, Line]]:
    """Return the columns as a menu: the name of each, and its line."""
    menu = []
    for column in COLUMNS.values():
        if column.name != "command":
            mark = "x" if column.name in chosen else " "
            menu.append((column.name, Line(f"[{mark}] {column.name:10} ", (column.help, Style.FAINT))))
    return menu

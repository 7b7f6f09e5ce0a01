"""Lines of text on the screen: only those that are visible are made, and only those that differ are drawn."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from rich.segment import Segment
from rich.style import Style as RichStyle
from textual import events
from textual.geometry import Region
from textual.message import Message
from textual.strip import Strip
from textual.widget import Widget

from pipeline.screen.lines import Line
from pipeline.screen.styles import Style, rich_style

_SELECTED = RichStyle(reverse=True)
_WHEEL_LINES = 3


@cache
def rich_of(style: Style) -> RichStyle:
    """Return a style as textual draws it."""
    return RichStyle.null() if style is Style.PLAIN else RichStyle.parse(rich_style(style))


def strip(line: Line, width: int, *, is_selected: bool = False) -> Strip:
    """Return a line as textual draws it, cut and filled to a width in cells."""
    line = line.cut(width)
    if is_selected:  # colours would be backgrounds, of every piece another one
        line = line.restyled(Style.PLAIN)
    segments = [Segment(text, rich_of(style)) for text, style in line.pieces]
    drawn = Strip(segments).adjust_cell_length(width, RichStyle.null())
    return drawn.apply_style(_SELECTED) if is_selected else drawn


class TextLines(Widget):
    """Lines that do not scroll, such as those at the top of the screen."""

    def __init__(self, draw: Callable[[int], list[Line]], **options: str) -> None:
        super().__init__(**options)  # type: ignore[arg-type]
        self._draw = draw
        self._drawn: list[Strip] = []

    def update(self) -> None:
        """Make the lines again, and draw those that differ."""
        width = self.size.width
        lines = [strip(line, width) for line in self._draw(width)]
        for number, line in enumerate(lines):
            if number >= len(self._drawn) or self._drawn[number] != line:
                self.refresh(Region(0, number, width, 1))
        self._drawn = lines

    def on_resize(self) -> None:
        """Make the lines for the new width."""
        self.update()

    def render_line(self, y: int) -> Strip:
        """Return a line."""
        return self._drawn[y] if y < len(self._drawn) else Strip.blank(self.size.width)


class Scroller(Widget, can_focus=True):
    """Lines that scroll, one of them selected. A subclass makes each line when it becomes visible.

    Attributes:
        top: number of the first visible line.
        cursor: number of the selected line.
    """

    heading_height = 0

    class Chosen(Message):
        """A line was chosen by Enter or by a double click."""

    class Moved(Message):
        """Another line is selected."""

    def __init__(self, **options: str) -> None:
        super().__init__(**options)  # type: ignore[arg-type]
        self.top = 0
        self.cursor = 0
        self._drawn: dict[int, Strip] = {}

    # -- what a subclass provides --------------------------------------------------------------------------------------

    def count(self) -> int:
        """Return the number of lines."""
        raise NotImplementedError

    def line(self, number: int, width: int) -> Line:
        """Return a line."""
        raise NotImplementedError

    def heading(self, width: int) -> Line:
        """Return the line above the others, if there is one (`heading_height`)."""
        return Line()

    def heading_clicked(self, x: int) -> None:
        """Handle a click on the heading."""

    # -- drawing -------------------------------------------------------------------------------------------------------

    @property
    def page(self) -> int:
        """Number of lines that fit."""
        return max(1, self.size.height - self.heading_height)

    def update(self) -> None:
        """Make the visible lines again, and draw those that differ."""
        self._bound()
        width = self.size.width
        if not width:
            return
        for y in range(self.size.height):
            made = self._make(y, width)
            if self._drawn.get(y) != made:
                self._drawn[y] = made
                self.refresh(Region(0, y, width, 1))

    def _make(self, y: int, width: int) -> Strip:
        if y < self.heading_height:
            return strip(self.heading(width - 1), width)
        number = self.top + y - self.heading_height
        count = self.count()
        if number >= count:
            return Strip.blank(width)
        bar = self._bar(y - self.heading_height, count)
        text = strip(self.line(number, width - 1), width - 1, is_selected=number == self.cursor and self.is_marked)
        return Strip([*text, Segment(bar, rich_of(Style.FAINT))], width)

    @property
    def is_marked(self) -> bool:
        """Whether the selected line is shown as such."""
        return True

    def _bar(self, y: int, count: int) -> str:
        """Return the part of the scroll bar beside a line."""
        page = self.page
        if count <= page:
            return " "
        size = max(1, page * page // count)
        begin = round(self.top / (count - page) * (page - size)) if count > page else 0
        return "┃" if begin <= y < begin + size else "│"

    def _bound(self) -> None:
        count = self.count()
        self.cursor = max(0, min(self.cursor, count - 1))
        self.top = max(0, min(self.top, count - self.page))

    def render_line(self, y: int) -> Strip:
        """Return a visible line."""
        made = self._drawn.get(y)
        if made is None or made.cell_length != self.size.width:
            made = self._drawn[y] = self._make(y, self.size.width)
        return made

    def on_resize(self) -> None:
        """Keep the selected line visible."""
        self._drawn.clear()
        self.show_cursor()

    def show_cursor(self) -> None:
        """Scroll so that the selected line is visible."""
        self._bound()
        if self.cursor < self.top:
            self.top = self.cursor
        elif self.cursor >= self.top + self.page:
            self.top = self.cursor - self.page + 1
        self.update()

    # -- keyboard and mouse --------------------------------------------------------------------------------------------

    def move(self, lines: int) -> None:
        """Select another line."""
        self.cursor += lines
        self.show_cursor()
        self.post_message(self.Moved())

    def on_key(self, event: events.Key) -> None:
        """Move, or choose."""
        steps = {
            "up": -1, "k": -1, "down": 1, "j": 1, "pageup": -self.page, "pagedown": self.page, "ctrl+b": -self.page,
            "ctrl+f": self.page, "home": -(1 << 40), "g": -(1 << 40), "end": 1 << 40, "G": 1 << 40,
        }  # fmt: skip
        if event.key in steps or event.character in steps:
            self.move(steps.get(event.key) or steps[event.character or ""])
        elif event.key == "enter":
            self.post_message(self.Chosen())
        else:
            return
        event.stop()

    def on_click(self, event: events.Click) -> None:
        """Select a line; a double click chooses it."""
        if event.y < self.heading_height:
            self.heading_clicked(event.x)
            return
        number = self.top + event.y - self.heading_height
        if number < self.count():
            self.move(number - self.cursor)
            if event.chain == 2:
                self.post_message(self.Chosen())

    def on_mouse_scroll_down(self, event: events.MouseScrollDown) -> None:
        """Scroll without selecting."""
        self.scroll_lines(_WHEEL_LINES)
        event.stop()

    def on_mouse_scroll_up(self, event: events.MouseScrollUp) -> None:
        """Scroll without selecting."""
        self.scroll_lines(-_WHEEL_LINES)
        event.stop()

    def scroll_lines(self, lines: int) -> None:
        """Scroll; the selected line stays the same, even if it is not visible then."""
        self.top += lines
        self.update()

"""Boxes that cover the screen for a moment: the help, and menus."""

from __future__ import annotations

from textual import events
from textual.app import ComposeResult
from textual.containers import Container
from textual.screen import ModalScreen
from textual.widgets import Static

from pipeline.screen.lines import Line
from pipeline.screen.styles import Style
from pipeline.top.widgets import Scroller

HELP = (
    ("Move", ""),
    ("↑ ↓ PgUp PgDn Home End", "select a process (also j k g G)"),
    ("← →", "fold or unfold its descendants; ← again goes to the parent"),
    ("* _", "unfold all, fold all below the first level"),
    ("Enter, double click", "details: arguments, images, both lineages, credentials, source"),
    ("Tab", "go to the other pane"),
    ("Choose", ""),
    ("/ n N", "search in pid, command line, path and user; next, previous"),
    ("f", "filter: words, user= unit= container= path= under= failed"),
    ("u w", "only the user of the selected process; only its subtree"),
    ("F", "no filter"),
    ("x", "how long ended processes stay: 0, 1, 3, 10 or 60 s"),
    ("Arrange", ""),
    ("t", "tree, or one list"),
    ("s r", "sort by a column; the other way round (also: click on a heading)"),
    ("c", "choose columns"),
    ("Who is spawning all this?", ""),
    ("v", "forks, execs and exits a second; back"),
    ("b", "by executable, unit, user, or spawning process"),
    ("Enter", "show the processes of the group"),
    ("Time", ""),
    ("Space", "pause; continue"),
    ("[ ] { }", "one second, or a tenth of the time line, back or on (also: click on it)"),
    ("p", "the present; of a recording, its end"),
    ("< >", "a recording slower or faster"),
    ("Marks", ""),
    ("+ > -", "new; has just executed another program; has ended"),
    ("? q", "this help; quit"),
)


class Menu(Scroller):
    """Lines to choose from.

    Args:
        lines: a value for each line.
        at: the line that is selected first.
    """

    def __init__(self, lines: list[tuple[str, Line]], at: int = 0) -> None:
        super().__init__()
        self.lines = lines
        self.cursor = at

    def count(self) -> int:
        """Return the number of lines."""
        return len(self.lines)

    def line(self, number: int, width: int) -> Line:
        """Return a line."""
        return Line(" ").join(self.lines[number][1])


class Dialog(ModalScreen[str | None]):
    """A menu or a text in front of the screen; its result is the value of the chosen line, None if none was chosen."""

    def __init__(self, title: str, lines: list[tuple[str, Line]], at: int = 0) -> None:
        super().__init__()
        self._title = title
        self._menu = Menu(lines, at)

    def compose(self) -> ComposeResult:
        """Compose the dialog."""
        with Container(id="dialog"):
            yield Static(self._title, id="title", markup=False)
            yield self._menu

    def on_mount(self) -> None:
        """Make it as large as its lines."""
        width = max((line.width for _, line in self._menu.lines), default=0) + 7
        dialog = self.query_one("#dialog")
        dialog.styles.width = min(width, self.app.size.width - 2)
        dialog.styles.height = min(len(self._menu.lines) + 3, self.app.size.height - 2)
        self._menu.focus()

    def on_scroller_chosen(self) -> None:
        """Return the chosen line."""
        if self._menu.lines:
            self.dismiss(self._menu.lines[self._menu.cursor][0])

    def on_key(self, event: events.Key) -> None:
        """Close it."""
        if event.key in {"escape", "q"} or event.character == "?":
            event.stop()
            self.dismiss(None)

    def on_click(self, event: events.Click) -> None:
        """Close it with a click beside it."""
        if event.widget is self:
            self.dismiss(None)


def help_lines() -> list[tuple[str, Line]]:
    """Return the help."""
    return [
        ("", Line((f"{keys:24}", Style.HEADING), f"  {what}") if what else Line((keys, Style.BORN)))
        for keys, what in HELP
    ]

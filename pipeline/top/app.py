"""The application: what is on the screen, which key does what, and how often it is drawn."""

from __future__ import annotations

import contextlib
from typing import ClassVar

from textual import events
from textual.app import App, ComposeResult
from textual.containers import Container
from textual.widgets import Input

from pipeline.errors import BusyError, StaleError, TooOldError
from pipeline.screen.lines import Line
from pipeline.screen.styles import Style
from pipeline.select.selection import Selection
from pipeline.select.units import NO_UNIT
from pipeline.top import bars
from pipeline.top.columns import COLUMNS
from pipeline.top.details import Details, describe
from pipeline.top.dialogs import Dialog, help_lines
from pipeline.top.filters import FORMS, Filter, parse
from pipeline.top.model import KEEP_CHOICES_S, Model
from pipeline.top.process_list import ProcessList, column_lines
from pipeline.top.rate_list import RateList
from pipeline.top.widgets import Scroller, TextLines

#: Height of the details, as a part of the screen.
_DETAILS_PART = 2
_STEP_NS = 1_000_000_000
_SPEEDS = (0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)


class Top(App[None]):
    """The screen of `procline top`.

    Args:
        model: what is shown.
        interval_s: between two readings.
        rates_by: show the rates first, grouped by this; None: show the processes first.
        note: shown until the first key.

    Attributes:
        frames: readings that were shown.
    """

    ENABLE_COMMAND_PALETTE = False
    CSS = """
    Screen { background: ansi_default; color: ansi_default; layout: vertical; }
    Widget { background: ansi_default; color: ansi_default; }
    #summary { height: 2; }
    #time { height: 1; display: none; }
    #keys { height: 1; }
    #main { height: 1fr; }
    ProcessList, RateList { height: 1fr; }
    RateList { display: none; }
    Details { display: none; border-top: solid ansi_bright_black; }
    #prompt { display: none; height: 1; border: none; padding: 0; }
    Dialog { align: center middle; background: ansi_default; }
    #dialog { border: round ansi_bright_black; padding: 0 1; }
    #title { height: 1; text-style: bold; }
    """
    BINDINGS: ClassVar = []

    def __init__(self, model: Model, interval_s: float = 0.5, *, rates_by: str | None = None, note: str = "") -> None:
        super().__init__(ansi_color=True)
        self.animation_level = "none"
        self.model = model
        self.frames = 0
        self._interval_s = interval_s
        self._rates_by = rates_by
        self._prompt_kind = ""
        self._words: tuple[str, ...] = ()
        self._note = note

    def compose(self) -> ComposeResult:
        """Compose the screen."""
        yield TextLines(lambda width: bars.summary_lines(self.model, width), id="summary")
        with Container(id="main"):
            yield ProcessList(self.model)
            yield RateList(self.model)
        yield Details()
        yield TextLines(lambda width: [bars.time_line(self.model, width)], id="time")
        yield Input(id="prompt", compact=True, select_on_focus=False)
        yield TextLines(self._last_line, id="keys")

    def on_mount(self) -> None:
        """Begin to read."""
        self.processes = self.query_one(ProcessList)
        self.rate_list = self.query_one(RateList)
        self.details = self.query_one(Details)
        self.prompt = self.query_one("#prompt", Input)
        self.processes.focus()
        if self._rates_by is not None:
            self.rate_list.grouping = self._rates_by
            self._change_view()
        self.step()
        self.set_interval(self._interval_s, self.step)

    # -- drawing -------------------------------------------------------------------------------------------------------

    def step(self) -> None:
        """Read the tables, and draw what differs."""
        was_paused = self.model.is_paused
        has_news = self.model.step()
        self.query_one("#summary", TextLines).update()
        if has_news:
            self.frames += 1
            self.draw()
        elif was_paused != self.model.is_paused:
            self._draw_time()

    def draw(self) -> None:
        """Draw what differs."""
        if self.rate_list.display:
            self.rate_list.refill()
        else:
            self.processes.follow()
        self._describe()
        self._draw_time()
        self.query_one("#summary", TextLines).update()

    def _draw_time(self) -> None:
        line = self.query_one("#time", TextLines)
        line.display = self.model.at_boot_ns is not None
        if line.display:
            line.update()

    def _describe(self) -> None:
        if not self.details.display:
            return
        number = self.model.line_of(self.processes.selected)
        if number >= 0:
            width = max(20, self.details.size.width - 1)
            with contextlib.suppress(TooOldError, StaleError, BusyError):  # an image was evicted meanwhile: leave it
                self.details.fill(list(describe(self.model, self.model.subject(number), width)))

    def _last_line(self, width: int) -> list[Line]:
        return [Line((self._note, Style.WARNING)) if self._note else bars.key_line(width)]

    def say(self, note: str) -> None:
        """Show a note in place of the keys, until the next key."""
        self._note = note
        self.query_one("#keys", TextLines).update()

    # -- keys ----------------------------------------------------------------------------------------------------------

    def on_key(self, event: events.Key) -> None:
        """Do what a key asks for."""
        if isinstance(self.screen, Dialog):
            return
        if self.prompt.has_focus:
            if event.key == "escape":
                self._close_prompt()
            return
        if self._note:
            self.say("")
        action = self._actions.get(event.key) or self._actions.get(event.character or "")
        if action is not None:
            event.stop()
            action(self)

    def _help(self) -> None:
        self.push_screen(Dialog("Keys", help_lines()))

    def _pause(self) -> None:
        self.model.pause()
        self._moved()

    def _moved(self) -> None:
        self.model.read()
        self.draw()

    def _seek(self, ns: int) -> None:
        if self.model.at_boot_ns is None:
            self.model.pause()
        if self.model.at_boot_ns is not None:
            self.model.seek(self.model.at_boot_ns + ns)
        self._moved()

    def _seek_far(self, tenths: int) -> None:
        if self.model.at_boot_ns is None:
            self.model.pause()
        if self.model.span is not None:
            self._seek(tenths * max(1, self.model.end_boot_ns - self.model.span.begin_boot_ns) // 10)

    def _present(self) -> None:
        self.model.to_present()
        self._moved()

    def _change_speed(self, step: int) -> None:
        if not self.model.is_recording:
            self.say("only a recording has another speed; Space pauses")
            return
        at = _SPEEDS.index(self.model.settings.speed) + step
        self.model.settings.speed = _SPEEDS[max(0, min(len(_SPEEDS) - 1, at))]
        self.say(f"speed x{self.model.settings.speed:g}")
        self.query_one("#summary", TextLines).update()

    def _arrange(self) -> None:
        self.model.arrange()
        self.draw()

    def _change_tree(self) -> None:
        self.model.settings.is_tree = not self.model.settings.is_tree
        self._arrange()

    def _reverse(self) -> None:
        self.model.settings.is_reversed = not self.model.settings.is_reversed
        self._arrange()

    def _choose_sort(self) -> None:
        lines = [("", Line("start    ", ("by start, the oldest first", Style.FAINT)))]
        lines += [(column.name, Line(f"{column.name:10} ", (column.help, Style.FAINT))) for column in COLUMNS.values()]
        names = [name for name, _ in lines]

        def chosen(name: str | None) -> None:
            if name is not None:
                self.model.settings.sort, self.model.settings.is_reversed = name, False
                self._arrange()

        self.push_screen(Dialog("Sort by", lines, names.index(self.model.settings.sort)), chosen)

    def _choose_columns(self, at: int = 0) -> None:
        shown = tuple(column.name for column in self.processes.columns(self.processes.size.width - 1))
        lines = column_lines(shown)

        def chosen(name: str | None) -> None:
            if name is not None:
                kept = set(shown) ^ {name}
                self.model.settings.columns = tuple(each for each in COLUMNS if each in kept)
                self.draw()
                self._choose_columns([each for each, _ in lines].index(name))

        self.push_screen(Dialog("Columns (Enter shows or hides, Esc closes)", lines, at), chosen)

    def _change_keep(self) -> None:
        choices = KEEP_CHOICES_S
        later = [choice for choice in choices if choice > self.model.settings.keep_s]
        self.model.settings.keep_s = later[0] if later else choices[0]
        self.say(f"ended processes stay {self.model.settings.keep_s:g} s")
        if self.model.is_paused:
            self._moved()

    def _change_view(self) -> None:
        self.rate_list.display = not self.rate_list.display
        self.processes.display = not self.rate_list.display
        (self.rate_list if self.rate_list.display else self.processes).focus()
        self.draw()

    def _regroup(self) -> None:
        if not self.rate_list.display:
            self._change_view()
        else:
            self.rate_list.next_grouping()

    def _show_details(self) -> None:
        self.details.display = not self.details.display
        self.details.styles.height = max(8, self.size.height // _DETAILS_PART)
        self.details.top = 0
        if not self.details.display:
            self.processes.focus()
        self.call_after_refresh(self.draw)

    def _next_pane(self) -> None:
        if self.details.display and not self.details.has_focus:
            self.details.focus()
        else:
            (self.rate_list if self.rate_list.display else self.processes).focus()

    def _fold(self, *, is_folded: bool) -> None:
        self.processes.fold(is_folded=is_folded)

    def _fold_all(self) -> None:
        processes = self.model.processes
        if processes is not None:
            _, offsets = processes.families
            self.model.settings.folded = {
                identity
                for place, identity in enumerate(processes.identities)
                if processes.parents[place] >= 0 and offsets[place] != offsets[place + 1]
            }
            self._arrange()

    def _unfold_all(self) -> None:
        self.model.settings.folded.clear()
        self._arrange()

    # -- search and filter ---------------------------------------------------------------------------------------------

    def _ask(self, kind: str, text: str, hint: str) -> None:
        self._prompt_kind = kind
        self.prompt.value = text
        self.prompt.placeholder = hint
        self.prompt.cursor_position = len(text)
        self.prompt.display = True
        self.prompt.focus()

    def _ask_search(self) -> None:
        self._ask("search", "", "search for words")

    def _ask_filter(self) -> None:
        self._ask("filter", str(self.model.settings.filter), f"only: {FORMS}")

    def _close_prompt(self) -> None:
        self.prompt.display = False
        (self.rate_list if self.rate_list.display else self.processes).focus()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Search or filter."""
        event.stop()
        self._close_prompt()
        if self._prompt_kind == "search":
            self._words = tuple(event.value.split())
            self._search(1, is_first=True)
            return
        try:
            self._filter(parse(event.value))
        except ValueError as error:
            self.say(f"filter: {error}")

    def _search(self, step: int, *, is_first: bool = False) -> None:
        if not self._words:
            self.say("nothing to search for: press / first")
            return
        if self.rate_list.display:
            self._change_view()
        start = self.processes.cursor - 1 if is_first else self.processes.cursor
        number = self.model.search(self._words, start, step)
        if number < 0:
            self.say(f"no process on the screen contains {' '.join(self._words)}")
        else:
            self.processes.select(number, in_middle=True)

    def _filter(self, wanted: Filter) -> None:
        self.model.settings.filter = wanted
        self._arrange()

    def _filter_user(self) -> None:
        number = self.model.line_of(self.processes.selected)
        if number >= 0:
            fields = self.model.subject(number).facts.fields
            self._filter(Filter(Selection(users=(str(fields.get("user") or fields.get("uid")),))))

    def _filter_below(self) -> None:
        number = self.model.line_of(self.processes.selected)
        if number >= 0:
            self._filter(Filter(Selection(under=(self.model.subject(number).facts.fields["pid"],))))

    # -- messages of widgets -------------------------------------------------------------------------------------------

    def on_process_list_sort_asked(self, event: ProcessList.SortAsked) -> None:
        """Sort by the column whose heading was clicked."""
        self.model.sort_by(event.column)
        self.draw()

    def on_scroller_moved(self) -> None:
        """Describe the process that is selected now."""
        self.details.top = 0
        self._describe()

    def on_scroller_chosen(self, event: Scroller.Chosen) -> None:
        """Show the details of a process, or the processes of a group."""
        group = self.rate_list.group if self.rate_list.display else None
        if group is None:
            if self.processes.display:
                self._show_details()
            return
        grouping, name = self.rate_list.grouping, group.name
        if grouping == "executable":
            self._filter(Filter(Selection(paths=(name,))) if name.startswith("/") else Filter(words=(name.lower(),)))
        elif grouping == "unit":
            if name != NO_UNIT:
                self._filter(Filter(Selection(units=(name,))))
        elif grouping == "user":
            self._filter(Filter(Selection(users=(name,))))
        else:
            pid = name.partition(" ")[0]
            if pid.isdigit():
                self._filter(Filter(Selection(under=(int(pid),))))
        self._change_view()

    def on_click(self, event: events.Click) -> None:
        """Show the moment that was clicked in the time line."""
        if event.widget is not None and event.widget.id == "time":
            moment = bars.slider_moment(self.model, event.x, event.widget.size.width)
            if moment is not None:
                self.model.seek(moment)
                self._moved()

    _actions: ClassVar = {
        "q": lambda self: self.exit(), "?": _help, "space": _pause, "/": _ask_search, "f": _ask_filter,
        "F": lambda self: self._filter(Filter()), "n": lambda self: self._search(1),
        "N": lambda self: self._search(-1), "t": _change_tree, "s": _choose_sort, "r": _reverse, "c": _choose_columns,
        "x": _change_keep, "v": _change_view, "b": _regroup, "d": _show_details, "tab": _next_pane,
        "left": lambda self: self._fold(is_folded=True), "right": lambda self: self._fold(is_folded=False),
        "*": _unfold_all, "_": _fold_all, "u": _filter_user, "w": _filter_below,
        "[": lambda self: self._seek(-_STEP_NS), "]": lambda self: self._seek(_STEP_NS),
        "{": lambda self: self._seek_far(-1), "}": lambda self: self._seek_far(1), "p": _present,
        "<": lambda self: self._change_speed(-1), ">": lambda self: self._change_speed(1),
    }  # fmt: skip

"""The lines at the top and at the bottom of the screen: figures, the time line, and the keys."""

from __future__ import annotations

from pipeline.screen.lines import Line
from pipeline.screen.sizes import size
from pipeline.screen.styles import Style
from pipeline.screen.times import clock, duration
from pipeline.top.figures import Figures
from pipeline.top.groupings import GROUPINGS
from pipeline.top.model import Model
from pipeline.top.sparks import HISTORY, rate, sparkline

#: A table that is this far behind is worth a warning.
_LAG_NS = 1_000_000_000
#: Fewer bars show nothing.
_BARS_MIN = 8

KEYS = (
    ("?", "help"), ("/", "search"), ("f", "filter"), ("Enter", "details"), ("v", "who spawns"), ("t", "tree or list"),
    ("s", "sort"), ("c", "columns"), ("x", "ended"), ("Space", "pause"), ("q", "quit"),
)  # fmt: skip


def summary_lines(model: Model, width: int) -> list[Line]:
    """Return the two lines at the top."""
    return [_state(model, width), _activity(model, width)]


def _state(model: Model, width: int) -> Line:
    settings = model.settings
    line = Line((f"procline {model.feed.name}", Style.HEADING))
    if model.feed.problem:
        return line.add("  ").add(model.feed.problem, Style.WARNING)
    if model.processes is None:
        return line.add("  reading …", Style.FAINT)
    live = model.processes.live_count
    line.add(f"  {live:,} live")
    ended = len(model.processes) - live
    if ended:
        line.add(f", {ended:,} just ended", Style.EXITED)
    if settings.filter:
        line.add("  filter ", Style.FAINT).add(str(settings.filter), Style.CHANGED)
        matches = model.lines.is_match if model.lines is not None else None
        count = len(model.lines or ()) if matches is None else int(matches.sum())
        line.add(f" ({count:,})")
    if model.at_boot_ns is not None:
        state = "PAUSED" if model.is_paused else "RECORDING" if model.is_recording else "PAST (p: the present)"
        if model.is_recording and not model.is_paused and settings.speed != 1:
            state += f" x{settings.speed:g}"
        line.add("  ").add(state, Style.WARNING)
    return line


def _activity(model: Model, width: int) -> Line:
    figures = model.reading.figures if model.reading is not None else Figures()
    if model.at_boot_ns is not None:
        forks, execs, exits, seconds = model.rates[GROUPINGS[0]].last
        counts = (("fork", forks), ("exec", execs), ("exit", exits))
        kinds = {kind: number / seconds if seconds else 0.0 for kind, number in counts}
        history: list[float] = []
    else:
        kinds, history = figures.rates, list(figures.history)
    line = Line(f"{rate(sum(kinds.values())):>5} {'events/s' if width >= 90 else 'ev/s'} ")
    for kind, style in (("fork", Style.BORN), ("exec", Style.CHANGED), ("exit", Style.EXITED)):
        line.add(f" {rate(kinds.get(kind, 0.0)):>5}", style).add(f" {kind}s" if width >= 70 else "")
    if model.is_recording:
        return line
    line.add("  lost ", Style.FAINT)
    lost = f"{figures.lost_here:,}" if figures.lost_here or not figures.lost else f"0 ({figures.lost:,} before)"
    line.add(lost, Style.FAILED if figures.lost_here else Style.PLAIN)
    if model.at_boot_ns is None:
        late = figures.lag_ns > _LAG_NS
        line.add("  lag ", Style.FAINT).add(duration(figures.lag_ns), Style.WARNING if late else Style.PLAIN)
    if figures.cpu_percent is not None:
        line.add("  cost ", Style.FAINT).add(f"{figures.cpu_percent:.1f}%")
        if figures.memory_bytes is not None and width >= 90:
            line.add(f" {size(figures.memory_bytes)}")
    room = min(HISTORY, width - line.width - 2)
    if history and room >= _BARS_MIN:
        line.add("  ").add(sparkline(history, room), Style.PROGRAM)
    return line


def key_line(width: int) -> Line:
    """Return the line at the bottom: as many keys as fit."""
    line = Line()
    for key, what in KEYS:
        part = Line((key, Style.HEADING), (f" {what}  ", Style.FAINT))
        if line.width + part.width <= width:
            line.join(part)
    return line


def time_line(model: Model, width: int) -> Line:
    """Return the line with the time: where the moment that is shown lies among the events that are retained."""
    if model.span is None or model.at_boot_ns is None:
        return Line()
    span, now_ns = model.span, model.at_boot_ns
    begin, end = clock(span.begin_boot_ns + model.boot_unix_ns)[:8], clock(model.end_boot_ns + model.boot_unix_ns)[:8]
    room = slider_width(width)
    at = slider_place(model, room)
    per = len(span.counts) / room
    sums = [sum(span.counts[int(n * per) : max(int(n * per) + 1, int((n + 1) * per))]) for n in range(room)]
    bars = sparkline(sums, room)
    line = Line((f"{begin} ", Style.TIME))
    line.add(bars[:at], Style.PROGRAM).add("◆", Style.WARNING).add(bars[at + 1 :], Style.FAINT)
    return line.add(f" {end}", Style.TIME).add(f"  {clock(now_ns + model.boot_unix_ns)}", Style.HEADING)


_CLOCK = 9


def slider_width(width: int) -> int:
    """Return the width of the time line between its two times."""
    return max(10, width - 2 * _CLOCK - 14)


def slider_place(model: Model, room: int) -> int:
    """Return the cell of the moment that is shown."""
    if model.span is None or model.at_boot_ns is None:
        return 0
    length = max(1, model.end_boot_ns - model.span.begin_boot_ns)
    return max(0, min(room - 1, (model.at_boot_ns - model.span.begin_boot_ns) * room // length))


def slider_moment(model: Model, x: int, width: int) -> int | None:
    """Return the moment at a column of the time line; None: there is none."""
    room = slider_width(width)
    if model.span is None or not 0 <= x - _CLOCK < room:
        return None
    length = max(1, model.end_boot_ns - model.span.begin_boot_ns)
    return model.span.begin_boot_ns + (x - _CLOCK) * length // max(1, room - 1)

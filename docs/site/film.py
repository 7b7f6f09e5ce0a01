"""Make a film of several screens of a terminal: an SVG that shows one after the other, without a script or a font."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from typing import NamedTuple

from rich.console import CONSOLE_SVG_FORMAT, Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

_FONTS = "ui-monospace, SFMono-Regular, Menlo, Consolas"
#: What rich writes for an end of a line, and the clipping of a line to itself. They would need most of the room.
_superfluous = re.compile(r'<text [^>]*>\n</text>| clip-path="[^"]*"')
#: What is drawn of one screen. The window around it is drawn once.
_SCREEN = '<style>{styles}</style>{backgrounds}<g class="film-matrix">{matrix}</g>'
_STYLE = """
    .film-matrix {{ font-family: {fonts}, monospace; font-size: 20px; line-height: 24.4px }}
    .film-screen {{ visibility: hidden }}
    .film-screen:last-of-type {{ visibility: visible }}
    @media (prefers-reduced-motion: no-preference) {{
        .film-screen {{ animation: {seconds:g}s step-end infinite }}
{screens}
    }}
"""


class Shown(NamedTuple):
    """A screen of the film.

    Attributes:
        text: its lines, with escapes for colours.
        seconds: how long it is shown.
    """

    text: str
    seconds: float


def picture(text: str, title: str, columns: int) -> str:
    """Return an SVG of a terminal that shows a text."""
    return _drawn(text, columns, _WINDOW, title)


def film(screens: Sequence[Shown], title: str, columns: int, lines: int) -> str:
    """Return an SVG of a terminal that shows one screen after the other, again and again.

    Where nothing moves, because the reader wants that or the viewer cannot do it, it shows the last screen.

    Args:
        screens: in their order.
        title: of the window.
        columns: width of the terminal.
        lines: height of the terminal.
    """
    seconds = sum(screen.seconds for screen in screens)
    drawn, rules, begin = [], [], 0.0
    for number, screen in enumerate(screens):
        end = begin + screen.seconds
        made = _superfluous.sub("", _drawn(screen.text, columns, _SCREEN, name=f"s{number}"))
        drawn.append(f'<g class="film-screen film-{number}">{made}</g>')
        rules.append(f"        .film-{number} {{ animation-name: film-{number} }}")
        rules.append(f"        @keyframes film-{number} {{ {_times(begin / seconds, end / seconds)} }}")
        begin = end
    style = _STYLE.format(fonts=_FONTS, seconds=seconds, screens="\n".join(rules))
    window = _drawn("\n" * (lines - 1), columns, _WINDOW, title).replace("<style>", f"<style>{style}", 1)
    before, end_of_group, after = window.rpartition("</g>")
    return before + "\n".join(drawn) + end_of_group + after


def _times(begin: float, end: float) -> str:
    """Return the keyframes of a screen that is visible in a part of the time; both are from 0 to 1."""
    steps = {0.0: "hidden", begin: "visible", end: "hidden"}
    return " ".join(f"{100 * at:.3f}% {{ visibility: {state} }}" for at, state in sorted(steps.items()))


def _drawn(text: str, columns: int, form: str, title: str = "", name: str | None = None) -> str:
    console = Console(record=True, width=columns, file=io.StringIO(), force_terminal=True)
    console.print(Text.from_ansi(text))
    return console.export_svg(title=title, theme=MONOKAI, code_format=form, unique_id=name)


def _without_fonts(form: str) -> str:
    """Return the form of a picture without the fonts that it would load from elsewhere."""
    before, _, rest = form.partition("@font-face")
    after = rest[rest.rindex("@font-face") :].partition("}}")[2]
    return (before + after).replace("Fira Code", _FONTS)


_WINDOW = _without_fonts(CONSOLE_SVG_FORMAT)

"""Lines of styled pieces: what they cut, wrap and escape."""

from __future__ import annotations

import time

from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from pipeline.screen.lines import Line
from pipeline.screen.styles import Style

TEXTS = st.text(st.characters(categories=["L", "N", "P", "S", "Z", "C"]), max_size=30)
PIECES = st.lists(st.tuples(TEXTS, st.sampled_from(Style)), max_size=6)


@given(PIECES, st.integers(1, 60))
def test_a_cut_line_fits(pieces: list[tuple[str, Style]], width: int) -> None:
    line = Line(*pieces)
    cut = line.cut(width)
    assert cell_len(cut.plain) == cut.width <= width
    assert cut is line or (cut.plain.endswith("…") and line.plain.startswith(cut.plain[:-1]))


@given(PIECES, st.integers(12, 60), st.integers(0, 20))
def test_wrapping_loses_nothing_but_spaces(pieces: list[tuple[str, Style]], width: int, indent: int) -> None:
    line = Line(*pieces)
    parts = list(line.wrapped(width, indent))
    assert "".join("".join(part.plain.split()) for part in parts) == "".join(line.plain.split())
    assert all(len(part.plain.rstrip()) == 0 or cell_len(part.plain.rstrip()) <= width for part in parts)


def test_later_lines_are_indented_and_words_stay_whole() -> None:
    line = Line(("make ", Style.PROGRAM), "all install clean")
    assert [part.plain.rstrip() for part in line.wrapped(13, 2)] == ["make all", "  install", "  clean"]


def test_control_characters_never_reach_the_terminal() -> None:
    line = Line(("\x1b[2Jsh\n\u202e", Style.PROGRAM))
    assert line.plain == "\\x1b[2Jsh\\n\\u202e"
    assert line.painted().count("\x1b[") == 2  # the colour of the style, and its end


def test_a_wide_character_is_not_cut_in_half() -> None:
    assert Line("漢字漢字").cut(4).plain == "漢…"


def test_wide_characters_are_wrapped_between_two() -> None:
    assert [part.plain for part in Line("a" * 10, "漢字漢字漢").wrapped(11, 0)] == ["a" * 10, "漢字漢字漢"]
    assert [part.plain for part in Line("漢字").wrapped(1, 0)] == ["漢", "字"]


def test_characters_without_width_and_long_texts_take_no_long_time() -> None:
    hidden, wide = Line("e" + "\u0301" * 16_000 + "x" * 100), Line("漢" * 10_000)
    begin = time.process_time()
    assert hidden.cut(80).width == 80
    assert [part.width for part in wide.wrapped(80, 0)] == [80] * 250
    assert time.process_time() - begin < 0.5


def test_a_word_that_fits_without_the_space_behind_it_stays_on_its_line() -> None:
    parts = [part.plain for part in Line("1.84 s ago").wrapped(6, 2)]
    assert parts == ["1.84 s", "ago"]


def test_a_word_of_several_pieces_stays_whole() -> None:
    line = Line(
        ("rows 1.9%", Style.PLAIN), (" (9 of 10)", Style.FAINT), ", ", ("bash", Style.SHELL), ("(4711)", Style.FAINT)
    )
    assert [part.plain.rstrip() for part in line.wrapped(20, 2)] == ["rows 1.9% (9 of 10),", "  bash(4711)"]


def test_neighbours_of_one_style_are_one_piece() -> None:
    [first, second] = Line(("one two three", Style.FAINT)).wrapped(8, 0)
    assert (first.pieces, second.pieces) == ([("one two ", Style.FAINT)], [("three", Style.FAINT)])

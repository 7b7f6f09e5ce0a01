"""A line of text made of styled pieces, which can be cut or wrapped at a width."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from pipeline.export.text import printable
from pipeline.screen.styles import END, Style

ELLIPSIS = "…"
#: A word with the spaces behind it, or spaces alone.
_PART = re.compile(r"[^ ]+ *| +")


def cell_len(text: str) -> int:
    """Return how many cells of a terminal a printable text takes."""
    text = text.replace(ELLIPSIS, ".")  # as wide, and rich would look up each character of a text that has one
    if text.isascii():
        return len(text)
    from rich.cells import cell_len  # loaded for few texts, and it takes longer than a whole line

    return cell_len(text)


class Line:
    """A line of styled pieces. All text is made printable when it is added.

    Example:
        >>> line = Line(("4711 ", Style.PID), "sleep 20")
        >>> line.cut(8).plain
        '4711 sl…'
    """

    __slots__ = ("pieces", "width")

    def __init__(self, *pieces: tuple[str, Style] | str) -> None:
        self.pieces: list[tuple[str, Style]] = []
        self.width = 0
        for piece in pieces:
            if isinstance(piece, str):
                self.add(piece)
            else:
                self.add(*piece)

    def add(self, text: object, style: Style = Style.PLAIN) -> Line:
        """Append a piece, and return this line."""
        safe = text if isinstance(text, str) and text.isprintable() else printable(text)
        if safe:
            self.pieces.append((safe, style))
            self.width += len(safe) if safe.isascii() else cell_len(safe)
        return self

    def join(self, other: Line) -> Line:
        """Append the pieces of another line, and return this line."""
        self.pieces += other.pieces
        self.width += other.width
        return self

    def pad(self, width: int) -> Line:
        """Append spaces up to a width in cells, and return this line."""
        if self.width < width:
            self.add(" " * (width - self.width))
        return self

    def restyled(self, style: Style) -> Line:
        """Return a copy with one style throughout."""
        return Line((self.plain, style))

    @property
    def plain(self) -> str:
        """The text without styles."""
        return "".join(text for text, _ in self.pieces)

    def painted(self) -> str:
        """Return the text with the escapes of its styles."""
        return "".join([
            f"{style.escape}{text}{END}" if style.escape else text for text, style in self.pieces
        ])  # fmt: skip

    def cut(self, width: int | None) -> Line:
        """Return this line, or a copy that ends with an ellipsis if it is wider than `width` cells; None: no limit."""
        if width is None or self.width <= width:
            return self
        short = Line()
        if width <= 0:
            return short
        # Pieces are removed from the end, because a line usually loses less than it keeps.
        before, number = self.width, len(self.pieces)
        while before >= width:
            number -= 1
            text, style = self.pieces[number]
            before -= len(text) if text.isascii() else cell_len(text)
        short.pieces = self.pieces[:number]
        short.width = before
        count, _ = _fitting(text, width - 1 - before)
        short.add(text[:count], style).pieces.append((ELLIPSIS, Style.FAINT))
        short.width += 1
        return short

    def wrapped(self, width: int | None, indent: int) -> Iterator[Line]:
        """Yield lines of at most `width` cells; those after the first are indented. Words are kept whole if they fit.

        Args:
            width: in cells; None: no limit.
            indent: spaces before the second and later lines; ignored if it leaves less than ten cells.
        """
        if width is None or self.width <= width:
            yield self
            return
        indent = indent if width - indent >= 10 else 0
        line, is_empty = Line(), True
        for word in self._words():
            size, spaces = sum([cell_len(text) for text, _ in word]), _spaces_behind(word)
            if line.width + size - spaces > width and not is_empty:
                yield line
                line, is_empty = Line(" " * indent), True
            if line.width + size > width >= line.width + size - spaces:
                word = [(text.rstrip(" "), style) for text, style in word]  # the next word begins a line
            for text, style in word:
                size, begin = cell_len(text), 0
                while line.width + size > width and (size > 1 or (size and text[begin] != " ")):
                    count, used = _fitting(text, width - line.width, begin)
                    if not count and line.width <= indent:
                        count, used = 1, cell_len(text[begin])  # wider than the screen
                    yield line._extend(text[begin : begin + count], style)
                    line, begin, size = Line(" " * indent), begin + count, size - used
                rest = text[begin:]
                line._extend(rest, style)
                is_empty = (is_empty or begin > 0) and not rest.strip(" ")
        if not is_empty:
            yield line

    def _words(self) -> Iterable[Sequence[tuple[str, Style]]]:
        """Yield each word with the spaces behind it; a word can consist of several pieces."""
        word: list[tuple[str, Style]] = []
        is_complete = False
        for text, style in self.pieces:
            for part in _PART.findall(text):
                if is_complete and part[0] != " ":
                    yield word
                    word = []
                word.append((part, style))
                is_complete = part[-1] == " "
        if word:
            yield word

    def _extend(self, text: str, style: Style) -> Line:
        """Append a part of a piece, which is printable, and return this line. A piece of the same style grows."""
        if text:
            if self.pieces and self.pieces[-1][1] is style:
                self.pieces[-1] = (self.pieces[-1][0] + text, style)
            else:
                self.pieces.append((text, style))
            self.width += cell_len(text)
        return self


def _spaces_behind(word: Sequence[tuple[str, Style]]) -> int:
    """Return how many spaces end a word; a word contains no others, unless it consists of spaces."""
    return sum([len(text) - len(text.rstrip(" ")) for text, _ in word])


def _fitting(text: str, width: int, begin: int = 0) -> tuple[int, int]:
    """Return how many characters of a text from `begin` on fit into a width, and how many cells they take.

    A character can take no cell, so a process can choose a name of which thousands of characters fit.
    """
    if text.isascii():
        count = max(0, min(width, len(text) - begin))
        return count, count
    used = 0
    for at in range(begin, len(text)):
        size = cell_len(text[at])
        if used + size > width:
            return at - begin, used
        used += size
    return len(text) - begin, used

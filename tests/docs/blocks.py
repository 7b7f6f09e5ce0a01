"""Find the code blocks of the README and the documents, and how each one is to be run.

tests/live/test_documents.py runs the blocks of the languages in RUN. A comment in the line above a block says
otherwise, and readers of the source see it:

    <!-- not run: REASON -->      it is not run
    <!-- runs until stopped -->   it must still run after some seconds, and is then interrupted
    <!-- runs in a terminal -->   each line is run in a terminal, until it has drawn something and q has ended it
    <!-- needs NAME -->           it is run only where this Python module or command is installed
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from markdown_it import MarkdownIt

from tests.docs.citations import ROOT

#: Languages that are run.
RUN = ("sh", "console", "python")
#: Languages that are not. Those in braces are directives of the site.
SHOWN = ("text", "yaml", "json", "toml", "ini", "sql", "c", "{eval-rst}", "{image}")
_MARK = re.compile(r"^ *<!-- (?:(not run): (.+)|(runs until stopped|runs in a terminal)|(needs) (\w+)) -->$")


class Block(NamedTuple):
    """A code block: the page, its first line there, its language ("" if it is indented), what it says, its mark."""

    page: str
    line: int
    language: str
    text: str
    mark: str = ""
    detail: str = ""

    @property
    def is_run(self) -> bool:
        """Whether the block is to be run."""
        return self.language in RUN and self.mark != "not run"

    @property
    def script(self) -> str:
        """The block without the prompts and the output of a console."""
        if self.language != "console":
            return self.text
        return "".join(found[1] + "\n" for found in re.finditer(r"^\$ ((?:.*\\\n)*.*)$", self.text, re.MULTILINE))


def pages() -> list[Path]:
    """Return the README and all documents."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(text: str, page: str) -> Iterator[Block]:
    """Yield all code blocks of a page."""
    lines = text.split("\n")
    for token in MarkdownIt("commonmark").parse(text):
        if token.type in ("fence", "code_block"):
            assert token.map is not None
            start = token.map[0]
            found = _MARK.match(lines[start - 1]) if start else None
            mark, detail = "", ""
            if found:
                mark, detail = found[1] or found[3] or found[4], found[2] or found[5] or ""
            language = token.info.split(" ")[0].strip() if token.type == "fence" else ""
            yield Block(page, start + 1, language, token.content, mark, detail)


def all_blocks() -> list[Block]:
    """Return the blocks of all pages."""
    return [each for page in pages() for each in blocks(page.read_text(encoding="utf-8"), str(page.relative_to(ROOT)))]

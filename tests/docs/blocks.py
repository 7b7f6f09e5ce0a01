"""Find the code blocks of the README and the documents, and how each one is to be run.

tests/live/test_documents.py runs the blocks of the languages in RUN. A comment in the line above a block says
otherwise, and readers of the source see it:

    <!-- run by FILE -->          this program of tests/ runs it: it gets the text from `run_by`
    <!-- runs until stopped -->   it must still run after some seconds, and is interrupted; a shell's lines one by one
    <!-- runs in a terminal -->   each line is run in a terminal, until it has drawn something and q has ended it
    <!-- fails with CODE -->      it ends with this exit code, and prints what the block shows
    <!-- needs NAME -->           it is run only where this Python module or command is installed
    <!-- not run: REASON -->      it is not run; tests/docs/test_blocks.py says which these may be

`python -m tests.docs.blocks FILE` prints the blocks that FILE runs, as JSON for programs outside the environment.
"""

from __future__ import annotations

import functools
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from markdown_it import MarkdownIt

from tests.docs.citations import ROOT

#: Languages that are run.
RUN = ("sh", "console", "python")
#: Languages that are not. Those in braces are directives of the site.
SHOWN = ("text", "yaml", "json", "toml", "ini", "sql", "c", "{eval-rst}", "{image}")
_MARK = re.compile(
    r"^ *<!-- (?:(not run): (.+)|(run by) (tests/\S+)|(fails with) (\d+)|(needs) (\w+)"
    r"|(runs until stopped|runs in a terminal)()) -->$"
)


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
        """Whether tests/live/test_documents.py is to run the block, by itself."""
        return self.language in RUN and self.mark not in ("not run", "run by")

    @property
    def shown(self) -> str:
        """The output that a console shows."""
        return re.sub(r"^\$ (?:.*\\\n)*.*\n", "", self.text, flags=re.MULTILINE)

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
                mark, detail = (each for each in found.groups() if each is not None)
            language = token.info.split(" ")[0].strip() if token.type == "fence" else ""
            yield Block(page, start + 1, language, token.content, mark, detail)


@functools.cache
def blocks_of(page: Path) -> tuple[Block, ...]:
    """Return the blocks of a page."""
    return tuple(blocks(page.read_text(encoding="utf-8"), str(page.relative_to(ROOT))))


def all_blocks() -> tuple[Block, ...]:
    """Return the blocks of all pages."""
    return tuple(each for page in pages() for each in blocks_of(page))


def run_by(file: str | Path) -> list[Block]:
    """Return the blocks that a program of tests/ runs, in the order of the pages."""
    name = str((ROOT / file).relative_to(ROOT))
    # To parse a page takes much longer than to find the mark.
    found = (page for page in pages() if f"<!-- run by {name} -->" in page.read_text(encoding="utf-8"))
    return [each for page in found for each in blocks_of(page) if (each.mark, each.detail) == ("run by", name)]


if __name__ == "__main__":
    print(json.dumps([[each.page, each.script] for each in run_by(sys.argv[1])]))

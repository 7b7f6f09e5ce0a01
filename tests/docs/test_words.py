"""Words that the glossary and the rules of plain English rule out do not occur in pages, help texts, messages and code.

The table has what can be found without an understanding of the sentence. A row is for words that are always wrong in
the files that it is about.
"""

from __future__ import annotations

import re
from functools import cache
from typing import NamedTuple

import pytest

from tests.docs.citations import ROOT, texts

GLOSSARY = "docs/glossary.md"
#: What users and readers of the code read.
PROSE = ("docs/", "pipeline/", "examples/", "packaging/", "ansible/", "CHANGELOG.md", "CONTRIBUTING.md", "README.md")


class RuledOut(NamedTuple):
    """Words that are not used, and what to write instead."""

    expression: str  #: matches them, in any case of letters unless it says otherwise
    instead: str
    found: str  #: an example that the expression matches
    not_found: str  #: a similar text that it does not match
    files: tuple[str, ...] = ("",)  #: the beginnings of the paths of the files that the row is about
    allowed: tuple[str, ...] = ()  #: files of these that may have the words, because they are about them


RULED_OUT = (
    # The glossary says this itself. It holds for parts of names too.
    RuledOut("folder", "directory", "FOLDER_OF = 1", "directory", allowed=(GLOSSARY,)),
    # A search for a process is a look-up; functions and methods may be called `lookup`.
    RuledOut(
        r"lookup(?<![\w.`\"'-]lookup)(?<!int lookup)s?\b(?!\()", "look-up", "costs one lookup",
        "like `lookup`, or view.lookup(pid)", PROSE, ("docs/parity.md",),
    ),
    # 1970-01-01 is the Unix epoch; an epoch is a set of tables.
    RuledOut(r"since (?:the )?epoch\b", "since the Unix epoch", "ns since the epoch", "ns since the Unix epoch"),
    # A process that controls another one with ptrace(2).
    RuledOut(r"ptrace tracer\b", "debugger", "its ptrace tracer", "a tracer in a container"),
    # Processes are no persons.
    RuledOut(r"whoever\b", "any process that, anyone who", "whoever lives stays", "however"),
    RuledOut(r"whom\b", "that", "adds whom it passes", "whomp"),
    RuledOut(r"told of\b", "reported", "is told of an exec", "told apart"),
    RuledOut(r"look(?:s|ed|ing)? at\b", "read, examine, check", "looks at the row", "looked_at_ns", PROSE),
    RuledOut(r"given up\b", "cancelled, discarded, failed", "the record was given up", "it gives up after 5 s", PROSE),
    RuledOut(r"\bshall\b", "must, will", "a guest shall run", "marshalled"),
    RuledOut(
        r"\bgo(?:es|ing)? on (?:with|to\b|from|behind|after|until|growing)", "continue", "it goes on with the rest",
        "it can go on top, however long it goes on",
    ),
    RuledOut(r"(?:is|are|was|were|been?) told\b(?! apart)", "reported, receives", "the login is told", "is told apart"),
    RuledOut(r"nobody has (?:them|the\s+tables) open", "no reader has", "nobody has the\ntables open", "no reader"),
    RuledOut(r"round and round\b", "forever", "read round and round", "round"),
    RuledOut(r"in order to\b", "to", "in order to read", "in order"),
    RuledOut(r"utili[sz]e[sd]?\b", "use", "utilizes", "utilization"),
    # The subject of a sentence comes first, also in the comment of a constant: "Characters in a line of a description."
    # A number with its parts is the exception: "Of 250 events: 3 lost."
    RuledOut(
        r"(?:(?m:^)[ \t#:*/|-]*|[.:;|] |\")(?-i:Of) (?![\d{])", "a sentence that begins with its subject",
        "#: Of a line of a description.", "#: characters\n# of a line. Of 250 events: 3 lost.",
    ),
    # "So" needs what it is compared with.
    RuledOut(
        r"\bso (?:many|long|often|much)\b(?!-)(?![^.]{0,150}\b(?:that|as)\b)", "this many, this time, or the number",
        "waits so long for an answer", "so many events that it\n# stops, and so long-lived processes",
    ),
)  # fmt: skip


@cache
def beginning(expression: str) -> str:
    """The letters and spaces with which an expression begins: to search for them takes less time."""
    return re.match("[a-z ]*(?![?*{])", expression)[0]


def uses(text: str, expression: str) -> list[int]:
    """The lines of a text that an expression matches, in any case of letters unless the expression says otherwise."""
    if beginning(expression) not in text.lower():
        return []
    return [text.count("\n", 0, found.start()) + 1 for found in re.finditer(expression, text, re.IGNORECASE)]


def is_about(row: RuledOut, file: str) -> bool:
    return file.startswith(row.files) and file not in row.allowed


@pytest.mark.expensive
def test_no_text_has_words_that_are_ruled_out() -> None:
    found = [
        f"{file}:{number}: write {row.instead} instead of what {row.expression!r} matches"
        for file, text in texts()
        for row in RULED_OUT
        if is_about(row, file)
        for number in uses(text, row.expression)
    ]
    assert not found, "\n".join(found)


def test_the_table_has_what_the_glossary_rules_out() -> None:
    ruled_out = re.findall(r"the word \*(\w+)\* is not used", (ROOT / GLOSSARY).read_text(encoding="utf-8"))
    assert "folder" in ruled_out and {*ruled_out} <= {row.expression for row in RULED_OUT}


@pytest.mark.parametrize("row", RULED_OUT, ids=lambda row: row.instead)
def test_a_row_finds_its_words_and_no_others(row: RuledOut) -> None:
    assert uses(row.found, row.expression) and not uses(row.not_found, row.expression)
    assert all((ROOT / name).exists() for name in (*row.files, *row.allowed))


@pytest.mark.parametrize(
    "text",
    [
        "#: Of a line.", "    # Of more, the rest is dropped.", '    """Of each image: its number."""',
        "- Of the mutants, few.", "/* Of the object that includes this. */", " * Of these, two.", "| a | Of b |",
        "It is whole. Of those, none.", "    Of them.",
    ],
)  # fmt: skip
def test_a_sentence_that_begins_with_of_is_found(text: str) -> None:
    [row] = [row for row in RULED_OUT if "Of" in row.expression]
    assert uses(f"first\n{text}\n", row.expression) == [2]
    assert not uses(text.replace("Of", "of"), row.expression) and not uses("Of 250 events: 3 lost.", row.expression)


@pytest.mark.parametrize("words", ["so many", "so long", "so often", "so much"])
def test_so_needs_what_it_refers_to(words: str) -> None:
    [row] = [row for row in RULED_OUT if "often" in row.expression]
    assert uses(f"At most {words} bytes are read. It is known that this is enough.", row.expression) == [1]
    assert not uses(f"It is read {words} that nothing\n# is missing.", row.expression)
    assert not uses(f"It is not {words} as before.", row.expression)


def test_a_word_is_found_in_prose_and_in_names() -> None:
    assert uses('help="Folders for"\n#: none here\nFOLDER_OF = 1\nrelease_folder: /opt', "folder") == [1, 3, 4]

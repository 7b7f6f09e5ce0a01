"""Words that the glossary rules out do not occur in pages, help texts and messages, nor in code, not even in names."""

from __future__ import annotations

import re

from tests.docs.citations import ROOT, texts

GLOSSARY = "docs/glossary.md"
RULED_OUT = re.findall(r"the word \*(\w+)\* is not used", (ROOT / GLOSSARY).read_text(encoding="utf-8"))


def uses(text: str, word: str) -> list[int]:
    """The lines of a text that have a word, alone or in a name."""
    return [number for number, line in enumerate(text.splitlines(), 1) if word in line.lower()]


def test_no_text_has_a_word_that_the_glossary_rules_out() -> None:
    assert "folder" in RULED_OUT
    found = [
        f"{file}:{number}: {word}"
        for file, text in texts()
        if file != GLOSSARY
        for word in RULED_OUT
        for number in uses(text, word)
    ]
    assert not found, "\n".join(found)


def test_a_word_is_found_in_prose_and_in_names() -> None:
    assert uses('help="Folders for"\n#: none here\nFOLDER_OF = 1\nrelease_folder: /opt', "folder") == [1, 3, 4]

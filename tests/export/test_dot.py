"""Graphs in DOT: quoting and arrows."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from pipeline.export.dot import graph, quote
from tests.cli.fakes import entry

#: A quoted string of DOT: it contains no unescaped quote, and its last quote is not escaped.
STRING = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)


@given(st.text(st.characters(exclude_categories=()), max_size=50))
def test_any_text_is_one_quoted_string_of_printable_characters(text: str) -> None:
    quoted = quote(text)
    assert STRING.fullmatch(quoted)
    assert quoted.isprintable()


@given(st.text(st.characters(exclude_categories=("C", "Z")), max_size=50))
def test_quoting_is_undone_as_the_language_and_its_labels_do(text: str) -> None:
    assert re.sub(r"\\(.)", r"\1", quote(text)[1:-1]) == text


def test_images_of_a_process_follow_one_another() -> None:
    images = [
        entry(5, 1, "new", exec_time_ns=30),
        entry(5, 1, "old", exec_time_ns=10),
        entry(1, 0, "init", parent_entity_id=None),
        entry(6, 5, is_parent_missing=True),
    ]
    text = "\n".join(graph(each.to_dict() for each in images))
    assert "p2 -> p1;" in text
    assert 'p1 -> p0 [style=bold, label="exec"];' in text
    assert 'p0 -> p3 [style=dotted, label="?"];' in text
    assert text.count("->") == 3


def test_long_arguments_are_shortened() -> None:
    one = entry(5, 0, argv=["x", "y" * 200], parent_entity_id=None).to_dict()
    assert "y" * 79 + "…" in "\n".join(graph([one]))

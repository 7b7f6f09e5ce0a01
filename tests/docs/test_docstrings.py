"""The examples in the docstrings of public names do what they say.

To have all members of a class checked for examples, add the class to COMPLETE. The examples use the processes of
`tests.docs.example_host`; add one there if yours needs it.
"""

from __future__ import annotations

import pydoc
from collections.abc import Iterator
from typing import Any

import pytest

import pipeline
from tests.docs.docstrings import compiled_classes, documented, has_example, members, run, undescribed
from tests.docs.example_host import example_host

#: Classes of which every public member has an example.
COMPLETE: tuple[str, ...] = ("Entry", "ProcessTable", "Columns", "Subscriber")

_EXAMPLES = dict(item for item in documented() if has_example(item[1]))


@pytest.fixture(scope="module")
def names() -> Iterator[dict[str, Any]]:
    with example_host() as found, pytest.MonkeyPatch.context() as patch:
        # With the lowest priority, and other tests beside it, the host takes longer to answer than a user would wait.
        patch.setitem(pipeline.Subscriber.__init__.__kwdefaults__, "connect_timeout", 50.0)
        yield found


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", _EXAMPLES)
def test_examples_do_what_they_say(names: dict[str, Any], name: str) -> None:
    wrong = run(name, _EXAMPLES[name], names)
    assert not wrong, wrong


def test_a_wrong_example_is_reported(names: dict[str, Any]) -> None:
    assert "Got:" in run("x", ">>> entry.pid\n8676\n", names)
    assert not run("x", ">>> entry.pid\n8675\n>>> x = 1\n", names)
    assert "NameError" in run("y", ">>> x\n1\n", names), "each docstring has its own names"


def test_the_example_of_the_package(names: dict[str, Any]) -> None:
    wrong = run("pipeline", pipeline.__doc__ or "", names)
    assert not wrong, wrong


def test_the_help_of_the_package_fits_on_some_screens() -> None:
    text = pydoc.plain(pydoc.render_doc(pipeline))
    assert "ProcessTable.attach()" in text
    assert len(text.splitlines()) < 100
    assert {"ProcessTable", "Entry", "Subscriber"} <= set(dir(pipeline)), "completion needs the names"


def test_every_public_name_has_an_example() -> None:
    texts = dict(documented())
    assert [name for name in pipeline.__all__ if not has_example(texts[name])] == []


def test_an_example_that_is_not_run_does_not_count() -> None:
    assert has_example("Text.\n\n>>> 1\n1\n")
    assert not has_example("Text, with `>>>` in it.")
    assert not has_example(">>> 1  # doctest: +SKIP\n1\n")


def test_every_member_has_an_example() -> None:
    assert [member for name in COMPLETE for member, text in members(name) if not has_example(text)] == []


@pytest.mark.parametrize("cls", compiled_classes(), ids=lambda cls: cls.__name__)
def test_every_attribute_of_a_compiled_class_is_described(cls: type) -> None:
    # Without an `Attributes:` line, help() of a compiled class shows nothing but the name of an attribute.
    assert undescribed(cls) == []


def test_an_attribute_without_description_is_found() -> None:
    class Example:
        """A class with the attributes `named_here` and others.

        Attributes:
            first, second: listed.
            third: of which the description
                continues: with a colon.
        """

        first = second = third = continues = named_here = property()
        fourth = property(doc="Described by itself.")

    assert undescribed(Example) == ["continues", "named_here"]
    assert {pipeline.Entry, pipeline.TableWriter} <= {*compiled_classes()}

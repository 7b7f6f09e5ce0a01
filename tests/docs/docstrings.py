"""Find the docstrings of public names, and run their examples.

An example is what `doctest` takes for one: lines that begin with ``>>>``, and what Python prints. Examples are run on
the instance of `example_host`, each docstring with new names. ``...`` in the expected output stands for any text.
"""

from __future__ import annotations

import doctest
import inspect
import re
import sys
from collections.abc import Iterator
from importlib import import_module
from importlib.machinery import EXTENSION_SUFFIXES
from typing import Any

import pipeline


def members(name: str) -> Iterator[tuple[str, str]]:
    """Yield the public methods and attributes of a class of `pipeline`, with their docstrings.

    Members that the class inherits from another class of Procline are its own, those of Python's classes are not.
    """
    cls = getattr(pipeline, name)
    seen = set()
    for base in cls.__mro__:
        if not base.__module__.startswith("pipeline."):
            continue
        for member, value in vars(base).items():
            if member.startswith("_") or member in seen:
                continue
            seen.add(member)
            if isinstance(value, classmethod | staticmethod):
                value = value.__func__
            yield f"{name}.{member}", inspect.getdoc(value) or ""


def documented() -> Iterator[tuple[str, str]]:
    """Yield all public names of `pipeline` with their docstrings, and the members of the classes.

    A constant and an alias have no docstring. That of their module is yielded, if its example uses the name.
    """
    for name in pipeline.__all__:
        value = getattr(pipeline, name)
        module = import_module(pipeline._HOMES[name])
        if inspect.isclass(value) or inspect.isroutine(value):
            yield name, inspect.getdoc(value) or ""
        else:
            text = inspect.getdoc(module) or ""
            yield name, text if re.search(rf"\b{name}\b", "".join(_sources(text))) else ""
        if inspect.isclass(value):
            yield from members(name)


def compiled_classes() -> list[type]:
    """Return the compiled classes among the classes of `pipeline` and those that they inherit from."""
    public = [value for name in pipeline.__all__ if inspect.isclass(value := getattr(pipeline, name))]
    found = {base: None for cls in public for base in cls.__mro__ if _is_compiled(base)}
    return list(found)


def _is_compiled(cls: type) -> bool:
    file = getattr(sys.modules[cls.__module__], "__file__", None) or ""
    return cls.__module__.startswith("pipeline.") and file.endswith(tuple(EXTENSION_SUFFIXES))


def undescribed(cls: type) -> list[str]:
    """Return the public members of a class that have no docstring and that its own does not list as attributes."""
    listed = re.search(r"^Attributes:\n((?:    .*\n?)*)", inspect.getdoc(cls) or "", re.MULTILINE)
    heads = re.findall(r"^    (\w[\w, ]*):", listed[1], re.MULTILINE) if listed else []
    names = {name for head in heads for name in head.split(", ")}
    return [
        member for member, value in vars(cls).items()
        if not member.startswith("_") and member not in names and not inspect.getdoc(value)
    ]  # fmt: skip


def _sources(text: str) -> list[str]:
    """Return the statements of the examples of a docstring that are run."""
    examples = doctest.DocTestParser().get_examples(text)
    return [example.source for example in examples if not example.options.get(doctest.SKIP)]


def has_example(text: str) -> bool:
    """Return whether a docstring has an example that is run."""
    return bool(_sources(text))


def run(name: str, text: str, names: dict[str, Any]) -> str:
    """Run the examples of a docstring; return what is wrong with them, or nothing."""
    test = doctest.DocTestParser().get_doctest(text, dict(names), name, None, 0)
    found: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS, verbose=False)
    runner.run(test, out=found.append)
    return "".join(found)

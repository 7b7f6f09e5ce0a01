"""Applies `declared.TABLE` to the facts of an event."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from pipeline.formats.declared import MAPPINGS
from pipeline.formats.facts import MALFORMED, Fields
from pipeline.formats.values import CONVERSIONS


class _Rule(NamedTuple):
    field: str
    target: str
    convert: Callable[[Any], Any]


@functools.cache
def _rules(form: str) -> tuple[_Rule, ...]:
    return tuple(
        _Rule(mapping.field, target.name, CONVERSIONS[target.conversion])
        for mapping in MAPPINGS
        for target in mapping.targets[form]
    )


def mapped(form: str, facts: Fields) -> Iterator[tuple[str, Any]]:
    """Yield the fields of a format, by their names with dots, and their values. A later one replaces an earlier one.

    Args:
        form: one of `declared.FORMATS`.
        facts: of `facts.facts_of`. A fact without a value, or of a type that is impossible, is left out.
    """
    get = facts.get
    for field, target, convert in _rules(form):
        value = get(field)
        if value is None:
            continue
        try:
            found = convert(value)
        except MALFORMED:
            continue
        if found is not None:
            yield target, found


@functools.lru_cache(maxsize=1024)
def _parts(name: str) -> tuple[tuple[str, ...], str]:
    *above, last = name.split(".")
    return tuple(above), last


def put(document: dict[str, Any], name: str, value: Any) -> None:
    """Set a field of a document by its name with dots, which are levels."""
    above, last = _parts(name)
    for part in above:
        document = document.setdefault(part, {})
    document[last] = value

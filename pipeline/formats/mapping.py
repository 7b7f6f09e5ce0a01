"""Applies `declared.TABLE` to the facts of an event."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

from pipeline.formats.declared import MAPPINGS
from pipeline.formats.facts import MALFORMED, Fields
from pipeline.formats.values import CONVERSIONS


class _Rule(NamedTuple):
    field: str
    convert: Callable[[Any], Any]
    above: tuple[str, ...]  #: names of the objects that the target is in
    last: str  #: its name there


@functools.cache
def _rules(form: str) -> tuple[_Rule, ...]:
    return tuple(
        _Rule(mapping.field, CONVERSIONS[target.conversion], *_place(form, target.name))
        for mapping in MAPPINGS
        for target in mapping.targets[form]
    )


def _place(form: str, name: str) -> tuple[tuple[str, ...], str]:
    """Return the objects that a field is in, and its name there. Attributes of OpenTelemetry are in no objects."""
    *above, last = [name] if form == "otel" else name.split(".")
    return tuple(above), last


def fill(document: dict[str, Any], form: str, facts: Fields) -> None:
    """Add the fields of a format to a document; a later one replaces an earlier one.

    Args:
        document: may have some fields already.
        form: one of `declared.FORMATS`.
        facts: of `facts.facts_of`. A fact without a value, or of a type that is impossible, is left out.
    """
    get = facts.get
    for field, convert, above, last in _rules(form):
        value = get(field)
        if value is None:
            continue
        try:
            found = convert(value)
        except MALFORMED:
            continue
        if found is not None:
            place = document
            for name in above:
                place = place.setdefault(name, {})
            place[last] = found

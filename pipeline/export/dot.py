"""A graph of processes in Graphviz's DOT language: one box for each entry, and an arrow from its parent or last image.

Entries are dicts of the JSON form. Labels contain untrusted text (names, paths, arguments), so all text goes through
`quote`. Graphviz does the layout and the drawing.

Source of the quoting rules: Graphviz, "The DOT Language", section on IDs and "escString".
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise
from typing import Any

_ARGUMENTS_SHOWN = 80

Entry = Mapping[str, Any]


def quote(text: str) -> str:
    r"""Return `text` as a DOT string that shows exactly that text.

    In a quoted string only the quote is special to the parser, but labels interpret backslashes (``\N`` is the name of
    the node), so backslashes are doubled. Characters that are not printable become escapes: a NUL would end the input,
    and control characters are not allowed in SVG.
    """
    shown = []
    for character in text:
        if character == "\\":
            shown.append("\\\\")
        elif character == '"':
            shown.append('\\"')
        elif character == "\n":
            shown.append("\\\\n")
        elif character.isprintable():
            shown.append(character)
        else:
            code = ord(character)
            shown.append(f"\\\\x{code - 0xDC00 if 0xDC80 <= code <= 0xDCFF else code:02x}")
    return f'"{"".join(shown)}"'


def graph(entries: Iterable[Entry], *, title: str = "procline", with_args: bool = True) -> Iterator[str]:
    """Yield the lines of a directed graph.

    Args:
        entries: JSON entries. The first image of a process gets an arrow from the entry that its `parent_entity_id`
            names; each later image gets an arrow from the image before it.
        title: name of the graph.
        with_args: whether labels show arguments.
    """
    nodes = list(entries)
    names = {id(entry): f"p{number}" for number, entry in enumerate(nodes)}
    images: dict[object, list[Entry]] = {}
    for entry in nodes:
        images.setdefault(entry.get("entity_id") or id(entry), []).append(entry)
    yield f"digraph {quote(title)} {{"
    yield "  rankdir=LR;"
    yield '  node [shape=box, fontname="monospace", fontsize=10];'
    for entry in nodes:
        style = ', style=dashed, color="gray50"' if entry.get("exit_time_ns") else ""
        yield f"  {names[id(entry)]} [label={_label(entry, with_args)}{style}];"
    for of_process in images.values():
        of_process.sort(key=lambda entry: entry.get("exec_time_ns") or 0)
        first = of_process[0]
        parents = images.get(first.get("parent_entity_id"))
        if parents and parents is not of_process:
            doubt = ' [style=dotted, label="?"]' if first.get("is_parent_missing") else ""
            yield f"  {names[id(parents[-1])]} -> {names[id(first)]}{doubt};"
        for before, after in pairwise(of_process):
            yield f'  {names[id(before)]} -> {names[id(after)]} [style=bold, label="exec"];'
    yield "}"


def _label(entry: Entry, with_args: bool) -> str:
    lines = [f"{entry['pid']} {entry.get('comm') or '?'}"]
    if entry.get("path"):
        lines.append(entry["path"])
    if with_args and len(entry.get("argv") or ()) > 1:
        arguments = " ".join(entry["argv"][1:])
        lines.append(arguments if len(arguments) <= _ARGUMENTS_SHOWN else arguments[: _ARGUMENTS_SHOWN - 1] + "…")
    # Each line ends with DOT's "\l" (new line, left-aligned), which must not be quoted.
    return '"' + "".join(quote(line)[1:-1] + "\\l" for line in lines) + '"'

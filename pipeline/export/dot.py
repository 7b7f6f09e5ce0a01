"""Graphs in Graphviz's DOT language, which does the layout and the drawing.

`graph` draws entries in their JSON form: one box for each entry, and an arrow from its parent or last image. It is made
of `digraph`, `node` and `arrow`, and so is the graph of the resolver's interface (`pipeline.resolver.api.dump`).

Any user of the host can choose names, paths and arguments, so all text of a label passes through `quote`.

Source of the quoting rules: Graphviz, "The DOT Language", section on IDs and "escString".
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.shm.layout.entry_types import EntryFields

#: Fields of an entry that a graph needs.
FIELDS = (
    "pid", "comm", "path", "argv", "entity_id", "parent_entity_id", "exec_time_ns", "exit_time_ns", "is_parent_missing",
)  # fmt: skip
_ARGUMENTS_SHOWN = 80


def visible(character: str) -> str:
    """Return an unprintable character as an escape: a byte that is not UTF-8 by its number, others by their code."""
    if character == "\n":
        return "\\n"
    code = ord(character)
    return f"\\x{code - 0xDC00 if 0xDC80 <= code <= 0xDCFF else code:02x}"


def quote(text: str, visible: Callable[[str], str] = visible) -> str:
    r"""Return `text` as a DOT string that shows exactly that text.

    In a quoted string only the quote is special to the parser, but labels interpret backslashes (``\N`` is the node's
    name), so those are doubled. Unprintable characters become escapes, because a NUL ends the input, and SVG does not
    allow control characters.

    Args:
        text: any text.
        visible: returns the escape of an unprintable character.
    """
    shown = "".join(character if character.isprintable() else visible(character) for character in text)
    return '"' + shown.replace("\\", "\\\\").replace('"', '\\"') + '"'


def digraph(name: str, statements: Iterable[str]) -> Iterator[str]:
    """Yield the lines of a directed graph.

    Args:
        name: an identifier, or a result of `quote`; so are the names of nodes, and the values of attributes.
        statements: results of `node` and `arrow`, or other statements.
    """
    yield f"digraph {name} {{"
    for statement in statements:
        yield f"  {statement};"
    yield "}"


def node(name: str, **attributes: str) -> str:
    """Return the statement of a node."""
    return f"{name}{_list(attributes)}"


def arrow(tail: str, head: str, **attributes: str) -> str:
    """Return the statement of an arrow between two nodes."""
    return f"{tail} -> {head}{_list(attributes)}"


def _list(attributes: Mapping[str, str]) -> str:
    return f" [{', '.join(f'{name}={value}' for name, value in attributes.items())}]" if attributes else ""


def graph(entries: Iterable[EntryFields], *, title: str = "procline") -> Iterator[str]:
    """Yield the lines of the graph of processes.

    Args:
        entries: JSON entries. An arrow leads to each from the entry that `parent_entity_id` names, and to an image from
            the image before it.
        title: name of the graph.
    """
    return digraph(quote(title), _statements(list(entries)))


def _statements(nodes: list[EntryFields]) -> Iterator[str]:
    names = {id(entry): f"p{number}" for number, entry in enumerate(nodes)}
    images: dict[object, list[EntryFields]] = {}
    for entry in nodes:
        images.setdefault(entry.get("entity_id") or id(entry), []).append(entry)
    yield "rankdir=LR"
    yield node("node", shape="box", fontname='"monospace"', fontsize="10")
    for entry in nodes:
        style = {"style": "dashed", "color": '"gray50"'} if entry.get("exit_time_ns") else {}
        yield node(names[id(entry)], label=_label(entry), **style)
    for of_process in images.values():
        of_process.sort(key=lambda entry: entry.get("exec_time_ns") or 0)
        first = of_process[0]
        parents = images.get(first.get("parent_entity_id"))
        if parents and parents is not of_process:
            doubt = {"style": "dotted", "label": '"?"'} if first.get("is_parent_missing") else {}
            yield arrow(names[id(parents[-1])], names[id(first)], **doubt)
        for before, after in pairwise(of_process):
            yield arrow(names[id(before)], names[id(after)], style="bold", label='"exec"')


def _label(entry: EntryFields) -> str:
    lines = [f"{entry['pid']} {entry.get('comm') or '?'}"]
    path, argv = entry.get("path"), entry.get("argv")
    if path:
        lines.append(path)
    if argv and len(argv) > 1:
        arguments = " ".join(argv[1:])
        lines.append(arguments if len(arguments) <= _ARGUMENTS_SHOWN else arguments[: _ARGUMENTS_SHOWN - 1] + "…")
    # DOT's own "\l" (new line, left) separates the lines, so it is outside of the quoted text.
    return '"' + "".join(quote(line)[1:-1] + "\\l" for line in lines) + '"'

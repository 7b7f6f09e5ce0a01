"""`procline tree`: processes as a tree of parents and children."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pipeline.cli import common
from pipeline.errors import UnsupportedError
from pipeline.export.forest import Node, find, forest, is_called, nested
from pipeline.export.json import dumps

if TYPE_CHECKING:
    from rich.text import Text
    from rich.tree import Tree

    from pipeline.export.entry_fields import EntryFields

#: Columns of rich's guide lines for each level.
_INDENT = 4


@click.command(
    epilog="""\b
Examples:
  procline tree                      all live processes
  procline tree $$ --exited          this shell and its descendants, including exited ones
  procline tree --svg tree.svg       a drawing (needs Graphviz)
"""
)
@click.argument("pid", type=common.Pid(), required=False)
@click.option("--dot", "as_dot", is_flag=True, help="Print a graph in the DOT language of Graphviz.")
@click.option(
    "--svg", "svg", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE",
    help="Write a drawing to FILE (needs Graphviz).",
)  # fmt: skip
@click.option("--exited", is_flag=True, help="Also show exited processes that are retained.")
@common.pid_ns_option
@common.name_option
@common.json_option
def command(
    pid: int | None, as_dot: bool, svg: Path | None, exited: bool, pid_ns: int | None, name: str, as_json: bool
) -> int:
    """Show the tree of live processes, or only PID and its descendants.

    Exits with 1 if PID is unknown.
    """
    if pid_ns is not None and pid is None:
        raise click.UsageError("--pid-ns needs a PID: give one", click.get_current_context())
    if as_json + as_dot + (svg is not None) > 1:
        raise click.UsageError("give only one of --json, --dot and --svg", click.get_current_context())
    with common.attached(name) as table:
        entries = common.retained(table.walk(exited=exited or pid is not None))
        roots = forest(
            entry for entry in entries if exited or not entry["exit_time_ns"] or is_called(entry, pid, pid_ns)
        )
    if pid is not None:
        node = find(roots, pid, pid_ns)
        if node is None:
            return common.not_found(pid, name, pid_ns)
        roots = [node]
    if as_json:
        _write_json(roots, is_one=pid is not None)
    elif as_dot or svg:
        from pipeline.export.dot import graph

        text = "\n".join(graph(_flat(roots), title=name if pid is None else f"{name} {pid}")) + "\n"
        if svg:
            draw(text, svg)
        else:
            sys.stdout.write(text)
    else:
        _print(roots)
    return 0


def draw(graph: str, file: Path) -> None:
    """Draw a graph with Graphviz.

    Args:
        graph: the graph in the DOT language.
        file: the SVG file to write.

    Raises:
        UnsupportedError: Graphviz is not installed, or failed.
    """
    program = shutil.which("dot")
    hint = "install Graphviz (apt-get install graphviz), or use --dot and draw the graph on another host"
    if program is None:
        raise UnsupportedError(
            "--svg needs the program `dot` of Graphviz", feature="--svg", needs="graphviz", hint=hint
        )
    done = subprocess.run([program, "-Tsvg"], input=graph.encode("utf-8", "replace"), capture_output=True, check=False)
    if done.returncode != 0:
        reason = done.stderr.decode(errors="replace").strip().splitlines() or ["no reason given"]
        raise UnsupportedError(f"dot failed: {reason[-1]}", feature="--svg", needs="graphviz")
    try:
        file.write_bytes(done.stdout)
    except OSError as error:
        raise click.UsageError(f"{file}: {error.strerror}", click.get_current_context()) from None


def _write_json(roots: list[Node], *, is_one: bool) -> None:
    # Each level of the tree is two levels of JSON, and long chains exceed Python's default recursion limit.
    sys.setrecursionlimit(max(sys.getrecursionlimit(), 100_000))
    if is_one:
        click.echo(dumps(nested(roots[0])))
    else:
        click.echo(dumps([nested(root) for root in roots]))


def _flat(roots: Iterable[Node]) -> list[EntryFields]:
    waiting, entries = list(roots), []
    while waiting:
        node = waiting.pop()
        entries.append(node.entry)
        waiting += node.children
    return entries


def _print(roots: Iterable[Node]) -> None:
    from rich.console import Console
    from rich.tree import Tree

    for root in roots:
        top = Tree(_label(root), guide_style="dim")
        waiting: list[tuple[Node, Tree, int]] = [(root, top, 0)]
        width = 0
        while waiting:
            node, drawn, depth = waiting.pop()
            width = max(width, _INDENT * depth + drawn.label.cell_len)  # type: ignore[union-attr]
            for child in node.children:
                waiting.append((child, drawn.add(_label(child)), depth + 1))
        # Long lines are truncated only on a terminal.
        is_terminal = sys.stdout.isatty()
        console = Console(highlight=False, markup=False, emoji=False, width=None if is_terminal else width)
        console.print(top, no_wrap=True, overflow="ellipsis")


def _label(node: Node) -> Text:
    from rich.text import Text

    entry = node.entry
    label = Text(str(entry["pid"]), style="bold", no_wrap=True, overflow="ellipsis")
    label.append(f" {common.command_line(entry)}", style="dim" if entry.get("exit_time_ns") else "not bold")
    if entry.get("exit_time_ns"):
        label.append(" (exited)", style="dim")
    return label

"""Make the parts of the reference that the code states: commands and their options, settings, metrics."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import click

from pipeline.cli import commands as command_line
from pipeline.config import schema
from pipeline.config.loading import ENVIRONMENT
from pipeline.config.rendering import toml
from pipeline.export import prometheus
from pipeline.resolver.api.stats import COUNTERS as RESOLVER
from pipeline.shm.layout import layout
from pipeline.shm.layout.layout import counter_of


def page(name: str) -> str:
    """Return the Markdown of a generated part."""
    return "\n".join(PARTS[name]()) + "\n"


def commands() -> Iterator[str]:
    """Yield a section for each command: what --help says."""
    group = command_line.cli
    parent = click.Context(group, info_name="procline")
    for name in group.list_commands(parent):
        command = group.get_command(parent, name)
        assert command is not None
        yield from _command(command, name, parent, "##")


def _command(command: click.Command, name: str, parent: click.Context, mark: str) -> Iterator[str]:
    """Yield the section of a command, and those of its subcommands."""
    context = click.Context(command, info_name=name, parent=parent)
    yield from (f"{mark} {context.command_path}", "")
    yield from ("```text", f"{context.command_path} {' '.join(command.collect_usage_pieces(context))}", "```", "")
    yield from _paragraphs(command.help or "")
    records = [record for each in command.get_params(context) if (record := each.get_help_record(context))]
    yield from ("| option | meaning |", "| --- | --- |")
    yield from (f"| {_code(names)} | {_cell(text)} |" for names, text in records)
    yield ""
    yield from _paragraphs(command.epilog or "")
    if isinstance(command, click.Group):
        for each in command.list_commands(context):
            yield from _command(command.commands[each], each, context, f"{mark}#")


def settings() -> Iterator[str]:
    """Yield a section for each section of the settings."""
    section = ""
    for key, value, description in schema.settings(schema.Config()):
        parent = key.rpartition(".")[0]
        if parent != section:
            section = parent
            yield from (f"## {parent}", "", _text((getattr(schema.Config(), parent).__doc__ or "").split("\n")[0]), "")
        variables = [variable for variable, meant in ENVIRONMENT.items() if meant == key]
        also = "".join(f" Environment variable: `{variable}`." for variable in variables)
        yield from (f"### {key}", "", f"{_text(description)}{also} Default: `{toml(value)}`.", "")


def metrics() -> Iterator[str]:
    """Yield a table of all counters."""
    yield from ("| metric | labels | meaning |", "| --- | --- | --- |")
    for name, (text, label, _) in prometheus.LABELLED.items():
        yield f"| `procline_{name}_total` | `{label}` | {_cell(text)} |"
    shown = {counter_of(name, tag) for name, (_, _, tags) in RESOLVER.items() for tag in tags}
    for name, (metric, label, _) in RESOLVER.items():
        shown_label = f"`{label}`" if label else ""
        yield f"| `{prometheus.name_of(metric)}_total` | {shown_label} | {_cell(prometheus.HELP[name])} |"
    combined = {counter for _, _, counters in prometheus.LABELLED.values() for counter in counters} | {"events_none"}
    for counter in layout.COUNTERS:
        if counter not in shown | combined:
            yield f"| `procline_{counter}_total` | | {_cell(prometheus.HELP[counter])} |"


def _paragraphs(text: str) -> Iterator[str]:
    r"""Yield the paragraphs of a help text; those that begin with \b keep their lines."""
    for paragraph in re.split(r"\n\s*\n", text.strip("\n")):
        lines = paragraph.splitlines()
        if lines and lines[0].strip() == "\b":
            yield from ("```text", *lines[1:], "```", "")
        else:
            yield from (_text(" ".join(line.strip() for line in lines)), "")


def _code(text: str) -> str:
    return "`" + text.replace("|", "\\|") + "`"


def _cell(text: str) -> str:
    return _text(text).replace("|", "\\|")


def _text(text: str) -> str:
    """Escape what Markdown would change; quotes of code remain."""
    parts = text.split("`")
    parts[::2] = [re.sub(r"([\\*_<\[\]])", r"\\\1", part) for part in parts[::2]]
    return "`".join(parts)


PARTS: dict[str, Callable[[], Iterator[str]]] = {"commands": commands, "settings": settings, "metrics": metrics}

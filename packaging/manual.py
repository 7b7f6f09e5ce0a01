"""Write the man pages and the shell completions of `procline`, from the command's own parser.

    packaging/manual.py DIRECTORY      writes share/man, share/bash-completion, share/zsh and share/fish below DIRECTORY

One page for `procline` and one for each subcommand: what --help shows, and the exit codes, in the form of man-pages(7).
The completions ask `procline` at each press of TAB, so they know every option of the installed version. Run it with a
Python in which procline is installed.
"""

from __future__ import annotations

import argparse
import gzip
import os
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import click

from pipeline import paths
from pipeline.bpf import features
from pipeline.cli import commands as command_line
from pipeline.cli import completion
from pipeline.cli.operate import fleet
from pipeline.config import loading
from pipeline.version import __version__

#: Where each shell looks for completions, below a prefix such as /usr.
COMPLETIONS = {
    "bash": "share/bash-completion/completions/procline",
    "zsh": "share/zsh/vendor-completions/_procline",
    "fish": "share/fish/vendor_completions.d/procline.fish",
}

#: Sections that the page of `procline` has and --help does not.
ENVIRONMENT = {
    paths.INSTANCE_VARIABLE: "Name of the instance, for commands without --name.",
    paths.RUNTIME_DIR_VARIABLE: f"Parent of the instances' directories, instead of {paths.RUN}.",
    loading.CONFIG_VARIABLE: "File with settings, for commands without --config.",
    **{
        variable: f"The setting `{key}`, instead of its value in the file. An option overrides it."
        for variable, key in loading.ENVIRONMENT.items()
    },
    features.FORCE: "If it is `old`, the daemon uses the BPF programs for older kernels on every kernel.",
    fleet.STORE_VARIABLE: f"Directory of the store of `procline fleet`, instead of {fleet.STORE}.",
    fleet.FROM_VARIABLE: "NATS server of `procline fleet ingest`, for a call without --from.",
    "NO_COLOR": "If it is not empty, no output is coloured.",
    "FORCE_COLOR": "If it is not empty, output is coloured even if it does not go to a terminal.",
}
FILES = {
    "/etc/procline/procline.toml": "Settings of the service. `procline config --example` shows all of them.",
    "/run/procline/NAME": "Tables and sockets of the instance NAME.",
}


def main() -> int:
    """Write everything below the directory that is given."""
    parser = argparse.ArgumentParser(prog="packaging/manual.py", description=__doc__.split("\n\n")[0])
    parser.add_argument("directory", type=Path, help="prefix, such as the /usr of a package")
    prefix = parser.parse_args().directory
    for name, text in pages().items():
        path = prefix / "share/man/man1" / f"{name}.1.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(gzip.compress(text.encode(), mtime=0))
    for shell, place in COMPLETIONS.items():
        path = prefix / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(completion.script(shell))
    return 0


def pages() -> dict[str, str]:
    """Return the pages by name, without their section."""
    found = {"procline": "\n".join(_main_page()) + "\n"}
    group = command_line.cli
    context = click.Context(group, info_name="procline")
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        found[f"procline-{name}"] = "\n".join(_page(name, command, context)) + "\n"
    return found


def _main_page() -> Iterator[str]:
    group = command_line.cli
    context = click.Context(group, info_name="procline")
    yield from _title("procline", "process lineage of this host")
    yield ".SH SYNOPSIS"
    yield from (".B procline", '.RI [ OPTIONS ] " COMMAND " [ ARGS ]...')
    yield ".SH DESCRIPTION"
    yield from _text(group.help or "")
    yield from _options(group, context)
    yield ".SH COMMANDS"
    for name, line in command_line.COMMANDS.items():
        yield from (".TP", f".BR procline\\-{_escape(name)} (1)", _escape(line))
    yield from _epilog(group)
    yield ".SH EXIT STATUS"
    for code, meaning in _exit_codes():
        yield from (".TP", f".B {code}", _escape(meaning))
    for title, entries in (("ENVIRONMENT", ENVIRONMENT), ("FILES", FILES)):
        yield f".SH {title}"
        for name, meaning in entries.items():
            yield from (".TP", f".B {_escape(name)}", _inline(meaning))
    yield ".SH SEE ALSO"
    yield ", ".join(f"\\fBprocline\\-{_escape(name)}\\fR(1)" for name in command_line.COMMANDS)


def _page(name: str, command: click.Command, parent: click.Context) -> Iterator[str]:
    context = click.Context(command, info_name=name, parent=parent)
    yield from _title(f"procline-{name}", command_line.COMMANDS[name].rstrip("."))
    yield ".SH SYNOPSIS"
    yield f".B procline {_escape(name)}"
    yield f".I {_escape(' '.join(command.collect_usage_pieces(context)))}"
    yield ".SH DESCRIPTION"
    yield from _text(command.help or "")
    yield from _options(command, context)
    yield from _epilog(command)
    if isinstance(command, click.Group):
        for each in command.list_commands(context):
            yield from _subcommand(command.commands[each], click.Context(command.commands[each], context, each))
    if "Exit codes:" not in (command.help or ""):
        yield ".SH EXIT STATUS"
        yield from ("The exit codes are listed in", ".BR procline (1).")
    yield ".SH SEE ALSO"
    yield ".BR procline (1)"


def _subcommand(command: click.Command, context: click.Context) -> Iterator[str]:
    yield f".SH {_escape(context.command_path.upper())}"
    yield f".B {_escape(context.command_path)}"
    yield f".I {_escape(' '.join(command.collect_usage_pieces(context)))}"
    yield ".PP"
    yield from _text(command.help or "")
    for line in (*_options(command, context), *_epilog(command)):
        yield line.replace(".SH ", ".SS ", 1) if line.startswith(".SH ") else line


def _title(name: str, what: str) -> Iterator[str]:
    seconds = int(os.environ.get("SOURCE_DATE_EPOCH", time.time()))
    date = time.strftime("%Y-%m-%d", time.gmtime(seconds))
    yield '.\\" Made by packaging/manual.py from the command line parser.'
    yield f'.TH {name.upper().replace("-", chr(92) + "-")} 1 {date} "procline {__version__}"'
    yield ".SH NAME"
    yield f"{_escape(name)} \\- {_escape(what[0].lower() + what[1:])}"


def _options(command: click.Command, context: click.Context) -> Iterator[str]:
    records = [record for param in command.get_params(context) if (record := param.get_help_record(context))]
    if not records:
        return
    yield ".SH OPTIONS"
    for names, text in records:
        # Names and placeholders differ in case: --name NAME.
        shown = re.sub(r"(--?[a-z][a-z-]*)", lambda found: f"\\fB{_escape(found[1])}\\fR", names)
        yield from (".TP", shown, _inline(text))


def _epilog(command: click.Command) -> Iterator[str]:
    """Yield the epilog as a section. It has one paragraph; the first line is the title."""
    lines = [line for line in (command.epilog or "").replace("\b", "").splitlines() if line.strip()]
    if not lines:
        return
    yield f".SH {lines[0].strip().rstrip(':').upper()}"
    yield from _verbatim(lines[1:])


def _text(text: str) -> Iterator[str]:
    """Yield the paragraphs of a help text; one with click's mark against wrapping is kept as it is."""
    for number, paragraph in enumerate(re.split(r"\n\s*\n", text.strip())):
        lines = paragraph.splitlines()
        if lines[0].strip() == "\b":
            if lines[1].rstrip().endswith(":") and not lines[1].startswith(" "):
                yield f".SS {_escape(lines[1].rstrip().rstrip(':'))}"
                del lines[1]
            yield from _verbatim(lines[1:])
            continue
        if number:
            yield ".PP"
        yield _inline(" ".join(line.strip() for line in lines))


def _verbatim(lines: list[str]) -> Iterator[str]:
    indent = min((len(line) - len(line.lstrip()) for line in lines), default=0)
    yield from (".PP", ".nf", *(_escape(line[indent:]) for line in lines), ".fi")


def _exit_codes() -> Iterator[tuple[str, str]]:
    """Yield the exit codes, from the docstring in which they are written down."""
    _, _, table = (command_line.__doc__ or "").partition("code  meaning\n")
    code, meaning = "", ""
    for line in table.splitlines():
        if found := re.match(r" +(\d+) +(.*)", line):
            if code:
                yield code, meaning
            code, meaning = found[1], found[2]
        elif line.strip():
            meaning += f" {line.strip()}"
    yield code, meaning


def _inline(text: str) -> str:
    """Return text of one paragraph, with `code` in bold."""
    parts = re.split(r"`([^`]+)`", text)
    return "".join(f"\\fB{_escape(part)}\\fR" if number % 2 else _escape(part) for number, part in enumerate(parts))


def _escape(text: str) -> str:
    """Return text in which roff finds no command: no control line, no escape, and - as itself."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-")
    # groff reads its input as Latin-1.
    escaped = "".join(each if each.isascii() else f"\\[u{ord(each):04X}]" for each in escaped)
    return f"\\&{escaped}" if escaped.startswith((".", "'")) else escaped


if __name__ == "__main__":
    sys.exit(main())

"""`procline why`: the story of a process."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from pipeline.cli import common
from pipeline.cli.ask import naming
from pipeline.errors import TooOldError

if TYPE_CHECKING:
    from pipeline import ProcessTable
    from pipeline.why.facts import Facts
    from pipeline.why.proof import Finding, Unknown

#: On a narrower screen, all continued lines have the same small indent.
WIDE = 70
NARROW_INDENT = 4


@click.command(
    epilog="""\b
Examples:
  procline why 4711                     what process 4711 is, and how it came to be
  procline why nginx                    the process that runs nginx, if there is one
  procline why 4711 --at 13:05          the process that had this pid at 13:05
  procline why 4711 --json | jq -r '.findings[] | [.proof, .text] | @tsv'
"""
)
@click.argument("process", metavar="PID|NAME", type=common.Process())
@common.at_option
@common.pid_ns_option
@common.name_option
@common.json_option
def command(process: int | str, at: int | None, pid_ns: int | None, name: str, as_json: bool) -> int:
    """Explain a process in plain words: what it is, who started it, as which user and how, and how it ended.

    The text says what is not known, and marks what the process chose itself, which proves nothing. Names of containers
    and details of units need root.

    Exits with 0 if the process is known, also if it has exited and is retained, otherwise with 1.
    """
    from pipeline.screen.progress import Progress
    from pipeline.why.findings import find
    from pipeline.why.host import host_of, is_kernel_thread

    if isinstance(process, str) and (at is not None or pid_ns is not None):
        raise click.UsageError("--at and --pid-ns need a pid: a name is searched among live processes")
    with common.attached(name) as table:
        pid = naming.one(table, process, name) if isinstance(process, str) else process
        if pid is None:
            return 1
        try:
            with Progress("reading the process", ticks=True):
                facts = common.patiently(lambda: _read(table, pid, at, pid_ns))
        except ValueError as error:
            raise click.UsageError(str(error)) from None
        if facts is None:
            if pid_ns is None and table.view.pids_are_ours and is_kernel_thread(pid):
                click.echo(
                    f"procline: {pid} is a kernel thread: the kernel started it, and Procline does not record it",
                    err=True,
                )
                return 1
            return common.not_found(pid, name, pid_ns)
    facts.arguments_hidden = common.hidden_arguments(name)
    # It reads files of this host, which can be slow.
    with Progress("reading this host's files", ticks=True):
        findings, missing = find(facts, host_of(facts.subject.image, facts.init))
    if as_json:
        from pipeline.export.json import dumps
        from pipeline.why.document import document

        click.echo(dumps(document(facts, findings, missing)))
    else:
        _print(facts, findings, missing)
    return 0


def _read(table: ProcessTable, pid: int, at: int | None, pid_ns: int | None) -> Facts | None:
    """Read the facts of a process, again if one of its lineage is evicted meanwhile; None: the process is unknown."""
    from pipeline.why import gather

    # Wait only for a current process, because its fork may not be applied yet.
    wait_ms = 0 if at is not None else common.FORKED_JUST_NOW_MS
    for _ in range(8):
        try:
            return gather.read(table, pid, at_ns=at, pid_ns=pid_ns, wait_ms=wait_ms, fields=common.fields_of)
        except TooOldError:
            if at is not None:
                raise
    raise TooOldError(f"pid {pid} was evicted while it was read: try again")


def _print(facts: Facts, findings: list[Finding], missing: list[Unknown]) -> None:
    from pipeline.screen.terminal import Screen
    from pipeline.why.story import story

    screen = Screen()
    for line, indent in story(facts, findings, missing):
        screen.wrap([line], indent if screen.width is None or screen.width >= WIDE else NARROW_INDENT)

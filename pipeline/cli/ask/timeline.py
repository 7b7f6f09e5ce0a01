"""`procline timeline`: a page that shows when each process ran."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pipeline.cli import common
from pipeline.cli.ask.selecting import ended_before, is_unknown, select_options, since_option, since_time_ns
from pipeline.export.json import dumps
from pipeline.screen.progress import Progress, Show
from pipeline.select.selection import Selection

if TYPE_CHECKING:
    from pipeline.shm.reader.table import ProcessTable
    from pipeline.timeline.columns import Process
    from pipeline.timeline.reading import Found

#: A page of more is too large for a browser.
_LIMIT_MAX = 200_000


@click.command(
    epilog="""\b
Examples:
  procline timeline --since 5m --html last.html            what ran in the last five minutes
  procline timeline --under $$ --html shell.html           what this shell started
  procline timeline --replay build.rec --html build.html   a recording of `procline record`
  procline timeline --unit cron --failed --json            as JSON
"""
)
@click.option(
    "--html", "page", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", help="Write the page to FILE."
)
@since_option("Only processes that ran after this time")
@click.option(
    "--replay", "recording", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE",
    help="Show a recording instead of an instance.",
)  # fmt: skip
@click.option(
    "--limit", type=click.IntRange(1, _LIMIT_MAX), default=20_000, show_default=True, metavar="N",
    help="At most N processes: the newest ones and their ancestors.",
)  # fmt: skip
@select_options()
@common.name_option
@common.json_option
def command(
    page: Path | None, since: str | None, recording: Path | None, limit: int, selection: Selection, name: str,
    as_json: bool,
) -> int:  # fmt: skip
    """Show when each process ran, as one HTML file that needs no other file.

    The page has a bar for each process from its start to its end, below the process that started it, with its programs,
    exit status and cost. It can be searched, zoomed and folded. Give --html or --json, or both. Exits with 1 if no
    process matches.
    """
    context = click.get_current_context()
    if page is None and not as_json:
        raise click.UsageError("use --html FILE for the page, or --json", context)
    if page is not None and not (page.parent.is_dir() and os.access(page.parent, os.W_OK)):
        # Before the work, not after it.
        raise click.UsageError(
            f"--html {page}: you cannot write to the directory {page.parent}; choose another directory", context
        )
    since_time_ns(since, common.now_ns())
    with Progress() as progress:
        with _opened(name, recording, progress) as (table, now_ns):
            begun_ns = since_time_ns(since, now_ns)
            found = _read(table, selection, begun_ns, now_ns, limit, progress.show)
            if recording is None and not found.processes and is_unknown(table, selection, name):
                return 1
            missing = "" if recording is not None else ended_before(table, begun_ns)
        if found.processes and page is not None:
            progress.show("writing the page")
            _write(page, found, _title(selection, recording, name))
    if not found.processes:
        where = f"instance {name!r}" if recording is None else str(recording)
        under = f" --under {', '.join(map(str, selection.under))}" if selection.under else " what was asked for"
        click.echo(f"procline: no process of {where} matches{under}" + (f"; {missing}" if missing else ""), err=True)
        return 1
    if missing and begun_ns is not None:
        click.echo(f"procline: {missing}", err=True)
    if as_json:
        for piece in _json(found):
            click.echo(piece, nl=False)
    if found.left_out:
        click.echo(
            f"procline: {found.left_out:,} older processes are left out: use a later --since, another choice, or more "
            "by --limit",
            err=True,
        )
    if page is not None:
        click.echo(f"{page}: {len(found.processes):,} processes, {page.stat().st_size:,} bytes", err=True)
    return 0


@contextmanager
def _opened(name: str, recording: Path | None, progress: Progress) -> Iterator[tuple[ProcessTable, int]]:
    """Open the tables; yield them, and the time at which they end."""
    if recording is None:
        with common.attached(name) as table:
            yield table, common.now_ns()
        return
    from pipeline.cli.operate.run import daemon_parts, require_packages

    require_packages()
    with daemon_parts():
        from pipeline.cli.ask.replayed import replayed
        from pipeline.shm.reader.table import ProcessTable
    with (
        replayed(recording, progress) as (directory, last_boot_ns),
        ProcessTable.attach(directory.name, path=directory) as table,
    ):
        yield table, last_boot_ns + table.boot_unix_ns


def _read(
    table: ProcessTable, selection: Selection, since_ns: int | None, now_ns: int, limit: int, progress: Show
) -> Found:
    from pipeline.timeline.reading import read

    return common.patiently(
        lambda: read(table, selection, since_ns=since_ns, now_ns=now_ns, limit=limit, progress=progress)
    )


def _title(selection: Selection, recording: Path | None, name: str) -> str:
    parts = [recording.name if recording is not None else f"instance {name}" if name != "default" else ""]
    for label, values in (
        ("under", selection.under), ("user", selection.users), ("unit", selection.units),
        ("container", selection.containers), ("path", selection.paths),
    ):  # fmt: skip
        if values:
            parts.append(f"{label} {', '.join(map(str, values))}")
    if selection.is_failed:
        parts.append("failed")
    return ": ".join(["Processes", "; ".join(filter(None, parts))]).removesuffix(": ")


def _write(page: Path, found: Found, title: str) -> None:
    from pipeline.timeline import page as pages
    from pipeline.timeline.columns import columns
    from pipeline.version import __version__

    made = columns(found.processes, found.from_ns, found.to_ns)
    text = pages.page(made, title=title, version=__version__, left_out=found.left_out)
    try:
        _replace(page, text.encode())
    except OSError as error:
        raise click.UsageError(
            f"cannot write {page}: {error.strerror}; choose another file", click.get_current_context()
        ) from None


def _replace(page: Path, content: bytes) -> None:
    """Write a file that only the caller can read: a page has arguments of processes.

    A file or a link that is there is replaced, not opened: in /tmp another user could have made it.
    """
    if page.exists() and not page.is_file():  # such as /dev/stdout
        page.write_bytes(content)
        return
    descriptor, made = tempfile.mkstemp(prefix=".procline-", dir=page.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        Path(made).replace(page)
    except BaseException:
        Path(made).unlink()
        raise


def _json(found: Found) -> Iterator[str]:
    about = {"from_time_ns": found.from_ns, "to_time_ns": found.to_ns, "left_out": found.left_out}
    yield dumps(about)[:-1] + ', "processes": ['
    ordered = sorted(found.processes, key=lambda each: (each.entry.get("start_time_ns") or 0, each.entry["pid"]))
    for number, process in enumerate(ordered):
        yield (",\n" if number else "\n") + dumps({**process.entry, "images": list(_images(process))})
    yield "\n]}\n"


def _images(process: Process) -> Iterable[dict[str, Any]]:
    for image in process.images:
        fields = image.fields
        yield {
            "time_ns": image.start_ns, "path": fields.get("path"), "script_path": fields.get("script_path"),
            "comm": fields.get("comm"), "argv": fields.get("argv"), "is_exec": fields.get("is_exec"),
        }  # fmt: skip

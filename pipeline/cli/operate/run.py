"""`procline run`: start an instance, and keep it running until it is stopped."""

from __future__ import annotations

import importlib.util
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import click

from pipeline.cli import common
from pipeline.errors import GivingUpError, HopelessError, ProclineError, UnsupportedError, WriterExistsError
from pipeline.host import failed_start, pid_namespace
from pipeline.screen.progress import Progress

#: What the processes of a daemon import, with any source; libbpf has a check of its own.
PACKAGES = ("msgspec", "pythonjsonlogger", "re2", "numpy", "msgpack", "zmq")


def daemon_parts() -> AbstractContextManager[None]:
    """Report what to install if a package that only the daemon needs is missing."""
    return common.optional_imports(_not_installed)


def require_packages() -> None:
    """Check that every package that the processes of a daemon import is installed.

    Otherwise a process that lacks one would fail and be restarted again and again.

    Raises:
        UnsupportedError: a package is not installed.
    """
    for name in PACKAGES:
        if importlib.util.find_spec(name) is None:
            raise _not_installed(name)


def _not_installed(name: str) -> UnsupportedError:
    return UnsupportedError(
        f"the daemon's package {name!r} is not installed here",
        feature="daemon",
        needs=name,
        hint="pip install 'procline[daemon]'",
    )


@click.command(
    epilog="""\b
Examples:
  procline run                                  as root; stop it with Ctrl-C
  procline run --config /etc/procline.toml      with settings from a file
  procline run --name test --set capture.ring_bytes=4096 --set log.level=debug
  procline run --scope namespace                in a container: record the processes of the container
"""
)
@click.option("--config", "file", type=click.Path(path_type=Path), metavar="FILE", help="TOML file with settings.")
@click.option("--source", metavar="SOURCE", help="ebpf, proc-connector, tracer or replay:FILE.  [default: ebpf]")
@click.option(
    "--scope", type=common.OneOf(["host", "namespace"]),
    help="Record all processes, or those of the daemon's own pid namespace and below.  [default: host]",
)  # fmt: skip
@click.option("--shards", metavar="auto|K", help="Number of processes that read the ring buffers.  [default: auto]")
@click.option(
    "--set", "changes", multiple=True, type=common.Change(), metavar="KEY=VALUE",
    help="Change one setting; overrides the file. See `procline config --example`.",
)  # fmt: skip
@common.name_option
def command(
    file: Path | None, source: str | None, scope: str | None, shards: str | None, changes: tuple[str, ...], name: str
) -> int:
    """Start an instance and keep it running until SIGTERM or Ctrl-C.

    The instance reports when it is ready: in its log, to systemd, and to `procline wait`. The sources ebpf and
    proc-connector need the initial pid namespace, which most containers do not have. With --scope namespace, ebpf runs
    in any pid namespace and records the processes in it.

    \b
    Exit codes:
      0  stopped; all events were applied
      1  stopped, but a process had to be killed at the end
      2  cannot run: a setting, a permission, a resource limit, a missing feature, or already running
      4  stopped: a process of the daemon died repeatedly, or its start took too long
    """  # noqa: D301 - click reads the backspace itself
    failed_start.forget(name)
    try:
        return _run(file, changes, {"source": source, "capture.scope": scope}, shards, name)
    except (click.ClickException, ProclineError) as error:
        # `wait` continues if the instance runs already, or if systemd may start it again with success.
        may_succeed = isinstance(error, GivingUpError) and not isinstance(error, HopelessError)
        if not may_succeed and not isinstance(error, WriterExistsError):
            failed_start.note(name)
        raise


def _run(file: Path | None, changes: tuple[str, ...], given: dict[str, Any], shards: str | None, name: str) -> int:
    with daemon_parts():
        from pipeline import log
        from pipeline.cli.operate.settings import load
        from pipeline.config.loading import parse_value
        from pipeline.supervisor import Supervisor
    require_packages()

    count = None if shards is None else parse_value(shards)
    settings, _ = load(file, changes, {**given, "shards.count": count})
    pid_namespace.require(settings.source, settings.capture.scope)
    log.set_up(settings.log.level, settings.log.format, "supervisor")
    is_replay = settings.source.startswith("replay:")
    with Progress(f"replaying {settings.source[7:]}" if is_replay else f"starting instance {name!r}") as progress:
        log.before_each_line(progress.clear)
        return Supervisor(
            settings, name, starting=lambda is_ready: progress.close() if is_ready else progress.show()
        ).run()

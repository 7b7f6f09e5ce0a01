"""Merge and check the settings for the commands that start a capture, without starting it.

`pipeline.config.loading` checks each setting by itself. This module checks what depends on the host or on the part of
the daemon that uses a setting: whether a regular expression compiles, a group exists, a key can be read. `procline
run`, `record` and `config` all call `load`, so `config` rejects every setting that `run` would reject for these
reasons.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import ConfigError, FrameError

if TYPE_CHECKING:
    from pipeline.config.schema import Config


def load(
    file: Path | None, changes: Sequence[str], options: Mapping[str, object] | None = None
) -> tuple[Config, dict[str, str]]:
    """Merge all settings and check them.

    Args:
        file: the file of ``--config``.
        changes: the values of ``--set``, each KEY=VALUE.
        options: settings with their own option, by name; None: not given.

    Returns:
        The settings, and the origin of each setting that is not a default.

    Raises:
        ConfigError: a setting cannot be used.
        UnsupportedError: a setting needs a package that is not installed.
    """
    from pipeline.config import loading

    given = dict(loading.parse_option(change) for change in changes)
    given |= {key: value for key, value in (options or {}).items() if value is not None}
    settings, origins = loading.load_with_origins(file, given)
    check(settings, origins)
    return settings, origins


def check(settings: Config, origins: Mapping[str, str] | None = None) -> None:
    """Check the settings that depend on the host or on the part of the daemon that uses them.

    Raises:
        ConfigError: as `load`.
        UnsupportedError: as `load`.
    """
    from pipeline.supervisor import metrics
    from pipeline.supervisor.directory import group_id

    access, stream, args = settings.access, settings.stream, settings.args
    checks: list[tuple[str, object, Callable[[], object]]] = [
        ("access.group", access.group, lambda: group_id(access.group)),
        ("metrics", settings.metrics, lambda: metrics.require_packages(settings.metrics)),
    ]
    words, patterns = args.custom_sensitive_words, args.custom_sensitive_patterns
    # Deferred, as what follows: with settings that need no check, these imports and rules would be a third of the CPU
    # time that the supervisor's start takes.
    if args.show != "raw" and (words or patterns):
        from pipeline.secrets.scrub import Scrubber

        checks += [
            ("args.custom_sensitive_words", words, lambda: Scrubber(words)),
            ("args.custom_sensitive_patterns", patterns, lambda: Scrubber((), patterns)),
        ]
    if stream.tcp_endpoint:
        from pipeline.bus import auth

        checks += [
            ("stream.curve_secret_key_file", stream.curve_secret_key_file,
             lambda: auth.load_key_pair(Path(stream.curve_secret_key_file))),
            ("stream.curve_clients_dir", stream.curve_clients_dir,
             lambda: auth.load_clients(Path(stream.curve_clients_dir))),
        ]  # fmt: skip
    if settings.source.startswith("replay:"):
        from pipeline.sources.recording.file import Recording

        checks.append(
            ("source", settings.source, lambda: Recording(Path(settings.source.partition(":")[2]).absolute()))
        )
    for key, value, use in checks:
        with _named(key, value, origins or {}):
            use()


@contextmanager
def _named(key: str, value: object, origins: Mapping[str, str]) -> Iterator[None]:
    """Add the name and the origin of a setting to an error."""
    try:
        yield
    except (ConfigError, FrameError) as error:
        text = str(error).removeprefix(f"{key}: ")
        raise ConfigError(f"{origins.get(key, 'settings')}: {key}: {text}", key=key, value=value) from None

"""Load the settings of an instance: defaults, file, environment and options, merged into one frozen `Config`.

A file is TOML with one table for each section of `Config`. Later sources override earlier ones: defaults, the file,
the variables of `ENVIRONMENT`, the options of the command line.
"""

from __future__ import annotations

import os
import re
import tomllib
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

import msgspec
from msgspec import Meta

from pipeline.config.schema import Config, Section, Value, hints_of, values
from pipeline.errors import ConfigError
from pipeline.spelling import similar

#: Variable that names the file to read when none is given.
CONFIG_VARIABLE = "PROCLINE_CONFIG"

#: Settings by environment variable. The list is short on purpose: set everything else in a file.
ENVIRONMENT = {
    "PROCLINE_SOURCE": "source",
    "PROCLINE_SHARDS": "shards.count",
    "PROCLINE_RING_BYTES": "capture.ring_bytes",
    "PROCLINE_LOG_LEVEL": "log.level",
    "PROCLINE_LOG_FORMAT": "log.format",
}

#: Maximum depth of nested tables and lists in a file. A valid setting needs two.
NESTING_MAX = 32


def load(
    file: Path | None = None,
    options: Mapping[str, object] | None = None,
    environ: Mapping[str, str] = os.environ,
) -> Config:
    """Merge defaults, file, environment and options.

    Args:
        file: a TOML file; None: the file that `CONFIG_VARIABLE` names, if it is set.
        options: settings by full name (``capture.ring_bytes``); None values are ignored.
        environ: the environment that the variables of `ENVIRONMENT` are read from.

    Returns:
        The merged and checked settings.

    Raises:
        ConfigError: a file cannot be read, a key is unknown, or a value is not allowed. The message names the source
            of the value, the key and the expected value.
    """
    return load_with_origins(file, options, environ)[0]


def load_with_origins(
    file: Path | None = None,
    options: Mapping[str, object] | None = None,
    environ: Mapping[str, str] = os.environ,
) -> tuple[Config, dict[str, str]]:
    """Load settings as `load` does, and report where each one was set.

    Args:
        file: see `load`.
        options: see `load`.
        environ: see `load`.

    Returns:
        The settings; and for each key that is not a default, the source of its value: a path, a variable, or
        "command line".

    Raises:
        ConfigError: see `load`.
    """
    if file is None and environ.get(CONFIG_VARIABLE):
        file = Path(environ[CONFIG_VARIABLE])
    merged: dict[str, typing.Any] = {}
    origins: dict[str, str] = {}
    if file is not None:
        merged = _read(file)
        origins = {key: str(file) for key in _keys(merged)}
    for variable, key in ENVIRONMENT.items():
        if environ.get(variable):
            _put(merged, key, parse_value(environ[variable]))
            origins[key] = variable
    for key, value in (options or {}).items():
        if value is not None:
            _put(merged, key, value)
            origins[key] = "command line"
    try:
        # The first conversion reads the types of all sections, for which a start without settings need not wait.
        config = msgspec.convert(merged, Config) if merged else Config()
    except msgspec.ValidationError as error:
        raise _explain(error, merged, origins) from None
    for key, value in values(config):
        _check_text(key, value, origins.get(key, "settings"))
    return config, origins


def _check_text(key: str, value: Value, place: str) -> None:
    """Reject strings that cannot be passed to a system call or to a worker process."""
    for text in value if isinstance(value, tuple) else (value,):
        if not isinstance(text, str):
            continue
        if "\0" in text:
            raise ConfigError(f"{place}: {key}: expected text without NUL, got {text!r}", key=key, value=value)
        try:
            text.encode()
        except UnicodeEncodeError:
            raise ConfigError(f"{place}: {key}: expected UTF-8, got {text!r}", key=key, value=value) from None


def parse_value(text: str) -> object:
    """Parse `text` as a TOML value; if it is not one, return it as a string, so quotes can be left out.

    Raises:
        ConfigError: the value is nested too deeply.
    """
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except ValueError:  # TOMLDecodeError, or a plain ValueError for an integer with too many digits
        return text
    except RecursionError:
        value = None
    if value is None or _depth(value) > NESTING_MAX:
        raise ConfigError(
            f"{text[:40]}...: nested too deeply: a setting is a number, a word or a list of words", key=None, value=text
        )
    return value


def parse_option(text: str) -> tuple[str, object]:
    """Split ``KEY=VALUE`` and parse the value.

    Raises:
        ConfigError: the ``=`` or the key is missing.
    """
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"{text!r}: expected KEY=VALUE, for example log.level=debug", key=key, value=None)
    return key.strip(), parse_value(value.strip())


def _read(file: Path) -> dict[str, typing.Any]:
    tree: dict[str, typing.Any] | None
    try:
        tree = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"{file}: cannot be read: {error.strerror}; name another file with --config, or change its permissions",
            key="config",
            value=str(file),
        ) from None
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{file}: is not UTF-8 (byte {error.start}); save it as UTF-8", key="config", value=str(file)
        ) from None
    except ValueError as error:  # TOMLDecodeError, or a plain ValueError for an integer with too many digits
        raise ConfigError(
            f"{file}: is not valid TOML: {error}; correct it; `procline config --example` prints a valid file",
            key="config",
            value=str(file),
        ) from None
    except RecursionError:
        tree = None
    if tree is None or _depth(tree) > NESTING_MAX:
        raise ConfigError(
            f"{file}: its values are nested too deeply; a setting is a number, a word or a list of words, in a section",
            key="config",
            value=str(file),
        )
    return tree


def _depth(value: object) -> int:
    """Return the nesting depth of tables and lists, at most NESTING_MAX + 1."""
    level, depth = [value], 0
    while depth <= NESTING_MAX:
        level = [
            inner for outer in level if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]  # fmt: skip
        if not level:
            break
        depth += 1
    return depth


def _keys(tree: Mapping[str, typing.Any], prefix: str = "") -> Iterator[str]:
    for key, value in tree.items():
        yield prefix + key
        if isinstance(value, dict):
            yield from _keys(value, f"{prefix}{key}.")


def _put(tree: dict[str, typing.Any], key: str, value: object) -> None:
    """Set ``a.b`` in nested dicts. If ``a`` exists and is not a table, change nothing: the validation reports it."""
    section, dot, name = key.rpartition(".")
    if not dot:
        tree[name] = value
        return
    below = tree.setdefault(section, {})
    if isinstance(below, dict):
        below[name] = value


def _explain(
    error: msgspec.ValidationError, merged: Mapping[str, typing.Any], origins: Mapping[str, str]
) -> ConfigError:
    """Convert a msgspec message ("... - at `$.capture.ring_bytes`") to one with the source, the key and the reason."""
    text, _, path = str(error).partition(" - at `$")
    key = re.sub(r"\[.*", "", path.rstrip("`").lstrip("."))
    section = key
    if own := re.match(r"(\w+): (.*)", text):  # raised by a __post_init__, which knows the field but not its section
        key, reason = f"{section}.{own[1]}", own[2]
    elif unknown := re.match(r"Object contains unknown field `(.*)`", text):
        key, reason = f"{section}.{unknown[1]}".lstrip("."), _unknown(section, unknown[1])
    else:
        reason = f"expected {_expected(key) or text.removeprefix('Expected ').partition(', got')[0]}"
        reason += f", got {_get(merged, key)!r}"
    place = origins.get(key) or next((origins[k] for k in origins if k.startswith(f"{section}.")), "settings")
    return ConfigError(f"{place}: {key}: {reason}", key=key, value=_get(merged, key))


def _unknown(section: str, name: str) -> str:
    fields = _get(Config(), section).__struct_fields__
    # The section may be wrong or missing.
    known = {key: key.rpartition(".")[2] for key, _ in values(Config())}
    near = [key for key, last in known.items() if last == name]
    meant = " or ".join(near) or similar(name, fields) or similar(f"{section}.{name}", known, cutoff=0.8)
    if meant:
        return f"unknown setting; did you mean {meant}?"
    return f"unknown setting; known settings: {', '.join(fields)}"


def _expected(key: str) -> str:
    """Return a description of the allowed values where msgspec's own (a pattern, an enum) is not readable."""
    section, _, name = key.rpartition(".")
    owner: type[Section] = type(_get(Config(), section))
    hint = hints_of(owner).get(name)
    for meta in getattr(hint, "__metadata__", ()):
        if isinstance(meta, Meta) and meta.extra:
            return meta.extra["expected"]
    base = getattr(hint, "__origin__", None)
    return " or ".join(repr(choice) for choice in typing.get_args(base)) if typing.get_origin(base) is Literal else ""


def _get(tree: typing.Any, key: str) -> typing.Any:
    """Return the value at ``a.b`` in nested dicts or sections; None if there is none."""
    for part in filter(None, key.split(".")):
        tree = tree.get(part) if isinstance(tree, dict) else getattr(tree, part, None)
    return tree

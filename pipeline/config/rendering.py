"""Write settings as TOML: the documented file ``docs/procline.toml``, and the settings of an instance."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping

from pipeline.config.loading import ENVIRONMENT
from pipeline.config.schema import Config, Value, settings, values

#: Characters in a line of a description.
_WIDTH = 116


def example() -> str:
    """Return a file with every setting, its description and its default; all settings are commented out."""
    lines = [
        "# Settings of Procline. Each setting below shows its default: remove the # and change the value.",
        "# Check the result with: procline config --config FILE",
    ]
    section = ""
    for key, value, description in settings(Config()):
        parent, _, name = key.rpartition(".")
        if parent != section:
            section = parent
            about = (getattr(Config(), parent).__doc__ or "").split("\n")[0]
            lines += ["", "", f"# {about}", f"[{parent}]"]
        variables = [variable for variable, meant in ENVIRONMENT.items() if meant == key]
        text = description + "".join(f" Environment variable: {variable}." for variable in variables)
        lines += ["", *(f"# {line}" for line in _wrap(text))]
        lines.append(f"#{name} = {toml(value)}")
    return "\n".join(lines) + "\n"


def as_toml(config: Config, origins: Mapping[str, str] | None = None) -> str:
    """Return `config` as a TOML file.

    Args:
        config: the settings.
        origins: where settings were set, by key; written as a comment behind the setting.
    """
    lines: list[str] = []
    section = ""
    for key, value in values(config):
        parent, _, name = key.rpartition(".")
        if parent != section:
            section = parent
            lines += ["", f"[{parent}]"]
        origin = (origins or {}).get(key)
        lines.append(f"{name} = {toml(value)}" + (f"  # {origin}" if origin else ""))
    return "\n".join(lines) + "\n"


def toml(value: Value) -> str:
    """Return one value in TOML syntax."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        # TOML accepts all JSON escapes. JSON escapes all characters that TOML requires to be escaped, except DEL.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, tuple):
        return f"[{', '.join(toml(item) for item in value)}]"
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return repr(value)


def _wrap(text: str) -> list[str]:
    lines = [""]
    for word in text.split():
        if len(lines[-1]) + 1 + len(word) > _WIDTH and lines[-1]:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".lstrip()
    return lines

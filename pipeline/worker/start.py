"""What processes of this package do at their start: read their specification, set up their log, confine themselves.

Of the specification, which `pipeline.worker.specification` describes and writes, a source reads the few fields that it
needs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.errors import ConfigError, ProclineError
from pipeline.host import privileges
from pipeline.log import set_up
from pipeline.worker.reading import read_fields, spec_fd

#: Exit code that tells the supervisor that another start would end the same way.
EXIT_HOPELESS = 2


class Specification:
    """The fields of a worker's specification, by name; `config` by dotted name.

    Raises:
        ConfigError: from every access, when there is no such field.
    """

    def __init__(self, fields: dict[str, Any]) -> None:
        self._fields = fields

    def __getitem__(self, name: str) -> Any:
        found: Any = self._fields
        for part in name.split("."):
            if not isinstance(found, dict) or part not in found:
                raise ConfigError(f"the worker specification has no {name!r}: it is of another version", key=name)
            found = found[part]
        return found

    @property
    def directory(self) -> Path:
        """The runtime directory of the instance."""
        return Path(self["dir"])

    @property
    def boot_id(self) -> bytes:
        """16 bytes."""
        return bytes.fromhex(self["boot_id"])

    def by_ring(self, name: str) -> dict[int, int]:
        """Return a field whose keys are ring numbers."""
        return {int(ring): value for ring, value in self[name].items()}


def begin(arguments: list[str], keep: tuple[int, ...] = ()) -> Specification:
    """Read the specification, set up the log, and give up what a source's process does not need (privileges, dumps).

    Args:
        arguments: of the command line.
        keep: capabilities to keep; none are needed to drain a ring.

    Raises:
        ConfigError: there is no specification.
        ProclineError: the supervisor has ended already.
    """
    set_up()  # a specification that cannot be read is told too
    spec = Specification(read_fields(spec_fd(arguments)))
    set_up(spec["config.log.level"], spec["config.log.format"], spec["role"])
    _, is_parent_there = privileges.confine(parent_tgid=spec["supervisor_tgid"], keep=keep)
    if not is_parent_there:
        raise ProclineError("the supervisor has ended: nothing to work for")
    return spec

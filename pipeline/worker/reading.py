"""A worker's reading of its specification, which `pipeline.worker.specification` describes and writes, by the standard
library.

That module needs msgspec and all settings with their limits and descriptions: 2 to 4 MB that each process would keep
for ever to read one document that the supervisor has checked.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from pipeline.errors import ConfigError

#: A descriptor that this worker does not get.
NO_FD = -1

_USAGE = "workers are started by `procline run`, with --spec-fd N"

#: Fields whose keys are ring numbers; JSON has only text there.
_BY_RING = ("rings", "ring_bytes", "ring_shards")


class Derived:
    """What follows from the fields, for who writes a specification and who reads it."""

    dir: str
    boot_id: str

    @property
    def directory(self) -> Path:
        """The runtime directory of the instance."""
        return Path(self.dir)

    @property
    def boot_id_bytes(self) -> bytes:
        """The boot id as segments and frames hold it: 16 bytes."""
        return bytes.fromhex(self.boot_id)


class _Fields(Derived, SimpleNamespace):
    """The fields of a WorkerSpec, or of a section of its settings, as attributes."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise ConfigError(f"the worker specification has no {name!r}: it is of another version", key=name)


def say_ready(fd: int) -> None:
    """Report to the supervisor that this worker has begun its work. A worker that ends before has failed to start.

    The resolver reports it when its tables are complete (READY), every other worker when it has opened and mapped what
    it works with and is about to take its first record.

    Args:
        fd: `ready_fd` of the specification; closed here.
    """
    if fd != NO_FD:
        os.eventfd_write(fd, 1)
        os.close(fd)


def spec_fd(arguments: list[str]) -> int:
    """The N of the command line ``--spec-fd N``. By hand: argparse would be 1 MB.

    Raises:
        ConfigError: it is another command line.
    """
    if len(arguments) != 2 or arguments[0] != "--spec-fd" or not arguments[1].isdigit():
        raise ConfigError(_USAGE, key="--spec-fd")
    return int(arguments[1])


def read_fields(fd: int) -> dict[str, Any]:
    """Read the specification's JSON from an inherited descriptor and close it.

    Raises:
        ConfigError: there is none behind the descriptor.
    """
    try:
        # Not read(): the position is shared with the parent, which wrote up to the end.
        fields = json.loads(os.pread(fd, os.fstat(fd).st_size, 0))
        os.close(fd)
    except (OSError, ValueError) as error:
        raise _refused(fd, error) from None
    if not isinstance(fields, dict):
        raise _refused(fd, "it is no map")
    return fields


def read_spec(fd: int) -> Any:
    """The same as an object, whose fields are those of WorkerSpec: what the resolver uses.

    Raises:
        ConfigError: as `read_fields`; later, from a field, that it has none of the name.
    """
    fields = read_fields(fd)
    try:
        sections = {name: _Fields(**section) if isinstance(section, dict) else section
                    for name, section in fields["config"].items()}  # fmt: skip
        by_ring = {name: {int(ring): value for ring, value in fields[name].items()} for name in _BY_RING}
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise _refused(fd, error) from None
    return _Fields(**fields | by_ring | {"config": _Fields(**sections)})


def _refused(fd: int, why: object) -> ConfigError:
    return ConfigError(f"--spec-fd {fd}: no worker specification ({why}); {_USAGE}", key="--spec-fd", value=fd)

"""Read a worker's description, which `pipeline.worker.description` defines and writes, with the standard library only.

That module needs msgspec, and all settings with their limits and descriptions. Each worker would keep these 2 to 4 MB
until its end, only to read one document that the supervisor has checked.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from pipeline.errors import ConfigError
from pipeline.records.capture_fds import CaptureFds

_USAGE = "Workers are started by `procline run`, with --spec-fd N"

#: Fields with ring numbers as keys; in JSON, the keys are text.
_BY_RING = ("ring_bytes", "ring_shards")


class DerivedFields:
    """Values that are computed from the fields of a description, for its writer and its reader."""

    dir: str
    boot_id: str

    @property
    def directory(self) -> Path:
        """The runtime directory of the instance."""
        return Path(self.dir)

    @property
    def boot_id_bytes(self) -> bytes:
        """The boot id in the form of segments and frames: 16 bytes."""
        return bytes.fromhex(self.boot_id)


class _Fields(DerivedFields, SimpleNamespace):
    """The fields of a description, or of a section of its settings, as attributes."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise _of_another_version(name)


def description_fd(arguments: list[str]) -> int:
    """Return the N of the command line ``--spec-fd N``, without argparse, which would need 1 MB.

    Raises:
        ConfigError: the command line has another form.
    """
    if len(arguments) != 2 or arguments[0] != "--spec-fd" or not arguments[1].isdigit():
        raise ConfigError(_USAGE, key="--spec-fd")
    return int(arguments[1])


def read_description(fd: int) -> Any:
    """Read the description from an inherited descriptor, and close it.

    Returns:
        An object with the fields of a WorkerDescription. Access to a missing field raises ConfigError.

    Raises:
        ConfigError: the descriptor contains no description, or one of another version.
    """
    try:
        # Not read(): the file position is shared with the parent, which has left it at the end.
        fields = json.loads(os.pread(fd, os.fstat(fd).st_size, 0))
        os.close(fd)
        sections = {name: _Fields(**section) if isinstance(section, dict) else section
                    for name, section in fields["config"].items()}  # fmt: skip
        by_ring = {name: {int(ring): value for ring, value in fields[name].items()} for name in _BY_RING}
        fds = CaptureFds.from_json(fields["fds"])
    except KeyError as error:
        raise _of_another_version(str(error.args[0])) from None
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"--spec-fd {fd}: no worker description ({error}). {_USAGE}", key="--spec-fd", value=fd
        ) from None
    return _Fields(**fields | by_ring | {"config": _Fields(**sections), "fds": fds})


def _of_another_version(name: str) -> ConfigError:
    return ConfigError(
        f"the worker's description has no {name!r}: it is of another version; restart the daemon. {_USAGE}", key=name
    )

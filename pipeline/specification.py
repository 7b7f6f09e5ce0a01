"""The resolver's reading of its specification, which `pipeline.worker` describes and writes, by the standard library.

That module needs msgspec and all settings with their limits and descriptions: 2 MB that a process would keep for ever
to read one document that the supervisor has checked. Shards read theirs in `pipeline.sources.worker_side`.
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

#: Fields whose keys are ring numbers; JSON has only text there.
_BY_RING = ("rings", "ring_bytes", "ring_shards")


class _Fields(SimpleNamespace):
    """The fields of a WorkerSpec, or of a section of its settings, as attributes."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise ConfigError(f"the worker specification has no {name!r}: it is of another version", key=name)

    @property
    def directory(self) -> Path:
        return Path(self.dir)

    @property
    def boot_id_bytes(self) -> bytes:
        return bytes.fromhex(self.boot_id)


def read_spec(fd: int) -> Any:
    """Read the specification from an inherited descriptor and close it; fields as those of WorkerSpec.

    Raises:
        ConfigError: there is no specification behind the descriptor; later, from a field, that it has none of the name.
    """
    try:
        size = os.fstat(fd).st_size
        # Not read(): the position is shared with the parent, which wrote up to the end.
        fields: dict[str, Any] = json.loads(os.pread(fd, size, 0))
        os.close(fd)
        sections = {name: _Fields(**section) if isinstance(section, dict) else section
                    for name, section in fields["config"].items()}  # fmt: skip
        by_ring = {name: {int(ring): value for ring, value in fields[name].items()} for name in _BY_RING}
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ConfigError(
            f"--spec-fd {fd}: no worker specification ({error}); workers are started by `procline run`",
            key="--spec-fd",
            value=fd,
        ) from None
    return _Fields(**fields | by_ring | {"config": _Fields(**sections)})
